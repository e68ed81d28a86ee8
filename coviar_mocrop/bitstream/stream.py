"""Packets in, frames out: a file of any length, a pipe or a camera, read once from front to back in flat memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import av
import av.error
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from coviar_mocrop.bitstream import h264
from coviar_mocrop.bitstream.addresses import Transport, open_source
from coviar_mocrop.bitstream.container import MAX_FRAME_PIXELS, watched
from coviar_mocrop.bitstream.decoding import VECTOR_CODECS, PyavFrame, StreamDecoding, use_one_thread
from coviar_mocrop.bitstream.index import UNTIMED_FORMATS
from coviar_mocrop.bitstream.types import Source
from coviar_mocrop.errors import VideoError

DEFAULT_RATE = 25.0
"""Frames per second where neither the container nor the codec says."""
TIMEOUT = 10.0
"""Seconds without data after which the connection to a server is given up."""
_LOST = 1.75
"""A step in time of more than so many frame durations means that frames are missing."""
_JUMP = 10.0
"""Seconds by which the clock of a live source may run ahead of its frames before that is called a jump."""
_KEPT = 64
"""Packets that may still give a frame."""
_WAIT_FOR_KEY = 300
"""Frames after which a stream without a whole key frame (intra refresh) is shown as it is."""


class _Sent(NamedTuple):
    """What is known of a packet that is in the decoder."""

    time: float | None
    is_key: bool
    is_hidden: bool
    is_damaged: bool
    arrived: float


class StreamFrame(PyavFrame):
    """One frame of a stream.

    Attributes:
        time: seconds of stream time; 0 is the first frame.
        arrived: when its packet came, ``time.monotonic()``.
        starts_gop: whether a GOP starts here, virtual ones included.
        missing: number of frames that are missing just before it.
        broken: why it does not continue what came before (a jump of the clock, another size); empty as a rule.
        size: height and width, coded orientation.
        is_damaged: whether it is damaged, or lies between damage or a loss and the next key frame.
    """

    __slots__ = ("arrived", "broken", "missing", "size", "starts_gop", "time")

    def __init__(self, number: int, frame: VideoFrame, decoding: StreamDecoding, sent: _Sent, now: _Clock) -> None:
        """Frame ``number``, of a packet that was ``sent``."""
        super().__init__(number, frame, decoding, sent.is_damaged)
        self.arrived = sent.arrived
        self.time, self.missing, self.broken = now.time, now.missing, now.broken
        self.starts_gop = False
        self.size = (frame.height, frame.width)


class VideoStream:
    """The frames of a source in display order, as they come.

    Attributes:
        path: what it was opened from, without a password.
        codec: FFmpeg's name of the decoder.
        frame_rate: frames per second, ``DEFAULT_RATE`` where nobody says.
        rotation: quarter turns counter-clockwise from coded to displayed pictures; known once a frame has come.
        reordered: whether there may be B-frames.
        is_live: whether the source goes on whether or not it is read.
        is_remote: whether it can break and come back.
        has_vectors: whether the codec exports motion vectors.
        start: stream time of the first frame, seconds.
    """

    def __init__(
        self,
        source: Source,
        *,
        anchor_every: int = 12,
        max_frame_pixels: int = MAX_FRAME_PIXELS,
        transport: Transport = "tcp",
        timeout: float = TIMEOUT,
        start: float = 0.0,
    ) -> None:
        """Open a source.

        Args:
            source: see :func:`~coviar_mocrop.bitstream.addresses.open_source`.
            anchor_every: GOPs longer than this are cut into virtual GOPs of this many frames.
            max_frame_pixels: frames of more pixels are refused before memory is allocated for them.
            transport: of RTSP.
            timeout: seconds without data after which a server is given up.
            start: stream time of the first frame, where a source is opened again.

        Raises:
            VideoError: it cannot be opened, or holds no video.
        """
        self._anchor_every, self._timeout, self.start = anchor_every, timeout, start
        opened = open_source(source, max_frame_pixels=max_frame_pixels, transport=transport, timeout=timeout)
        self._container, self.path, self.is_live, self.is_remote = opened
        try:
            stream = self._container.streams.best("video")
            context = None if stream is None else stream.codec_context
            if stream is None or not isinstance(context, VideoCodecContext):
                raise VideoError(f"{self.path}: holds no video stream that can be decoded")
            if not context.width or not context.height:
                raise VideoError(f"{self.path}: holds no video frame; check what it sends")
            use_one_thread(context)
            self._stream = stream
            self._decoding = StreamDecoding(self.path, context, max_frame_pixels)
            self._decoding.require_size(context.width, context.height)
        except VideoError:
            self._container.close()
            raise
        self.codec = context.codec.name
        self.has_vectors = self.codec in VECTOR_CODECS
        self.reordered = bool(context.has_b_frames)
        rate = stream.average_rate or stream.guessed_rate
        self.frame_rate = float(rate) if rate and 1 <= rate <= 1000 else DEFAULT_RATE
        self.rotation = 0
        self._timed = not set(self._container.format.name.split(",")) & UNTIMED_FORMATS
        self._length_size = h264.nal_length_size(context.extradata) if self.codec == "h264" else None

    def __iter__(self) -> Iterator[StreamFrame]:
        """The frames, from the first key frame on; once.

        Raises:
            VideoError: the connection broke, or a frame is larger than allowed.
        """
        try:
            yield from self._frames()
        except VideoError as error:
            if isinstance(error.__cause__, av.error.ExitError):
                raise VideoError(f"{self.path}: sent nothing for {self._timeout:g} s") from None
            raise

    def _frames(self) -> Iterator[StreamFrame]:
        cutter = _GopCutter(self._anchor_every)
        clock = _Clock(self.start, self.frame_rate, is_live=self.is_live)
        number, damaged, size = 0, False, (0, 0)
        for frame, sent in self._decode():
            if number == 0 and not sent.is_key and not cutter.tired():
                continue
            if number == 0:
                self.rotation = round(frame.rotation / 90) % 4
            clock.advance(sent.time, sent.arrived)
            shown = StreamFrame(number, frame, self._decoding, sent, clock)
            if number and shown.size != size:
                shown.broken = f"the frames change from {size[1]}x{size[0]} to {frame.width}x{frame.height} pixels"
            size = shown.size
            lost = self.is_live and shown.missing > 0
            damaged = shown.is_damaged or ((damaged or lost or number == 0) and not sent.is_key)
            shown.is_damaged = damaged
            shown.starts_gop = cutter.starts(sent.is_key or bool(shown.broken))
            yield shown
            number += 1

    def _decode(self) -> Iterator[tuple[VideoFrame, _Sent]]:
        """Frames in display order, each with what is known of its packet."""
        decoder = self._decoding.decoder(vectors=self.has_vectors, pixels=True)
        sent: dict[int, _Sent] = {}
        key: av.Packet | None = None
        failed = False
        with watched(self.path, "the connection broke ({})" if self.is_remote else "is damaged ({})"):
            for number, packet in enumerate(self._packets()):
                sent[number] = self._facts(packet)
                key = packet if sent[number].is_key else key
                packet.pts = packet.dts = number
                frames = self._decoding.decode(packet, decoder)
                failed = failed or frames is None
                for frame in frames or ():
                    if known := _claim(sent, frame):
                        yield frame, known._replace(is_damaged=known.is_damaged or failed)
                        failed = False
                for old in [old for old in sent if old < number - _KEPT]:
                    del sent[old]
        # these decoders export the vectors of a reference frame only when the next one pushes it out
        last = [key] if key is not None and self.reordered and self.codec != "h264" else []
        for left in (*last, None):
            for frame in self._decoding.decode(left, decoder) or ():
                if known := _claim(sent, frame):
                    yield frame, known

    def _packets(self) -> Iterator[av.Packet]:
        return (packet for packet in self._container.demux(self._stream) if packet.size)

    def _facts(self, packet: av.Packet) -> _Sent:
        key = packet.is_keyframe
        if key and self._length_size is not None:
            key = h264.is_whole(memoryview(packet), self._length_size)
        timed = self._timed and packet.pts is not None and packet.time_base is not None
        at = float(packet.pts * packet.time_base) if timed else None  # type: ignore[operator]
        return _Sent(at, key, packet.is_discard, packet.is_corrupt, time.monotonic())

    def close(self) -> None:
        """Free the source."""
        self._container.close()


def _claim(sent: dict[int, _Sent], frame: VideoFrame) -> _Sent | None:
    """What is known of the frame's packet; None for a frame that is hidden, or has come out before."""
    number = min(sent, default=None) if frame.pts is None else frame.pts
    known = None if number is None else sent.pop(number, None)
    return None if known is None or known.is_hidden else known


class _Clock:
    """Stream time: from the time stamps, or counted where there are none; it never goes back."""

    def __init__(self, start: float, frame_rate: float, *, is_live: bool) -> None:
        self._step, self._is_live = 1 / frame_rate, is_live
        self._first = True
        self._offset = self._arrived = 0.0
        self.time, self.missing, self.broken = start, 0, ""

    def advance(self, stamp: float | None, arrived: float) -> None:
        """Go on to the next frame, which has a time stamp in seconds, or none."""
        waited, self._arrived = arrived - self._arrived, arrived
        self.missing, self.broken = 0, ""
        if self._first:
            self._first = False
            self._offset = 0.0 if stamp is None else self.time - stamp
            return
        following = self.time + self._step
        if stamp is None:
            self.time = following
            return
        step = stamp + self._offset - self.time
        if step <= 0 or (self._is_live and step > waited + _JUMP):
            self.broken = f"the clock of the source jumps by {step - self._step:+.1f} s"
            self._offset = following - stamp
            step = self._step
        elif step > _LOST * self._step:
            self.missing = round(step / self._step) - 1
        self.time = stamp + self._offset


class _GopCutter:
    """Where GOPs start: at key frames, and every so many frames within longer ones."""

    def __init__(self, anchor_every: int) -> None:
        self._anchor_every = anchor_every
        self._since_key = self._waited = 0

    def tired(self) -> bool:
        """Whether a first key frame has been waited for too long."""
        self._waited += 1
        return self._waited > _WAIT_FOR_KEY

    def starts(self, is_key: bool) -> bool:
        """Whether the next frame is the first of a GOP."""
        self._since_key = 0 if is_key else self._since_key + 1
        return self._since_key % self._anchor_every == 0
