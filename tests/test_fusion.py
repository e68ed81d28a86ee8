"""Score files and late fusion."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tool import tool

from coviar_mocrop.cli import parse_weights
from coviar_mocrop.errors import ScoreError
from coviar_mocrop.fusion import common_clips, fuse, measure, resolve_weights, spread
from coviar_mocrop.scores import Scores, load_scores, save_scores
from coviar_mocrop.viz.compare import compare
from coviar_mocrop.viz.results import results_table


def make_scores(seed: int = 0, clips: int = 12, classes: int = 6, **settings_of: Any) -> Scores:
    generator = np.random.default_rng(seed)
    return Scores(
        names=np.array([f"c/{i}.mp4" for i in range(clips)]),
        labels=np.arange(clips) % classes,
        scores=generator.normal(size=(clips, classes)).astype(np.float32),
        classes=np.array([f"k{i}" for i in range(classes)]),
        settings={"setting": "baseline", "gflops_per_frame": 1.5, "gflops_per_clip": 6.0, **settings_of},
    )


def test_score_files_come_back_and_hold_no_pickle(tmp_path: Path) -> None:
    scores = make_scores(note="é")
    save_scores(tmp_path / "s.npz", scores)
    loaded = load_scores(tmp_path / "s.npz")
    for name in ("names", "labels", "scores", "classes"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(scores, name))
    assert loaded.settings == scores.settings
    with np.load(tmp_path / "s.npz", allow_pickle=False) as raw:
        assert {key: raw[key].dtype.kind for key in raw.files} == {
            "names": "U",
            "labels": "i",
            "scores": "f",
            "classes": "U",
            "settings": "U",
        }
        assert raw["labels"].dtype == np.int64
        assert raw["scores"].dtype == np.float32
    assert list(tmp_path.iterdir()) == [tmp_path / "s.npz"]


def test_broken_score_files(tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match="no such score file"):
        load_scores(tmp_path / "none.npz")
    save_scores(tmp_path / "s.npz", make_scores())
    whole = (tmp_path / "s.npz").read_bytes()
    for content in (b"", b"junk", whole[: len(whole) // 2]):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(ScoreError, match=r"bad\.npz"):
            load_scores(tmp_path / "bad.npz")
    pickled = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "pickle.npz", names=pickled, labels=[0], scores=[[1.0]], classes=["a"], settings="{}")
    with pytest.raises(ScoreError, match=r"pickle\.npz"):
        load_scores(tmp_path / "pickle.npz")
    with pytest.raises(ScoreError, match="is a folder; give a score file"):
        load_scores(tmp_path)
    save_scores(tmp_path / "s.npz", replace(make_scores(), settings=["x"]))
    with pytest.raises(ScoreError, match="settings must be a JSON object"):
        load_scores(tmp_path / "s.npz")
    np.savez(tmp_path / "other.npz", names=["a"])
    with pytest.raises(ScoreError, match=r"other\.npz"):
        load_scores(tmp_path / "other.npz")


def test_a_changed_byte_anywhere_is_data_or_one_error(tmp_path: Path) -> None:
    file, scores = tmp_path / "s.npz", make_scores(clips=3, classes=2)
    save_scores(file, scores)
    content, loaded = file.read_bytes(), 0
    for place in range(len(content)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        with contextlib.suppress(ScoreError):
            found, loaded = load_scores(file), loaded + 1
            for name in ("names", "labels", "scores", "classes"):
                np.testing.assert_array_equal(getattr(found, name), getattr(scores, name), f"byte {place}")
            assert found.settings == scores.settings
    assert 0 < loaded < len(content) / 2  # dates, versions and the like


def test_parts_that_do_not_fit_are_not_saved(tmp_path: Path) -> None:
    for wrong in (
        replace(make_scores(), labels=np.array([0])),
        replace(make_scores(), labels=np.full(12, 6)),
        replace(make_scores(), scores=np.full((12, 6), np.nan, np.float32)),
        replace(make_scores(), names=np.array(["a.mp4"] * 12)),
    ):
        with pytest.raises(ScoreError):
            save_scores(tmp_path / "s.npz", wrong)
    assert not list(tmp_path.iterdir())


@settings(derandomize=True)
@given(weights=st.tuples(*[st.floats(0.1, 5)] * 3), seed=st.integers(0, 100))
def test_fusion_is_the_weighted_sum(weights: tuple[float, float, float], seed: int) -> None:
    streams = {name: make_scores(seed + i) for i, name in enumerate(("iframe", "mv", "residual"))}
    fused = fuse(streams, dict(zip(streams, weights, strict=True)))
    expected = sum(w * s.scores.astype(float) for w, s in zip(weights, streams.values(), strict=True))
    np.testing.assert_allclose(fused.scores, expected, rtol=1e-5, atol=1e-5)


def test_default_weights_are_coviars() -> None:
    streams = {name: make_scores(i) for i, name in enumerate(("iframe", "mv", "residual"))}
    fused = fuse(streams)
    expected = 2 * streams["iframe"].scores + streams["mv"].scores + streams["residual"].scores
    np.testing.assert_allclose(fused.scores, expected, rtol=1e-5)
    assert fused.settings["weights"] == {"iframe": 2.0, "mv": 1.0, "residual": 1.0}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"names": np.array([f"c/{i}.mp4" if i != 4 else "other.mp4" for i in range(12)])},
            "names, first at 4: .*other",
        ),
        ({"labels": np.roll(np.arange(12) % 6, 1)}, "labels, first at 0"),
        ({"classes": np.array(["k0", "k1", "z", "k3", "k4", "k5"])}, "classes, first at 2: k2 against z"),
    ],
)
def test_score_files_that_do_not_belong_together(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ScoreError, match=says):
        fuse({"iframe": make_scores(), "mv": replace(make_scores(1), **change)})
    with pytest.raises(ScoreError, match="12 against 11 names"):
        fuse({"iframe": make_scores(), "mv": make_scores(1, clips=11)})


def test_a_score_file_goes_by_the_name_of_its_stream() -> None:
    runs = {"mv": make_scores(stream="mv"), "mv_long": make_scores(1, stream="mv"), "mv_old": make_scores(2)}
    assert fuse(runs).settings["weights"] == {"mv": 1.0, "mv_long": 1.0, "mv_old": 1.0}
    for name in ("iframe", "long", "mvlong", "my_mv"):
        with pytest.raises(ScoreError, match=f"{name}: its score file is of the mv stream; name it mv="):
            fuse({name: runs["mv"], "residual": make_scores(stream="residual")})


def test_a_stream_brings_its_own_weight() -> None:
    streams = {"sound": make_scores(stream="sound", fusion_weight=0.5), "iframe_b": make_scores(1, stream="iframe")}
    assert resolve_weights(streams) == {"sound": 0.5, "iframe_b": 2.0}  # the second was written before weights were
    assert resolve_weights(streams, {"sound": 3}) == {"sound": 3.0, "iframe_b": 2.0}
    for wrong in ("much", -1, float("inf"), None):
        with pytest.raises(ScoreError, match="the weight of sound is"):
            resolve_weights({"sound": make_scores(fusion_weight=wrong)})


@pytest.mark.parametrize("name", ["..", "a/b", "", "scores", "overview", "-x"])
def test_a_run_of_results_has_a_name_of_its_own(tmp_path: Path, name: str) -> None:
    """It is a folder of the results."""
    (tmp_path / "kept").touch()
    with pytest.raises(ScoreError, match="cannot name a run"):
        compare({"mv": make_scores(setting=name)}, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


def test_bad_weights() -> None:
    streams = {"iframe": make_scores(), "mv": make_scores(1)}
    for weights in ({"clip": 1.0}, {"mv": -1.0}, {"mv": float("nan")}, {"iframe": 0.0, "mv": 0.0}):
        with pytest.raises(ScoreError):
            fuse(streams, weights)


def test_common_clips() -> None:
    first = make_scores()
    rows = np.array([7, 3, 5])
    second = replace(make_scores(1), names=first.names[rows], labels=first.labels[rows], scores=first.scores[rows])
    common = common_clips({"iframe": first, "mv": second})
    assert common["mv"].names.tolist() == [f"c/{i}.mp4" for i in (3, 5, 7)]
    np.testing.assert_array_equal(common["mv"].scores, first.scores[[3, 5, 7]])
    assert fuse(common).scores.shape == (3, 6)


def test_measures_by_hand() -> None:
    scores = replace(
        make_scores(clips=4, classes=6),
        labels=np.array([0, 0, 1, 2]),
        scores=np.array(
            [[9, 1, 2, 3, 4, 5], [1, 9, 2, 3, 4, 5], [1, 9, 2, 3, 4, 5], [9, 8, 1, 7, 6, 5]], dtype=np.float32
        ),
    )
    accuracy = measure(scores)
    assert accuracy.top1 == 0.5
    assert accuracy.top5 == 0.5  # row 1 ranks its class last of six, and so does row 3
    assert accuracy.confusion[0].tolist() == [1, 1, 0, 0, 0, 0]
    assert accuracy.per_class[:3].tolist() == [0.5, 1.0, 0.0]
    assert np.isnan(accuracy.per_class[3])
    alone = measure(make_scores(classes=1))
    assert (alone.top1, alone.confusion.tolist()) == (1.0, [[12]])


def test_of_equal_scores_the_first_class_wins() -> None:
    scores = make_scores(clips=50, classes=101)
    scores = replace(scores, scores=np.random.default_rng(0).integers(0, 3, (50, 101)).astype(np.float32))
    assert (
        measure(scores).confusion.sum(axis=0).tolist() == np.bincount(scores.scores.argmax(axis=1), None, 101).tolist()
    )


def test_spread_is_over_the_classes_of_each_clip() -> None:
    assert spread(np.array([[0.0, 2.0], [10.0, 14.0]])) == pytest.approx(np.sqrt((1 + 4) / 2))


@settings(derandomize=True)
@given(seed=st.integers(0, 1000), classes=st.integers(2, 12))
def test_measures_are_those_of_torch(seed: int, classes: int) -> None:
    scores = make_scores(seed, clips=30, classes=classes)
    values, labels, accuracy = torch.from_numpy(scores.scores), torch.from_numpy(scores.labels), measure(scores)
    assert scores.loss == pytest.approx(float(torch.nn.functional.cross_entropy(values.double(), labels)))
    best = values.topk(min(5, classes)).indices
    assert accuracy.top1 == pytest.approx(float((best[:, 0] == labels).double().mean()))
    if classes > 5:
        assert accuracy.top5 == pytest.approx(float((best == labels[:, None]).any(dim=1).double().mean()))
    else:
        assert accuracy.top5 is None
    assert accuracy.confusion.sum() == 30 and accuracy.confusion.trace() == round(30 * accuracy.top1)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with the results of two settings, and what the second comparison returned."""
    folder = tmp_path_factory.mktemp("compared")
    for setting in ("attention", "baseline"):
        streams = {name: make_scores(i, setting=setting) for i, name in enumerate(("residual", "mv", "iframe"))}
        results = compare(streams, folder)
    return folder, results


def test_compare_writes_the_contract_and_merges_settings(compared: tuple[Path, Any]) -> None:
    folder, results = compared
    assert json.loads((folder / "results.json").read_text()) == results
    assert list(results["settings"]) == ["baseline", "attention"]
    for entry in results["settings"].values():
        assert list(entry["streams"]) == ["residual", "mv", "iframe"]  # as given
        for row in [*entry["streams"].values(), entry["fused"]]:
            assert {"top1", "top5", "gflops_per_frame", "gflops_per_clip"} <= row.keys()
        assert entry["fused"]["gflops_per_clip"] == 18.0
    assert results_table(results).count("\n") == 9
    for name in ("confusion_baseline.png", "accuracy_against_gflops.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert (folder / "per_class_attention.csv").read_text().startswith("class,clips,residual,mv,iframe,fused")


def test_top5_of_five_classes_is_left_out(tmp_path: Path) -> None:
    (entry,) = compare({"mv": make_scores(classes=5)}, tmp_path)["settings"].values()
    assert not any("top5" in row for row in (entry["streams"]["mv"], entry["fused"]))


@pytest.mark.parametrize("content", ["[]", "junk", '{"settings": {"baseline": 3}}', '{"settings": {"x": {}}}'])
def test_results_of_other_settings_are_not_lost(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ScoreError, match=r"results\.json: does not hold results; move it away"):
        compare({"mv": make_scores()}, tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == [content]


def test_tensorboard_runs_carry_the_same_tags(compared: tuple[Path, Any]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags = {}
    for setting in ("baseline", "attention"):
        run = EventAccumulator(str(compared[0] / setting)).Reload()
        tags[setting] = set(run.Tags()["scalars"])
        assert run.Scalars("gflops_per_clip/fused")[0].value == 18.0
        assert run.Tags()["images"]
        assert [event.step for event in run.Scalars("top1_against_mflops")] == [6000, 12000, 18000]
    assert tags["baseline"] == tags["attention"]
    assert {"top1/fused", "top1/iframe", "gflops_per_frame/mv"} <= tags["baseline"]
    overview = EventAccumulator(str(compared[0] / "overview")).Reload()
    assert overview.Tags()["images"] == ["accuracy_against_gflops"]


@pytest.mark.usefixtures("no_figures")
def test_a_training_in_a_folder_of_the_results_loses_nothing(tmp_path: Path) -> None:
    """Runs may be called attention, baseline or overview, and results may go to the folder of a run."""
    files = [f"{run}/{name}" for run in ("baseline", "overview") for name in ("best.pt", "events.out.tfevents.1.host")]
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("trained")
    for seed in range(2):  # the second replaces the first
        compare({"mv": make_scores(seed)}, tmp_path)
        assert [(tmp_path / file).read_text() for file in files] == ["trained"] * 4
        assert len(list((tmp_path / "baseline").iterdir())) == len(list((tmp_path / "overview").iterdir())) == 3
    for run in ("baseline", "overview"):
        (tmp_path / run / "best.pt").unlink()  # without a training, the event file is of an older version
    compare({"mv": make_scores()}, tmp_path)
    assert len(list((tmp_path / "baseline").iterdir())) == len(list((tmp_path / "overview").iterdir())) == 1


def test_different_settings_are_not_fused_by_accident(tmp_path: Path) -> None:
    streams = {"iframe": make_scores(setting="baseline"), "mv": make_scores(1, setting="efficiency")}
    with pytest.raises(ScoreError, match="mv is efficiency"):
        compare(streams, tmp_path)
    assert "mixed" in compare(streams, tmp_path, setting="mixed")["settings"]


@pytest.mark.usefixtures("no_figures")
def test_weights_on_the_command_line(tmp_path: Path) -> None:
    for number, name in enumerate(("iframe", "mv")):
        save_scores(tmp_path / f"{name}.npz", make_scores(number))
    files = [f"{name}={tmp_path}/{name}.npz" for name in ("iframe", "mv")]
    for weights, expected in ((["3", "0.5"], [3.0, 0.5]), (["mv=4"], [2.0, 4.0])):
        tool("fuse", "--scores", *files, "--weights", *weights, "--output", tmp_path / "out")
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        assert list(results["settings"]["baseline"]["fused"]["weights"].values()) == expected


def test_weights_mean_the_same_to_every_command() -> None:
    streams = ["iframe", "mv"]
    for known in ([], streams):
        assert parse_weights(None, known) is None
        assert parse_weights(["coviar"], known) == {}
        assert parse_weights(["mv=0.5", "iframe=2"], known) == {"mv": 0.5, "iframe": 2.0}
        for items, says in (
            (["iframe=1", "iframe=9"], "--weights: iframe is given twice"),
            (["iframe=much"], "--weights iframe=much: 'much' is not a number"),
            (["iframe="], "--weights iframe=: expected STREAM=NUMBER, such as iframe=2, or coviar"),
            (["iframe=1", "2"], "--weights 2: expected STREAM=NUMBER"),
        ):
            with pytest.raises(ScoreError, match=re.escape(says)):
                parse_weights(items, known)
    assert parse_weights(["3", "0.5"], streams) == {"iframe": 3.0, "mv": 0.5}
    for items, known, says in (
        (["3", "0.5"], [], "--weights 3: expected STREAM=NUMBER"),  # of which streams is not known yet
        (["3"], streams, "1 numbers for 2 streams"),
        (["clip=1"], streams, "weight for 'clip', but the streams are iframe, mv"),
    ):
        with pytest.raises(ScoreError, match=says):
            parse_weights(items, known)
