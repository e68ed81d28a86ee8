"""Checkpoints, exported streams and other files of tensors, read without running any code in them.

Only plain tensors and plain values are read, from PyTorch's files and from safetensors. Files are written atomically.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import textwrap
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from coviar_mocrop.card import are_names, card_of_weights
from coviar_mocrop.errors import CheckpointError
from coviar_mocrop.files import atomic_write

FORMAT = 1
"""Format version of the checkpoints of this project."""
_KINDS: dict[str, type] = {
    **dict.fromkeys(("format", "epoch", "step"), int),
    **dict.fromkeys(("model", "config", "config.model", "config.train", "rules", "lists", "sums"), dict),
    **dict.fromkeys(("optimizer", "schedule", "scaler"), dict),
    **dict.fromkeys(("classes", "history"), list),
}
"""Types of the parts of a checkpoint. Parts may be missing."""
_DIGEST = "sha256"
"""Key of the tensors' digest in the header of safetensors files written here. The format itself has no checksum."""


_OTHER_FILES = {
    ".onnx": "an ONNX program, which ONNX Runtime runs; give the checkpoint or the .safetensors that it was made from",
    ".pt2": "a torch.export program, which torch.export.load reads; give the checkpoint or the .safetensors that it "
    "was made from",
    ".json": "JSON, such as the card of an export; give the .safetensors beside it",
    ".npz": "a file of arrays, such as the scores that coviar fuse --scores reads; give a checkpoint",
    ".yaml": "a settings file, which --config reads; give a checkpoint",
}
"""Descriptions, by suffix, of files that users may give instead of a checkpoint."""


def is_file_name(weights: str | None) -> bool:
    """Whether the setting ``model.weights`` names a file, and not published weights or none."""
    return weights is not None and (os.sep in weights or os.path.splitext(weights)[1] != "")


def read_tensors(path: str | os.PathLike[str], remedy: str) -> Any:
    """Read a file written by ``torch.save`` (by any version since 2018), or a safetensors file.

    Only plain tensors and plain values are loaded. Checksums are compared if the file has any, as PyTorch's zip files
    and the safetensors files written here do.

    Args:
        path: path of the file.
        remedy: advice for the error message if there is no such file.

    Returns:
        The content: tensors on the CPU, numbers, text, and lists and dictionaries of those.

    Raises:
        CheckpointError: the file is missing, damaged or unsafe.
    """
    try:
        if _is_safetensors(path):
            return _read_safetensors(path)
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; {remedy}") from error
    except PermissionError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path}: is a folder; give a file in it") from error
    except CheckpointError:
        raise
    except Exception as error:  # torch.load fails in many ways on foreign bytes
        suffix = os.path.splitext(path)[1].lower()
        if suffix in _OTHER_FILES:
            raise CheckpointError(f"{path}: is not a checkpoint but {_OTHER_FILES[suffix]}") from error
        refused = re.search(r"(?i:unsupported) (?:global: )?GLOBAL ([\w.]+)", str(error))
        if refused:
            raise CheckpointError(
                f"{path}: holds {refused[1]}, which is not safe to load, so nothing was; if you trust its source, "
                "save the weights alone where it was made: torch.save(checkpoint['state_dict'], 'weights.pth')"
            ) from error
        raise CheckpointError(
            f"{path}: is damaged or not a safe PyTorch file ({type(error).__name__}); only plain tensors are loaded, "
            "copy it or create it again"
        ) from error
    if not _is_sound(path):
        raise CheckpointError(f"{path}: is damaged (a checksum differs); copy it or create it again")
    return content


def save_checkpoint(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: file to write.
        content: tensors, numbers, text, and lists and dictionaries of those, by name.

    Raises:
        CoviarMocropError: the file cannot be written. An existing file is not changed.
    """
    with atomic_write(path) as temporary:
        try:
            torch.save({"format": FORMAT, **content}, temporary)
        except RuntimeError as error:  # PyTorch raises this if the disk is full
            raise CheckpointError(
                f"{path}: cannot be written; is the disk full? An older checkpoint there is untouched: make room and "
                "continue with --resume"
            ) from error


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint of training, or an exported stream.

    Args:
        path: path of a checkpoint; or of exported weights (``.safetensors``) with their card in the same folder.

    Returns:
        ``model``, ``config``, ``classes`` and, in newer files, ``rules``. For a checkpoint, also all its other parts.

    Raises:
        CheckpointError: a file is missing, damaged, unsafe or not of this project, or weights and card do not belong
            together.
    """
    if Path(path).suffix == ".safetensors":
        return _load_exported(Path(path))
    content = read_tensors(path, "make a checkpoint with coviar train")
    needed = ("format", "model", "config", "classes")
    if not isinstance(content, dict) or any(key not in content for key in needed):
        raise CheckpointError(f"{path}: is not a checkpoint of coviar train; coviar import makes one of other weights")
    require_kinds(content, path)
    if content["format"] != FORMAT:
        raise CheckpointError(f"{path}: has format {content['format']}, this version reads {FORMAT}")
    return {**content, "config": _known(content["config"])}


def require_kinds(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Check that the parts of a checkpoint have the types that training writes.

    Args:
        content: the checkpoint, with at least ``config`` and ``classes``.
        path: path of the file, for messages.

    Raises:
        CheckpointError: a part has another type.
    """
    config = content["config"] if isinstance(content["config"], dict) else {}
    parts = {**content, **{f"config.{name}": value for name, value in config.items()}}
    wrong = [name for name, kind in _KINDS.items() if name in parts and not isinstance(parts[name], kind)]
    if not are_names(content["classes"]):
        wrong.append("classes")
    if wrong:
        raise CheckpointError(f"{path}: its part {wrong[0]!r} is not what training writes; train or import it again")


def _load_exported(path: Path) -> dict[str, Any]:
    tensors = read_tensors(path, "make one with coviar export")
    card_path, card, classes = card_of_weights(path)
    if card["weights"].get("sha256") != digest(tensors):
        raise CheckpointError(f"{path}: does not belong to {card_path} (checksums differ); export both again")
    content = {"model": tensors, "config": card["config"], "classes": classes, "rules": card.get("rules", {})}
    require_kinds(content, card_path)
    return {**content, "config": _known(content["config"])}


def _known(config: dict[str, Any]) -> dict[str, Any]:
    """Remove ``test_every`` from the settings of a run. Older versions used it to choose the best epoch."""
    train = config.get("train")
    return {**config, "train": {k: v for k, v in train.items() if k != "test_every"}} if train else config


def load_model_state(model: nn.Module, state: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Load weights into ``model``.

    Args:
        model: the network.
        state: its state dict.
        path: path of the weights, for messages.

    Raises:
        CheckpointError: the weights belong to another architecture or number of classes.
    """
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        detail = lines[1] if len(lines) > 1 else lines[0]
        raise CheckpointError(
            f"{path}: does not fit the network ({textwrap.shorten(detail, 160, placeholder=' ...')}); "
            "the settings must be of the same backbone and classes"
        ) from error


def write_safetensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> str:
    """Write tensors to a safetensors file atomically. The same tensors give the same bytes.

    Args:
        path: file to write, with the suffix ``.safetensors``.
        tensors: tensors by name, on any device.

    Returns:
        The :func:`digest` of the tensors, which is also written to the header.

    Raises:
        CoviarMocropError: the file cannot be written.
    """
    # clones, because the format refuses tensors that share memory
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    value = digest(plain)
    with atomic_write(path) as temporary:
        try:
            save_file(plain, temporary, {_DIGEST: value})  # a single entry, because several are written in random order
        except SafetensorError as error:  # raised if the disk is full
            raise CheckpointError(f"{path}: cannot be written ({error}); is the disk full?") from error
    return value


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, dtypes, shapes and values of tensors, in any order: 64 hexadecimal digits."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _is_safetensors(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a safetensors file, by its content (eight bytes of length, then JSON) or its suffix."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{" or os.fspath(path).endswith(".safetensors")


def _read_safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
    except (SafetensorError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path}: is damaged or not a safetensors file ({error}); copy it or create it again"
        ) from error
    if _DIGEST in facts and facts[_DIGEST] != digest(tensors):
        raise CheckpointError(f"{path}: is damaged (its checksum differs); copy it or create it again")
    return tensors


def _is_sound(path: str | os.PathLike[str]) -> bool:
    """Whether all members of a zip file have the right checksums, which PyTorch does not compare.

    True for files in PyTorch's older format, which has no checksums.
    """
    if not zipfile.is_zipfile(path):
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    # What zipfile raises on damaged headers: NotImplementedError for a compression or version it does not know,
    # RuntimeError for a part marked as encrypted, the others for data that is cut or wrong. The file is not sound then,
    # and the caller refuses it.
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError):
        return False


# Training loops often store their best accuracy as a NumPy number, which PyTorch's safe loader refuses. Two functions
# here replace NumPy's own, so that loading a file calls nothing of NumPy except for a fixed list of number types.


class _NumberType:
    """Replaces ``numpy.dtype`` in a pickle: stores the code and the byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]


def _number(kind: Any, raw: Any) -> bool | int | float:
    """Replaces ``numpy.core.multiarray.scalar`` in a pickle: returns a plain Python number."""
    known = isinstance(kind, _NumberType) and kind.code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")
    if not known or not isinstance(raw, bytes):
        raise pickle.UnpicklingError("a numpy value that is not a plain number")
    value: bool | int | float = np.frombuffer(raw, f"{kind.order}{kind.code}", count=1)[0].item()
    return value


_NUMPY_SCALARS: list[Any] = [
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]
