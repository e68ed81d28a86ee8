"""A small CLIP of random weights, and runs of the CLIP stream on a tiny demo data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from demo import demo_settings

from coviar_mocrop.config import Config

TINY_CLIP: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def motion_config(demo: Path, output: Path) -> Config:
    """A motion stream to freeze: one epoch, small."""
    changes: dict[str, Any] = {
        "input": {"full_size": 48, "reduced_size": 32, "segments": 1, "test_segments": 2},
        "model": {"backbone": "resnet18"},
        "train": {"epochs": 1, "batch_size": 4, "precision": "fp32"},
    }
    return Config.model_validate(demo_settings(demo, output, **changes))


def clip_settings(demo: Path, output: Path, motion: Path | None, **changes: Any) -> dict[str, Any]:
    """Settings of a CLIP stream on ``demo``; ``changes`` are merged a section deep."""
    values: dict[str, Any] = {
        "stream": "clip",
        "input": {"full_size": 48, "reduced_size": 32, "segments": 1, "test_segments": 3},
        "model": {"backbone": "resnet18"},
        "clip": {"model": TINY_CLIP, "pretrained": None, "motion": None if motion is None else str(motion)},
        "train": {"epochs": 3, "batch_size": 4, "precision": "fp32", "optimizer": "adamw"},
    }
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(values.get(key), dict) else value
    return demo_settings(demo, output, **values)


def clip_config(demo: Path, output: Path, motion: Path | None, **changes: Any) -> Config:
    """:func:`clip_settings`, checked."""
    return Config.model_validate(clip_settings(demo, output, motion, **changes))
