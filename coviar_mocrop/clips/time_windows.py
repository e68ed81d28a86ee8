"""A stream cut into windows of time that overlap, each of which is read like a clip."""

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
"""A window of a live source is complete if the next frame can only come this share of the shortest step between two
frames, or less, before its end: it need not wait for that frame."""
_SAME = 1e-6
"""Seconds by which times may differ through rounding."""


class TimeWindow(FrameSequence):
    """The frames of a window of stream time, kept in memory as the decoder gave them.

    Frame 0 is the first one in the window. The GOP that it lies in may start before, at a negative number.

    Attributes:
        start, end: seconds of stream time.
        missing_frames: number of frames that should have come in that time and did not.
        arrived: when its last frame came, ``time.monotonic()``.
        has_vectors: whether its frames can have motion vectors: the codec exports them, and one is no I-frame.
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
            stream: where the frames come from.
            kept: the frames, from the start of the GOP that holds the first one of the window.
            first: which of ``kept`` that is.
            start: of the window, seconds of stream time.
            end: likewise.
            following: the frame after the window, where that is known.
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
        """How many of the frames that are missing before the first one, and after the last one, lie in the window."""
        first, last, missing = self._frames[self._first], self._frames[-1], 0
        if first.missing and not first.broken:
            missing += min(first.missing, math.floor((first.time - self.start + _SAME) / first.step))
        if following is not None and following.missing:
            room = math.ceil((self.end - last.time - _SAME) / following.step) - 1
            missing += min(following.missing, max(room, 0))
        return missing

    @property
    def damaged_frames(self) -> int:
        """How many frames of the window, and of the GOP that it starts in, are damaged or follow damage."""
        return sum(frame.is_damaged for frame in self._frames)

    @property
    def frames(self) -> Sequence[StreamFrame]:
        """The frames of the window."""
        return self._frames[self._first :]

    def forget_rgb(self) -> None:
        """Free the pictures as RGB that were asked for; the frames as they were decoded take half the memory."""
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
        ConfigError: the stride is longer than the window, or one of them is not positive or has no end.
    """
    if not 0 < stride <= length < math.inf:
        raise ConfigError(
            f"windows of {length:g} s every {stride:g} s: give a stride above 0 s, and no longer than the window"
        )


class WindowCutter:
    """Cuts the frames of a stream into windows. Only the frames of the window that comes next are kept.

    Window k holds the frames from ``stream.start + k * stride`` up to, and without, ``length`` seconds later. It is
    given if it holds a frame that no window before it held. A break in the stream ends what came before like its end
    does, and windows are counted anew from there.
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
        self._covered = -math.inf  # up to where windows have been given

    @property
    def _start(self) -> float:
        return self._origin + self._number * self._stride

    def add(self, frame: StreamFrame) -> Iterator[TimeWindow]:
        """Take the next frame; give the windows that it completes."""
        if frame.broken:
            yield from self.finish()
            self._restart(frame.time)
        if frame.time >= self._start + self._length - _SAME:
            yield from self._cut(self._start + self._length, frame)
            # all frames are in that window: on to the first one that holds this frame
            self._number += max(int((frame.time + _SAME - self._start - self._length) // self._stride) + 1, 1)
            self._forget()
        self._kept.append(frame)
        following = frame.time + (1 + _EARLY) * frame.shortest_step
        if self._stream.is_live and following >= self._start + self._length:
            yield from self._cut(self._start + self._length)
            self._number += 1
            self._forget()

    def finish(self) -> Iterator[TimeWindow]:
        """Give what is left, a shorter window, if it holds frames that no window held."""
        if self._kept:
            yield from self._cut(min(self._start + self._length, self._kept[-1].time + self._kept[-1].step))

    def _cut(self, end: float, following: StreamFrame | None = None) -> Iterator[TimeWindow]:
        """The window that is due, if it holds anything new."""
        if not self._kept or self._kept[-1].time <= self._covered:
            return
        start = self._start
        # what came too late for a window that is closed goes into this one
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
        else:  # the next window has not begun: only the GOP that goes on is needed
            start = next((at for at in range(len(self._kept) - 1, -1, -1) if self._kept[at].starts_gop), 0)
        del self._kept[:start]


class _Numbered:
    """A frame by its number in the window."""

    __slots__ = ("is_b", "is_damaged", "number", "rgb", "vectors")

    def __init__(self, number: int, frame: StreamFrame) -> None:
        self.number = number
        self.is_b, self.is_damaged = frame.is_b, frame.is_damaged
        self.rgb, self.vectors = frame.rgb, frame.vectors
