"""Fusion weights: found on other clips than those reported, the same every time, and worth something."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tool import tool

from coviar_mocrop.errors import ScoreError
from coviar_mocrop.fusion import fuse, measure, resolve_weights, shares
from coviar_mocrop.fusion_weights import (
    EQUALITY_PENALTY,
    fit_weights,
    require_disjoint,
    rescale,
    softmax,
    tune_weights,
)
from coviar_mocrop.scores import Scores, load_scores, save_scores


def make(signal: float, seed: int, part: str = "val", clips: int = 60, scale: float = 1.0, classes: int = 6) -> Scores:
    """Scores in which the true class is ahead by ``signal``; all streams of a part have the same labels."""
    labels = np.arange(clips) % classes
    noise = np.random.default_rng([seed, len(part), ord(part[0])]).normal(size=(clips, classes))
    noise[np.arange(clips), labels] += signal
    return Scores(
        names=np.array([f"{part}/{number}.mp4" for number in range(clips)]),
        labels=labels.astype(np.int64),
        scores=(scale * noise).astype(np.float32),
        classes=np.array([f"k{number}" for number in range(classes)]),
        settings={"setting": "baseline"},
    )


def streams(part: str, **more: float) -> dict[str, Scores]:
    """A useless I-frame stream that shouts, and two that know something."""
    return {
        "iframe": make(0.0, 0, part, scale=8.0),
        "mv": make(1.5, 1, part),
        "clip": make(2.0, 2, part),
    }


def some(seed: int, count: int, clips: int, classes: int) -> dict[str, Scores]:
    """Streams of any quality and scale."""
    generator = np.random.default_rng(seed)
    names = ("mv", "iframe", "residual", "clip", "zero_shot")[:count]
    return {
        name: make(generator.uniform(0, 2), seed + i, "val", clips, 10 ** generator.uniform(-1, 1), classes)
        for i, name in enumerate(names)
    }


def test_a_stream_at_chance_gets_nothing_and_other_clips_gain() -> None:
    learned = tune_weights(streams("val"))
    assert sum(learned.weights.values()) == pytest.approx(1)
    assert shares(streams("val"), learned.weights)["iframe"] < 0.05
    assert learned.weights["iframe"] < 0.01
    assert learned.after > learned.before + 0.3
    reported = streams("test")
    assert fuse(reported, learned.weights).top1 > fuse(reported).top1 + 0.3
    assert tune_weights(streams("val")) == learned
    assert (learned.clips, learned.found) == (60, "learned on 60 held-out clips")


@pytest.mark.parametrize(("clips", "most"), [(200, 0.06), (2000, 0.02)])
def test_noise_gets_less_the_more_clips_there_are(clips: int, most: float) -> None:
    for seed in range(5):
        scores = {"mv": make(1.0, seed, clips=clips), "noise": make(0.0, seed + 9, clips=clips, scale=0.1)}
        assert shares(scores, tune_weights(scores).weights)["noise"] < most


def test_equal_streams_stay_near_equal_on_few_clips_and_unequal_ones_part_on_many() -> None:
    mean = []
    for seed in range(20):
        few = {"mv": make(1.5, seed, clips=20), "residual": make(1.5, seed + 100, clips=20)}
        mean.append(max(shares(few, tune_weights(few).weights).values()))
    assert np.median(mean) < 0.6
    calibrated = np.stack([make(1.5, seed, clips=20, classes=2).scores.astype(float) for seed in (0, 1)])
    calibrated[1] *= 0.5
    few_weights = fit_weights(calibrated, np.arange(20) % 2, 1.0, EQUALITY_PENALTY)
    assert np.abs(few_weights - 1).max() < 0.2
    many = {"mv": make(0.5, 0, clips=2000), "residual": make(2.0, 1, clips=2000)}
    assert shares(many, tune_weights(many).weights)["mv"] < 0.25


def test_the_common_weight_counts_as_much_as_ninety_clips() -> None:
    """Ninety clips that say as much as a clip can, of which 90% are right, draw a weight of 1 half of the way."""
    ahead = 2.3994  # difference of the two logits that maximises p (1 - p) ahead^2
    logits = np.tile([ahead, 0.0], (1, 90, 1))
    calibrated = np.log(9) / ahead  # the weight that makes them 90% sure
    (weight,) = fit_weights(logits, (np.arange(90) % 10 == 0).astype(np.int64), 1.0, EQUALITY_PENALTY)
    assert (1 - weight) / (1 - calibrated) == pytest.approx(0.5, abs=0.05)


@settings(derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([4, 20, 60]), st.sampled_from([2, 6]))
def test_never_worse_than_the_best_stream_alone(seed: int, count: int, clips: int, classes: int) -> None:
    scores = some(seed, count, clips, classes)
    learned = tune_weights(scores)
    assert learned.alone == {name: measure(stream).top1 for name, stream in scores.items()}
    assert learned.after >= max(learned.alone.values())
    assert learned.before == measure(fuse(scores)).top1
    assert learned.after == measure(fuse(scores, learned.weights)).top1
    assert sum(learned.weights.values()) == pytest.approx(1)
    assert min(learned.weights.values()) >= 0
    assert learned.weights.keys() == resolve_weights(scores).keys()


@settings(derandomize=True)
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_the_order_of_clips_and_streams_does_not_matter(seed: int, count: int) -> None:
    scores, generator = some(seed, count, 30, 3), np.random.default_rng(seed)
    learned, order = tune_weights(scores), generator.permutation(30)
    turned = {
        name: replace(s, names=s.names[order], labels=s.labels[order], scores=s.scores[order])
        for name, s in reversed(scores.items())
    }
    again = tune_weights(turned)
    assert list(again.weights) == list(turned)
    assert again == learned


@settings(derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from([1e-4, 0.3, 50.0]))
def test_the_scale_of_a_streams_scores_does_not_matter(seed: int, factor: float) -> None:
    scores = some(seed, 3, 40, 4)
    scaled = {**scores, "mv": replace(scores["mv"], scores=scores["mv"].scores * np.float32(factor))}
    first, second = (tune_weights(given) for given in (scores, scaled))
    logits = [fuse(s, f.weights).scores / f.temperature for s, f in ((scores, first), (scaled, second))]
    np.testing.assert_allclose(*logits, rtol=1e-3, atol=1e-3)
    assert first.alone == second.alone


@settings(derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([0.5, 20.0]), st.sampled_from([0.2, 1.0]))
def test_nothing_near_the_weights_that_are_fitted_is_better(
    seed: int, count: int, penalty: float, centre: float
) -> None:
    """The conditions of Karush, Kuhn and Tucker, by automatic differentiation."""
    scores = some(seed, count, 50, 4)
    logits = np.stack([stream.scores.astype(float) for stream in scores.values()])
    logits[0] *= -1  # a stream that is wrong
    labels = next(iter(scores.values())).labels
    found = fit_weights(logits, labels, centre, penalty)
    weights = torch.from_numpy(found).requires_grad_()
    fused = torch.einsum("s,snk->nk", weights, torch.from_numpy(logits))
    loss = torch.nn.functional.cross_entropy(fused, torch.from_numpy(labels), reduction="sum")
    (gradient,) = torch.autograd.grad(loss + penalty * ((weights - centre) ** 2).sum(), weights)
    assert (found >= 0).all()
    assert (gradient[weights == 0] >= -1e-6).all()
    assert gradient[weights > 0].abs().max() < 1e-6 if (found > 0).any() else True


def test_probabilities_are_calibrated() -> None:
    scores = {"mv": make(1.0, 0, clips=4000, scale=30), "residual": make(1.5, 1, clips=4000, scale=0.2)}
    learned = tune_weights(scores)
    fused = softmax(fuse(scores, learned.weights).scores.astype(float) / learned.temperature)
    sure = fused.max(axis=1)
    right = fused.argmax(axis=1) == scores["mv"].labels
    for low, high in ((0.3, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 1.0)):
        chosen = (sure > low) & (sure <= high)
        assert right[chosen].mean() == pytest.approx(sure[chosen].mean(), abs=0.05)


def test_streams_that_cannot_be_calibrated() -> None:
    """One says the same of all classes, one is always wrong; alone, all are what they are."""
    flat = replace(make(1.0, 0), scores=np.ones((60, 6), np.float32))
    wrong = replace(make(3.0, 1), scores=-make(3.0, 1).scores)
    for scores in ({"flat": flat}, {"wrong": wrong}, {"flat": flat, "wrong": wrong}, {"wrong": wrong, "worse": wrong}):
        learned = tune_weights(scores)
        assert learned.after >= max(learned.alone.values())
        assert all(np.isfinite([learned.temperature, *learned.weights.values()]))
    good = make(2.0, 2)
    learned = tune_weights({"mv": good, "flat": flat, "wrong": wrong})
    assert shares({"mv": good, "flat": flat, "wrong": wrong}, learned.weights)["mv"] > 0.99
    with pytest.raises(ScoreError, match="cannot be learned on clips of one class"):
        tune_weights({"mv": replace(good, labels=np.zeros(60, np.int64))})


def test_softmax_scale() -> None:
    scores = rescale({"mv": make(1.0, 0, scale=50)}, "softmax")["mv"]
    np.testing.assert_allclose(scores.scores.sum(axis=1), 1, rtol=1e-5)
    assert softmax(np.array([[1000.0, 0.0]]))[0, 0] == 1
    assert rescale({"mv": make(1.0, 0)}, "logits")["mv"].settings.get("scale") is None


def test_clips_that_are_reported_are_refused() -> None:
    validation, reported = streams("val"), streams("test")
    require_disjoint(validation, reported)
    shared = replace(validation["mv"], names=np.array(["test/7.mp4", *validation["mv"].names[1:]]))
    with pytest.raises(ScoreError, match=r"mv: 1 clips are in the validation set .*test/7\.mp4"):
        require_disjoint({**validation, "mv": shared}, reported)

    def with_rows(scores: Scores, rows: list[int], of: Scores) -> Scores:
        changed = scores.scores.copy()
        changed[rows] = of.scores[9]
        return replace(scores, scores=changed)

    copied = {name: with_rows(scores, [4], reported[name]) for name, scores in validation.items()}
    with pytest.raises(ScoreError, match=r"1 clips .*val/4\.mp4.*other names"):
        require_disjoint(copied, reported)
    require_disjoint({**validation, "clip": copied["clip"]}, reported)  # in one stream only: chance
    collapsed = {name: with_rows(scores, [4, 5, 6], reported[name]) for name, scores in validation.items()}
    require_disjoint(collapsed, reported)
    with pytest.raises(ScoreError, match="same streams"):
        require_disjoint({"mv": validation["mv"]}, reported)
    other = replace(validation["mv"], classes=np.array(list("abcdef")))
    with pytest.raises(ScoreError, match="different classes"):
        require_disjoint({**validation, "mv": other}, reported)


@pytest.mark.usefixtures("no_figures")
def test_the_tool_tunes_on_one_set_and_reports_the_other(tmp_path: Path) -> None:
    files: dict[str, list[str]] = {}
    for part in ("val", "test"):
        for name, scores in streams(part).items():
            save_scores(tmp_path / f"{part}_{name}.npz", scores)
        files[part] = [f"{name}={tmp_path}/{part}_{name}.npz" for name in streams(part)]

    command = ["fuse", "--output", tmp_path / "out", "--scores", *files["test"]]
    told = tool(*command, "--tune-weights", *files["val"], "--scale", "softmax")
    assert "held out, 60 clips: top-1 iframe" in told and "points)" in told
    fused = load_scores(tmp_path / "out/scores/fused_baseline.npz")
    learned = tune_weights(rescale(streams("val"), "softmax"))
    assert fused.settings["weights"] == pytest.approx(learned.weights)
    row = json.loads((tmp_path / "out/results.json").read_text())["settings"]["baseline"]["fused"]
    assert row["weights_from"] == "learned on 60 held-out clips"
    assert row["top1"] == fused.top1 > row["top1_default_weights"]
    assert sum(row["shares"].values()) == pytest.approx(1)
    assert fused.names.tolist() == streams("test")["mv"].names.tolist()

    told = tool(*command, "--weights", "coviar")
    assert "baseline: weights iframe=2 mv=1 clip=1 (default); shares iframe " in told
    one = {name: replace(s, labels=np.zeros_like(s.labels)) for name, s in streams("val").items()}
    for name, scores in one.items():
        save_scores(tmp_path / f"one_{name}.npz", scores)
    told = tool(*command, "--tune-weights", *(f"{name}={tmp_path}/one_{name}.npz" for name in one))
    assert "weights: the default ones, because the validation clips are of one class only" in told

    refused = tool(*command, "--tune-weights", *files["test"], ok=False)
    assert refused.startswith("error: iframe: 60 clips are in the validation set and in the reported one")
    both = tool(*command, "--tune-weights", *files["val"], "--weights", "mv=1", ok=False)
    assert "give one of them" in both
