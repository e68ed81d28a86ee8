"""Files of tensors, read without running anything that is in them."""

from __future__ import annotations

import os
import zipfile
import zlib
from typing import Any

import torch

from coviar_mocrop.errors import CheckpointError


def read_tensors(path: str | os.PathLike[str], remedy: str) -> Any:
    """What ``torch.save`` wrote: plain tensors and plain values only, checksums compared.

    Args:
        path: of the file.
        remedy: what to do where there is no such file.

    Raises:
        CheckpointError: the file is missing, damaged or unsafe.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; {remedy}") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path}: is a folder; give a file in it") from error
    except Exception as error:  # torch.load fails in many ways on foreign bytes
        raise CheckpointError(
            f"{path}: is damaged or not a safe PyTorch file ({type(error).__name__}); only plain tensors are loaded, "
            "copy it again or make it anew"
        ) from error
    if not _is_sound(path):
        raise CheckpointError(f"{path}: is damaged (a checksum differs); copy it again or make it anew")
    return content


def _is_sound(path: str | os.PathLike[str]) -> bool:
    """Whether all parts of a zip file have the checksums they were written with, which PyTorch does not compare.

    True for files of PyTorch's older format, which have none.
    """
    if not zipfile.is_zipfile(path):
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    # what zipfile raises on damaged headers (foreign compression, encryption, cut data); all mean: not sound
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError):
        return False
