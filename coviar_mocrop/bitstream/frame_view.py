"""One frame of a pass over a video, as the user sees it: what was asked for, turned as it is displayed."""

from __future__ import annotations

from collections.abc import Container

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream.accumulate import Accumulator, Window, code_motion, code_residual
from coviar_mocrop.bitstream.rotate import rotate_motion, rotate_picture, rotate_vectors
from coviar_mocrop.bitstream.types import DecodedFrame, copy_vectors
from coviar_mocrop.errors import VideoError


class FrameView:
    """One frame of :meth:`~coviar_mocrop.bitstream.Video.visit`; valid until the iterator advances.

    Its methods compute what they return, each time they are called. The arrays stay valid afterwards.

    Attributes:
        number: which frame this is, in display order.
    """

    __slots__ = ("_pass", "number")

    def __init__(self, number: int, of: Pass) -> None:
        """One frame of a pass that stands on it."""
        self.number = number
        self._pass = of

    def __repr__(self) -> str:
        return f"FrameView(number={self.number})"

    @property
    def vectors(self) -> NDArray[np.void]:
        """Motion vectors as FFmpeg exports them (``MOTION_VECTOR_DTYPE``), display orientation; empty where none."""
        now = self._pass.at(self.number, "vectors")
        found = copy_vectors(now.frame.vectors())
        return rotate_vectors(found, now.rotation, now.accumulator.width, now.accumulator.height)

    def picture(self) -> NDArray[np.uint8]:
        """The decoded frame: uint8 [H, W, 3] RGB. Do not write to it."""
        now = self._pass.at(self.number, "pictures")
        return rotate_picture(now.frame.rgb(), now.rotation)

    def motion(self, window: Window | None = None) -> NDArray[np.int16]:
        """Accumulated motion: int16 [h, w, 2], (x, y), pixels; zero in a GOP's first frame.

        Args:
            window: (top, left, bottom, right) in displayed pixels, inside the frame; None: the whole frame.

        Raises:
            VideoError: the frame was not among ``motion``, or the window is not inside the frame.
        """
        now = self._pass.at(self.number, "motion", window)
        if not now.rotation:
            return now.accumulator.motion(window)
        return _cut(rotate_motion(now.accumulator.motion(), now.rotation), window)

    def motion8(self, window: Window | None = None) -> NDArray[np.uint8]:
        """Accumulated motion in 8 bits (CoViAR): rint(clip(D * 127.5 / 20 + 128, 0, 255)), uint8 [h, w, 2].

        Args, errors: see :meth:`motion`.
        """
        now = self._pass.at(self.number, "motion", window)
        return code_motion(self.motion(window)) if now.rotation else now.accumulator.motion8(window)

    def residual(self, window: Window | None = None) -> NDArray[np.int16]:
        """What motion since the GOP's I-frame does not explain: int16 [h, w, 3] RGB; zero in a GOP's first frame.

        Args:
            window: (top, left, bottom, right) in displayed pixels, inside the frame; None: the whole frame.

        Raises:
            VideoError: the frame was not among ``residuals``, or the window is not inside the frame.
        """
        now = self._pass.at(self.number, "residuals", window)
        pictures = now.frame.rgb(), now.origin.rgb()
        if not now.rotation:
            return now.accumulator.residual(*pictures, window)
        return _cut(rotate_picture(now.accumulator.residual(*pictures), now.rotation), window)

    def residual8(self, window: Window | None = None) -> NDArray[np.uint8]:
        """Accumulated residual in 8 bits (CoViAR): clip(R + 128, 0, 255), uint8 [h, w, 3].

        Args, errors: see :meth:`residual`.
        """
        now = self._pass.at(self.number, "residuals", window)
        if now.rotation:
            return code_residual(self.residual(window))
        return now.accumulator.residual8(now.frame.rgb(), now.origin.rgb(), window)


class Pass:
    """Where a pass over a video stands: its frame, and how that frame's pixels go back to the GOP's first one.

    Attributes:
        frame: the frame of the moment.
        origin: what its residual is taken against.
        accumulator: of the frame's GOP; stands on the frame if its motion or residual was asked for.
        rotation: quarter turns counter-clockwise from coded to displayed pictures.
    """

    def __init__(
        self,
        path: str,
        size: tuple[int, int],
        rotation: int,
        wanted: dict[str, Container[int]],
        *,
        accumulate: bool,
    ) -> None:
        """Begin.

        Args:
            path: of the video, for messages.
            size: coded height and width, pixels.
            rotation: quarter turns.
            wanted: frames by what of them is wanted: ``pictures``, ``motion``, ``residuals``, ``vectors``.
            accumulate: follow pixels to the GOP's first frame; False: to the reference frame.
        """
        self._path, self._wanted, self._accumulate = path, wanted, accumulate
        self.rotation = rotation
        self.accumulator = Accumulator(*size, accumulate=accumulate)
        self.frame: DecodedFrame
        self.origin: DecodedFrame
        self._reference: DecodedFrame

    def start(self, frame: DecodedFrame) -> None:
        """Go on to the first frame of a GOP."""
        self.frame = self.origin = self._reference = frame
        self.accumulator.restart()

    def advance(self, frame: DecodedFrame, *, follow: bool) -> None:
        """Go on to the next frame of the same GOP.

        Args:
            frame: the frame.
            follow: whether this frame or a later one of its GOP needs motion.
        """
        self.frame = frame
        if not self._accumulate:
            self.origin = self._reference
        wanted = frame.number in self._wanted["motion"] or frame.number in self._wanted["residuals"]
        if wanted or (follow and self._accumulate and not frame.is_b):  # nothing refers to a B-frame
            self.accumulator.step(frame.vectors(), is_b=frame.is_b)
        if not frame.is_b:
            self._reference = frame

    def at(self, number: int, what: str, window: Window | None = None) -> Pass:
        """This, if ``what`` was asked for of the frame, and the window lies in it."""
        if self.frame.number != number:
            raise VideoError(f"{self._path}: the pass has left frame {number}; use a view before asking for the next")
        if number not in self._wanted[what]:
            raise VideoError(f"{self._path}: {what} of frame {number} were not asked for; name the frame in visit()")
        if window is not None:
            size = self.accumulator.height, self.accumulator.width
            height, width = size if self.rotation % 2 == 0 else size[::-1]
            top, left, bottom, right = window
            if not (0 <= top <= bottom <= height and 0 <= left <= right <= width):
                raise VideoError(f"{self._path}: the window {window} is not inside the frame of {height} x {width}")
        return self


def _cut(field: NDArray[np.int16], window: Window | None) -> NDArray[np.int16]:
    if window is None:
        return field
    top, left, bottom, right = window
    return field[top:bottom, left:right]
