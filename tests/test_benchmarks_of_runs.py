"""The benchmarks that need a trained stream or a long list, in small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from demo import small_config

from benchmarks import tables
from benchmarks.scale import measure_scale
from benchmarks.testing import compare_testing, table
from coviar_mocrop.bitstream.transcode import encode
from coviar_mocrop.errors import ConfigError, DataError
from coviar_mocrop.training.trainer import train


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
