"""Decoders for one stream, packets through them, and pictures out of them: what all ways of reading share.

FFmpeg's frame threading returns wrong vectors for H.264 with B-frames, different from run to run, so a decoder here
always runs in one thread; parallelism comes from reading several videos at once.
"""

from __future__ import annotations

from typing import Any

import av
import av.error
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from coviar_mocrop.bitstream.container import claimed_size, max_pixels, name_of, watched
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
        path: of the video, for messages.
        codec: FFmpeg's name of the decoder.
        width, height: pixels, coded orientation, as the container says.
    """

    def __init__(self, source: Source, template: VideoCodecContext, max_frame_pixels: int) -> None:
        """Nothing is decoded yet.

        Args:
            source: what the stream is read from.
            template: the stream's own decoder; its parameters are copied.
            max_frame_pixels: larger frames are refused before memory is allocated for them.
        """
        self.path, self._source = name_of(source), source
        self.codec = template.codec.name
        self.width, self.height = template.width, template.height
        self._template, self._limit = template, max_frame_pixels
        # One converter for all frames, without threads: a converter with threads that outlives a fork (in a data
        # loading worker) waits for them for ever when it is freed.
        self._reformatter = VideoReformatter()

    def require_size(self, width: int, height: int) -> None:
        """Check the size of a frame.

        Raises:
            VideoError: it is too large.
        """
        if max(width, height) > _LARGEST:
            raise VideoError(f"{self.path}: claims {width}x{height} pixels; it is damaged, copy it again")
        if width * height > self._limit:
            raise VideoError(
                f"{self.path}: has frames of {width}x{height} pixels, more than max_frame_pixels={self._limit} allows; "
                "raise the limit (in a configuration: data.max_frame_pixels) or scale the video down"
            )

    def decoder(self, *, vectors: bool, pixels: bool) -> VideoCodecContext:
        """A new decoder: with motion vectors or without, with pictures worth looking at or without."""
        context = av.CodecContext.create(self.codec, "r")
        assert isinstance(context, VideoCodecContext)
        context.extradata = self._template.extradata
        context.codec_tag = self._template.codec_tag
        # some decoders (WMV, FFV1) have no other way to know
        context.width, context.height = self.width, self.height
        use_one_thread(context)
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
        """The frames that come out when a packet goes in, in display order; None if it does not decode.

        Args:
            packet: None drains the decoder.
            decoder: of :meth:`decoder`.

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


class PyavFrame:
    """One of PyAV's frames; nothing is converted before it is asked for, and no picture twice."""

    __slots__ = ("_decoding", "_frame", "_rgb", "is_b", "is_damaged", "number")

    def __init__(self, number: int, frame: VideoFrame, decoding: StreamDecoding, corrupt: bool) -> None:
        """Frame ``number`` of a video; ``corrupt``: whether the container says that its packet is."""
        self.number = number
        self.is_b = frame.pict_type == _B_PICTURE
        self.is_damaged = corrupt or frame.is_corrupt
        self._frame, self._decoding = frame, decoding
        self._rgb: NDArray[np.uint8] | None = None

    def vectors(self) -> NDArray[np.void]:
        """See :class:`~coviar_mocrop.bitstream.types.DecodedFrame`."""
        # not frame.side_data: the frame would keep it, and it the frame, until the garbage collector comes by
        data: Any = SideDataContainer(self._frame)  # type: ignore[call-arg]
        try:
            return np.frombuffer(bytes(data[SideDataType.MOTION_VECTORS]), MOTION_VECTOR_DTYPE)
        except KeyError:
            return no_vectors()

    def rgb(self) -> NDArray[np.uint8]:
        """See :class:`~coviar_mocrop.bitstream.types.DecodedFrame`."""
        if self._rgb is None:
            self._rgb = self._decoding.convert(self._frame)
        return self._rgb

    def forget_rgb(self) -> None:
        """Free the picture as RGB; it is converted again where it is wanted again."""
        self._rgb = None


def use_one_thread(context: VideoCodecContext) -> None:
    """Frame threads give wrong vectors; and any threads would be waited for in a fork, where they are not."""
    context.thread_type = "SLICE"
    context.thread_count = 1
