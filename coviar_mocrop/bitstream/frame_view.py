"""One frame of a pass over a video, in display orientation."""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream.accumulate import Accumulator, Window
from coviar_mocrop.bitstream.kernels import code_motion, code_residual
from coviar_mocrop.bitstream.rotate import rotate_motion, rotate_picture, rotate_vectors
from coviar_mocrop.bitstream.types import DecodedFrame, copy_vectors, picture_of
from coviar_mocrop.errors import VideoError


class FrameView:
    """One frame of :meth:`~coviar_mocrop.bitstream.Video.visit`. A view is valid until the iterator advances.

    Nothing is computed before it is asked for. Arrays that a view has returned stay valid.

    Attributes:
        number (int): frame number in display order.
    """

    __slots__ = ("_pass", "number")

    def __init__(self, number: int, over: Pass) -> None:
        """Views are made by ``visit``.

        Args:
            number: frame number in display order.
            over: the pass over the video, which is at this frame.
        """
        self.number = number
        self._pass = over

    def __repr__(self) -> str:
        return f"FrameView(number={self.number})"

    @property
    def vectors(self) -> NDArray[np.void]:
        """Motion vectors: structured array (``MOTION_VECTOR_DTYPE``), empty if the frame has none.

        Raises:
            VideoError: ``visit`` was not asked for ``vectors`` of this frame, or the iterator has advanced.
        """
        now = self._pass.at(self.number, "vectors")
        return rotate_vectors(copy_vectors(now.frame.vectors()), now.rotation, now.width, now.height)

    def picture(self) -> NDArray[np.uint8]:
        """Return the decoded frame: uint8 [H, W, 3] RGB, read-only.

        Raises:
            VideoError: ``visit`` was not asked for ``pictures`` of this frame, or the iterator has advanced.
        """
        now = self._pass.at(self.number, "pictures")
        return rotate_picture(picture_of(now.frame.rgb(), now.width), now.rotation)

    def motion(self, window: Window | None = None, out: NDArray[np.int16] | None = None) -> NDArray[np.int16]:
        """Return the motion of the frame: int16 [h, w, 2], (x, y), pixels. It is zero in the first frame of a GOP.

        Args:
            window: (top, left, bottom, right) in displayed pixels, inside the frame; None: the whole frame.
            out: contiguous int16 [h, w, 2] to which the result is written; None: a new array.

        Raises:
            VideoError: ``visit`` was not asked for ``motion`` of this frame, the iterator has advanced, or the window
                is not inside the frame.
        """
        now = self._pass.at(self.number, "motion", window)
        if now.rotation:
            return _put(rotate_motion(now.accumulator.motion(), now.rotation), window, out)
        return now.accumulator.motion(window, out)

    def motion8(self, window: Window | None = None) -> NDArray[np.uint8]:
        """Return the motion D scaled to 8 bits: rint(clip(D * 127.5 / 20 + 128, 0, 255)), uint8 [h, w, 2].

        This is the scaling of CoViAR. ``window`` and errors are those of :meth:`motion`.
        """
        now = self._pass.at(self.number, "motion", window)
        return code_motion(self.motion(window)) if now.rotation else now.accumulator.motion8(window)

    def residual(self, window: Window | None = None, out: NDArray[np.int16] | None = None) -> NDArray[np.int16]:
        """Return the residual: int16 [h, w, 3] RGB, -255 to 255. It is zero in the first frame of a GOP.

        Args:
            window: (top, left, bottom, right) in displayed pixels, inside the frame; None: the whole frame.
            out: contiguous int16 [h, w, 3] to which the result is written; None: a new array.

        Raises:
            VideoError: ``visit`` was not asked for ``residuals`` of this frame, the iterator has advanced, or the
                window is not inside the frame.
        """
        now = self._pass.at(self.number, "residuals", window)
        pictures = now.frame.rgb(), now.origin.rgb()
        if now.rotation:
            return _put(rotate_picture(now.accumulator.residual(*pictures), now.rotation), window, out)
        return now.accumulator.residual(*pictures, window, out)

    def residual8(self, window: Window | None = None) -> NDArray[np.uint8]:
        """Return the residual R in 8 bits: clip(R + 128, 0, 255), uint8 [h, w, 3] RGB.

        This is the scaling of CoViAR. ``window`` and errors are those of :meth:`residual`.
        """
        now = self._pass.at(self.number, "residuals", window)
        if now.rotation:
            return code_residual(self.residual(window))
        return now.accumulator.residual8(now.frame.rgb(), now.origin.rgb(), window)


class Pass:
    """State of a pass over a video: the current frame, and how its pixels have moved since the first frame of its GOP.

    Attributes:
        frame: the current frame.
        origin: the frame that its residual refers to.
        height, width: size of the coded picture, pixels.
        rotation: quarter turns counter-clockwise from coded to displayed pictures.
    """

    frame: DecodedFrame
    origin: DecodedFrame
    _reference: DecodedFrame

    def __init__(
        self,
        path: str,
        size: tuple[int, int],
        rotation: int,
        wanted: Mapping[str, Container[int]],
        *,
        accumulate: bool,
    ) -> None:
        """Start before the first frame.

        Args:
            path: name of the video in error messages.
            size: (height, width) of the coded picture, pixels.
            rotation: quarter turns.
            wanted: frames whose ``pictures``, ``motion``, ``residuals`` or ``vectors`` are wanted.
            accumulate: True: motion and residuals refer to the first frame of the GOP. False: to the reference frame.
        """
        self.height, self.width = size
        self.rotation = rotation
        self._path, self._wanted, self._accumulate = path, wanted, accumulate

    @cached_property
    def accumulator(self) -> Accumulator:
        """Accumulates motion over the current GOP, up to the current frame if its motion or residual is wanted."""
        return Accumulator(self.height, self.width, accumulate=self._accumulate)

    def advance(self, frame: DecodedFrame, *, starts_gop: bool, follow: bool) -> None:
        """Go on to the next frame.

        Args:
            frame: the frame.
            starts_gop: whether it is the first frame of a GOP.
            follow: whether the motion or residual of it, or of a later frame of its GOP, is wanted.
        """
        self.frame = frame
        if starts_gop:
            self.origin = self._reference = frame
            if follow:
                self.accumulator.restart()
            return
        if not self._accumulate:
            self.origin = self._reference
        # no later frame depends on it: it is accumulated only if its own motion or residual is wanted
        dispensable = frame.is_b or not self._accumulate
        if follow and (not dispensable or self._moves(frame.number)):
            self.accumulator.step(frame.vectors(), is_b=frame.is_b)
        if not frame.is_b:
            self._reference = frame

    def at(self, number: int, what: str, window: Window | None = None) -> Pass:
        """Return self, after checking a request.

        Raises:
            VideoError: the pass is not at frame ``number``, ``what`` is not wanted of it, or the window is not inside
                the frame.
        """
        if self.frame.number != number:
            raise VideoError(f"{self._path}: the pass has left frame {number}; use a view before taking the next one")
        if number not in self._wanted[what]:
            raise VideoError(f"{self._path}: visit() was not asked for {what} of frame {number}; name the frame there")
        if window is not None:
            height, width = (self.height, self.width) if self.rotation % 2 == 0 else (self.width, self.height)
            top, left, bottom, right = window
            if not (0 <= top <= bottom <= height and 0 <= left <= right <= width):
                raise VideoError(f"{self._path}: window {tuple(window)} is not inside the frame of {height} x {width}")
        return self

    def _moves(self, number: int) -> bool:
        return number in self._wanted["motion"] or number in self._wanted["residuals"]


def _put(field: NDArray[np.int16], window: Window | None, out: NDArray[np.int16] | None) -> NDArray[np.int16]:
    if window is not None:
        top, left, bottom, right = window
        field = field[top:bottom, left:right]
    if out is None:
        return field
    np.copyto(out, field)
    return out
