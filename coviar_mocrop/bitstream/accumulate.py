"""Accumulated motion and residual (CoViAR, Wu et al., CVPR 2018, section 3).

For frame t of a GOP, B_t maps each pixel to its source pixel in the reference frame r. A pixel inside a block whose
whole-pixel vector is not zero, and whose source lies in the frame, maps to pixel + (src - dst). Every other pixel maps
to itself, so it keeps its own accumulated source. If blocks overlap, the later one in the array counts. With A_0 the
identity, A_t(p) = A_r(B_t(p)). The accumulated motion is D_t(p) = p - A_t(p), and the accumulated residual is
R_t(p) = I_t(p) - I_0(A_t(p)). So I_0 warped by A_t, plus R_t, is exactly I_t.

Without B-frames, r is t - 1, as in the paper. FFmpeg tells only whether the reference of a vector lies in the past or
in the future. So with B-frames, r is the last frame before t in display order that is not a B-frame, or the first frame
of the GOP if there is none. Of the vectors of a B-frame, those to the past are followed. If an encoder used an older
reference, D_t is an approximation. The round trip is exact all the same, because R_t is computed with the same A_t.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream import kernels

Window = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels."""

_AT_ONCE = 16
"""Maximum number of steps that wait. Each holds about 10 kB of vectors."""


class Accumulator:
    """Accumulates motion over a GOP, frame by frame."""

    def __init__(self, height: int, width: int, *, accumulate: bool = True) -> None:
        """Start at the first frame of a GOP.

        Args:
            height: pixels, coded orientation.
            width: pixels, coded orientation.
            accumulate: True: follow pixels to the first frame of the GOP. False: one step, to the reference frame.
        """
        self.height, self.width = height, width
        self._kernels = kernels.fastest()
        self._accumulate = accumulate
        self._identity = _identity(height, width)
        # A_r and A_t, unless they are the identity. At most one of the two arrays is A_r, so the other one is free.
        self._memory = (np.empty((height, width), np.int32), np.empty((height, width), np.int32))
        self.restart()

    def restart(self) -> None:
        """Go to the first frame of a GOP, where every pixel is its own source."""
        self._reference = self._sources = self._identity
        self._waiting: list[tuple[NDArray[np.void], bool]] = []

    def step(self, vectors: NDArray[np.void], *, is_b: bool = False) -> None:
        """Go on to the next frame in display order, which has ``vectors``. B-frames may be left out.

        Steps are collected, and computed when a frame is asked for. Computed one by one between decoded frames, each
        would find its data evicted from the processor's cache.
        """
        self._waiting.append((vectors, is_b))
        if len(self._waiting) == _AT_ONCE:
            self._catch_up()

    def _catch_up(self) -> NDArray[np.int32]:
        """Compute the steps that wait, and return A_t, y << 16 | x: int32 [H, W]."""
        for vectors, is_b in self._waiting:
            base = self._reference if self._accumulate else self._identity
            self._sources = self._memory[self._memory[0] is self._reference]
            np.copyto(self._sources, base)
            self._kernels.compose(vectors, base, self._sources)
            if not is_b:
                self._reference = self._sources
        self._waiting.clear()
        return self._sources

    def motion(self, window: Window | None = None, out: NDArray[np.int16] | None = None) -> NDArray[np.int16]:
        """Return D_t: int16 [h, w, 2], (x, y), pixels.

        Args:
            window: part of the frame to compute, inside the frame; None: the whole frame.
            out: array to which the result is written; None: a new array.
        """
        top, left, bottom, right = window or (0, 0, self.height, self.width)
        if out is None:
            out = np.empty((bottom - top, right - left, 2), np.int16)
        rows, columns = slice(top, bottom), slice(2 * left, 2 * right)
        places, sources = self._identity.view(np.int16), self._catch_up().view(np.int16)
        np.subtract(places[rows, columns], sources[rows, columns], out=out.reshape(bottom - top, 2 * (right - left)))
        return out

    def motion8(self, window: Window | None = None) -> NDArray[np.uint8]:
        """Return D_t as networks see it, rint(clip(D * 127.5 / 20 + 128, 0, 255)): uint8 [h, w, 2]."""
        top, left, bottom, right = window or (0, 0, self.height, self.width)
        out = np.empty((bottom - top, 2 * (right - left)), np.uint8)
        places, sources = self._identity.view(np.int16), self._catch_up().view(np.int16)
        self._kernels.code_motion(places, sources, top, left, out)
        return out.reshape(bottom - top, right - left, 2)

    def residual(
        self,
        frame: NDArray[np.uint8],
        first: NDArray[np.uint8],
        window: Window | None = None,
        out: NDArray[np.int16] | None = None,
    ) -> NDArray[np.int16]:
        """Return R_t: int16 [h, w, 3], -255 to 255.

        Args:
            frame: I_t, uint8 [H, 3 W or more], R, G, B of each pixel in turn.
            first: I_0, or the reference frame if not accumulating, in the same form.
            window: part of the frame to compute, inside the frame; None: the whole frame.
            out: array to which the result is written; None: a new array.
        """
        return self._residual(frame, first, window, 0, out, np.int16)

    def residual8(
        self, frame: NDArray[np.uint8], first: NDArray[np.uint8], window: Window | None = None
    ) -> NDArray[np.uint8]:
        """Return R_t as networks see it, clip(R + 128, 0, 255): uint8 [h, w, 3]; see :meth:`residual`."""
        return self._residual(frame, first, window, 128, None, np.uint8)

    def _residual(
        self,
        frame: NDArray[np.uint8],
        first: NDArray[np.uint8],
        window: Window | None,
        zero: int,
        out: NDArray[Any] | None,
        dtype: type,
    ) -> NDArray[Any]:
        top, left, bottom, right = window or (0, 0, self.height, self.width)
        if out is None:
            out = np.empty((bottom - top, right - left, 3), dtype)
        flat = out.reshape(bottom - top, 3 * (right - left))
        self._kernels.residual(self._catch_up(), frame, first, top, left, zero, flat)
        return out


@lru_cache(maxsize=1)
def _identity(height: int, width: int) -> NDArray[np.int32]:
    """The sources of the first frame of a GOP, read-only. They are kept because most videos have the same size."""
    sources = np.arange(height, dtype=np.int32)[:, None] << 16 | np.arange(width, dtype=np.int32)
    sources.flags.writeable = False
    return sources


def compile_kernels() -> None:
    """Compile the inner loops, or load them from numba's cache, if that has not been done.

    Otherwise the first use does it. Call this before worker processes are forked, so that they need not compile.
    Without numba there is nothing to compile, and numpy does the work.
    """
    kernels.fastest()
