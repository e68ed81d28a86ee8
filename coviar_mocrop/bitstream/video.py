"""``open_video``: the one way in to a compressed video's I-frames, motion vectors and residuals."""

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
    path: Source,
    backend: Backend = "auto",
    anchor_every: int | None = 12,
    *,
    index_cache: str | os.PathLike[str] | bytes | None = None,
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
            fast on canonical video (docs/reference/bitstream.md) and always the same. Pixels are PyAV's in any case.
        anchor_every: GOPs longer than this are cut into virtual GOPs of this many frames, whose first frame,
            decoded, serves as I-frame. None: only key frames cut.
        index_cache: folder in which the index of every video is kept, a few kilobytes each; with it a video is
            opened without going through its packets, and only those of the GOPs asked for are read. Or the index of
            this very video, as :meth:`Video.packed_index` gave it. None: all packets are gone through.
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


class Video(FrameSequence):
    """An open video; made by :func:`open_video`, closed by ``close()`` or a ``with`` block.

    Only the GOPs that are needed are decoded, each as far as it is needed.
    """

    def __init__(
        self,
        path: Source,
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
        self._pyav = PyavReader(path, index_cache, max_frame_pixels)
        self._index = self._pyav.index
        reordered = self._index.reordered
        self._reader: Reader = self._pyav
        if backend == "mvextractor":
            self._reader = MvextractorReader(path, self._pyav)
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
        """How many of the frames decoded so far are damaged: concealed by the decoder, or replaced by another frame.

        Frames that refer to a damaged one can show the same errors, and are not counted. Damage that happens to decode
        is not noticed (docs/reference/bitstream.md says how much that is).
        """
        return len(self._damaged)

    def packed_index(self) -> bytes:
        """The index, for ``index_cache``, of a video opened with ``index_cache=b""`` (which takes checksums)."""
        return self._pyav.packed_index()

    def close(self) -> None:
        """Free the file."""
        self._reader.close()
        self._pyav.close()

    def _decoded(self, wanted: Mapping[str, set[int]]) -> Iterator[DecodedFrame]:
        return self._every_frame(self._spans(wanted))

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


class _Repeated:
    """In place of a frame that does not decode: the picture of another one, without motion."""

    is_b = True  # nothing refers to it
    is_damaged = True

    def __init__(self, number: int, shown: DecodedFrame) -> None:
        self.number = number
        self.rgb = shown.rgb

    def vectors(self) -> NDArray[np.void]:
        return no_vectors()
