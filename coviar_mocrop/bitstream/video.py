"""``open_video``: the one way in to a compressed video's I-frames, motion vectors and residuals."""

from __future__ import annotations

import operator
import os
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream.container import MAX_FRAME_PIXELS, name_of
from coviar_mocrop.bitstream.frame_view import FrameView, Pass
from coviar_mocrop.bitstream.mvextractor_reader import MvextractorReader
from coviar_mocrop.bitstream.pyav_reader import VECTOR_CODECS, PyavReader
from coviar_mocrop.bitstream.types import KINDS, DecodedFrame, Gop, Kind, Reader, Source, Span, VideoInfo, no_vectors
from coviar_mocrop.errors import NoMotionVectorsError, VideoError

Backend = Literal["auto", "pyav", "mvextractor"]


def open_video(
    path: Source,
    backend: Backend = "auto",
    anchor_every: int | None = 12,
    *,
    index_cache: str | os.PathLike[str] | None = None,
    max_frame_pixels: int = MAX_FRAME_PIXELS,
) -> Video:
    """Open a video for reading what its codec stored.

    Args:
        path: a video file (mp4, Matroska, AVI, MPEG-TS and others, or a raw stream), an http or https address of one,
            or a file opened for reading bytes (``io.BytesIO``), which must stay open as long as the video and serve
            nothing else meanwhile. Formats that refer to other files, such as playlists, are refused.
        backend: whose motion vectors. ``pyav``: one thread, only the GOPs that are needed, the same bytes every
            time. ``mvextractor``: from the start of the file, with several threads; the same vectors where the
            stream has no B-frames and no damage, wrong ones that vary where it has. ``auto`` takes PyAV: it is as
            fast on canonical video (docs/bitstream.md) and always the same. Pixels are PyAV's in any case.
        anchor_every: GOPs longer than this are cut into virtual GOPs of this many frames, whose first frame,
            decoded, serves as I-frame. None: only key frames cut.
        index_cache: folder in which the index of every video is kept, a few kilobytes each; with it a video is
            opened without going through its packets, and only those of the GOPs asked for are read. None: no
            such folder, all packets are gone through.
        max_frame_pixels: frames of more pixels (width x height) are refused before memory is allocated for them,
            also where the size changes on the way.

    Raises:
        VideoError: the file is missing, empty, unreadable, no video, too large, or without a decodable frame; or the
            connection to the server broke.
    """
    return Video(
        path,
        backend=backend,
        anchor_every=anchor_every,
        index_cache=index_cache,
        max_frame_pixels=max_frame_pixels,
    )


class Video:
    """An open video; made by :func:`open_video`, closed by ``close()`` or a ``with`` block.

    Frames go by their number in display order, from 0 to ``info.num_frames`` - 1. Wherever several are asked for,
    any sequence or array of integers will do, in any order, repeats allowed, and results come in the order asked
    for. Only the GOPs that are needed are decoded, each as far as it is needed.

    Attributes:
        info: facts about the stream.
        gops: the GOPs, virtual ones included, in display order; a GOP's frames are start to start + length - 1.
        path: what the video was opened from, as messages name it.
    """

    def __init__(
        self,
        path: Source,
        *,
        backend: Backend,
        anchor_every: int | None,
        index_cache: str | os.PathLike[str] | None = None,
        max_frame_pixels: int = MAX_FRAME_PIXELS,
    ) -> None:
        """See :func:`open_video`."""
        if backend not in ("auto", "pyav", "mvextractor"):
            raise VideoError(f"backend {backend!r} is unknown; choose auto, pyav or mvextractor")
        if anchor_every is not None and anchor_every < 1:
            raise VideoError(f"anchor_every is {anchor_every}; give 1 or more frames, or None")
        self.path = name_of(path)
        self._damaged: set[int] = set()
        self._pyav = PyavReader(path, index_cache, max_frame_pixels)
        self._index = self._pyav.index
        self._rotation = self._pyav.rotation
        reordered = self._index.reordered
        self._reader: Reader = self._pyav
        if backend == "mvextractor":
            self._reader = MvextractorReader(path, self._pyav)
            if reordered:
                warnings.warn(
                    f"{self.path}: has B-frames, for which mvextractor's frame-threaded decoding gives wrong "
                    "vectors that differ from run to run; use backend='pyav'",
                    stacklevel=3,
                )
        sides = (self._pyav.width, self._pyav.height)
        width, height = sides if self._rotation % 2 == 0 else sides[::-1]
        self.info = VideoInfo(
            codec=self._pyav.codec,
            width=width,
            height=height,
            num_frames=self._index.num_frames,
            frame_rate=self._pyav.frame_rate,
            has_b_frames=reordered,
            backend="pyav" if self._reader is self._pyav else "mvextractor",
            rotation=self._rotation,
        )
        self.gops: Sequence[Gop] = self._index.gops(anchor_every)
        self._starts = [gop.start for gop in self.gops]

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def damaged_frames(self) -> int:
        """How many of the frames decoded so far are damaged: concealed by the decoder, or replaced by another frame.

        Frames that refer to a damaged one can show the same errors, and are not counted. Damage that happens to decode
        is not noticed (docs/bitstream.md says how much that is).
        """
        return len(self._damaged)

    def close(self) -> None:
        """Free the file."""
        self._reader.close()
        self._pyav.close()

    def gop_at(self, frame: int) -> Gop:
        """Return the GOP that holds ``frame``.

        Raises:
            VideoError: there is no such frame.
        """
        (number,) = self._numbers([frame])
        return self._gop_of(number)

    # -- many frames at once -------------------------------------------------------------------------

    def get_iframes_at(self, indices: Iterable[int]) -> NDArray[np.uint8]:
        """Return the I-frame of each frame's GOP.

        Args:
            indices: N frames.

        Returns:
            uint8 [N, H, W, 3] RGB.

        Raises:
            VideoError: there is no such frame, or it cannot be decoded.
        """
        return self.get({"iframe": indices})["iframe"]

    def get_frames_at(self, indices: Iterable[int]) -> NDArray[np.uint8]:
        """Return the decoded frames themselves.

        Args:
            indices: N frames.

        Returns:
            uint8 [N, H, W, 3] RGB.

        Raises:
            VideoError: there is no such frame, or it cannot be decoded.
        """
        return self.get({"frame": indices})["frame"]

    def get_motion_at(self, indices: Iterable[int], *, accumulate: bool = True) -> NDArray[np.int16]:
        """Return the motion since each GOP's I-frame; zero for a GOP's first frame.

        Args:
            indices: N frames.
            accumulate: False gives the last step alone, against the frame before (where there are B-frames, against
                the one that is referred to).

        Returns:
            int16 [N, H, W, 2], (x, y), pixels.

        Raises:
            VideoError: there is no such frame, or it cannot be decoded.
            NoMotionVectorsError: the codec exports no motion vectors.
        """
        return self.get({"mv": indices}, accumulate=accumulate)["mv"]

    def get_residuals_at(self, indices: Iterable[int], *, accumulate: bool = True) -> NDArray[np.int16]:
        """Return what motion since each GOP's I-frame does not explain; zero for a GOP's first frame.

        Args:
            indices: N frames.
            accumulate: False gives the last step alone; see :meth:`get_motion_at`.

        Returns:
            int16 [N, H, W, 3] RGB, -255 to 255.

        Raises:
            VideoError: there is no such frame, or it cannot be decoded.
            NoMotionVectorsError: the codec exports no motion vectors.
        """
        return self.get({"residual": indices}, accumulate=accumulate)["residual"]

    def get_motion_vectors_at(self, indices: Iterable[int] | None = None) -> list[NDArray[np.void]]:
        """Return the motion vectors of frames as FFmpeg exports them; pixels are left alone.

        Args:
            indices: N frames; None (default): every frame of the video.

        Returns:
            N structured arrays (``MOTION_VECTOR_DTYPE``); empty where a frame has none, as I-frames.

        Raises:
            VideoError: there is no such frame, or it cannot be decoded.
            NoMotionVectorsError: the codec exports no motion vectors at all.
        """
        numbers = list(range(self.info.num_frames)) if indices is None else self._numbers(indices)
        found = {view.number: view.vectors for view in self.visit(vectors=numbers)}
        return [found[number] for number in numbers]

    def get(self, indices: Mapping[Kind, Iterable[int]], *, accumulate: bool = True) -> dict[Kind, NDArray[Any]]:
        """Return frames of several kinds from one pass over the video.

        Args:
            indices: frames by kind: ``iframe``, ``mv``, ``residual``, ``frame``.
            accumulate: False gives motion and residuals of the last step alone; see :meth:`get_motion_at`.

        Returns:
            By kind, in the order of ``indices``, what :meth:`get_iframes_at`, :meth:`get_motion_at`,
            :meth:`get_residuals_at` and :meth:`get_frames_at` return.

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

        Nothing is computed that is not read from the views, and a view can give any window of its frame. That makes
        this the cheapest way to read several things of many frames.

        Args:
            pictures: frames whose decoded picture is wanted.
            motion: frames whose motion is wanted.
            residuals: frames whose residual is wanted.
            vectors: frames whose motion vectors are wanted; None: every frame of the video.
            accumulate: False: motion and residuals of the last step alone; see :meth:`get_motion_at`.

        Yields:
            A :class:`FrameView` for each frame of the union, in display order, valid until the next one.

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
        if moves and self._pyav.codec not in VECTOR_CODECS:
            raise NoMotionVectorsError(
                f"{self.path}: the decoder of {self._pyav.codec} exports no motion vectors; transcode it to "
                "H.264 first (python tools/prepare_data.py transcode IN OUT; folder and predict have --transcode)"
            )
        return self._visit(wanted, accumulate)

    def _visit(self, wanted: Mapping[str, set[int]], accumulate: bool) -> Iterator[FrameView]:
        union = set().union(*wanted.values())
        last: dict[Gop, int] = {}  # of each GOP, the last frame whose motion is followed
        for number in sorted(wanted["motion"] | wanted["residuals"]):
            last[self._gop_of(number)] = number
        size = (self._pyav.height, self._pyav.width)
        now = Pass(self.path, size, self._rotation, wanted, accumulate=accumulate)
        gop = Gop(0, 0)
        for frame in self._every_frame(self._spans(wanted)):
            number = frame.number
            if not gop.start <= number < gop.start + gop.length:
                gop = self._gop_of(number)
            now.advance(frame, starts_gop=number == gop.start, follow=number <= last.get(gop, -1))
            if number in union:
                yield FrameView(number, now)

    def _spans(self, wanted: Mapping[str, set[int]]) -> list[Span]:
        """What has to be decoded: of each real GOP, from its key frame to the last frame wanted."""
        moves = wanted["motion"] | wanted["residuals"] | wanted["vectors"]
        shows = wanted["pictures"] | wanted["residuals"]
        spans: list[Span] = []
        end = -1
        for number in sorted(moves | shows):
            if number > end:
                first, end = self._index.key_span(number)
                spans.append(Span(first, first, False, False))
            first, _, vectors, pixels = spans[-1]
            spans[-1] = Span(first, number, vectors or number in moves, pixels or number in shows)
        return spans

    def _every_frame(self, spans: Sequence[Span]) -> Iterator[DecodedFrame]:
        """The reader's frames, gaps closed: a frame that does not decode repeats the one before it."""
        frames = self._reader.frames(spans)
        ahead: DecodedFrame | None = None
        for span in spans:
            end = self._index.key_span(span.first)[1]
            held: DecodedFrame | None = None
            for number in range(span.first, span.last + 1):
                ahead = ahead or next(frames, None)
                if ahead is not None and ahead.number == number:
                    held, ahead = ahead, None
                    if held.is_damaged:
                        self._damaged.add(number)
                    yield held
                    continue
                held = held or ahead  # at the start of a GOP, the first that does decode
                if held is None or held.number > end:
                    raise VideoError(
                        f"{self.path}: frames {span.first} to {end} cannot be decoded; the file is damaged, "
                        "copy it again or leave it out of the list"
                    )
                self._damaged.add(number)
                yield _Repeated(number, held)
            if ahead is not None and ahead.number <= end:
                ahead = None

    def _gop_of(self, frame: int) -> Gop:
        return self.gops[bisect_right(self._starts, frame) - 1]

    def _numbers(self, frames: Iterable[int]) -> list[int]:
        """Frames as Python's integers, all of which are there."""
        try:
            numbers = [operator.index(frame) for frame in frames]
        except TypeError as error:
            raise VideoError(f"{self.path}: frames go by whole numbers ({error})") from error
        for number in numbers:
            if not 0 <= number < self.info.num_frames:
                raise VideoError(f"{self.path}: has {self.info.num_frames} frames; there is no frame {number}")
        return numbers


class _Repeated:
    """In place of a frame that does not decode: the picture of another one, without motion."""

    is_b = True  # nothing refers to it
    is_damaged = True

    def __init__(self, number: int, shown: DecodedFrame) -> None:
        self.number = number
        self.rgb = shown.rgb

    def vectors(self) -> NDArray[np.void]:
        return no_vectors()
