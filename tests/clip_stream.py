"""A small CLIP of random weights, and runs of the CLIP stream on a tiny demo data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from demo import BACKBONE, demo_settings, merge, open_list

from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import read_classes
from coviar_mocrop.streams.clip import CLIPStream

TINY_CLIP: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def motion_config(demo: Path, output: Path, **changes: Any) -> Config:
    """A motion stream to freeze: one epoch, small; ``changes`` are merged a section deep."""
    values: dict[str, Any] = {
        "input": {"full_size": 48, "reduced_size": 32, "segments": 1, "test_segments": 2},
        "model": {"backbone": BACKBONE},
        "train": {"epochs": 1, "batch_size": 4, "precision": "fp32"},
    }
    return Config.model_validate(demo_settings(demo, output, **merge(values, changes)))


def clip_settings(demo: Path, output: Path, motion: Path | None, **changes: Any) -> dict[str, Any]:
    """Settings of a CLIP stream on ``demo``; ``changes`` are merged a section deep."""
    values: dict[str, Any] = {
        "stream": "clip",
        "input": {"full_size": 48, "reduced_size": 32, "segments": 1, "test_segments": 3},
        "model": {"backbone": BACKBONE},
        "clip": {"model": TINY_CLIP, "pretrained": None, "motion": None if motion is None else str(motion)},
        "train": {"epochs": 3, "batch_size": 4, "precision": "fp32", "optimizer": "adamw"},
    }
    return demo_settings(demo, output, **merge(values, changes))


def clip_config(demo: Path, output: Path, motion: Path | None, **changes: Any) -> Config:
    """:func:`clip_settings`, checked."""
    return Config.model_validate(clip_settings(demo, output, motion, **changes))


def open_clip_stream(config: Config, part: Literal["train", "test"] = "train") -> tuple[CLIPStream, ClipDataset]:
    """The stream of ``config`` before training, and the clips of a list with their features."""
    stream = CLIPStream(config, read_classes(config.data.classes), weights=True)
    return stream, open_list([stream], part)[0]
