"""The compiled loops of :mod:`coviar_mocrop.clips.resize`. Importing this module imports numba and compiles them.

Compiled machine code is kept beside this file or in the user's cache folder (``NUMBA_CACHE_DIR`` names another one).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import uint64 as word
from numpy.typing import NDArray

from coviar_mocrop.bitstream.kernels import COMPILED, compile_function

PRECISION = 32 - 8 - 2
"""Fraction bits of a weight: what is left of 32 bits beside an 8-bit pixel and two bits of room."""

_HALF = np.int32(1 << (PRECISION - 1))
_ROWS = 256
"""Rows of the picture that pass horizontally at a time; a multiple of 8."""


@numba.njit(**COMPILED)
def _add_rows(
    rows: NDArray[np.uint8],
    offset: int,
    step: int,
    first: NDArray[np.int64],
    counts: NDArray[np.int64],
    weights: NDArray[np.int32],
    totals: NDArray[np.int32],
    out: NDArray[np.uint8],
    length: int,
) -> None:
    """Add weighted rows: ``out[i] = sum over t of weights[i, t] * rows[offset + (first[i] + t) * step]``.

    Args:
        rows: [rows, at least length].
        offset: the first of the rows that belong together.
        step: from one of them to the next.
        first: [size], as ``counts`` and ``weights`` a table of :mod:`coviar_mocrop.clips.resize`.
        counts: [size].
        weights: [size, taps].
        totals: room for [length].
        out: [size, at least length].
        length: of the rows.
    """
    for i in range(len(first)):
        start, count = offset + first[i] * step, counts[i]
        for t in range(0, count, 3):  # three rows at a time; one that is not there has a weight of 0
            a = start + t * step
            b = a + step if t + 1 < count else a
            c = b + step if t + 2 < count else a
            p, q, r = weights[i, t], weights[i, t + 1], weights[i, t + 2]
            last = t + 3 >= count
            for x in range(length):
                before = totals[x] if t else _HALF
                total = np.int32(before + p * rows[a, x] + q * rows[b, x] + r * rows[c, x])
                if last:
                    out[i, x] = min(max(total >> PRECISION, 0), 255)
                else:
                    totals[x] = total


@numba.njit(**COMPILED)
def _swap(a: int, b: int, shift: int, mask: int) -> tuple[int, int]:
    """Exchange the bits of ``a`` under ``mask << shift`` with those of ``b`` under ``mask``."""
    both = ((a >> word(shift)) ^ b) & word(mask)
    return a ^ (both << word(shift)), b ^ both


@numba.njit(**COMPILED)
def _transpose(rows: NDArray[np.uint64], across: int, down: int, held: NDArray[np.uint64], out: Any) -> None:
    """Transpose a matrix of bytes, eight rows at a time, seen as words of eight bytes.

    The eight bytes of eight words are exchanged in three steps, by 4, 2 and 1. Compilers vectorise the inner loop
    because it stores into ``held`` in order.

    Args:
        rows: [8 * down, at least across].
        across: words of a row.
        down: groups of eight rows.
        held: room for [8, across].
        out: [8 * across, at least down].
    """
    for i in range(down):
        y = 8 * i
        for x in range(across):
            a, e = _swap(rows[y, x], rows[y + 4, x], 32, 0x00000000FFFFFFFF)
            b, f = _swap(rows[y + 1, x], rows[y + 5, x], 32, 0x00000000FFFFFFFF)
            c, g = _swap(rows[y + 2, x], rows[y + 6, x], 32, 0x00000000FFFFFFFF)
            d, h = _swap(rows[y + 3, x], rows[y + 7, x], 32, 0x00000000FFFFFFFF)
            a, c = _swap(a, c, 16, 0x0000FFFF0000FFFF)
            b, d = _swap(b, d, 16, 0x0000FFFF0000FFFF)
            e, g = _swap(e, g, 16, 0x0000FFFF0000FFFF)
            f, h = _swap(f, h, 16, 0x0000FFFF0000FFFF)
            held[0, x], held[1, x] = _swap(a, b, 8, 0x00FF00FF00FF00FF)
            held[2, x], held[3, x] = _swap(c, d, 8, 0x00FF00FF00FF00FF)
            held[4, x], held[5, x] = _swap(e, f, 8, 0x00FF00FF00FF00FF)
            held[6, x], held[7, x] = _swap(g, h, 8, 0x00FF00FF00FF00FF)
        for x in range(across):
            for k in range(8):
                out[8 * x + k, i] = held[k, x]


@numba.njit(**COMPILED)
def _to_planes(rows: NDArray[np.uint8], count: int, channels: int, width: int, out: Any, start: int) -> None:
    """Sort ``count`` rows of [..., W * C] into the planes of [C, H, W], from row ``start`` on."""
    for y in range(count):
        if channels == 3:
            for x in range(width):
                out[0, start + y, x] = rows[y, 3 * x]
                out[1, start + y, x] = rows[y, 3 * x + 1]
                out[2, start + y, x] = rows[y, 3 * x + 2]
        elif channels == 2:
            for x in range(width):
                out[0, start + y, x] = rows[y, 2 * x]
                out[1, start + y, x] = rows[y, 2 * x + 1]
        else:
            for x in range(width):
                out[0, start + y, x] = rows[y, x]


def _resize_pictures(
    pictures: NDArray[np.uint8],
    across: bool,
    first_x: NDArray[np.int64],
    counts_x: NDArray[np.int64],
    weights_x: NDArray[np.int32],
    down: bool,
    first_y: NDArray[np.int64],
    counts_y: NDArray[np.int64],
    weights_y: NDArray[np.int32],
    out: NDArray[np.uint8],
) -> None:
    """Resize pictures with the weights of both directions, horizontally first, eight bits in between.

    The processor's vectors run along rows. To change the height, rows of a plane are added as they are; to change the
    width, rows of the transposed picture.

    Args:
        pictures: [T, H, W * C], C = 1, 2 or 3.
        across: whether the width changes.
        first_x: [size]: the first column that a column of the result depends on.
        counts_x: [size]: the number of columns that it depends on.
        weights_x: [size, at least 3]: their weights, zeros after them.
        down: whether the height changes; what follows as for the width.
        out: [T, C, size, size].
    """
    height, pitch = pictures.shape[1:]
    channels, size = out.shape[1:3]
    words, words_out, groups = (pitch + 7) // 8, (size + 7) // 8, _ROWS // 8
    block = np.empty((_ROWS, 8 * words), np.uint8)
    turned = np.empty((8 * words, _ROWS), np.uint8)
    resized = np.empty((8 * words_out, _ROWS), np.uint8)
    planes = np.empty((channels, 8 * ((height + 7) // 8), 8 * words_out), np.uint8)
    held = np.empty((8, max(words, groups)), np.uint64)
    totals = np.empty(max(_ROWS, size), np.int32)
    block64, turned64, resized64, planes64 = (
        block.view(np.uint64),
        turned.view(np.uint64),
        resized.view(np.uint64),
        planes.view(np.uint64),
    )
    for t in range(len(pictures)):
        for start in range(0, height, _ROWS):
            count = min(_ROWS, height - start)
            for y in range(count):
                for x in range(pitch):
                    block[y, x] = pictures[t, start + y, x]
            if not across:
                _to_planes(block, count, channels, size, planes, start)
                continue
            groups = (count + 7) // 8
            _transpose(block64, words, groups, held, turned64)
            for c in range(channels):
                _add_rows(turned, c, channels, first_x, counts_x, weights_x, totals, resized, 8 * groups)
                _transpose(resized64, groups, words_out, held, planes64[c, start:])
        for c in range(channels):
            if down:
                _add_rows(planes[c], 0, 1, first_y, counts_y, weights_y, totals, out[t, c], size)
            else:
                for y in range(size):
                    for x in range(size):
                        out[t, c, y, x] = planes[c, y, x]


_PICTURES = numba.types.Array(numba.uint8, 3, "A", readonly=True)
_TABLE = numba.boolean, numba.int64[::1], numba.int64[::1], numba.int32[:, ::1]
resize_pictures = compile_function(_resize_pictures, (_PICTURES, *_TABLE, *_TABLE, numba.uint8[:, :, :, ::1]))
