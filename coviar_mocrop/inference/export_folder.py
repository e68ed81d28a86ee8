"""The folder of an export. Only complete files come into it, and an earlier export of the same streams is continued."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from coviar_mocrop.card import NAME, read_card
from coviar_mocrop.errors import CheckpointError, ConfigError, CoviarMocropError

ExportFormat = Literal["onnx", "int8", "safetensors", "torch_export"]
SUFFIXES: dict[ExportFormat, str] = {
    "onnx": ".onnx",
    "int8": ".int8.onnx",
    "safetensors": ".safetensors",
    "torch_export": ".pt2",
}


@contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder. On success its files are moved into ``folder``, the card last; else they are removed.

    A ``folder`` that did not exist does not exist after an error either.

    Raises:
        CoviarMocropError: the files cannot be written.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".export.", dir=folder)
    except OSError as error:
        raise _refused(folder, error) from error
    try:
        with temporary as name:
            yield Path(name)
            try:
                for path in sorted(Path(name).iterdir(), key=lambda path: path.name == NAME):
                    os.replace(path, folder / path.name)
            except OSError as error:
                raise _refused(folder, error) from error
    except BaseException:
        if is_new:
            with suppress(OSError):  # a file is in it
                folder.rmdir()
        raise


def _refused(folder: Path, error: OSError) -> CoviarMocropError:
    return CoviarMocropError(f"{folder}: cannot be written ({error.strerror}); choose another place")


def earlier_export(folder: Path, card: Mapping[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """The card of an earlier export in the folder; None if there is none, or ``overwrite`` is set and it is unreadable.

    Raises:
        ConfigError: the card cannot be read, or is of other streams or settings, and ``overwrite`` is not set.
    """
    path = folder / NAME
    if not path.exists():
        return None
    remedy = "choose another --output, or replace it (--overwrite)"
    try:
        earlier = read_card(path)
    except CheckpointError as error:
        if overwrite:
            return None
        raise ConfigError(f"{path}: is not a card that this version reads; {remedy}") from error
    if not overwrite and _identity(earlier) != _identity(card):
        raise ConfigError(f"{path}: is the card of other streams or settings; {remedy}")
    return earlier


def _identity(card: Mapping[str, Any]) -> Any:
    """What determines the files of an export and their accuracy."""
    facts = {
        name: (entry["weights"].get("sha256"), entry["input"], entry.get("rules"))
        for name, entry in card["streams"].items()
    }
    return json.loads(json.dumps(facts))  # tuples become lists, as in the file


def settle_earlier_files(folder: Path, card: dict[str, Any], earlier: Mapping[str, Any] | None) -> list[Path]:
    """Add the files of an earlier export of the same streams that are still there to the card.

    Returns:
        The files of an earlier export of other streams or settings, which have to be removed.
    """
    if earlier is None:
        return []
    kept = {file["name"] for entry in card["streams"].values() for file in entry["files"].values()}
    left = [
        (name, kind, file)
        for name, entry in earlier["streams"].items()
        for kind, file in entry["files"].items()
        if kind in SUFFIXES and file["name"] == f"{name}{SUFFIXES[kind]}" and file["name"] not in kept
    ]
    if _identity(earlier) != _identity(card):
        return [folder / file["name"] for _, _, file in left]
    for name, kind, file in left:
        if _is_whole(folder / file["name"], file):
            card["streams"][name]["files"][kind] = file
    if card["accuracy"] is None and earlier["fusion"] == json.loads(json.dumps(card["fusion"])):
        card["accuracy"] = earlier.get("accuracy")
    return []


def _is_whole(path: Path, file: Mapping[str, Any]) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == file.get("sha256")
    except OSError:
        return False
