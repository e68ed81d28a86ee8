"""Read arrays from .npz files that may be damaged or hostile, from any number of threads."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.locks import ForkSafeLock

_turn = ForkSafeLock()
"""NumPy parses the header of each array with ``ast``, which fails at random in some versions of Python (3.11.7 is one)
when two threads parse at the same time."""


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
