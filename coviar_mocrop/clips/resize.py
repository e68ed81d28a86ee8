"""Crop and resize 8-bit pictures with antialiasing, bit for bit as Pillow does.

Rows are resized first, then columns, with eight bits in between. Pillow has always done it in this order; version 13
begins with the columns where the height shrinks much more than the width, which differs by at most a grey level or two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Resample = Literal["bilinear", "bicubic"]
_REACH = {"bilinear": 1.0, "bicubic": 2.0}


def resize(
    pictures: NDArray[np.uint8],
    window: tuple[int, int, int, int] | None,
    size: int,
    resample: Resample = "bilinear",
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Crop pictures, then resize them to a square.

    Args:
        pictures: uint8 [T, H, W, C], C = 1, 2 or 3; fastest where each row is contiguous.
        window: (top, left, bottom, right) in pixels, inside the picture; None: all of it.
        size: side of the result in pixels.
        resample: filter, widened where the picture shrinks (antialiasing). The result equals that of
            ``PIL.Image.resize`` applied to the width, then to the height of each channel of the cropped picture.
        out: where the result goes, as it is returned; None: new memory.

    Returns:
        uint8 [T, C, size, size], contiguous.
    """
    top, left, bottom, right = window or (0, 0, *pictures.shape[1:3])
    crops = pictures[:, top:bottom, left:right]
    count, height, width, channels = crops.shape
    out = np.empty((count, channels, size, size), np.uint8) if out is None else out
    resize_pictures = _compiled()
    if resize_pictures is None:
        _resize_with_pillow(crops, resample, out)
    else:
        rows = crops.reshape(count, height, width * channels)  # a view where the channels lie side by side
        across, down = _table(width, size, resample), _table(height, size, resample)
        resize_pictures(rows, width != size, *across, height != size, *down, out)
    return out


def compile_kernels() -> None:
    """Compile what :func:`resize` runs, or load it from the disk. A process calls this before it forks others."""
    _compiled()


@cache
def _compiled() -> Callable[..., None] | None:
    """The compiled loop; None where numba is not installed or switched off (``NUMBA_DISABLE_JIT``)."""
    try:
        import numba

        if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
            return None
        from coviar_mocrop.clips.resize_kernels import resize_pictures
    except (ImportError, OSError):  # not installed, or not for this numpy; or its library does not load
        return None
    return resize_pictures


def _resize_with_pillow(crops: NDArray[np.uint8], resample: Resample, out: NDArray[np.uint8]) -> None:
    """The same without numba."""
    from PIL import Image

    height, size = crops.shape[1], out.shape[2]
    resampling = Image.Resampling[resample.upper()]
    for picture, planes in zip(crops, out, strict=True):
        for channel, plane in enumerate(planes):
            image = Image.fromarray(np.ascontiguousarray(picture[..., channel]))
            plane[:] = image.resize((size, height), resampling).resize((size, size), resampling)


class _Table(NamedTuple):
    """What each pixel of a resized row depends on: its first pixel, how many, and their weights, padded with zeros.

    Attributes:
        first: [size].
        counts: [size].
        weights: [size, taps], in units of 2 ** -22.
    """

    first: NDArray[np.int64]
    counts: NDArray[np.int64]
    weights: NDArray[np.int32]


@lru_cache(maxsize=4096)
def _table(length: int, size: int, resample: Resample) -> _Table:
    """The weights of Pillow, in double precision, rounded to 22 binary places.

    Every operation and its order are Pillow's, so that the weights are the same to the last bit.
    """
    scale = length / size
    stretch = max(scale, 1.0)
    reach = _REACH[resample] * stretch
    centers = (np.arange(size) + 0.5) * scale
    first = np.maximum((centers - reach + 0.5).astype(np.int64), 0)
    counts = np.minimum((centers + reach + 0.5).astype(np.int64), length) - first
    taps = np.arange(2 * math.ceil(reach) + 3)  # two more than Pillow: the compiled loop takes three at a time
    distances = np.abs((taps + first[:, None] - centers[:, None] + 0.5) * (1.0 / stretch))
    weights = np.where(taps < counts[:, None], _filter(distances, resample), 0.0)
    total = np.zeros(size)
    for column in weights.T:
        total += column
    weights /= np.where(total == 0.0, 1.0, total)[:, None]
    rounded = np.trunc(weights * (1 << 22) + np.where(weights < 0, -0.5, 0.5))
    return _Table(first, counts, rounded.astype(np.int32))


def _filter(x: NDArray[np.float64], resample: Resample) -> NDArray[np.float64]:
    """A triangle, or Keys' cubic with a = -0.5, at distances x >= 0."""
    if resample == "bilinear":
        return np.maximum(1.0 - x, 0.0)
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
