"""The inner loops of accumulation: compiled if numba is installed, else in numpy. Both give the same bits.

The sources of a frame are one 32-bit word per pixel, y << 16 | x. So composing is copying blocks of words, and the two
halves of a word, as int16, are the coordinates. Pictures are uint8 [H, 3 W or more], R, G, B of each pixel in turn. A
window is given by its upper left corner and the size of ``out``. It must lie inside the frame.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream.types import MOTION_VECTOR_DTYPE

COMPILED: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
"""Options of numba's ``njit``."""


class Kernels(NamedTuple):
    """The inner loops, in numba or in numpy.

    Attributes:
        compose: (vectors, base, target): copy every block that moves from its source in ``base`` to its position in
            ``target``, which is a copy of ``base``. Both are int32 [H, W].
        code_motion: (places, sources, top, left, out): rint(clip(D * 127.5 / 20 + 128, 0, 255)), D = places - sources.
            Both are int16 [H, 2 W], x, y of each pixel in turn. ``out`` is uint8 [h, 2 w].
        residual: (sources, frame, first, top, left, zero, out): ``frame`` minus ``first`` at the sources, plus
            ``zero``. ``out`` is int16 [h, 3 w] if ``zero`` is 0, and uint8 [h, 3 w], clipped, if it is 128.
    """

    compose: Callable[..., None]
    code_motion: Callable[..., None]
    residual: Callable[..., None]


@cache
def fastest() -> Kernels:
    """Return the compiled kernels if there are any, else those in numpy."""
    return compiled() or IN_NUMPY


def compiled() -> Kernels | None:
    """Compile the kernels, or load them from numba's cache; None without numba, or with NUMBA_DISABLE_JIT=1."""
    try:
        import numba
    except (ImportError, OSError):  # not installed, not for this numpy, or its library does not load
        return None
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return None

    def given(dtype: Any, dimensions: int = 2) -> Any:
        return numba.types.Array(dtype, dimensions, "C", readonly=True)

    corner = (numba.intp, numba.intp)
    words, pixels, coordinates = given(numba.int32), given(numba.uint8), given(numba.int16)
    vectors = given(numba.from_dtype(MOTION_VECTOR_DTYPE), 1)
    residual = (words, pixels, pixels, *corner, numba.int16)
    return Kernels(
        compose=compile_function(_compose, (vectors, words, numba.int32[:, ::1])),
        code_motion=compile_function(_code_motion, (coordinates, coordinates, *corner, numba.uint8[:, ::1])),
        residual=compile_function(_residual, (*residual, numba.int16[:, ::1]), (*residual, numba.uint8[:, ::1])),
    )


def compile_function(function: Callable[..., None], *signatures: tuple[Any, ...]) -> Callable[..., None]:
    """Compile a function for given types of arguments, or load it from numba's cache if there can be one."""
    from numba import njit

    try:
        return njit(list(signatures), cache=True, **COMPILED)(function)
    except Exception:  # no folder is writable, or the cache is damaged; any other error is raised again below
        return njit(list(signatures), **COMPILED)(function)


# -- loops for numba ---------------------------------------------------------------------------------
# The innermost loops go over slices of rows, which LLVM turns into vector instructions.


def _compose(vectors: Any, base: Any, target: Any) -> None:
    height, width = base.shape
    for vector in vectors:
        dx = np.intp(vector.src_x) - np.intp(vector.dst_x)
        dy = np.intp(vector.src_y) - np.intp(vector.dst_y)
        if vector.source >= 0 or (dx == 0 and dy == 0):
            continue
        w, h = np.intp(vector.w), np.intp(vector.h)
        left, top = np.intp(vector.dst_x) - w // 2, np.intp(vector.dst_y) - h // 2
        x = max(left, 0, -dx)
        count = min(left + w, width, width - dx) - x
        for y in range(max(top, 0, -dy), min(top + h, height, height - dy)):
            if count == 16:  # all are read before any is written: two vector instructions, no check for overlap
                to, at = target[y, x : x + 16], base[y + dy, x + dx : x + dx + 16]
                first = at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7]
                second = at[8], at[9], at[10], at[11], at[12], at[13], at[14], at[15]
                to[0], to[1], to[2], to[3], to[4], to[5], to[6], to[7] = first
                to[8], to[9], to[10], to[11], to[12], to[13], to[14], to[15] = second
            else:
                for i in range(count):
                    target[y, x + i] = base[y + dy, x + dx + i]


def _code_motion(places: Any, sources: Any, top: Any, left: Any, out: Any) -> None:
    count = out.shape[1]
    for y in range(out.shape[0]):
        place = places[top + y, 2 * left : 2 * left + count]
        source = sources[top + y, 2 * left : 2 * left + count]
        row = out[y]
        for i in range(count):
            code = np.float32(place[i] - source[i]) * np.float32(6.375) + np.float32(128)
            row[i] = np.uint8(np.rint(max(np.float32(0), min(np.float32(255), code))))


def _residual(sources: Any, frame: Any, first: Any, top: Any, left: Any, zero: Any, out: Any) -> None:
    count = out.shape[1]
    low = np.int16(0 if zero else -255)
    warped = np.empty(count, np.uint8)
    for y in range(out.shape[0]):
        source = sources[top + y, left : left + count // 3]
        for x in range(len(source)):
            row, column = np.uint64(source[x] >> 16), np.uint64(3 * (source[x] & 0xFFFF))
            at = np.uint64(3) * np.uint64(x)
            warped[at] = first[row, column]
            warped[at + np.uint64(1)] = first[row, column + np.uint64(1)]
            warped[at + np.uint64(2)] = first[row, column + np.uint64(2)]
        pixels = frame[top + y, 3 * left : 3 * left + count]
        coded = out[y]
        for i in range(count):
            code = np.int16(np.int16(pixels[i]) - np.int16(warped[i]) + zero)
            coded[i] = max(low, min(np.int16(255), code))


# -- the same in numpy -------------------------------------------------------------------------------


def code_motion(motion: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Motion in 8 bits: rint(clip(D * 127.5 / 20 + 128, 0, 255)), D in pixels."""
    return np.rint((motion * np.float32(127.5 / 20) + np.float32(128)).clip(0, 255)).astype(np.uint8)


def code_residual(residual: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Residuals in 8 bits: clip(R + 128, 0, 255)."""
    return (residual + np.int16(128)).clip(0, 255).astype(np.uint8)


def _compose_in_numpy(vectors: NDArray[np.void], base: NDArray[np.int32], target: NDArray[np.int32]) -> None:
    height, width = base.shape
    moving = (vectors["source"] < 0) & ((vectors["src_x"] != vectors["dst_x"]) | (vectors["src_y"] != vectors["dst_y"]))
    fields = vectors[moving][["w", "h", "src_x", "src_y", "dst_x", "dst_y"]]
    for w, h, src_x, src_y, dst_x, dst_y in fields.tolist():
        dx, dy = src_x - dst_x, src_y - dst_y
        left, top = dst_x - w // 2, dst_y - h // 2
        x0, x1 = max(left, 0, -dx), min(left + w, width, width - dx)
        y0, y1 = max(top, 0, -dy), min(top + h, height, height - dy)
        if x0 < x1 and y0 < y1:
            target[y0:y1, x0:x1] = base[y0 + dy : y1 + dy, x0 + dx : x1 + dx]


def _code_motion_in_numpy(
    places: NDArray[np.int16], sources: NDArray[np.int16], top: int, left: int, out: NDArray[np.uint8]
) -> None:
    window = slice(top, top + out.shape[0]), slice(2 * left, 2 * left + out.shape[1])
    out[:] = code_motion(places[window] - sources[window])


def _residual_in_numpy(
    sources: NDArray[np.int32],
    frame: NDArray[np.uint8],
    first: NDArray[np.uint8],
    top: int,
    left: int,
    zero: int,
    out: NDArray[Any],
) -> None:
    height, count = out.shape
    source = sources[top : top + height, left : left + count // 3]
    pixels = first[:, : first.shape[1] // 3 * 3].reshape(len(first), -1, 3)
    warped = pixels[source >> 16, source & 0xFFFF].reshape(height, count)
    residual = np.subtract(frame[top : top + height, 3 * left : 3 * left + count], warped, dtype=np.int16)
    out[:] = code_residual(residual) if zero else residual


IN_NUMPY = Kernels(_compose_in_numpy, _code_motion_in_numpy, _residual_in_numpy)
