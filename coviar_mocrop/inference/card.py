"""Exported streams: weights as safetensors, and beside them a JSON card that says all the rest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from coviar_mocrop.checkpoint import digest, read_tensors
from coviar_mocrop.errors import CheckpointError

FORMAT = "coviar_mocrop stream"
VERSION = 1


def is_export(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` names weights with a card, not a checkpoint."""
    return Path(path).suffix == ".safetensors"


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a card.

    Raises:
        CheckpointError: the file is missing, no JSON, or no card of this version.
    """
    try:
        card = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: no such file; the card must lie beside the weights. Weights without one: tools/import_weights.py"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is no JSON that can be read ({error}); export anew") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not the card of a stream; tools/export.py makes one")
    if card.get("version") != VERSION:
        raise CheckpointError(f"{path}: is a card of version {card.get('version')}, this version reads {VERSION}")
    classes, weights = card.get("classes"), card.get("weights")
    named = isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)
    if not named or not isinstance(card.get("config"), dict) or not isinstance(weights, dict):
        raise CheckpointError(f"{path}: lacks classes, config or weights; export anew")
    return card


def load_exported(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read exported weights and their card, as a checkpoint's content: ``model``, ``config``, ``classes``.

    Args:
        path: of the ``.safetensors`` file; the card has its name and ends in ``.json``.

    Raises:
        CheckpointError: one of the two cannot be read, or they do not belong together.
    """
    tensors = read_tensors(path, "make one with tools/export.py")
    card_path = Path(path).with_suffix(".json")
    card = read_card(card_path)
    if card["weights"].get("sha256") != digest(tensors):
        raise CheckpointError(f"{path}: does not belong to {card_path} (checksums differ); export both anew")
    return {"model": tensors, "config": card["config"], "classes": card["classes"]}
