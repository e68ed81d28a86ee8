"""The benchmarks that need a trained stream or a long list, in small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from demo import demo_settings

from benchmarks.scale import measure_scale
from benchmarks.testing import compare_testing
from coviar_mocrop.bitstream.transcode import encode
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.demo import make_demo
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.training.trainer import train


def test_both_ways_of_testing_see_the_same_clips(tmp_path: Path) -> None:
    make_demo(tmp_path / "videos", tmp_path / "lists", train_clips=8, test_clips=8, progress=False)
    inputs = {"full_size": 32, "segments": 1, "test_segments": 1}
    settings = demo_settings(tmp_path, tmp_path / "run", input=inputs, train={"epochs": 1, "threads": 1})
    best = train(Config.model_validate(settings))
    found = compare_testing(best, ["train.precision=bf16"], repeats=1)
    assert (found.clips, found.plain.compute, found.ours.compute) == (8, "cpu float32", "cpu bfloat16")
    assert found.ratio == found.plain.seconds / found.ours.seconds
    assert "| plain loop | cpu float32 |" in found.table()
    with pytest.raises(ConfigError, match="--repeats is 0"):
        compare_testing(best, repeats=0)


def test_a_long_list_is_measured(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(4)]
    encode(pictures, tmp_path / "clip.mp4")
    found = measure_scale(tmp_path / "clip.mp4", entries=1001, batches=20)
    assert found.entries == 1001
    assert list(found.megabytes) == list(range(2, 21, 2))
    assert all(megabytes > 1 for megabytes in found.megabytes.values())
    assert found.seconds_ready > 0 < found.seconds_first_step
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]  # the links are gone
    with pytest.raises(ConfigError, match="at least 1"):
        measure_scale(tmp_path / "clip.mp4", entries=0)
