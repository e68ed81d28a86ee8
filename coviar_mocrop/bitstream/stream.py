"""Read a source once from front to back: a file of any length, a pipe or a camera. Memory does not grow."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from typing import NamedTuple

import av
import av.error
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from coviar_mocrop.bitstream import h264
from coviar_mocrop.bitstream.addresses import PIPED, Transport, is_endless, open_source, scheme_of
from coviar_mocrop.bitstream.container import MAX_FRAME_PIXELS, max_pixels, watched
from coviar_mocrop.bitstream.decoding import (
    VECTOR_CODECS,
    PyavFrame,
    StreamDecoding,
    quarter_turns,
    use_one_thread,
)
from coviar_mocrop.bitstream.index import UNTIMED_FORMATS
from coviar_mocrop.bitstream.stream_clock import StreamClock
from coviar_mocrop.bitstream.types import Source
from coviar_mocrop.errors import VideoError
from coviar_mocrop.messages import redacted

DEFAULT_RATE = 25.0
"""Frames per second if neither the container nor the codec says."""
TIMEOUT = 10.0
"""Seconds without data after which the connection to a server is given up."""
_KEPT = 64
"""Number of latest packets that may still give a frame."""
_WAIT_FOR_KEY = 300
"""Number of frames after which a stream without a complete key frame (intra refresh) is used as it is."""
_UNDECODED, _AT_FIRST = 300, 3000
"""Number of packets without a frame after which a stream is given up. The second holds before the first frame."""
_FRAME_WEIGHS = 8
"""A frame cancels this many packets without a frame. It is not all of them, because packets of another codec sometimes
decode, too."""
_I_PICTURE = 1  # AV_PICTURE_TYPE_I


class _Sent(NamedTuple):
    """What is known of a packet that is in the decoder."""

    time: float | None
    is_key: bool
    is_refresh: bool
    is_hidden: bool
    is_damaged: bool
    follows_loss: bool
    arrived: float


class StreamFrame(PyavFrame):
    """One frame of a stream.

    Attributes:
        time: seconds of stream time; 0 is the first frame.
        arrived: when its packet arrived, ``time.monotonic()``.
        starts_gop: whether it is the first frame of a GOP, virtual or not.
        is_intra: whether it is coded without reference to other frames, so that it has no motion vectors.
        missing: number of frames that are missing just before it.
        step: usual time between two frames, seconds.
        shortest_step: shortest recent time between two frames, seconds.
        broken: why it does not continue the frames before (a jump of the clock, another size); usually empty.
        size: (height, width), pixels, coded orientation.
        is_damaged: whether it is damaged, or lies between damage or a loss and the next key frame.
    """

    __slots__ = (*("arrived", "broken", "is_intra", "missing", "shortest_step", "size", "starts_gop", "step", "time"),)

    def __init__(self, number: int, frame: VideoFrame, decoding: StreamDecoding, sent: _Sent, now: StreamClock) -> None:
        """Frame ``number``, of a packet that was ``sent``."""
        super().__init__(number, frame, decoding, sent.is_damaged)
        self.arrived = sent.arrived
        self.time, self.missing, self.broken = now.time, now.missing, now.broken
        self.step, self.shortest_step = now.step, now.shortest_step
        self.is_intra = frame.pict_type == _I_PICTURE
        self.starts_gop = False
        self.size = (frame.height, frame.width)


class VideoStream:
    """The frames of a source in display order, as they come.

    Attributes:
        path: name of the source, without a password.
        codec: FFmpeg's name of the decoder.
        frame_rate: frames per second; ``DEFAULT_RATE`` if the source does not say.
        rotation: quarter turns counter-clockwise from coded to displayed pictures; known once a frame has come.
        reordered: whether there may be B-frames.
        is_live: whether the source sends at its own pace, like a camera.
        is_remote: whether the source can break and be opened again.
        has_vectors: whether the codec exports motion vectors.
        start: stream time of the first frame, seconds; known once it has come.
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
        since: float | None = None,
        key_frames_only: bool = False,
    ) -> None:
        """Open a source.

        Args:
            source: see :func:`~coviar_mocrop.bitstream.addresses.open_source`.
            anchor_every: GOPs longer than this are cut into virtual GOPs of this many frames.
            max_frame_pixels: larger frames (width x height) are refused before memory is allocated for them.
            transport: transport of RTSP.
            timeout: seconds without data after which a server is given up.
            start: stream time of the first frame, seconds.
            since: for a source that is opened again, the time at which stream time was ``start``,
                ``time.monotonic()``. None: the first frame has the time ``start``.
            key_frames_only: decode only key frames. Other frames then do not belong to the stream and do not count as
                missing.

        Raises:
            VideoError: the source cannot be opened, or holds no video.
        """
        self._anchor_every, self._timeout, self.start, self._since = anchor_every, timeout, start, since
        opened = open_source(source, max_frame_pixels=max_frame_pixels, transport=transport, timeout=timeout)
        self._container, self.path = opened.container, opened.path
        self.is_live, self.is_remote = opened.is_live, opened.is_remote
        damaged = f"is damaged, or an MP4 ({{}}); {PIPED}" if is_endless(source) else "is damaged ({})"
        self._problem = "the connection broke ({})" if self.is_remote else damaged
        self._has_no_length = opened.is_live and scheme_of(source) in ("http", "https")
        try:
            stream = self._container.streams.best("video")
            context = None if stream is None else stream.codec_context
            if stream is None or not isinstance(context, VideoCodecContext):
                raise VideoError(f"{self.path}: holds no video stream that can be decoded")
            use_one_thread(context)
            context.options = {"max_pixels": max_pixels(max_frame_pixels)}  # it decodes the first key frame
            self._stream = stream
            self._decoding = StreamDecoding(self.path, context, max_frame_pixels)
            self._decoding.require_size(context.width, context.height)  # 0 x 0 before the first key frame of a camera
        except VideoError:
            self._container.close()
            raise
        self.codec = context.codec.name
        self._keys_only = key_frames_only
        self.has_vectors = self.codec in VECTOR_CODECS and not key_frames_only
        self.reordered = bool(context.has_b_frames)
        rate = stream.average_rate or stream.guessed_rate
        self.frame_rate = float(rate) if rate and 0.01 <= rate <= 1000 else DEFAULT_RATE
        self.rotation = 0
        self._template, self._stopped = context, False
        self._has_hidden_key = False  # whether an edit list hides a key frame, which the decoder then does not return
        self._timed = not set(self._container.format.name.split(",")) & UNTIMED_FORMATS
        self._length_size = h264.nal_length_size(context.extradata) if self.codec == "h264" else None

    def __iter__(self) -> Iterator[StreamFrame]:
        """Iterate over the frames, from the first key frame on. This can be done once.

        Raises:
            VideoError: the connection broke, the source holds no frame, or a frame is too large.
        """
        try:
            yield from self._frames()
        except VideoError as error:  # FFmpeg's own error holds the address with the password, so it is not chained
            if isinstance(error.__cause__, av.error.ExitError):
                raise VideoError(f"{self.path}: sent nothing for {self._timeout:g} s") from None
            raise VideoError(redacted(str(error))) from None

    def _frames(self) -> Iterator[StreamFrame]:
        cutter, damage = _GopCutter(self._anchor_every), _Damage()
        clock: StreamClock | None = None
        number, has_key, size = 0, False, (0, 0)
        for frame, sent in self._decode():
            has_key = has_key or sent.is_key or self._has_hidden_key
            if sent.is_hidden or (number == 0 and not has_key and not cutter.tired()):
                continue
            if clock is None:
                self.start += 0.0 if self._since is None else max(sent.arrived - self._since, 0.0)
                clock = StreamClock(self.start, self.frame_rate, is_live=self.is_live)
            clock.advance(sent.time, sent.arrived)
            clock.missing = 0 if self._keys_only else clock.missing
            shown = StreamFrame(number, frame, self._decoding, sent, clock)
            if number and shown.size != size:
                shown.broken = f"the frames change from {size[1]}x{size[0]} to {frame.width}x{frame.height} pixels"
            size = shown.size
            lost = sent.follows_loss or (number == 0 and not has_key) or (self.is_live and shown.missing > 0)
            shown.is_damaged = damage.shows(sent, itself=shown.is_damaged, lost=lost)
            shown.starts_gop = cutter.starts(number == 0 or sent.is_key or bool(shown.broken))
            yield shown
            number += 1
        if number == 0 and not self._stopped:
            raise VideoError(f"{self.path}: holds no video frame; check what it sends")

    def _decode(self) -> Iterator[tuple[VideoFrame, _Sent]]:
        """Decode the source: frames in display order, each with what is known of its packet."""
        decoder = self._decoding.decoder(vectors=self.has_vectors, pixels=True)
        sent: dict[int, _Sent] = {}
        key: av.Packet | None = None
        undecoded, patience = 0, _AT_FIRST
        failed = -1  # the last packet that does not decode, until a frame has come that may refer to it
        with watched(self.path, self._problem):
            for number, packet in enumerate(self._packets()):
                sent[number] = facts = self._facts(packet)
                packet.pts = packet.dts = number
                if facts.is_key:
                    self.rotation = self._rotation_of(packet) if key is None else self.rotation
                    key = packet
                    self._has_hidden_key = self._has_hidden_key or facts.is_hidden
                frames = self._decoding.decode(packet, decoder)
                undecoded = max(undecoded - _FRAME_WEIGHS, 0) if frames else undecoded + 1
                patience = _UNDECODED if frames else patience
                if undecoded > patience:
                    raise VideoError(f"{self.path}: nothing decodes any more; its codec has changed, or it is damaged")
                failed = number if frames is None else failed
                for frame in frames or ():
                    if known := _claim(sent, frame):
                        follows = 0 <= failed < (number if frame.pts is None else frame.pts)
                        yield frame, known._replace(follows_loss=follows)
                        failed = -1 if follows else failed
                for old in [old for old in sent if old < number - _KEPT]:
                    del sent[old]
        # these decoders export the vectors of a reference frame only when the next one pushes it out
        last = [key] if key is not None and self.reordered and self.codec != "h264" else []
        for left in (*last, None):
            for frame in self._decoding.decode(left, decoder) or ():
                if known := _claim(sent, frame):
                    yield frame, known

    def _packets(self) -> Iterator[av.Packet]:
        latest = time.monotonic()
        for packet in self._demuxed():  # packets of sound, too: they show that time passes without a picture
            if self._stopped:
                return
            if packet.stream_index == self._stream.index and packet.size:
                latest = time.monotonic()
                if packet.is_keyframe or not self._keys_only:
                    yield packet
                    latest = time.monotonic()
            elif self.is_live and time.monotonic() - latest > self._timeout:
                raise VideoError(f"{self.path}: sent no picture for {self._timeout:g} s")

    def _demuxed(self) -> Iterator[av.Packet]:
        try:
            yield from self._container.demux()
        except av.error.FFmpegError as error:
            # a server that does not say the length ends by closing the connection, which FFmpeg reports as an error
            if not self._has_no_length or error.errno != errno.EIO:
                raise

    def _rotation_of(self, key: av.Packet) -> int:
        """Quarter turns of the display matrix, which only the stream's own decoder knows."""
        for packet in (key, None):
            for frame in self._decoding.decode(packet, self._template) or ():
                return quarter_turns(frame)
        return 0

    def _facts(self, packet: av.Packet) -> _Sent:
        marked = packet.is_keyframe
        key = marked and (self._length_size is None or h264.is_whole(memoryview(packet), self._length_size))
        timed = self._timed and packet.pts is not None and packet.time_base is not None
        at = float(packet.pts * packet.time_base) if timed else None  # type: ignore[operator]
        return _Sent(at, key, marked and not key, packet.is_discard, packet.is_corrupt, False, time.monotonic())

    def stop(self) -> None:
        """End the iteration, from another thread, as soon as the source sends something or is given up."""
        self._stopped = True

    def close(self) -> None:
        """Close the source."""
        self._container.close()


def _claim(sent: dict[int, _Sent], frame: VideoFrame) -> _Sent | None:
    """What is known of the frame's packet; None if the frame has been returned before."""
    number = min(sent, default=None) if frame.pts is None else frame.pts
    return None if number is None else sent.pop(number, None)


class _Damage:
    """How long damage is visible: up to the next key frame, or until intra refresh has covered the picture once."""

    def __init__(self) -> None:
        self._shows, self._refreshes = False, 0

    def shows(self, sent: _Sent, *, itself: bool, lost: bool) -> bool:
        """Whether damage is visible in the next frame.

        Args:
            sent: what is known of its packet.
            itself: whether the frame is damaged itself.
            lost: whether frames before it are lost.
        """
        self._refreshes += sent.is_refresh
        if itself or (lost and not sent.is_key):
            self._shows, self._refreshes = True, 0
        elif sent.is_key or self._refreshes > 1:
            self._shows = False
        return self._shows


class _GopCutter:
    """Finds the first frames of GOPs: key frames, and every ``anchor_every`` frames in longer GOPs."""

    def __init__(self, anchor_every: int) -> None:
        self._anchor_every = anchor_every
        self._since_key = self._waited = 0

    def tired(self) -> bool:
        """Whether the wait for the first key frame has been too long."""
        self._waited += 1
        return self._waited > _WAIT_FOR_KEY

    def starts(self, is_key: bool) -> bool:
        """Whether the next frame is the first of a GOP."""
        self._since_key = 0 if is_key else self._since_key + 1
        return self._since_key % self._anchor_every == 0
