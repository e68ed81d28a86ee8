"""Accumulated motion and residual (CoViAR, Wu et al., CVPR 2018, section 3).

For frame t of a GOP, B_t maps each pixel to its source pixel in the reference frame: a pixel inside a block
whose whole-pixel vector is not zero, and whose source lies in the frame, maps to pixel + (src - dst). Every
other pixel keeps its own accumulated source. With A_0 the identity, A_t(p) = A_r(B_t(p)); accumulated motion
is D_t(p) = p - A_t(p) and accumulated residual R_t(p) = I_t(p) - I_0(A_t(p)), so I_0 warped by A_t plus R_t
is I_t exactly.

What r is: in a stream without B-frames, t - 1, as in the paper. FFmpeg tells of a vector only that its
reference lies in the past or in the future. So, with B-frames, r is the last frame before t in display order
that is not a B-frame (the GOP's first frame if there is none), and of a B-frame's vectors those into the past
are followed. Where an encoder used an older reference this is an approximation; the residual, taken against
the very same A_t, makes the round trip exact all the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Accumulator:
    """Follows pixels back to the first frame of a GOP, one frame at a time.

    Sources are kept as flat indices into the GOP's first frame, so a step is one gather over moving pixels.
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
        self._identity = np.arange(height * width, dtype=np.int32)
        self._coordinates = np.empty((height * width, 2), dtype=np.int16)
        self._coordinates[:, 0] = np.tile(np.arange(width, dtype=np.int16), height)
        self._coordinates[:, 1] = np.repeat(np.arange(height, dtype=np.int16), width)
        # (x, y) of a pixel as one 32-bit word: one gather instead of two
        self._packed = self._coordinates.view(np.int32).ravel()
        # Memory for A_t, used again, because fresh memory costs as much as what is written to it. At most one of the
        # two is A_r, so the other is free.
        self._memory = (np.empty_like(self._identity), np.empty_like(self._identity))
        self.restart()

    def restart(self) -> None:
        """Stand on the first frame of a GOP: every pixel is its own source."""
        self._reference = self._identity
        self._sources = self._identity

    @property
    def sources(self) -> NDArray[np.int32]:
        """A_t as flat pixel indices into the GOP's first frame, [H * W]; valid until the next step."""
        return self._sources

    def step(self, vectors: NDArray[np.void], *, is_b: bool = False) -> None:
        """Go on to the next frame in display order, which has ``vectors``."""
        base = self._reference if self._accumulate else self._identity
        self._sources = self._compose(base, vectors)
        if not is_b:
            self._reference = self._sources

    def motion(self) -> NDArray[np.int16]:
        """D_t: int16 [H, W, 2], (x, y), pixels."""
        sources = self._packed.take(self._sources).view(np.int16).reshape(-1, 2)
        return (self._coordinates - sources).reshape(self.height, self.width, 2)

    def residual(self, frame: NDArray[np.uint8], first: NDArray[np.uint8]) -> NDArray[np.int16]:
        """R_t: int16 [H, W, 3], -255 to 255.

        Args:
            frame: I_t, uint8 [H, W, 3].
            first: I_0, or the reference frame if not accumulating, uint8 [H, W, 3].
        """
        warped = first.reshape(-1, 3).take(self._sources, axis=0)
        residual = np.subtract(frame.reshape(-1, 3), warped, dtype=np.int16)
        return residual.reshape(self.height, self.width, 3)

    def _compose(self, base: NDArray[np.int32], vectors: NDArray[np.void]) -> NDArray[np.int32]:
        """A_r(B_t(.)), B_t given by ``vectors``."""
        moves_x = vectors["src_x"].astype(np.int32) - vectors["dst_x"]
        moves_y = vectors["src_y"].astype(np.int32) - vectors["dst_y"]
        moving = np.flatnonzero(((moves_x != 0) | (moves_y != 0)) & (vectors["source"] < 0))
        if not len(moving):
            return base
        moves_x, moves_y, chosen = moves_x[moving], moves_y[moving], vectors[moving]
        block_w, block_h = chosen["w"].astype(np.int32), chosen["h"].astype(np.int32)
        left = chosen["dst_x"] - block_w // 2
        top = chosen["dst_y"] - block_h // 2
        right, bottom = left + block_w, top + block_h
        inner = (
            (np.minimum(left, left + moves_x) >= 0)
            & (np.minimum(top, top + moves_y) >= 0)
            & (np.maximum(right, right + moves_x) <= self.width)
            & (np.maximum(bottom, bottom + moves_y) <= self.height)
        )
        composed = self._memory[self._memory[0] is self._reference]
        np.copyto(composed, base)
        for w, h in sorted(set(zip(block_w.tolist(), block_h.tolist(), strict=True))):
            same_size = (block_w == w) & (block_h == h)
            whole = np.flatnonzero(same_size & inner)
            if len(whole):
                y, x = top[whole], left[whole]
                sources = self._blocks(base, w, h)[y + moves_y[whole], x + moves_x[whole]]
                self._blocks(composed, w, h)[y, x] = sources
            for number in np.flatnonzero(same_size & ~inner):
                self._move_clipped(
                    composed,
                    base,
                    (int(left[number]), int(top[number]), w, h),
                    (int(moves_x[number]), int(moves_y[number])),
                )
        return composed

    def _blocks(self, flat: NDArray[np.int32], w: int, h: int) -> NDArray[np.int32]:
        """Every block of a picture: a view [H - h + 1, W - w + 1, h, w] by the place of its upper left corner."""
        down, right = self.width * flat.itemsize, flat.itemsize
        shape = (self.height - h + 1, self.width - w + 1, h, w)
        return np.ndarray(shape, flat.dtype, flat, 0, (down, right, down, right))

    def _move_clipped(
        self,
        composed: NDArray[np.int32],
        base: NDArray[np.int32],
        block: tuple[int, int, int, int],
        move: tuple[int, int],
    ) -> None:
        """One block that reaches over the frame's edge, or whose source does: only what lies inside moves."""
        (left, top, w, h), (dx, dy) = block, move
        x0, x1 = max(left, 0, -dx), min(left + w, self.width, self.width - dx)
        y0, y1 = max(top, 0, -dy), min(top + h, self.height, self.height - dy)
        if x0 < x1 and y0 < y1:
            shape = (self.height, self.width)
            source = base.reshape(shape)[y0 + dy : y1 + dy, x0 + dx : x1 + dx]
            composed.reshape(shape)[y0:y1, x0:x1] = source
