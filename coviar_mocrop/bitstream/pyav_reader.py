"""The PyAV backend: one thread, so the vectors of B-frames are the same every time; only needed packets.

FFmpeg's frame threading returns wrong vectors for H.264 with B-frames, different from run to run, so the
decoder here always runs in one thread; parallelism comes from reading several videos at once.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from typing import IO, Any, cast

import av
import av.error
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from coviar_mocrop.bitstream import index_cache as disk
from coviar_mocrop.bitstream.container import (
    MAX_FRAME_PIXELS,
    claimed_size,
    max_pixels,
    name_of,
    open_container,
    watched,
)
from coviar_mocrop.bitstream.index import (
    FrameIndex,
    has_true_times,
    index_from_order,
    index_from_packets,
)
from coviar_mocrop.bitstream.packets import PacketStore
from coviar_mocrop.bitstream.remote import RemoteFile, is_address
from coviar_mocrop.bitstream.types import MOTION_VECTOR_DTYPE, DecodedFrame, Source, Span, no_vectors
from coviar_mocrop.errors import VideoError

VECTOR_CODECS = frozenset(
    {"h264", "mpeg4", "mpeg1video", "mpeg2video", "h263", "h263i", "h263p", "flv", "svq1"}
    | {"msmpeg4", "msmpeg4v1", "msmpeg4v2", "wmv1", "wmv2", "vc1", "wmv3"}
)
"""Decoders of FFmpeg that export motion vectors."""

_LARGEST = 16384  # what H.264's highest level allows; coordinates are 16 bit numbers
_B_PICTURE = 3  # AV_PICTURE_TYPE_B
_UNSPECIFIED = {"colorspace": 2, "color_range": 0}  # AVCOL_SPC_UNSPECIFIED, AVCOL_RANGE_UNSPECIFIED


class PyavReader:
    """Opens a file, indexes its best video stream and decodes spans of it."""

    def __init__(
        self,
        path: Source,
        index_cache: str | os.PathLike[str] | None = None,
        max_frame_pixels: int = MAX_FRAME_PIXELS,
    ) -> None:
        """Open and index ``path``.

        Args:
            path: a video file, an http or https address, or an open file; see
                :func:`~coviar_mocrop.bitstream.open_video`.
            index_cache: folder where the index is looked up and kept; None, an address or an open file: indexed anew.
            max_frame_pixels: larger frames are refused before memory is allocated for them.

        Raises:
            VideoError: the file is missing, unreadable, no video, too large, or holds no decodable frame.
        """
        self.path = name_of(path)
        self._limit = max_frame_pixels
        if is_address(path) or not isinstance(path, (str, os.PathLike)):
            index_cache = None  # nothing tells whether it is still the same
        # One converter for all frames, without threads: a converter with threads that outlives a fork (in a data
        # loading worker) waits for them for ever when it is freed.
        self._reformatter = VideoReformatter()
        with ExitStack() as opened:
            self._source = path
            if is_address(path):
                self._source = cast("IO[bytes]", opened.enter_context(RemoteFile(self.path)))
            self._container = opened.enter_context(open_container(self._source, max_frame_pixels))
            with watched(self._source):
                self._open_stream(index_cache)
            self._opened = opened.pop_all()

    def _open_stream(self, cache: str | os.PathLike[str] | None) -> None:
        stream = self._container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise VideoError(f"{self.path}: holds no video stream that can be decoded")
        context = stream.codec_context
        assert isinstance(context, VideoCodecContext)
        self._template = context
        # it decodes for the sake of the display matrix alone
        context.options = {"skip_loop_filter": "all", "max_pixels": max_pixels(self._limit)}
        _use_one_thread(context)
        self.num_streams = len(self._container.streams.video)
        self.codec = context.codec.name
        self.width, self.height = context.width, context.height
        self.frame_rate = float(getattr(stream, "average_rate", None) or 0.0)
        self._reorders = bool(context.has_b_frames)
        if not self.width or not self.height:
            claimed = claimed_size(lambda: open_container(self._source, self._limit).close())
            self._require_size(*(claimed or (0, 0)))
            raise VideoError(f"{self.path}: holds no video frame; copy or download it again")
        self._require_size(self.width, self.height)
        known = None if cache is None else disk.load(cache, self.path)
        self._packets = PacketStore(
            self._source, self._container, stream, known=known[0] if known else None, checksums=cache is not None
        )
        if not len(self._packets.table):
            raise VideoError(f"{self.path}: holds no video frame; copy or download it again")
        if known is not None:
            _, self.index, self.rotation = known
            return
        self.index = self._make_index()
        self.rotation = self._find_rotation()
        if cache is not None:
            disk.save(cache, self.path, self._packets.table, self.index, self.rotation)

    def _require_size(self, width: int, height: int) -> None:
        if max(width, height) > _LARGEST:
            raise VideoError(f"{self.path}: claims {width}x{height} pixels; it is damaged, copy it again")
        if width * height > self._limit:
            raise VideoError(
                f"{self.path}: has frames of {width}x{height} pixels, more than max_frame_pixels={self._limit} allows; "
                "raise the limit (in a configuration: data.max_frame_pixels) or scale the video down"
            )

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
        """Whether all packets are said to be key frames, and the second is none.

        So it is with H.263 in AVI, whose packets nobody looks into, and where an mp4 file lacks the table.
        """
        if len(self._packets.table) < 2 or not self._packets.table.key.all() or self.codec not in VECTOR_CODECS:
            return False
        return not all(f.key_frame for f in self._decode([0, 1], self._decoder(vectors=False, pixels=False)))

    def _index_by_decoding(self) -> FrameIndex | None:
        order: list[int] = []
        keys: list[int] = []
        count = len(self._packets.table)
        for frame in self._decode(range(count), self._decoder(vectors=False, pixels=False)):
            if frame.pts is not None and frame.pts not in order[-8:]:
                order.append(frame.pts)
                if frame.key_frame:
                    keys.append(frame.pts)
        return index_from_order(count, order, keys or order[:1])

    def _find_rotation(self) -> int:
        """Quarter turns, counter-clockwise, of the display matrix (it rides on the decoded frames)."""
        try:  # with the stream's own decoder: the matrix is the container's, so no other knows of it
            for frame in self._decode(self.index.packets(0, 0), self._template):
                return round(frame.rotation / 90) % 4
        finally:
            self._template.flush_buffers()
        return 0

    def _decoder(self, *, vectors: bool, pixels: bool) -> VideoCodecContext:
        context = av.CodecContext.create(self.codec, "r")
        assert isinstance(context, VideoCodecContext)
        context.extradata = self._template.extradata
        context.codec_tag = self._template.codec_tag
        # some decoders (WMV, FFV1) have no other way to know
        context.width, context.height = self.width, self.height
        _use_one_thread(context)
        # Damaged blocks repeat the frame before. FFmpeg's default guesses their vectors from pixels, so that
        # vectors would depend on whether the loop filter ran.
        options = {"ec": "favor_inter+deblock", "max_pixels": max_pixels(self._limit)}
        # The MPEG-1 and MPEG-2 decoders remember vectors only if they export them, and conceal damage by them.
        if vectors or self.codec in ("mpeg1video", "mpeg2video"):
            options["flags2"] = "+export_mvs"
        if not pixels:  # changes no vector, saves a fifth of H.264 and a ninth of MPEG-4
            options.update(skip_loop_filter="all", skip_idct="all")
        context.options = options
        return context

    def _decode(self, numbers: Sequence[int], decoder: VideoCodecContext) -> Generator[VideoFrame, None, None]:
        """Frames of the packets ``numbers``, in display order; a packet that does not decode gives none.

        The ``pts`` of a frame is the number of its packet.
        """
        for packet in itertools.chain(self._packets.read(numbers), [None]):
            try:
                frames = decoder.decode(packet)
            except av.error.EOFError:
                break
            except av.error.FFmpegError:
                self._refuse_large(packet, decoder)
                continue
            for frame in frames:
                assert isinstance(frame, VideoFrame)
                yield frame

    def _refuse_large(self, packet: av.Packet | None, decoder: VideoCodecContext) -> None:
        """Raise if a packet did not decode because its frame is too large."""
        size = decoder.width, decoder.height
        if 0 < size[0] * size[1] <= self._limit:
            return
        if not all(size):  # most decoders forget the size that they refuse, but log it
            size = claimed_size(lambda: self._decoder(vectors=False, pixels=False).decode(packet)) or (0, 0)
        self._require_size(*size)

    def frames(self, spans: Sequence[Span]) -> Iterator[DecodedFrame]:
        """See :class:`~coviar_mocrop.bitstream.types.Reader`."""
        with watched(self._source):
            for span in spans:
                yield from self._frames_of(span)

    def _frames_of(self, span: Span) -> Iterator[DecodedFrame]:
        first, last, vectors, pixels = span
        # A new decoder for each, because flushing leaves damaged headers behind, and a read must not depend on
        # others. For the same reason the decoder is given the packets of the whole GOP until the last frame has
        # come out: drained before, it may give frames of a damaged stream that it drops when it goes on.
        decoder = self._decoder(vectors=vectors, pixels=pixels)
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
                        f"{self.width}x{self.height}; transcode the video to one size"
                    )
                yield _Frame(number, frame, self, bool(self._packets.table.corrupt[frame.pts]))
            latest = number
            if number >= last:
                break
        decoded.close()

    def convert(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """The picture of a frame: see :meth:`~coviar_mocrop.bitstream.types.DecodedFrame.rgb`."""
        with watched(self._source, "has frames that cannot be converted to RGB ({})"):
            try:
                converted = self._reformatter.reformat(frame, format="rgb24", threads=1)
            except av.error.FFmpegError:  # a colour description that makes no sense, or that FFmpeg does not convert
                for name, value in _UNSPECIFIED.items():
                    setattr(frame, name, value)
                converted = self._reformatter.reformat(frame, format="rgb24", threads=1)
            plane = converted.planes[0]
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(converted.height, plane.line_size)
        rows.flags.writeable = False
        return rows

    def refuse_large_frames(self) -> None:
        """Decode the key frames alone; the size does not change elsewhere.

        Raises:
            VideoError: one of them is too large.
        """
        with watched(self._source):
            for _ in self._decode(self.index.key_packets.tolist(), self._decoder(vectors=False, pixels=False)):
                pass

    def close(self) -> None:
        """Free the file and its packets."""
        self._packets.close()
        self._opened.close()


class _Frame:
    """One of PyAV's frames; nothing is converted before it is asked for, and no picture twice."""

    __slots__ = ("_frame", "_reader", "_rgb", "is_b", "is_damaged", "number")

    def __init__(self, number: int, frame: VideoFrame, reader: PyavReader, corrupt: bool) -> None:
        self.number = number
        self.is_b = frame.pict_type == _B_PICTURE
        self.is_damaged = corrupt or frame.is_corrupt
        self._frame, self._reader = frame, reader
        self._rgb: NDArray[np.uint8] | None = None

    def vectors(self) -> NDArray[np.void]:
        # not frame.side_data: the frame would keep it, and it the frame, until the garbage collector comes by
        data: Any = SideDataContainer(self._frame)  # type: ignore[call-arg]
        try:
            return np.frombuffer(bytes(data[SideDataType.MOTION_VECTORS]), MOTION_VECTOR_DTYPE)
        except KeyError:
            return no_vectors()

    def rgb(self) -> NDArray[np.uint8]:
        if self._rgb is None:
            self._rgb = self._reader.convert(self._frame)
        return self._rgb


def _use_one_thread(context: VideoCodecContext) -> None:
    """Frame threads give wrong vectors; and any threads would be waited for in a fork, where they are not."""
    context.thread_type = "SLICE"
    context.thread_count = 1
