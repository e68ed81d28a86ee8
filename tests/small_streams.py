"""Checkpoints of three small streams with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from demo import BACKBONE

from coviar_mocrop.checkpoint import save_checkpoint
from coviar_mocrop.config import build_config
from coviar_mocrop.streams.base import create_stream


def write_streams(folder: Path, classes: Sequence[str]) -> list[Path]:
    """Write ``iframe.pt``, ``mv.pt`` and ``residual.pt``: tiny networks, attention, three test frames of 32 pixels."""
    torch.manual_seed(0)
    written = []
    for kind in ("iframe", "mv", "residual"):
        config = build_config(
            {
                "stream": kind,
                "setting": "attention",
                "data": {"classes": "none"},
                "input": {"full_size": 32, "reduced_size": 32, "test_segments": 3},
                "model": {"backbone": BACKBONE},
                "train": {"device": "cpu", "precision": "fp32"},
            },
            [],
            "test",
        )
        network = create_stream(config, classes, weights=False).network
        written.append(folder / f"{kind}.pt")
        content = {"model": network.state_dict(), "config": config.model_dump(mode="json"), "classes": list(classes)}
        save_checkpoint(written[-1], content)
    return written
