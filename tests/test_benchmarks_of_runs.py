"""The benchmarks that need a trained stream or a long list, in small."""

from __future__ import annotations

import argparse
import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from clips import record, sliding
from demo import BACKBONE, small_config

from benchmarks import footage, footage_training, tables
from benchmarks.motion_statistics import statistics_of
from benchmarks.scale import measure_scale
from benchmarks.testing import compare_testing, table
from coviar_mocrop import open_video
from coviar_mocrop.bitstream.transcode import encode
from coviar_mocrop.errors import ConfigError, DataError
from coviar_mocrop.networks import frozen
from coviar_mocrop.networks.linear import cross_validate
from coviar_mocrop.training.trainer import train

pytestmark = pytest.mark.slow


def test_both_ways_of_testing_see_the_same_clips(demo: Path, tmp_path: Path) -> None:
    best = train({"mv": small_config(demo, tmp_path, train={"epochs": 1})})["mv"]
    found = compare_testing(best, ["train.precision=bf16"], repeats=1)
    plain, defaults = found["ways"]["plain loop"], found["ways"]["defaults"]
    assert (found["clips"], plain["compute"], defaults["compute"]) == (8, "cpu float32", "cpu bfloat16")
    assert found["ratio"] == plain["seconds"] / defaults["seconds"]
    assert "| plain loop | cpu float32 |" in table(found)
    with pytest.raises(ConfigError, match="--repeats is 0"):
        compare_testing(best, repeats=0)


def test_a_long_list_is_measured(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(4)]
    encode(pictures, tmp_path / "clip.mp4")
    found = measure_scale(tmp_path / "clip.mp4", entries=1001, batches=20)
    assert list(found["megabytes"]) == list(range(2, 21, 2))
    assert all(megabytes > 1 for megabytes in found["megabytes"].values())
    assert found["seconds_ready"] > 0 < found["seconds_first_step"]
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]  # the links are gone
    with pytest.raises(ConfigError, match="at least 1"):
        measure_scale(tmp_path / "clip.mp4", entries=0)


def test_an_interrupted_demo_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def begin(name: str, *options: object) -> None:
        started.append((name, *options))
        raise DataError("stopped")

    monkeypatch.setattr(tables, "_tool", begin)
    for make in (tables._demo, tables._clip):
        with pytest.raises(DataError, match="stopped"):
            make(tmp_path, 1)
    assert [(name, "--resume" in options) for name, *options in started] == [("demo", True)] * 2


def write_footage(folder: Path, groups: int) -> Path:
    """Two clips of each group, one a class, and the table of groups."""
    rows = ["path,source_video"]
    for number in range(2 * groups):
        name = f"{'left' if number % 2 else 'right'}/{number}.mp4"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        record(sliding(8, 64, 48, (4 * (number % 2) - 2, 0), seed=number), folder / name, gop=4)
        rows.append(f"{name},source {number // 2}")
    (folder / "groups.csv").write_text("\n".join(rows))
    return folder


def test_footage_is_cross_validated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = footage.load_configs
    small = ["input.full_size=32", "input.reduced_size=24", "input.test_segments=2", "train.precision=fp32"]
    small += [f"model.backbone={BACKBONE}", "model.weights=null", "data.workers=0"]
    small += ["streams.mv.input.full_size=32", "streams.iframe.input.test_segments=2"]
    for module in (footage, footage_training):
        monkeypatch.setattr(
            module, "load_configs", lambda path, overrides, **how: plain(path, overrides=[*overrides, *small], **how)
        )
    trained = {"motion trained": {"model.freeze": False, "train.epochs": 1}}
    monkeypatch.setattr(footage, "TRAINED", trained)
    monkeypatch.setattr(footage, "ROWS", (*footage.ROWS, *trained))
    monkeypatch.setattr(footage_training, "TRAINED", trained)
    monkeypatch.setattr(frozen, "cross_validate", partial(cross_validate, strengths=(0.1,)))
    monkeypatch.setattr("coviar_mocrop.streams.frames.count_flops", lambda *_: 10**6)
    command = argparse.ArgumentParser()
    footage.add_arguments(command)
    rows = [footage.FLOOR, "centre crop (baseline)", "box of 0.4", "motion trained"]
    options = ["--divisions", "1", "--seeds", "2", "--folds", "2", "--rows", *rows]
    given = command.parse_args(
        [str(write_footage(tmp_path / "footage", 6)), *options, "--output", str(tmp_path / "out")]
    )
    level = logging.getLogger("coviar_mocrop.streams").level
    try:
        results = footage.run(given)
    finally:
        logging.getLogger("coviar_mocrop.streams").setLevel(level)
    names = ["I-frame", "motion", "residual", *footage.FUSIONS]
    assert list(results) == rows
    for row, found in results.items():
        assert list(found["top1"]) == (["motion"] if row == footage.FLOOR else names)
        assert all(len(values) == 2 and all(0 <= value <= 1 for value in values) for values in found["top1"].values())
    said = capsys.readouterr().out
    assert "1 division into 2 folds, 2 seeds" in said
    runs = sorted(path.parent.parent.name for path in (tmp_path / "out/trained0").rglob("mv/best.pt"))
    assert runs == ["0_0_0", "0_0_1", "0_1_0", "0_1_1"]
    assert not list((tmp_path / "out").rglob("mv/held_out.npz")) and list(
        (tmp_path / "out").rglob("iframe/held_out.npz")
    )
    assert all(f"| {name} |" in said for name in names)
    with pytest.raises(DataError, match=r"groups\.csv: no such file; it names the group of each clip"):
        footage.run(command.parse_args([str(tmp_path)]))


def test_statistics_of_motion_leave_the_camera_out(tmp_path: Path) -> None:
    found = []
    for name, motion in (("still", (0, 0)), ("panning", (2, 0))):
        encode(sliding(12, 128, 96, motion), tmp_path / f"{name}.mp4", gop=12)
        with open_video(tmp_path / f"{name}.mp4") as video:
            found.append(statistics_of(video))
    still, panning = found
    assert still.shape == panning.shape and np.isfinite(panning).all()
    assert not still.any()
    assert panning[:6].max() < 0.5  # shares of a frame that move otherwise than the frame
