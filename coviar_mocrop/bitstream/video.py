"""``open_video``: the one way in to a compressed video's I-frames, motion vectors and residuals."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream.accumulate import Accumulator
from coviar_mocrop.bitstream.mvextractor_reader import MvextractorReader
from coviar_mocrop.bitstream.packets import name_of
from coviar_mocrop.bitstream.pyav_reader import VECTOR_CODECS, PyavReader
from coviar_mocrop.bitstream.rotate import rotate_motion, rotate_picture, rotate_vectors
from coviar_mocrop.bitstream.types import KINDS, DecodedFrame, Gop, Kind, Reader, Source, VideoInfo, no_vectors
from coviar_mocrop.errors import NoMotionVectorsError, VideoError

Backend = Literal["auto", "pyav", "mvextractor"]
Place = tuple["int | Gop", int]
"""A frame: its GOP (index into ``video.gops``, or one of its elements) and its position in it."""


def open_video(
    path: Source,
    backend: Backend = "auto",
    anchor_every: int | None = 12,
    *,
    index_cache: str | os.PathLike[str] | None = None,
) -> Video:
    """Open a video for reading what its codec stored.

    Args:
        path: any container FFmpeg reads, or a raw MPEG-4 or H.264 stream; or a file opened for reading bytes that
            holds one (``io.BytesIO``), which must stay open as long as the video and serve nothing else meanwhile.
        backend: whose motion vectors. ``pyav``: one thread, only the GOPs that are needed, the same bytes every
            time. ``mvextractor``: from the start of the file, with several threads; the same vectors where the
            stream has no B-frames and no damage, wrong ones that vary where it has. ``auto`` takes PyAV: it is as
            fast on canonical video (docs/bitstream.md) and always the same. Pixels are PyAV's in any case.
        anchor_every: GOPs longer than this are cut into virtual GOPs of this many frames, whose first frame,
            decoded, serves as I-frame. None: only key frames cut.
        index_cache: folder in which the index of every video is kept, a few kilobytes each; with it a video is
            opened without going through its packets, and only those of the GOPs asked for are read. None: no
            such folder, all packets are gone through.

    Raises:
        VideoError: the file is missing, empty, unreadable, no video, or without a decodable frame.
    """
    return Video(path, backend=backend, anchor_every=anchor_every, index_cache=index_cache)


class Video:
    """An open video; made by :func:`open_video`, closed by ``close()`` or a ``with`` block.

    Attributes:
        info: facts about the stream.
        gops: the GOPs, virtual ones included, in display order.
    """

    def __init__(
        self,
        path: Source,
        *,
        backend: Backend,
        anchor_every: int | None,
        index_cache: str | os.PathLike[str] | None = None,
    ) -> None:
        """See :func:`open_video`."""
        if backend not in ("auto", "pyav", "mvextractor"):
            raise VideoError(f"backend {backend!r} is unknown; choose auto, pyav or mvextractor")
        if anchor_every is not None and anchor_every < 1:
            raise VideoError(f"anchor_every is {anchor_every}; give 1 or more frames, or None")
        self.path = name_of(path)
        self._pyav = PyavReader(path, index_cache)
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
        self._known_gops = frozenset(self.gops)

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the file."""
        self._reader.close()
        self._pyav.close()

    # -- one frame at a time -------------------------------------------------------------------------

    def iframe(self, gop: int | Gop) -> NDArray[np.uint8]:
        """The I-frame of ``gop``: uint8 [H, W, 3] RGB."""
        return self.read("iframe", [(gop, 0)])[0]

    def motion_vectors(self, gop: int | Gop, pos: int) -> NDArray[np.void]:
        """The vectors of one frame as FFmpeg exports them (``MOTION_VECTOR_DTYPE``); empty where none.

        Raises:
            NoMotionVectorsError: the codec exports none at all.
        """
        frame = self._frame_number((gop, pos))
        span = (self._index.key_span(frame)[0], frame)
        return self._vectors_of_spans([span], {frame})[frame]

    def accumulated_motion(self, gop: int | Gop, pos: int) -> NDArray[np.int16]:
        """Motion since the GOP's I-frame: int16 [H, W, 2], (x, y), pixels; zero at ``pos`` 0.

        Raises:
            NoMotionVectorsError: the codec exports no vectors.
        """
        return self.read("mv", [(gop, pos)])[0]

    def residual(self, gop: int | Gop, pos: int) -> NDArray[np.int16]:
        """What motion since the GOP's I-frame does not explain: int16 [H, W, 3] RGB; zero at ``pos`` 0.

        Raises:
            NoMotionVectorsError: the codec exports no vectors.
        """
        return self.read("residual", [(gop, pos)])[0]

    # -- many at once --------------------------------------------------------------------------------

    def read(self, kind: Kind, places: Sequence[Place], *, accumulate: bool = True) -> NDArray[Any]:
        """Read many frames of one kind in one pass; only the GOPs they need are decoded.

        Args:
            kind: ``iframe`` (uint8 [N, H, W, 3]), ``mv`` (accumulated motion, int16 [N, H, W, 2]),
                ``residual`` (int16 [N, H, W, 3]) or ``frame`` (the decoded frame itself, uint8 [N, H, W, 3]).
            places: N pairs (gop, pos), in any order, repeats allowed; ``pos`` does not matter to ``iframe``.
            accumulate: False gives the last step alone, against the frame before (the one that is referred
                to, where there are B-frames).

        Raises:
            VideoError: no such kind, GOP or position; or the frames cannot be decoded.
            NoMotionVectorsError: the codec exports no vectors.
        """
        return self.read_many({kind: places}, accumulate=accumulate)[kind]

    def read_many(self, places: Mapping[Kind, Sequence[Place]], *, accumulate: bool = True) -> dict[Kind, NDArray[Any]]:
        """Read several kinds in one shared pass; see :meth:`read`."""
        channels = {"iframe": 3, "mv": 2, "residual": 3, "frame": 3}
        out: dict[Kind, NDArray[Any]] = {}
        wanted: dict[int, list[tuple[Kind, int]]] = defaultdict(list)  # frame -> (kind, row of out)
        for kind, asked in places.items():
            if kind not in KINDS:
                raise VideoError(f"kind {kind!r} is unknown; choose iframe, mv, residual or frame")
            dtype = np.uint8 if kind in ("iframe", "frame") else np.int16
            out[kind] = np.empty((len(asked), self.info.height, self.info.width, channels[kind]), dtype)
            for row, (gop, pos) in enumerate(asked):
                frame = self._frame_number((gop, 0 if kind == "iframe" else pos))
                wanted[frame].append((kind, row))
        motion = any(len(places.get(kind, ())) for kind in ("mv", "residual"))
        if motion:
            self._require_vectors()
        pixels = any(len(places.get(kind, ())) for kind in ("iframe", "residual", "frame"))
        last: dict[int, int] = {}  # of each real GOP, the last frame needed
        for frame in wanted:
            first = self._index.key_span(frame)[0]
            last[first] = max(frame, last.get(first, frame))
        spans = sorted(last.items())
        starts = {gop.start for gop in self.gops}
        state = _GopState(self._pyav.height, self._pyav.width, accumulate=accumulate)
        residuals = any(kind == "residual" for asks in wanted.values() for kind, _ in asks)
        for decoded in self._every_frame(spans, vectors=motion, pixels=pixels):
            if motion:
                state.advance(decoded, decoded.index in starts, keep_pixels=residuals)
            for kind, row in wanted.get(decoded.index, ()):
                if kind in ("iframe", "frame"):
                    out[kind][row] = rotate_picture(decoded.rgb(), self._rotation)
                elif kind == "mv":
                    out[kind][row] = rotate_motion(state.motion(), self._rotation)
                else:
                    out[kind][row] = rotate_picture(state.residual(), self._rotation)
        return out

    def vectors(self, frames: Iterable[int] | None = None) -> list[NDArray[np.void]]:
        """Motion vectors of many frames in one pass over the GOPs they are in, pixels left alone.

        Args:
            frames: display order; None: every frame of the video.

        Returns:
            One array per frame, in the order asked for; empty for I-frames.

        Raises:
            NoMotionVectorsError: the codec exports none at all.
        """
        wanted = list(range(self.info.num_frames) if frames is None else frames)
        last: dict[int, int] = {}
        for frame in wanted:
            if not 0 <= frame < self.info.num_frames:
                raise VideoError(f"{self.path}: has {self.info.num_frames} frames; there is no frame {frame}")
            first = self._index.key_span(frame)[0]
            last[first] = max(frame, last.get(first, frame))
        found = self._vectors_of_spans(sorted(last.items()), set(wanted))
        return [found[frame] for frame in wanted]

    # -- inside --------------------------------------------------------------------------------------

    def _vectors_of_spans(self, spans: Sequence[tuple[int, int]], wanted: set[int]) -> dict[int, NDArray[np.void]]:
        self._require_vectors()
        decoded = self._reader.frames(spans, vectors=True, pixels=False)
        found = {frame.index: frame.vectors for frame in decoded if frame.index in wanted}
        width, height = self._pyav.width, self._pyav.height
        return {
            frame: rotate_vectors(found.get(frame, no_vectors()), self._rotation, width, height) for frame in wanted
        }

    def _every_frame(self, spans: Sequence[tuple[int, int]], *, vectors: bool, pixels: bool) -> Iterator[DecodedFrame]:
        """The reader's frames, gaps closed: a frame that does not decode repeats the one before it."""
        frames = self._reader.frames(spans, vectors=vectors, pixels=pixels)
        ahead: DecodedFrame | None = None
        for first, last in spans:
            held: DecodedFrame | None = None
            for number in range(first, last + 1):
                ahead = ahead or next(frames, None)
                if ahead is not None and ahead.index == number:
                    held, ahead = ahead, None
                    yield held
                    continue
                held = held or ahead  # at the start of a GOP, the first that does decode
                if held is None or held.index > last:
                    raise VideoError(
                        f"{self.path}: frames {first} to {last} cannot be decoded; the file is damaged, "
                        "copy it again or leave it out of the list"
                    )
                yield DecodedFrame(number, True, no_vectors(), held.rgb)

    def _frame_number(self, place: Place) -> int:
        asked, pos = place
        if isinstance(asked, Gop):
            gop = asked
            if gop not in self._known_gops:
                raise VideoError(f"{self.path}: has no {gop}; take one of video.gops")
        elif 0 <= asked < len(self.gops):
            gop = self.gops[asked]
        else:
            raise VideoError(f"{self.path}: has {len(self.gops)} GOPs; there is no GOP {asked}")
        if not 0 <= pos < gop.length:
            raise VideoError(f"{self.path}: GOP {asked} has {gop.length} frames; there is no position {pos}")
        return gop.start + pos

    def _require_vectors(self) -> None:
        if self._pyav.codec not in VECTOR_CODECS:
            raise NoMotionVectorsError(
                f"{self.path}: the decoder of {self._pyav.codec} exports no motion vectors; transcode it to "
                "H.264 first (python tools/prepare_data.py transcode IN OUT; folder and predict have --transcode)"
            )


class _GopState:
    """What is known of the current GOP: its first frame's pixels and where every pixel came from."""

    def __init__(self, height: int, width: int, *, accumulate: bool) -> None:
        self._accumulator = Accumulator(height, width, accumulate=accumulate)
        self._accumulate = accumulate
        self._current: DecodedFrame | None = None
        self._first: NDArray[np.uint8] | None = None
        self._reference: DecodedFrame | None = None
        self._previous: DecodedFrame | None = None

    def advance(self, decoded: DecodedFrame, starts_gop: bool, *, keep_pixels: bool) -> None:
        if starts_gop or self._current is None:
            self._accumulator.restart()
            self._first = decoded.rgb() if keep_pixels and self._accumulate else None
            self._reference = self._previous = decoded
        else:
            self._previous = self._reference
            self._accumulator.step(decoded.vectors, is_b=decoded.is_b)
            if not decoded.is_b:
                self._reference = decoded
        self._current = decoded

    def motion(self) -> NDArray[np.int16]:
        return self._accumulator.motion()

    def residual(self) -> NDArray[np.int16]:
        assert self._current is not None and self._previous is not None
        first = self._first if self._first is not None else self._previous.rgb()
        return self._accumulator.residual(self._current.rgb(), first)
