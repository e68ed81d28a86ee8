"""The PyAV backend: decodes in one thread, and only the packets that are needed.

FFmpeg's frame threading returns wrong vectors for H.264 with B-frames, different from run to run. So a decoder here
always runs in one thread. Several videos are read in parallel instead.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from typing import IO, cast

import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from coviar_mocrop.bitstream import index_cache as disk
from coviar_mocrop.bitstream.addresses import is_endless, source_name
from coviar_mocrop.bitstream.container import (
    MAX_FRAME_PIXELS,
    claimed_size,
    max_pixels,
    name_of,
    open_container,
    watched,
)
from coviar_mocrop.bitstream.decoding import (
    VECTOR_CODECS,
    PyavFrame,
    StreamDecoding,
    quarter_turns,
    use_one_thread,
)
from coviar_mocrop.bitstream.index import (
    FrameIndex,
    has_true_times,
    index_from_order,
    index_from_packets,
    is_in_display_order,
)
from coviar_mocrop.bitstream.packets import NO_TIME, PacketStore
from coviar_mocrop.bitstream.remote import RemoteFile, is_address
from coviar_mocrop.bitstream.types import DecodedFrame, Source, Span
from coviar_mocrop.errors import VideoError


class PyavReader:
    """Opens a file, indexes its best video stream and decodes spans of it."""

    def __init__(
        self,
        path: Source,
        index_cache: str | os.PathLike[str] | bytes | None = None,
        max_frame_pixels: int = MAX_FRAME_PIXELS,
    ) -> None:
        """Open and index ``path``.

        Args:
            path: a video file, an http or https address, or an open file; see
                :func:`~coviar_mocrop.bitstream.open_video`.
            index_cache: folder in which the index is looked up and kept, or the index itself, as :meth:`packed_index`
                returns it. None: the video is indexed again. A folder is not used for addresses and open files.
            max_frame_pixels: larger frames are refused before memory is allocated for them.

        Raises:
            VideoError: the file is missing, unreadable, not a video, its frames are too large, or none decodes.
        """
        self.path = name_of(path)
        if is_endless(path):
            raise VideoError(
                f"{source_name(path)}: is read once, from front to back, and may never end; coviar watch does that "
                "(in Python: Predictor.over_time), or save it to a file first"
            )
        self._limit = max_frame_pixels
        if not isinstance(index_cache, bytes) and (is_address(path) or not isinstance(path, (str, os.PathLike))):
            index_cache = None  # nothing tells whether the video is still the same
        with ExitStack() as opened:
            self._source = path
            if is_address(path):
                self._source = cast("IO[bytes]", opened.enter_context(RemoteFile(str(path))))
            self._container = opened.enter_context(open_container(self._source, max_frame_pixels))
            with watched(self._source):
                self._open_stream(index_cache)
            self._opened = opened.pop_all()

    def _open_stream(self, cache: str | os.PathLike[str] | bytes | None) -> None:
        stream = self._container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise VideoError(f"{self.path}: holds no video stream that can be decoded")
        context = stream.codec_context
        assert isinstance(context, VideoCodecContext)
        self._template = context
        # this decoder is used only to find the display matrix
        context.options = {"skip_loop_filter": "all", "max_pixels": max_pixels(self._limit)}
        use_one_thread(context)
        self.decoding = StreamDecoding(self._source, context, self._limit)
        self.num_streams = len(self._container.streams.video)
        self.codec, self.width, self.height = self.decoding.codec, self.decoding.width, self.decoding.height
        self.frame_rate = float(getattr(stream, "average_rate", None) or 0.0)
        self._time_base = stream.time_base
        self._reorders = bool(context.has_b_frames)
        if not self.width or not self.height:
            claimed = claimed_size(lambda: open_container(self._source, self._limit).close())
            self.decoding.require_size(*(claimed or (0, 0)))
            raise VideoError(f"{self.path}: holds no video frame; copy or download it again")
        self.decoding.require_size(self.width, self.height)
        known = None
        if cache is not None:
            known = disk.unpack(cache) if isinstance(cache, bytes) else disk.load(cache, self.path)
        if known and not is_in_display_order(known.frames, known.table, self._container.format.name, self._reorders):
            known = None  # damaged
        self._packets = PacketStore(
            self._source, self._container, stream, known=known.table if known else None, checksums=cache is not None
        )
        if not len(self._packets.table):
            raise VideoError(f"{self.path}: holds no video frame; copy or download it again")
        if known is not None:
            self.index, self.rotation = known.frames, known.rotation
            return
        self.index = self._make_index()
        self.rotation = self._find_rotation()
        if isinstance(cache, (str, os.PathLike)):
            disk.save(cache, self.path, disk.VideoIndex(self._packets.table, self.index, self.rotation))

    def packed_index(self) -> bytes:
        """The index as bytes, for ``index_cache``.

        Raises:
            VideoError: the reader was made without an ``index_cache`` such as ``b""``, so there are no checksums.
        """
        if not len(self._packets.table.checksum):
            raise VideoError(f'{self.path}: was opened without checksums, which an index needs; give index_cache=b""')
        return disk.pack(disk.VideoIndex(self._packets.table, self.index, self.rotation))

    def _make_index(self) -> FrameIndex:
        table = self._packets.table
        timed = has_true_times(table, self._container.format.name, self._reorders)
        timed = timed and not self._claims_too_many_keys()
        index = index_from_packets(table, self._reorders) if timed else None
        index = index or self._index_by_decoding()
        if index is None:
            raise VideoError(f"{self.path}: holds no decodable frame; copy or download it again")
        return index

    def _claims_too_many_keys(self) -> bool:
        """Whether all packets are marked as key frames, although the second is not one.

        This happens with H.263 in AVI, whose packets FFmpeg does not parse, and in mp4 files without a table of key
        frames.
        """
        if len(self._packets.table) < 2 or not self._packets.table.key.all() or self.codec not in VECTOR_CODECS:
            return False
        return not all(f.key_frame for f in self._decode([0, 1], self.decoding.decoder(vectors=False, pixels=False)))

    def _index_by_decoding(self) -> FrameIndex | None:
        order: list[int] = []
        keys: list[int] = []
        count = len(self._packets.table)
        for frame in self._decode(range(count), self.decoding.decoder(vectors=False, pixels=False)):
            if frame.pts is not None and frame.pts not in order[-8:]:
                order.append(frame.pts)
                if frame.key_frame:
                    keys.append(frame.pts)
        return index_from_order(count, order, keys or order[:1])

    def _find_rotation(self) -> int:
        """Quarter turns, counter-clockwise, of the display matrix, which decoded frames carry."""
        try:  # with the stream's own decoder: the matrix comes from the container, so other decoders lack it
            for frame in self._decode(self.index.packets(0, 0), self._template):
                return quarter_turns(frame)
        finally:
            self._template.flush_buffers()
        return 0

    def frame_times(self) -> tuple[NDArray[np.int64], Fraction]:
        """When each frame is shown, relative to the first: int64 [frames], ascending, and the unit in seconds.

        If the container does not say, frames are a constant time apart.
        """
        times = self._packets.table.pts[self.index.packet_of_frame]
        if NO_TIME in times or not (np.diff(times) > 0).all() or not self._time_base:
            return np.arange(len(times)), 1 / Fraction(self.frame_rate or 25.0).limit_denominator(1001)
        return times - times[0], self._time_base

    def _decode(self, numbers: Sequence[int], decoder: VideoCodecContext) -> Generator[VideoFrame, None, None]:
        """Decode the packets ``numbers``; frames come in display order. A packet that does not decode gives none.

        The ``pts`` of a frame is the number of its packet.
        """
        for packet in itertools.chain(self._packets.read(numbers), [None]):
            yield from self.decoding.decode(packet, decoder) or ()

    def frames(self, spans: Sequence[Span]) -> Iterator[DecodedFrame]:
        """See :class:`~coviar_mocrop.bitstream.types.Reader`."""
        with watched(self._source):
            for span in spans:
                yield from self._frames_of(span)

    def _frames_of(self, span: Span) -> Iterator[DecodedFrame]:
        first, last, vectors, pixels = span
        # Each span gets a new decoder, because damaged headers survive a flush, and a read must not depend on other
        # reads. For the same reason the decoder is given packets until the last frame has come out, up to the end of
        # the GOP. If it were drained instead, it could give frames of a damaged stream that it drops when it goes on.
        decoder = self.decoding.decoder(vectors=vectors, pixels=pixels)
        packets = self.index.packets(*self.index.key_span(first), leading=self.codec == "mpeg4")
        if self._reorders and self.codec != "h264":
            # These decoders export the vectors of a reference frame only when the next one pushes it out, not
            # when drained. The key frame once more does that; its second appearance is dropped below.
            packets += packets[:1]
        decoded = self._decode(packets, decoder)
        latest = -1
        for frame in decoded:
            number = -1 if frame.pts is None else int(self.index.frame_of_packet[frame.pts])
            if number <= latest or number < first:
                continue
            if number <= last or latest < 0:
                if (frame.width, frame.height) != (self.width, self.height):
                    raise VideoError(
                        f"{self.path}: frame {number} is {frame.width}x{frame.height}, the first "
                        f"{self.width}x{self.height}; scale it to one size with another program, such as ffmpeg"
                    )
                yield PyavFrame(number, frame, self.decoding, bool(self._packets.table.corrupt[frame.pts]))
            latest = number
            if number >= last:
                break
        decoded.close()

    def refuse_large_frames(self) -> None:
        """Decode the key frames only, because the frame size can change only there.

        Raises:
            VideoError: one of them is too large.
        """
        with watched(self._source):
            for _ in self._decode(self.index.key_packets.tolist(), self.decoding.decoder(vectors=False, pixels=False)):
                pass

    def close(self) -> None:
        """Close the file and free its packets."""
        self._packets.close()
        self._opened.close()
