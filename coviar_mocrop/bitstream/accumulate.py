"""Accumulated motion and residual (CoViAR, Wu et al., CVPR 2018, section 3).

For frame t of a GOP, B_t maps each pixel to its source pixel in the reference frame: a pixel inside a block
whose whole-pixel vector is not zero, and whose source lies in the frame, maps to pixel + (src - dst). Every
other pixel keeps its own accumulated source. With A_0 the identity, A_t(p) = A_r(B_t(p)); accumulated motion
is D_t(p) = p - A_t(p) and accumulated residual R_t(p) = I_t(p) - I_0(A_t(p)), so I_0 warped by A_t plus R_t
is I_t exactly. Where blocks overlap, the later one in the array counts.

What r is: in a stream without B-frames, t - 1, as in the paper. FFmpeg tells of a vector only that its
reference lies in the past or in the future. So, with B-frames, r is the last frame before t in display order
that is not a B-frame (the GOP's first frame if there is none), and of a B-frame's vectors those into the past
are followed. Where an encoder used an older reference this is an approximation; the residual, taken against
the very same A_t, makes the round trip exact all the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Window = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels."""


class Accumulator:
    """Follows pixels back to the first frame of a GOP, one frame at a time.

    A source is one 32-bit word, y << 16 | x. So composing A_t is copying blocks of words, and the two halves of a
    word, as int16, are the coordinates.
    """

    def __init__(self, height: int, width: int, *, accumulate: bool = True) -> None:
        """Prepare for frames of ``height`` x ``width`` pixels, standing on a GOP's first frame.

        Args:
            height: pixels, coded orientation.
            width: pixels.
            accumulate: follow pixels to the GOP's first frame; False: one step only, to the reference frame.
        """
        self.height, self.width = height, width
        self._accumulate = accumulate
        rows, columns = np.indices((height, width), dtype=np.int32)
        self._identity = rows << 16 | columns
        self._reference = self._identity.copy()
        self._b_frame = np.empty_like(self._identity)
        self._scratch = np.empty_like(self._identity)
        self._sources = self._reference

    def restart(self) -> None:
        """Stand on the first frame of a GOP: every pixel is its own source."""
        np.copyto(self._reference, self._identity)
        self._sources = self._reference

    def step(self, vectors: NDArray[np.void], *, is_b: bool = False) -> None:
        """Go on to the next frame in display order, which has ``vectors``. A B-frame may as well be left out."""
        if not self._accumulate:
            self.restart()
        elif is_b:
            np.copyto(self._b_frame, self._reference)
        self._sources = self._b_frame if is_b and self._accumulate else self._reference
        _compose(vectors, self._sources, self._scratch)

    def motion(self, window: Window | None = None) -> NDArray[np.int16]:
        """D_t: int16 [h, w, 2], (x, y), pixels.

        Args:
            window: part of the frame that is wanted, inside of it; None: the whole frame.
        """
        return _coordinates(self._identity, window) - _coordinates(self._sources, window)

    def motion8(self, window: Window | None = None) -> NDArray[np.uint8]:
        """D_t as networks see it: uint8 [h, w, 2]; see :func:`code_motion`."""
        return code_motion(self.motion(window))

    def residual(
        self, frame: NDArray[np.uint8], first: NDArray[np.uint8], window: Window | None = None
    ) -> NDArray[np.int16]:
        """R_t: int16 [h, w, 3], -255 to 255.

        Args:
            frame: I_t, uint8 [H, W, 3].
            first: I_0, or the reference frame if not accumulating, uint8 [H, W, 3].
            window: part of the frame that is wanted, inside of it; None: the whole frame.
        """
        top, left, bottom, right = window or (0, 0, self.height, self.width)
        sources = self._sources[top:bottom, left:right]
        warped = first[sources >> 16, sources & 0xFFFF]
        return np.subtract(frame[top:bottom, left:right], warped, dtype=np.int16)

    def residual8(
        self, frame: NDArray[np.uint8], first: NDArray[np.uint8], window: Window | None = None
    ) -> NDArray[np.uint8]:
        """R_t as networks see it: uint8 [h, w, 3]; see :func:`code_residual`."""
        return code_residual(self.residual(frame, first, window))


def code_motion(motion: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Motion in 8 bits: rint(clip(D * 127.5 / 20 + 128, 0, 255)), D in pixels."""
    clipped = motion.clip(-21, 20)  # beyond, 0 and 255; within, 51 / 8 * D is exact
    return np.rint(clipped * np.float32(127.5 / 20) + 128).clip(0, 255).astype(np.uint8)


def code_residual(residual: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Residuals in 8 bits: clip(R + 128, 0, 255)."""
    return (residual + np.int16(128)).clip(0, 255).astype(np.uint8)


def _coordinates(sources: NDArray[np.int32], window: Window | None) -> NDArray[np.int16]:
    """(x, y) of packed sources, int16 [h, w, 2]."""
    height, width = sources.shape
    top, left, bottom, right = window or (0, 0, height, width)
    return sources.view(np.int16).reshape(height, width, 2)[top:bottom, left:right]


def _compose(vectors: NDArray[np.void], sources: NDArray[np.int32], scratch: NDArray[np.int32]) -> None:
    """Go on from A_r to A_t in place: fetch all blocks that move, then put them where they belong."""
    height, width = sources.shape
    boxes = []
    for source, w, h, src_x, src_y, dst_x, dst_y in vectors[list(_FIELDS)].tolist():
        dx, dy = src_x - dst_x, src_y - dst_y
        if source >= 0 or (dx == 0 and dy == 0):
            continue
        left, top = dst_x - w // 2, dst_y - h // 2
        x0, x1 = max(left, 0, -dx), min(left + w, width, width - dx)
        y0, y1 = max(top, 0, -dy), min(top + h, height, height - dy)
        if x0 < x1 and y0 < y1:
            scratch[y0:y1, x0:x1] = sources[y0 + dy : y1 + dy, x0 + dx : x1 + dx]
            boxes.append((slice(y0, y1), slice(x0, x1)))
    for box in boxes:
        sources[box] = scratch[box]


_FIELDS = ("source", "w", "h", "src_x", "src_y", "dst_x", "dst_y")
