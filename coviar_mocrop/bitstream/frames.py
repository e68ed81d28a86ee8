"""Read frames by their number, from a video or from a window of a stream that is kept in memory."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream.decoding import VECTOR_CODECS
from coviar_mocrop.bitstream.frame_view import FrameView, Pass
from coviar_mocrop.bitstream.types import KINDS, DecodedFrame, Gop, Kind, Progress, VideoInfo
from coviar_mocrop.errors import NoMotionVectorsError, VideoError


class FrameSequence(ABC):
    """The frames of a video, or of a window of a stream.

    Frames are numbered in display order, from 0 to ``info.num_frames`` - 1. A method that takes several frames takes
    any iterable of integers, in any order and with repeats, and returns results in the same order.

    Attributes:
        info: facts about the stream.
        gops: the GOPs in display order, virtual ones included. In a window of a stream, the first GOP can start before
            frame 0, that is, at a negative number.
        path: name of the video in error messages.
        progress: called as ``progress(number + 1, info.num_frames)`` for every decoded frame; None: not called.
    """

    progress: Progress | None = None

    def __init__(self, path: str, info: VideoInfo, gops: Sequence[Gop]) -> None:
        """See the attributes. ``gops`` holds at least one GOP."""
        self.path, self.info, self.gops = path, info, gops
        self._starts = [gop.start for gop in gops]

    @property
    @abstractmethod
    def damaged_frames(self) -> int:
        """Number of frames that are known to be damaged."""

    @abstractmethod
    def _decoded(self, wanted: Mapping[str, set[int]]) -> Iterator[DecodedFrame]:
        """Decode each GOP of which something is ``wanted``, from its first frame to the last wanted one.

        Args:
            wanted: frames whose ``pictures``, ``motion``, ``residuals`` or ``vectors`` are wanted.
        """

    def gop_at(self, frame: int) -> Gop:
        """Return the GOP that holds ``frame``.

        Raises:
            VideoError: there is no such frame.
        """
        (number,) = self._numbers([frame])
        return self._gop_of(number)

    # -- many frames at once -------------------------------------------------------------------------

    def get_iframes_at(self, indices: Iterable[int]) -> NDArray[np.uint8]:
        """Return the I-frames of the GOPs that hold the given frames.

        Args:
            indices: N frame numbers.

        Returns:
            uint8 [N, H, W, 3] RGB.

        Raises:
            VideoError: there is no such frame, or it cannot be decoded.
        """
        return self.get({"iframe": indices})["iframe"]

    def get_frames_at(self, indices: Iterable[int]) -> NDArray[np.uint8]:
        """Return the decoded frames themselves.

        Args:
            indices: N frame numbers.

        Returns:
            uint8 [N, H, W, 3] RGB.

        Raises:
            VideoError: there is no such frame, or it cannot be decoded.
        """
        return self.get({"frame": indices})["frame"]

    def get_motion_at(self, indices: Iterable[int], *, accumulate: bool = True) -> NDArray[np.int16]:
        """Return accumulated motion: how far each pixel has moved since the I-frame (CoViAR, section 3).

        It is zero for the first frame of a GOP.

        Args:
            indices: N frame numbers.
            accumulate: True: motion since the I-frame of the GOP. False: motion since the previous frame or, if the
                stream has B-frames, since the previous frame that is not a B-frame.

        Returns:
            int16 [N, H, W, 2], (x, y), pixels. x points right, y points down.

        Raises:
            VideoError: there is no such frame, or it cannot be decoded.
            NoMotionVectorsError: the codec exports no motion vectors.
        """
        return self.get({"mv": indices}, accumulate=accumulate)["mv"]

    def get_residuals_at(self, indices: Iterable[int], *, accumulate: bool = True) -> NDArray[np.int16]:
        """Return accumulated residuals: each frame minus its I-frame warped by the motion (CoViAR, section 3).

        They are zero for the first frame of a GOP. The I-frame warped by :meth:`get_motion_at` plus the residual is
        the decoded frame, bit for bit.

        Args:
            indices: N frame numbers.
            accumulate: True: relative to the I-frame of the GOP. False: relative to the frame before, as for
                :meth:`get_motion_at`.

        Returns:
            int16 [N, H, W, 3] RGB, -255 to 255.

        Raises:
            VideoError: there is no such frame, or it cannot be decoded.
            NoMotionVectorsError: the codec exports no motion vectors.
        """
        return self.get({"residual": indices}, accumulate=accumulate)["residual"]

    def get_motion_vectors_at(self, indices: Iterable[int] | None = None) -> list[NDArray[np.void]]:
        """Return the motion vectors of frames as FFmpeg exports them, turned to display orientation.

        The fields of a vector are those of FFmpeg's ``AVMotionVector``: ``source`` (-1: the reference is a past frame,
        +1: a future one), block size ``w`` and ``h``, block centre ``src_x``, ``src_y`` in the reference and ``dst_x``,
        ``dst_y`` in this frame (whole pixels), ``flags``, and the exact vector ``motion_x``, ``motion_y`` with its
        ``motion_scale``: src = dst + motion / motion_scale.

        Args:
            indices: N frame numbers; None: every frame of the video.

        Returns:
            N structured arrays (``coviar_mocrop.bitstream.MOTION_VECTOR_DTYPE``). The array of a frame without vectors,
                such as an I-frame, is empty.

        Raises:
            VideoError: there is no such frame, or it cannot be decoded.
            NoMotionVectorsError: the codec exports no motion vectors.
        """
        numbers = list(range(self.info.num_frames)) if indices is None else self._numbers(indices)
        found = {view.number: view.vectors for view in self.visit(vectors=numbers)}
        return [found[number] for number in numbers]

    def get(self, indices: Mapping[Kind, Iterable[int]], *, accumulate: bool = True) -> dict[Kind, NDArray[Any]]:
        """Return several kinds of data from one pass over the video.

        Args:
            indices: frame numbers by kind: ``iframe``, ``mv`` (motion), ``residual``, ``frame``.
            accumulate: of motion and residuals; see :meth:`get_motion_at`.

        Returns:
            An array for each kind, in the order of ``indices``, as ``get_iframes_at``, ``get_motion_at``,
                ``get_residuals_at`` and ``get_frames_at`` return it.

        Raises:
            VideoError: there is no such kind or frame, or it cannot be decoded.
            NoMotionVectorsError: the codec exports no motion vectors, and they are needed.
        """
        out: dict[Kind, NDArray[Any]] = {}
        rows: dict[Kind, dict[int, list[int]]] = {kind: {} for kind in KINDS}  # of out, by frame
        for kind, asked in indices.items():
            if kind not in KINDS:
                raise VideoError(f"{self.path}: kind {kind!r} is unknown; choose iframe, mv, residual or frame")
            numbers = self._numbers(asked)
            if kind == "iframe":
                numbers = [self._gop_of(number).start for number in numbers]
            for row, number in enumerate(numbers):
                rows[kind].setdefault(number, []).append(row)
            shape = (len(numbers), self.info.height, self.info.width, 2 if kind == "mv" else 3)
            out[kind] = np.empty(shape, np.int16 if kind in ("mv", "residual") else np.uint8)
        views = self.visit({*rows["iframe"], *rows["frame"]}, rows["mv"], rows["residual"], accumulate=accumulate)
        for view in views:
            for kind, array in out.items():
                if view.number not in rows[kind]:
                    continue
                row, *others = rows[kind][view.number]
                if kind == "mv":
                    view.motion(out=array[row])
                elif kind == "residual":
                    view.residual(out=array[row])
                else:
                    array[row] = view.picture()
                if others:
                    array[others] = array[row]
        return out

    # -- one frame after the other -------------------------------------------------------------------

    def visit(
        self,
        pictures: Iterable[int] = (),
        motion: Iterable[int] = (),
        residuals: Iterable[int] = (),
        vectors: Iterable[int] | None = (),
        *,
        accumulate: bool = True,
    ) -> Iterator[FrameView]:
        """Go through the video once, and stop at every frame of which something is wanted.

        A view computes only what is read from it, and only in the window that is asked for. So this is the cheapest way
        to read several things of many frames.

        Args:
            pictures: frames whose decoded picture is wanted.
            motion: frames whose motion is wanted.
            residuals: frames whose residual is wanted.
            vectors: frames whose motion vectors are wanted; None: every frame of the video.
            accumulate: of motion and residuals; see :meth:`get_motion_at`.

        Yields:
            A view of each frame that an argument names, in display order. It is valid until the iterator advances.

        Raises:
            VideoError: there is no such frame, or it cannot be decoded.
            NoMotionVectorsError: the codec exports no motion vectors, and they are needed.
        """
        wanted = {
            "pictures": set(self._numbers(pictures)),
            "motion": set(self._numbers(motion)),
            "residuals": set(self._numbers(residuals)),
            "vectors": set(range(self.info.num_frames) if vectors is None else self._numbers(vectors)),
        }
        moves = wanted["motion"] or wanted["residuals"] or wanted["vectors"]
        if moves and self.info.codec not in VECTOR_CODECS:
            raise NoMotionVectorsError(
                f"{self.path}: the decoder of {self.info.codec} exports no motion vectors; transcode it to "
                "H.264 first (coviar prepare transcode IN OUT; folder, show and predict have --transcode)"
            )
        return self._visit(wanted, accumulate)

    def _visit(self, wanted: Mapping[str, set[int]], accumulate: bool) -> Iterator[FrameView]:
        union = set().union(*wanted.values())
        last: dict[Gop, int] = {}  # of each GOP, the last frame whose motion is followed
        for number in sorted(wanted["motion"] | wanted["residuals"]):
            last[self._gop_of(number)] = number
        turned = self.info.rotation % 2 == 1
        size = (self.info.width, self.info.height) if turned else (self.info.height, self.info.width)
        now = Pass(self.path, size, self.info.rotation, wanted, accumulate=accumulate)
        gop = Gop(0, 0)
        for frame in self._decoded(wanted):
            number = frame.number
            if not gop.start <= number < gop.start + gop.length:
                gop = self._gop_of(number)
            now.advance(frame, starts_gop=number == gop.start, follow=number <= last.get(gop, -1))
            if self.progress is not None:
                self.progress(number + 1, self.info.num_frames)
            if number in union:
                yield FrameView(number, now)

    def _gop_of(self, frame: int) -> Gop:
        return self.gops[bisect_right(self._starts, frame) - 1]

    def _numbers(self, frames: Iterable[int]) -> list[int]:
        """Frame numbers as Python integers, after checking that the frames exist."""
        try:
            numbers = [operator.index(frame) for frame in frames]
        except TypeError as error:
            raise VideoError(f"{self.path}: frames go by whole numbers ({error})") from error
        for number in numbers:
            if not self.gops[0].start <= number < self.info.num_frames:
                raise VideoError(f"{self.path}: has {self.info.num_frames} frames; there is no frame {number}")
        return numbers
