"""Open a compressed video to read its I-frames, motion vectors, accumulated motion and residuals."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream.container import MAX_FRAME_PIXELS
from coviar_mocrop.bitstream.frames import FrameSequence
from coviar_mocrop.bitstream.mvextractor_reader import MvextractorReader
from coviar_mocrop.bitstream.pyav_reader import PyavReader
from coviar_mocrop.bitstream.types import DecodedFrame, Reader, Source, Span, VideoInfo, no_vectors
from coviar_mocrop.errors import VideoError

Backend = Literal["auto", "pyav", "mvextractor"]


def open_video(
    source: Source,
    backend: Backend = "auto",
    anchor_every: int | None = 12,
    *,
    index_cache: str | os.PathLike[str] | bytes | None = None,
    max_frame_pixels: int = MAX_FRAME_PIXELS,
) -> Video:
    """Open a compressed video to read its I-frames, motion vectors, accumulated motion and residuals.

    Args:
        source: a video file (mp4, Matroska, AVI, MPEG-TS and others, or a raw stream), the http or https address of
            one, or a binary file object such as ``io.BytesIO``. A file object must stay open as long as the video, and
            nothing else may read from it. Playlists and other formats that refer to other files are refused.
        backend: source of the motion vectors. ``pyav`` decodes in one thread, only the GOPs that are needed, and gives
            the same bytes every time. ``mvextractor`` decodes in several threads, from the start of the file. Its
            vectors equal PyAV's if the stream has no B-frames and no damage. Otherwise they can be wrong and vary from
            run to run; a video with B-frames gives a warning. ``auto`` is ``pyav``. Pixels always come from PyAV.
        anchor_every: number of frames after which longer GOPs are cut into virtual GOPs. The decoded first frame of a
            virtual GOP serves as its I-frame. None: GOPs start at key frames only.
        index_cache: folder for the packet indexes of videos, 64 bytes per frame and about 500 per file. With an index,
            opening does not read all packets of a video, and reading fetches only the packets of the GOPs that are
            needed. The folder is not used for addresses and file objects. Instead of a folder, the index of this very
            video can be given, as :meth:`Video.packed_index` returns it. None: opening reads all packets.
        max_frame_pixels: largest frame, in pixels (width x height), 8192 x 4320 by default. Larger frames are refused
            before memory is allocated for them, even if the size changes within the video.

    Returns:
        The open video. Use it in a ``with`` block, or call its ``close()``.

    Raises:
        VideoError: the file is missing, empty, unreadable, not a video, or has no decodable frame; its frames are too
            large; an argument is out of range; or the connection to the server broke.
        TypeError: ``source`` is neither a path nor a file object.
    """
    return Video(
        source,
        backend=backend,
        anchor_every=anchor_every,
        index_cache=index_cache,
        max_frame_pixels=max_frame_pixels,
    )


class Video(FrameSequence):
    """An open video. Get one from :func:`open_video`, and close it with ``close()`` or a ``with`` block.

    Frames are numbered in display order, from 0 to ``info.num_frames`` - 1. A method that takes several frames takes
    any iterable of integers, in any order and with repeats, and returns results in the same order. Only the GOPs that
    are needed are decoded, each up to the last frame that is needed.

    Attributes:
        info (VideoInfo): facts about the video stream.
        gops (Sequence[Gop]): the GOPs in display order, virtual ones included.
        path (str): name of the video in error messages.
        progress (Callable[[int, int], None] | None): called as ``progress(number + 1, info.num_frames)`` for every
            decoded frame; None: not called.
    """

    def __init__(
        self,
        source: Source,
        *,
        backend: Backend,
        anchor_every: int | None,
        index_cache: str | os.PathLike[str] | bytes | None = None,
        max_frame_pixels: int = MAX_FRAME_PIXELS,
    ) -> None:
        """See :func:`open_video`."""
        if backend not in ("auto", "pyav", "mvextractor"):
            raise VideoError(f"backend {backend!r} is unknown; choose auto, pyav or mvextractor")
        if anchor_every is not None and anchor_every < 1:
            raise VideoError(f"anchor_every is {anchor_every}; give 1 or more frames, or None")
        self._damaged: set[int] = set()
        self._pyav = PyavReader(source, index_cache, max_frame_pixels)
        self._index = self._pyav.index
        reordered = self._index.reordered
        self._reader: Reader = self._pyav
        if backend == "mvextractor":
            self._reader = MvextractorReader(source, self._pyav)
            if reordered:
                warnings.warn(
                    f"{self._pyav.path}: has B-frames, for which mvextractor's frame-threaded decoding gives wrong "
                    "vectors that differ from run to run; use backend='pyav'",
                    stacklevel=3,
                )
        sides = (self._pyav.width, self._pyav.height)
        width, height = sides if self._pyav.rotation % 2 == 0 else sides[::-1]
        info = VideoInfo(
            codec=self._pyav.codec,
            width=width,
            height=height,
            num_frames=self._index.num_frames,
            frame_rate=self._pyav.frame_rate,
            has_b_frames=reordered,
            backend="pyav" if self._reader is self._pyav else "mvextractor",
            rotation=self._pyav.rotation,
        )
        super().__init__(self._pyav.path, info, self._index.gops(anchor_every))

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def damaged_frames(self) -> int:
        """Number of frames decoded so far that are damaged.

        A frame is damaged if the decoder concealed errors in it, if the container says that data are missing, or if it
        did not decode and another frame replaces it. Frames that refer to a damaged frame can show its errors but are
        not counted. Damage that decodes without an error is not noticed (see docs/reference/bitstream.md).
        """
        return len(self._damaged)

    def packed_index(self) -> bytes:
        """Return the packet index as bytes, to give as ``index_cache`` when the same video is opened again.

        For this, open the video with ``index_cache=b""``: the index needs checksums, which are not computed otherwise.

        Raises:
            VideoError: there are no checksums.
        """
        return self._pyav.packed_index()

    def close(self) -> None:
        """Close the video and free its packets."""
        self._reader.close()
        self._pyav.close()

    def _decoded(self, wanted: Mapping[str, set[int]]) -> Iterator[DecodedFrame]:
        return self._every_frame(self._spans(wanted))

    def _spans(self, wanted: Mapping[str, set[int]]) -> list[Span]:
        """The frames to decode: of each real GOP, those from its key frame to the last frame wanted."""
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
        """The reader's frames without gaps: a frame that does not decode is replaced by the one before it."""
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
                held = held or ahead  # at the start of a GOP, by the first frame that decodes
                if held is None or held.number > end:
                    raise VideoError(
                        f"{self.path}: frames {span.first} to {end} cannot be decoded; the file is damaged, "
                        "copy it again or leave it out of the list"
                    )
                self._damaged.add(number)
                yield _Repeated(number, held)
            if ahead is not None and ahead.number <= end:
                ahead = None


class _Repeated:
    """Replaces a frame that does not decode: the picture of another frame, without motion."""

    is_b = True  # nothing refers to it
    is_damaged = True

    def __init__(self, number: int, shown: DecodedFrame) -> None:
        self.number = number
        self.rgb = shown.rgb

    def vectors(self) -> NDArray[np.void]:
        return no_vectors()
