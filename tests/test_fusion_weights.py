"""Fusion weights: found on other clips than those reported, the same every time, and worth something."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tool import tool

from coviar_mocrop.errors import ScoreError
from coviar_mocrop.fusion import fuse, measure, resolve_weights
from coviar_mocrop.fusion_weights import _grid, require_disjoint, rescale, softmax, tune_weights
from coviar_mocrop.scores import Scores, load_scores, save_scores


def make(signal: float, seed: int, part: str = "val", clips: int = 60, scale: float = 1.0) -> Scores:
    """Scores in which the true class is ahead by ``signal``; all streams of a part have the same labels."""
    labels = np.arange(clips) % 6
    noise = np.random.default_rng([seed, len(part), ord(part[0])]).normal(size=(clips, 6))
    noise[np.arange(clips), labels] += signal
    return Scores(
        names=np.array([f"{part}/{number}.mp4" for number in range(clips)]),
        labels=labels.astype(np.int64),
        scores=(scale * noise).astype(np.float32),
        classes=np.array([f"k{number}" for number in range(6)]),
        settings={"setting": "baseline"},
    )


def streams(part: str, **more: float) -> dict[str, Scores]:
    """A useless I-frame stream that shouts, and two that know something."""
    return {
        "iframe": make(0.0, 0, part, scale=8.0),
        "mv": make(1.5, 1, part),
        "clip": make(2.0, 2, part),
    }


def test_what_knows_nothing_gets_nothing_and_other_clips_gain() -> None:
    tuned = tune_weights(streams("val"))
    assert sum(tuned.weights.values()) == pytest.approx(1)
    assert tuned.weights["iframe"] <= 0.05
    assert tuned.weights["clip"] > 0.2
    assert tuned.after > tuned.before + 0.3
    reported = streams("test")
    before, after = measure(fuse(reported)).top1, measure(fuse(reported, tuned.weights)).top1
    assert after > before + 0.3
    assert tune_weights(streams("val")) == tuned


def test_the_default_stays_where_nothing_is_gained() -> None:
    sure = {name: make(9.0, number) for number, name in enumerate(("iframe", "mv", "residual"))}
    tuned = tune_weights(sure)
    assert tuned.before == tuned.after == 1
    assert tuned.weights == {"iframe": 0.5, "mv": 0.25, "residual": 0.25}


def test_no_weights_on_the_grid_are_better() -> None:
    validation = streams("val")
    tuned = tune_weights(validation)
    for first in range(21):
        for second in range(21 - first):
            weights = dict(zip(validation, (first / 20, second / 20, (20 - first - second) / 20), strict=True))
            assert measure(fuse(validation, weights)).top1 <= tuned.after + 1e-6


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 3, 5, 6]), st.sampled_from(["logits", "softmax"]))
def test_never_worse_than_the_default_on_the_validation_set(seed: int, count: int, scale: str) -> None:
    signals = np.random.default_rng(seed).uniform(0, 2, count)
    names = ["iframe", "mv", "residual", "clip", "zero_shot", "more"][:count]
    plain = {name: make(float(signal), seed + i) for i, (name, signal) in enumerate(zip(names, signals, strict=True))}
    scores = rescale(plain, scale)  # type: ignore[arg-type]
    tuned = tune_weights(scores)
    assert tuned.after >= tuned.before
    assert tuned.before == pytest.approx(measure(fuse(scores)).top1)
    assert tuned.after == pytest.approx(measure(fuse(scores, tuned.weights)).top1)
    assert sum(tuned.weights.values()) == pytest.approx(1)
    assert tuned.weights.keys() == resolve_weights(scores).keys()


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


def test_the_grid_is_as_fine_as_the_number_of_streams_allows() -> None:
    for count, steps, tried in ((1, 20, 1), (2, 20, 21), (4, 20, 1771), (5, 10, 1001), (6, 10, 3003), (9, 5, 1287)):
        weights = np.array(list(_grid(count)))
        assert weights.shape == (tried, count)
        np.testing.assert_allclose(weights.sum(axis=1), 1)
        assert len({tuple(row) for row in weights.tolist()}) == tried
        assert np.unique(np.round(weights * steps, 9)).tolist() == ([steps] if count == 1 else list(range(steps + 1)))


def test_the_tool_tunes_on_one_set_and_reports_the_other(tmp_path: Path) -> None:
    files: dict[str, list[str]] = {}
    for part in ("val", "test"):
        for name, scores in streams(part).items():
            save_scores(tmp_path / f"{part}_{name}.npz", scores)
        files[part] = [f"{name}={tmp_path}/{part}_{name}.npz" for name in streams(part)]

    command = ["fuse", "--output", tmp_path / "out", "--scores", *files["test"]]
    told = tool(*command, "--tune-weights", *files["val"], "--scale", "softmax")
    assert "validation, 60 clips: top-1" in told and "points)" in told
    fused = load_scores(tmp_path / "out/scores/fused_baseline.npz")
    tuned = tune_weights(rescale(streams("val"), "softmax"))
    assert fused.settings["weights"] == pytest.approx(tuned.weights)
    assert fused.names.tolist() == streams("test")["mv"].names.tolist()

    refused = tool(*command, "--tune-weights", *files["test"], ok=False)
    assert refused.startswith("error: iframe: 60 clips are in the validation set and in the reported one")
    both = tool(*command, "--tune-weights", *files["val"], "--weights", "mv=1", ok=False)
    assert "give one of the two" in both
