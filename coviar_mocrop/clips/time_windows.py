"""Cut a stream into overlapping windows of time, each of which is read like a clip."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream import Gop, VideoInfo
from coviar_mocrop.bitstream.frames import FrameSequence
from coviar_mocrop.bitstream.stream import StreamFrame, VideoStream
from coviar_mocrop.bitstream.transcoded_stream import TranscodedStream
from coviar_mocrop.bitstream.types import DecodedFrame
from coviar_mocrop.errors import ConfigError

_EARLY = 0.25
"""A window of a live source need not wait for the next frame if that can come at most this share of the shortest step
between two frames before the end of the window."""
_SAME = 1e-6
"""Seconds by which equal times may differ because of rounding."""


class TimeWindow(FrameSequence):
    """The frames of a window of stream time, kept in memory as the decoder gave them.

    Frame 0 is the first frame of the window. Its GOP may start before the window, at a negative frame number.

    Attributes:
        start, end: stream time, seconds.
        missing_frames: number of frames that should have arrived for the window but did not.
        arrived: when the last frame arrived, ``time.monotonic()``.
        has_vectors: whether there can be motion vectors: the codec exports them, and not all frames are I-frames.
    """

    def __init__(
        self,
        stream: VideoStream | TranscodedStream,
        kept: Sequence[StreamFrame],
        first: int,
        start: float,
        end: float,
        following: StreamFrame | None = None,
    ) -> None:
        """A window of ``stream``.

        Args:
            stream: the stream that the frames are from.
            kept: the frames, from the start of the GOP that holds the first frame of the window.
            first: index of the first frame of the window in ``kept``.
            start: start of the window in stream time, seconds.
            end: end of the window in stream time, seconds.
            following: the frame after the window, if known.
        """
        self.start, self.end = start, end
        self._frames, self._first = kept, first
        self.arrived = kept[-1].arrived
        self.has_vectors = stream.has_vectors and not all(frame.is_intra for frame in self.frames)
        self.missing_frames = sum(frame.missing for frame in kept[first + 1 :]) + self._missing_at_its_ends(following)
        starts = [at for at, frame in enumerate(kept) if frame.starts_gop or at == 0]
        ends = [*starts[1:], len(kept)]
        height, width = kept[first].size if stream.rotation % 2 == 0 else kept[first].size[::-1]
        info = VideoInfo(
            codec=stream.codec,
            width=width,
            height=height,
            num_frames=len(kept) - first,
            frame_rate=stream.frame_rate,
            has_b_frames=any(frame.is_b for frame in self.frames),
            backend="pyav",
            rotation=stream.rotation,
        )
        gops = [Gop(at - first, until - at) for at, until in zip(starts, ends, strict=True)]
        super().__init__(stream.path, info, gops)

    def _missing_at_its_ends(self, following: StreamFrame | None) -> int:
        """Number of frames of the window that are missing before its first frame and after its last one."""
        first, last, missing = self._frames[self._first], self._frames[-1], 0
        if first.missing and not first.broken:
            missing += min(first.missing, math.floor((first.time - self.start + _SAME) / first.step))
        if following is not None and following.missing:
            room = math.ceil((self.end - last.time - _SAME) / following.step) - 1
            missing += min(following.missing, max(room, 0))
        return missing

    @property
    def damaged_frames(self) -> int:
        """Number of frames, from the start of the window's first GOP on, that are damaged or follow damage."""
        return sum(frame.is_damaged for frame in self._frames)

    @property
    def frames(self) -> Sequence[StreamFrame]:
        """The frames of the window."""
        return self._frames[self._first :]

    def forget_rgb(self) -> None:
        """Free the RGB pictures of the frames. The decoded frames stay; they take half the memory."""
        for frame in self._frames:
            frame.forget_rgb()

    def raw_vectors(self) -> list[NDArray[np.void]]:
        """The motion vectors of every frame of the window, coded orientation."""
        return [frame.vectors() for frame in self.frames]

    def _decoded(self, wanted: Mapping[str, set[int]]) -> Iterator[DecodedFrame]:
        last: dict[Gop, int] = {}
        for number in sorted(set().union(*wanted.values())):
            last[self._gop_of(number)] = number
        for gop, until in last.items():
            for number in range(gop.start, until + 1):
                yield _Numbered(number, self._frames[number + self._first])


def require_lengths(length: float, stride: float) -> None:
    """Check the length of windows and the stride from one to the next, seconds.

    Raises:
        ConfigError: the stride is longer than the window, or one of them is not positive or not finite.
    """
    if not 0 < stride <= length < math.inf:
        raise ConfigError(
            f"windows of {length:g} s every {stride:g} s: give a stride above 0 s, and no longer than the window"
        )


class WindowCutter:
    """Cuts the frames of a stream into windows. Only the frames of the next window are kept.

    Window k holds the frames from ``stream.start + k * stride`` (included) to ``length`` seconds later (excluded). It
    is given if it holds a frame that no earlier window held. A break in the stream ends the frames before it like the
    end of the stream, and windows are counted again from there.
    """

    def __init__(self, stream: VideoStream | TranscodedStream, length: float, stride: float) -> None:
        """Windows of ``length`` seconds, one every ``stride`` seconds.

        Raises:
            ConfigError: see :func:`require_lengths`.
        """
        require_lengths(length, stride)
        self._stream, self._length, self._stride = stream, length, stride
        self._kept: list[StreamFrame] = []
        self._restart(stream.start)

    def _restart(self, origin: float) -> None:
        self._kept.clear()
        self._origin, self._number = origin, 0
        self._covered = -math.inf  # time of the last frame that a window has held

    @property
    def _start(self) -> float:
        return self._origin + self._number * self._stride

    def add(self, frame: StreamFrame) -> Iterator[TimeWindow]:
        """Add the next frame; give the windows that it completes."""
        if frame.broken:
            yield from self.finish()
            self._restart(frame.time)
        if frame.time >= self._start + self._length - _SAME:
            yield from self._cut(self._start + self._length, frame)
            # all frames before this one are in that window; go on to the first window that holds this one
            self._number += max(int((frame.time + _SAME - self._start - self._length) // self._stride) + 1, 1)
            self._forget()
        self._kept.append(frame)
        following = frame.time + (1 + _EARLY) * frame.shortest_step
        if self._stream.is_live and following >= self._start + self._length:
            yield from self._cut(self._start + self._length)
            self._number += 1
            self._forget()

    def finish(self) -> Iterator[TimeWindow]:
        """Give the frames that are left as a shorter window, if some of them were in no window."""
        if self._kept:
            yield from self._cut(min(self._start + self._length, self._kept[-1].time + self._kept[-1].step))

    def _cut(self, end: float, following: StreamFrame | None = None) -> Iterator[TimeWindow]:
        """Give the current window, if it holds a frame that no window held."""
        if not self._kept or self._kept[-1].time <= self._covered:
            return
        start = self._start
        # frames that came too late for an earlier window go into this one
        first = next(
            at for at, frame in enumerate(self._kept) if frame.time >= start - _SAME or frame.time > self._covered
        )
        self._covered = self._kept[-1].time
        lead = next((at for at in range(first, -1, -1) if self._kept[at].starts_gop), 0)
        yield TimeWindow(self._stream, self._kept[lead:], first - lead, start, end, following)

    def _forget(self) -> None:
        """Drop what comes before the GOP in which the next window starts."""
        start = 0
        for at, frame in enumerate(self._kept):
            if frame.starts_gop:
                start = at
            if frame.time >= self._start - _SAME:
                break
        else:  # the next window has not begun: only the current GOP is needed
            start = next((at for at in range(len(self._kept) - 1, -1, -1) if self._kept[at].starts_gop), 0)
        del self._kept[:start]


class _Numbered:
    """A frame with its number in the window."""

    __slots__ = ("is_b", "is_damaged", "number", "rgb", "vectors")

    def __init__(self, number: int, frame: StreamFrame) -> None:
        self.number = number
        self.is_b, self.is_damaged = frame.is_b, frame.is_damaged
        self.rgb, self.vectors = frame.rgb, frame.vectors
