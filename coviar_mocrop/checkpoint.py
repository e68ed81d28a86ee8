"""Checkpoints: plain tensors and plain values, written whole or not at all, loaded without running anything."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from coviar_mocrop.errors import CheckpointError
from coviar_mocrop.files import atomic_write
from coviar_mocrop.tensors import read_tensors

FORMAT = 1


def save_checkpoint(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write ``content`` (tensors, numbers, text, lists and dictionaries of those).

    Raises:
        CoviarMocropError: it cannot be written; the file that was there stays as it was.
    """
    with atomic_write(path) as temporary:
        try:
            torch.save({"format": FORMAT, **content}, temporary)
        except RuntimeError as error:  # PyTorch's word for a full disk
            raise CheckpointError(
                f"{path}: cannot be written; is the disk full? An older checkpoint there is untouched: make room and "
                "go on with --resume"
            ) from error


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint of ours.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, or not a checkpoint of this project.
    """
    content = read_tensors(path, "make a checkpoint with tools/train_stream.py")
    needed = ("format", "model", "config", "classes")
    if not isinstance(content, dict) or any(key not in content for key in needed):
        raise CheckpointError(
            f"{path}: is not a checkpoint of tools/train_stream.py; tools/import_weights.py makes one of other weights"
        )
    if content["format"] != FORMAT:
        raise CheckpointError(f"{path}: has format {content['format']}, this version reads {FORMAT}")
    return content


def load_model_state(model: nn.Module, state: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Load weights into ``model``.

    Raises:
        CheckpointError: they belong to another architecture or number of classes.
    """
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        detail = lines[1] if len(lines) > 1 else lines[0]
        raise CheckpointError(f"{path}: does not fit the network ({detail})") from error
