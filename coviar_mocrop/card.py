"""The card of an export, ``card.json``, which describes how to use the files beside it. Reading it needs no PyTorch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from coviar_mocrop.errors import CheckpointError

NAME = "card.json"
INPUT, OUTPUT = "windows", "logits"
"""Names of the input and the output in an ONNX program."""
FORMAT = "coviar_mocrop export"
VERSION = 2
_FIRST_FORMAT = "coviar_mocrop stream"
"""Format of version 1, which had a card for each stream, ``STREAM.json``."""


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a card.

    Returns:
        The content: ``classes``, ``fusion``, ..., and in ``streams``, for each stream, ``config``, ``weights``,
        ``input``, ``files``, ...

    Raises:
        CheckpointError: the file is missing, not JSON, or not a card of this version.
    """
    card = _read_json(Path(path))
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not the card of an export; coviar export makes one")
    if card.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: is a card of version {card.get('version')}, this version reads {VERSION}; export again"
        )
    streams = card.get("streams")
    if not (are_names(card.get("classes")) and isinstance(card.get("fusion"), dict) and isinstance(streams, dict)):
        raise CheckpointError(f"{path}: lacks classes, fusion or streams; export again")
    for name, entry in streams.items():
        if not _is_entry(entry):
            raise CheckpointError(f"{path}: lacks config, weights, input or files of the {name} stream; export again")
    return card


def card_of_weights(path: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """Read the card of exported weights, ``STREAM.safetensors``.

    Args:
        path: path of the weights. The card is in the same folder.

    Returns:
        The path of the card; the entry of the stream, with ``config`` and ``weights``; and the class names by label.

    Raises:
        CheckpointError: there is no valid card, or it belongs to other files.
    """
    beside, first = path.with_name(NAME), path.with_suffix(".json")
    if beside.exists():
        card = read_card(beside)
        for entry in card["streams"].values():
            if entry["files"].get("safetensors", {}).get("name") == path.name:
                return beside, entry, card["classes"]
        if not first.exists():
            raise CheckpointError(f"{beside}: does not name {path.name}; export again")
    elif not first.exists():
        raise CheckpointError(
            f"{beside}: no such file; the card must lie beside the weights. Weights without one: coviar import"
        )
    card = _read_json(first)
    is_card = isinstance(card, dict) and card.get("format") == _FIRST_FORMAT and are_names(card.get("classes"))
    if not is_card or not all(_is_dict(card, key) for key in ("config", "weights")):
        raise CheckpointError(f"{first}: is not the card of a stream; coviar export makes one")
    return first, card, card["classes"]


def are_names(classes: Any) -> bool:
    """Whether ``classes`` is a non-empty list of strings."""
    return isinstance(classes, list) and bool(classes) and all(isinstance(name, str) for name in classes)


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not all(_is_dict(entry, key) for key in ("config", "weights", "input", "files")):
        return False
    names = [file.get("name") if isinstance(file, dict) else None for file in entry["files"].values()]
    # names must not lead out of the folder
    return all(isinstance(name, str) and name == os.path.basename(name) and name.strip(". ") for name in names)


def _is_dict(values: dict[str, Any], key: str) -> bool:
    return isinstance(values.get(key), dict)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; coviar export makes one") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not readable JSON ({error}); export again") from error
