"""Read arrays from .npz files that may be damaged or hostile, from any number of threads."""

from __future__ import annotations

import io
import os
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

_turn = Lock()
"""NumPy parses the header of each array with ``ast``, which fails at random in some versions of Python (3.11.7 is one)
when two threads parse at the same time."""


def _renew() -> None:
    global _turn
    _turn = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)  # another thread of the parent may have held it


def read_arrays(source: str | os.PathLike[str] | bytes, *names: str) -> list[NDArray[Any]]:
    """Read the arrays ``names`` of an .npz file. Pickled objects are never loaded.

    Args:
        source: path of the file, or its bytes.
        names: names of the arrays, in the order of the result.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file cannot be read.
        ValueError: the file is damaged or no .npz file, lacks an array, or one contains Python objects.
    """
    try:
        with _turn, np.load(io.BytesIO(source) if isinstance(source, bytes) else source, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except OSError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy fail in many ways on damaged bytes
        raise ValueError("damaged, or no .npz file with these arrays") from error
