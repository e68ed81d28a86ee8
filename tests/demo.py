"""A tiny demo data set's settings, shared by the tests that need a whole configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from coviar_mocrop.checkpoint import load_checkpoint


def demo_settings(demo: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a run on ``demo`` (folders ``videos`` and ``lists``); ``changes`` are merged a section deep."""
    values: dict[str, Any] = {
        "stream": "mv",
        "output": str(output),
        "data": {
            "root": str(demo / "videos"),
            "train_list": str(demo / "lists/train_split1.txt"),
            "test_list": str(demo / "lists/test_split1.txt"),
            "classes": str(demo / "lists/classes.txt"),
            "cache": str(demo / "cache"),
            "workers": 0,
        },
        "input": {"full_size": 64, "reduced_size": 48, "segments": 2, "test_segments": 3},
    }
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(values.get(key), dict) else value
    return values


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """The network's state in a checkpoint."""
    return load_checkpoint(path)["model"]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Equal, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
