"""A tiny demo data set's settings and its runs, shared by the tests that need whole runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from coviar_mocrop.checkpoint import load_checkpoint
from coviar_mocrop.clips.dataset import ClipDataset, SkipLog
from coviar_mocrop.clips.lists import Part, read_videos
from coviar_mocrop.clips.loading import open_clips
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.demo import make_demo
from coviar_mocrop.runtime import ALONE, Group
from coviar_mocrop.streams.base import Stream

BACKBONE = "timm/test_efficientnet"
"""Made for tests: built, trained and saved in a third of the time that the smallest network of torchvision takes."""
FEATURES = 256
"""What its classifier gets."""
SMALL = {"WIDTH": 160, "HEIGHT": 144, "FRAMES": 24}
"""Size and length of the demo clips in tests."""
TIMES = ("seconds", "clips_per_second", "waiting_for_data", "waited")
"""Metrics that measure time, and so differ from run to run."""


def make_clips_small(patch: pytest.MonkeyPatch) -> None:
    """Let the demo data set have small clips."""
    for name, value in SMALL.items():
        patch.setattr(f"coviar_mocrop.datasets.demo.{name}", value)


def make_small_demo(folder: Path, train_clips: int = 8, test_clips: int = 8, **options: Any) -> None:
    """Make ``videos`` and ``lists`` of small clips, which take a quarter of the time of whole ones."""
    with pytest.MonkeyPatch.context() as patch:
        make_clips_small(patch)
        counts = {"train_clips": train_clips, "test_clips": test_clips}
        make_demo(folder / "videos", folder / "lists", progress=False, **counts, **options)


def demo_settings(demo: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a run on ``demo`` (folders ``videos`` and ``lists``); ``changes`` are merged a section deep."""
    values: dict[str, Any] = {
        "stream": "mv",
        "output": str(output),
        "data": {
            "root": str(demo / "videos"),
            "train_list": str(demo / "lists/train_split1.txt"),
            "val_list": str(demo / "lists/test_split1.txt"),
            "test_list": str(demo / "lists/test_split1.txt"),
            "classes": str(demo / "lists/classes.txt"),
            "cache": str(demo / "cache"),
            "workers": 0,
        },
        "input": {"full_size": 64, "reduced_size": 48, "segments": 2, "test_segments": 3},
        "train": {"val_every": 0},
    }
    return merge(values, changes)


def small_settings(demo: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a run of seconds that uses everything random: augmentation, dropout, mixup; 2 steps an epoch."""
    values = {
        "input": {"full_size": 32, "reduced_size": 24, "segments": 1, "test_segments": 2},
        "model": {"backbone": BACKBONE, "dropout": 0.2},
        "train": {"epochs": 3, "batch_size": 4, "precision": "fp32", "mixup": 0.3, "threads": 1, "val_every": 0},
    }
    return demo_settings(demo, output, **merge(values, changes))


def small_config(demo: Path, output: Path, **changes: Any) -> Config:
    """:func:`small_settings`, checked."""
    return Config.model_validate(small_settings(demo, output, **changes))


def small_configs(
    demo: Path, output: Path, streams: Sequence[str] = ("iframe", "mv", "residual"), **changes: Any
) -> dict[str, Config]:
    """Runs of several streams, in folders of their names; a change named like a stream is for that one only."""
    own = {name: changes.pop(name, {}) for name in streams}
    return {
        name: small_config(demo, output / name, **{**merge(changes, own[name]), "stream": name}) for name in streams
    }


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Both together, a section deep; what stands in ``over`` counts."""
    both = {k for k in under.keys() & over.keys() if isinstance(under[k], dict) and isinstance(over[k], dict)}
    return {**under, **over, **{key: {**under[key], **over[key]} for key in both}}


def open_list(
    streams: Sequence[Stream], part: Part, group: Group = ALONE, shard: tuple[int, int] = (0, 1)
) -> tuple[ClipDataset, SkipLog]:
    """The clips of a list as ``streams`` see them."""
    return open_clips(streams, read_videos(streams[0].config.data, part, shard), group, training=part == "train")


def torchrun(processes: int, *command: object) -> subprocess.CompletedProcess[str]:
    """Run a command on several processes."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        + [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """The network's state in a checkpoint."""
    return load_checkpoint(path)["model"]


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run's last.pt and best.pt hold, less the settings and what measures time."""
    last = load_checkpoint(folder / "last.pt")
    best = load_checkpoint(folder / "best.pt")
    parts = {key: last[key] for key in ("model", "optimizer", "schedule", "scaler", "epoch", "step")}
    history = [{key: value for key, value in line.items() if key not in TIMES} for line in last["history"]]
    return {**parts, "history": history, "best": best["model"], "best_epoch": best["epoch"]}


def same(first: Any, second: Any) -> bool:
    """Equal, tensors bit for bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)
