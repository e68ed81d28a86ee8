"""A stream cut into windows of time that overlap, each of which is read like a clip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream import Gop, VideoInfo
from coviar_mocrop.bitstream.frames import FrameSequence
from coviar_mocrop.bitstream.stream import StreamFrame, VideoStream
from coviar_mocrop.bitstream.types import DecodedFrame
from coviar_mocrop.errors import ConfigError

_EARLY = 0.25
"""A window is complete if the next frame can only come this share of a frame duration, or less, before its end."""
_SAME = 1e-6
"""Seconds by which times may differ through rounding."""


class TimeWindow(FrameSequence):
    """The frames of a window of stream time, kept in memory as the decoder gave them.

    Frame 0 is the first one in the window. The GOP that it lies in may start before, at a negative number.

    Attributes:
        start, end: seconds of stream time.
        missing_frames: number of frames that should have come between its first and its last one.
        arrived: when its last frame came, ``time.monotonic()``.
        has_vectors: whether the codec exports motion vectors.
    """

    def __init__(self, stream: VideoStream, kept: Sequence[StreamFrame], first: int, start: float, end: float) -> None:
        """A window of ``stream``.

        Args:
            stream: where the frames come from.
            kept: the frames, from the start of the GOP that holds the first one of the window.
            first: which of ``kept`` that is.
            start: of the window, seconds of stream time.
            end: likewise.
        """
        self.start, self.end = start, end
        self.arrived, self.has_vectors = kept[-1].arrived, stream.has_vectors
        self.missing_frames = sum(frame.missing for frame in kept[first + 1 :])
        self._frames, self._first = kept, first
        starts = [at for at, frame in enumerate(kept) if frame.starts_gop or at == 0]
        ends = [*starts[1:], len(kept)]
        height, width = kept[first].size if stream.rotation % 2 == 0 else kept[first].size[::-1]
        info = VideoInfo(
            codec=stream.codec,
            width=width,
            height=height,
            num_frames=len(kept) - first,
            frame_rate=stream.frame_rate,
            has_b_frames=stream.reordered,
            backend="pyav",
            rotation=stream.rotation,
        )
        gops = [Gop(at - first, until - at) for at, until in zip(starts, ends, strict=True)]
        super().__init__(stream.path, info, gops)

    @property
    def damaged_frames(self) -> int:
        """How many frames of the window, and of the GOP that it starts in, are damaged or follow damage."""
        return sum(frame.is_damaged for frame in self._frames)

    @property
    def frames(self) -> Sequence[StreamFrame]:
        """The frames of the window."""
        return self._frames[self._first :]

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


class WindowCutter:
    """Cuts the frames of a stream into windows. Only the frames of the window that comes next are kept."""

    def __init__(self, stream: VideoStream, length: float, stride: float) -> None:
        """Windows of ``length`` seconds, one every ``stride`` seconds.

        Raises:
            ConfigError: the stride is longer than the window, or one of them is not positive.
        """
        if not 0 < stride <= length:
            raise ConfigError(
                f"windows of {length:g} s every {stride:g} s: give a stride above 0 s, and no longer than the window"
            )
        self._stream, self._length, self._stride = stream, length, stride
        self._kept: list[StreamFrame] = []
        self._restart(stream.start)

    def _restart(self, origin: float) -> None:
        self._kept.clear()
        self._origin, self._number = origin, 0
        self._covered = -1.0  # up to where windows have been given

    @property
    def _start(self) -> float:
        return self._origin + self._number * self._stride

    def add(self, frame: StreamFrame) -> Iterator[TimeWindow]:
        """Take the next frame; give the windows that it completes."""
        if frame.broken:
            yield from self.finish()
            self._restart(frame.time)
        if frame.time >= self._start + self._length - _SAME:  # a gap
            yield from self._next()
            behind = int((frame.time + _SAME - self._start - self._length) // self._stride) + 1
            self._number += max(behind, 0)
            self._forget()
        self._kept.append(frame)
        step = 1 / self._stream.frame_rate
        while frame.time + step >= self._start + self._length - _EARLY * step:
            yield from self._next()

    def finish(self) -> Iterator[TimeWindow]:
        """Give what is left, a shorter window, if it holds frames that no window held."""
        if self._kept and self._kept[-1].time > self._covered:
            yield from self._cut(min(self._start + self._length, self._kept[-1].time + 1 / self._stream.frame_rate))

    def _next(self) -> Iterator[TimeWindow]:
        """The window that is due."""
        yield from self._cut(self._start + self._length)
        self._number += 1
        self._forget()

    def _cut(self, end: float) -> Iterator[TimeWindow]:
        start = self._start
        first = next((at for at, frame in enumerate(self._kept) if frame.time >= start - _SAME), len(self._kept))
        if first == len(self._kept):
            return
        self._covered = self._kept[-1].time
        lead = next((at for at in range(first, -1, -1) if self._kept[at].starts_gop), 0)
        yield TimeWindow(self._stream, self._kept[lead:], first - lead, start, end)

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
