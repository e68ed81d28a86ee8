"""Transcode a stream to the canonical format as it comes, for cameras whose codec or size is not that of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import av
import av.error
import numpy as np
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from coviar_mocrop.bitstream.container import MAX_FRAME_PIXELS
from coviar_mocrop.bitstream.decoding import PyavFrame, StreamDecoding
from coviar_mocrop.bitstream.rotate import rotate_picture
from coviar_mocrop.bitstream.stream import StreamFrame, VideoStream
from coviar_mocrop.bitstream.transcode import ENCODERS, Codec, frame_rate_of, prepare_encoder
from coviar_mocrop.bitstream.types import picture_of
from coviar_mocrop.errors import VideoError
from coviar_mocrop.messages import reason_of

_Passed = tuple[VideoFrame, StreamDecoding, StreamFrame]
"""A transcoded frame, how it was decoded, and the original frame."""
_I_PICTURE = 1  # AV_PICTURE_TYPE_I


class TranscodedStream:
    """The frames of a stream, encoded and decoded again. It has the attributes of :class:`VideoStream`.

    Each frame keeps what is known of the original: its time, its damage, and the frames missing before it. A file gives
    the frames that :func:`~coviar_mocrop.bitstream.transcode` writes. A live source is encoded without look-ahead, so
    that no frame is delayed.
    """

    def __init__(self, stream: VideoStream, codec: Codec, size: tuple[int, int] | None, gop: int) -> None:
        """Prepare transcoding. Nothing is read yet.

        Args:
            stream: an open stream.
            codec: ``h264`` or ``mpeg4`` (Part 2).
            size: (width, height), pixels, as displayed; None: the size of the stream.
            gop: distance between key frames, in frames.
        """
        self._stream, self._size, self._gop = stream, size, gop
        self.path, self.frame_rate, self.codec = stream.path, stream.frame_rate, codec
        self.is_live, self.is_remote = stream.is_live, stream.is_remote
        self.rotation, self.reordered, self.has_vectors = 0, False, True

    @property
    def start(self) -> float:
        """See :class:`VideoStream`."""
        return self._stream.start

    def stop(self) -> None:
        """See :meth:`VideoStream.stop`."""
        self._stream.stop()

    def close(self) -> None:
        """See :meth:`VideoStream.close`."""
        self._stream.close()

    def __iter__(self) -> Iterator[StreamFrame]:
        """Iterate over the frames. This can be done once.

        Raises:
            VideoError: as for :class:`VideoStream`, or a frame cannot be encoded.
        """
        for number, (frame, decoding, origin) in enumerate(self._passed()):
            yield _TranscodedFrame(number, frame, decoding, origin)

    def _passed(self) -> Iterator[_Passed]:
        passage: _Passage | None = None
        for frame in self._stream:
            picture = rotate_picture(picture_of(frame.rgb(), frame.size[1]), self._stream.rotation)
            if passage is not None and frame.broken:
                yield from passage.finish()
                passage = None
            passage = passage or _Passage(self, self._size or picture.shape[1::-1], self._gop)
            yield from passage.send(np.ascontiguousarray(picture), frame)
        if passage is not None:
            yield from passage.finish()


class _TranscodedFrame(StreamFrame):
    """A transcoded frame, with what is known of the original."""

    __slots__ = ()

    def __init__(self, number: int, frame: VideoFrame, decoding: StreamDecoding, origin: StreamFrame) -> None:
        PyavFrame.__init__(self, number, frame, decoding, origin.is_damaged)
        for name in ("arrived", "broken", "missing", "shortest_step", "step", "time"):
            setattr(self, name, getattr(origin, name))
        self.is_intra = frame.pict_type == _I_PICTURE
        self.starts_gop = bool(frame.key_frame)
        self.size = (frame.height, frame.width)


class _Passage:
    """An encoder followed by a decoder."""

    def __init__(self, stream: TranscodedStream, size: tuple[int, int], gop: int) -> None:
        width, height = size[0] + size[0] % 2, size[1] + size[1] % 2
        self._rate = frame_rate_of(stream.frame_rate, stream.codec)
        self._size, self._path = (width, height), stream.path
        encoder = av.CodecContext.create(ENCODERS[stream.codec], "w")
        assert isinstance(encoder, VideoCodecContext)
        options = prepare_encoder(encoder, stream.codec, self._size, gop, live=stream.is_live)
        encoder.framerate, encoder.time_base, encoder.options = self._rate, 1 / self._rate, options
        encoder.flags |= Flags.global_header  # as in files; an MPEG-4 decoder looks there for the name of the encoder
        encoder.open()
        template = av.CodecContext.create(stream.codec, "r")
        assert isinstance(template, VideoCodecContext)
        template.width, template.height = width, height
        template.extradata = encoder.extradata
        self._encoder, self._decoding = encoder, StreamDecoding(stream.path, template, MAX_FRAME_PIXELS)
        self._decoder = self._decoding.decoder(vectors=True, pixels=True)
        self._reformatter = VideoReformatter()
        self._inside: dict[int, StreamFrame] = {}
        self._sent = 0

    def send(self, pixels: NDArray[np.uint8], origin: StreamFrame) -> Iterator[_Passed]:
        """Encode a picture; give the frames that come out of the decoder."""
        whole = VideoFrame.from_ndarray(pixels, format="rgb24")
        picture = self._reformatter.reformat(whole, *self._size, format="yuv420p", threads=1)
        picture.pts, picture.time_base, picture.pict_type = self._sent, 1 / self._rate, 0
        self._inside[self._sent] = origin
        self._sent += 1
        yield from self._decoded(self._encoded(picture))

    def finish(self) -> Iterator[_Passed]:
        """Give the frames that have not come out yet."""
        yield from self._decoded([*self._encoded(None), None])

    def _encoded(self, picture: VideoFrame | None) -> list[av.Packet]:
        try:
            return list(self._encoder.encode(picture))
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(f"{self._path}: cannot be encoded again ({reason_of(error)})") from None

    def _decoded(self, packets: Sequence[av.Packet | None]) -> Iterator[_Passed]:
        for packet in packets:
            for frame in self._decoding.decode(packet, self._decoder) or ():
                yield frame, self._decoding, self._inside.pop(int(frame.pts or 0))
