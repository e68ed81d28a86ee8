"""Decode packets to frames and convert them to RGB, for all ways of reading.

FFmpeg's frame threading returns wrong vectors for H.264 with B-frames, different from run to run. So a decoder here
always runs in one thread. Several videos are read in parallel instead.
"""

from __future__ import annotations

import math
from typing import Any

import av
import av.error
import numpy as np
from av.codec.context import Flags
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from coviar_mocrop.bitstream import h264
from coviar_mocrop.bitstream.container import claimed_size, max_pixels, name_of, watched
from coviar_mocrop.bitstream.rotate import moved
from coviar_mocrop.bitstream.types import MOTION_VECTOR_DTYPE, Source, no_vectors
from coviar_mocrop.errors import VideoError

VECTOR_CODECS = frozenset(
    {"h264", "mpeg4", "mpeg1video", "mpeg2video", "h263", "h263i", "h263p", "flv", "svq1"}
    | {"msmpeg4", "msmpeg4v1", "msmpeg4v2", "wmv1", "wmv2", "vc1", "wmv3"}
)
"""Decoders of FFmpeg that export motion vectors."""

_LARGEST = 16384  # what H.264's highest level allows; coordinates are 16 bit numbers
_B_PICTURE = 3  # AV_PICTURE_TYPE_B
_UNSPECIFIED = {"colorspace": 2, "color_range": 0}  # AVCOL_SPC_UNSPECIFIED, AVCOL_RANGE_UNSPECIFIED


class StreamDecoding:
    """How one video stream is decoded.

    Attributes:
        path: name of the video in error messages.
        codec: FFmpeg's name of the decoder.
        width, height: pixels, coded orientation, as the container says.
        offset: (left, top), pixels that the decoder crops, see :func:`~coviar_mocrop.bitstream.h264.crop_offset`.
    """

    def __init__(self, source: Source, template: VideoCodecContext, max_frame_pixels: int) -> None:
        """Prepare decoding.

        Args:
            source: what the stream is read from.
            template: the stream's own decoder; its parameters are copied.
            max_frame_pixels: larger frames are refused before memory is allocated for them.
        """
        self.path, self._source = name_of(source), source
        self.codec = template.codec.name
        self.width, self.height = template.width, template.height
        self.offset = h264.crop_offset(template.extradata) if self.codec == "h264" else (0, 0)
        self._template, self._limit = template, max_frame_pixels
        # One converter for all frames, without threads: a converter with threads that outlives a fork (in a data
        # loading worker) waits for them for ever when it is freed.
        self._reformatter = VideoReformatter()

    def require_size(self, width: int, height: int) -> None:
        """Check the size of a frame.

        Raises:
            VideoError: the frame is too large.
        """
        if max(width, height) > _LARGEST:
            raise VideoError(f"{self.path}: claims {width}x{height} pixels; it is damaged, copy it again")
        if width * height > self._limit:
            raise VideoError(
                f"{self.path}: has frames of {width}x{height} pixels, more than max_frame_pixels={self._limit} allows; "
                "raise the limit (in a configuration: data.max_frame_pixels) or scale the video down"
            )

    def decoder(self, *, vectors: bool, pixels: bool) -> VideoCodecContext:
        """Make a new decoder.

        Args:
            vectors: whether it exports motion vectors.
            pixels: whether its pictures are used. If not, steps that only affect pixels are skipped.
        """
        context = av.CodecContext.create(self.codec, "r")
        assert isinstance(context, VideoCodecContext)
        context.extradata = self._template.extradata
        context.codec_tag = self._template.codec_tag
        # some decoders (WMV, FFV1) cannot know the size otherwise
        context.width, context.height = self.width, self.height
        use_one_thread(context)
        context.flags |= Flags.unaligned  # crop on the left as the stream says, not only by multiples of 64 bytes
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

    def decode(self, packet: av.Packet | None, decoder: VideoCodecContext) -> list[VideoFrame] | None:
        """Decode a packet; return the frames that come out, in display order, or None if it does not decode.

        Args:
            packet: None drains the decoder.
            decoder: made by :meth:`decoder`.

        Raises:
            VideoError: the frame is too large.
        """
        try:
            return [frame for frame in decoder.decode(packet) if isinstance(frame, VideoFrame)]
        except av.error.EOFError:
            return []
        except av.error.FFmpegError:
            self._refuse_large(packet, decoder)
            return None

    def _refuse_large(self, packet: av.Packet | None, decoder: VideoCodecContext) -> None:
        """Raise if a packet did not decode because its frame is too large."""
        size = decoder.width, decoder.height
        if 0 < size[0] * size[1] <= self._limit:
            return
        if not all(size):  # most decoders forget the size that they refuse, but log it
            size = claimed_size(lambda: self.decoder(vectors=False, pixels=False).decode(packet)) or (0, 0)
        self.require_size(*size)

    def convert(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Convert a frame to RGB, as :meth:`~coviar_mocrop.bitstream.types.DecodedFrame.rgb` returns it."""
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


class PyavFrame:
    """A frame decoded by PyAV. It is converted to RGB when that is first asked for."""

    __slots__ = ("_decoding", "_frame", "_rgb", "is_b", "is_damaged", "number")

    def __init__(self, number: int, frame: VideoFrame, decoding: StreamDecoding, corrupt: bool) -> None:
        """Frame ``number`` of a video. ``corrupt`` says whether the container marks its packet as damaged."""
        self.number = number
        self.is_b = frame.pict_type == _B_PICTURE
        self.is_damaged = corrupt or frame.is_corrupt
        self._frame, self._decoding = frame, decoding
        self._rgb: NDArray[np.uint8] | None = None

    def vectors(self) -> NDArray[np.void]:
        """See :class:`~coviar_mocrop.bitstream.types.DecodedFrame`."""
        # not frame.side_data: it and the frame would refer to each other and wait for the garbage collector
        data: Any = SideDataContainer(self._frame)  # type: ignore[call-arg]
        try:
            vectors = np.frombuffer(bytes(data[SideDataType.MOTION_VECTORS]), MOTION_VECTOR_DTYPE)
        except KeyError:
            return no_vectors()
        left, top = self._decoding.offset
        return moved(vectors, -left, -top) if left or top else vectors

    def rgb(self) -> NDArray[np.uint8]:
        """See :class:`~coviar_mocrop.bitstream.types.DecodedFrame`."""
        if self._rgb is None:
            self._rgb = self._decoding.convert(self._frame)
        return self._rgb

    def forget_rgb(self) -> None:
        """Free the RGB picture. It is converted again if it is asked for again."""
        self._rgb = None


def quarter_turns(frame: VideoFrame) -> int:
    """Quarter turns, counter-clockwise, that the display matrix of a frame asks for, 0 to 3.

    Mirroring is left out: the picture of a mirrored video is upright, but not mirrored.
    """
    turned = round(frame.rotation / 90) % 4
    data: Any = SideDataContainer(frame)  # type: ignore[call-arg]
    try:
        a, b, _, c, d, *_ = np.frombuffer(bytes(data[SideDataType.DISPLAYMATRIX]), np.int32).astype(float)
    except KeyError:
        return turned
    # a matrix that mirrors is one that turns, after left and right have been exchanged
    return turned if a * d - b * c >= 0 else round(-math.degrees(math.atan2(b, -a)) / 90) % 4


def use_one_thread(context: VideoCodecContext) -> None:
    """Let a decoder run in one thread.

    Frame threads give wrong vectors. Threads of any kind do not survive a fork, and the child would wait for them.
    """
    context.thread_type = "SLICE"
    context.thread_count = 1
