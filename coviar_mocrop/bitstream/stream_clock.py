"""Compute stream time from time stamps that may jump, repeat, be missing or make no sense."""

from __future__ import annotations

import statistics
from collections import deque

_LOST = 1.75
"""If a step in time is longer than this many usual steps, frames are missing."""
_JUMP = 10.0
"""Seconds by which the clock of a live source may run ahead of the arrival of its frames; more is a jump."""
_SHORTEST = 0.001
"""Shortest sensible time between two frames, seconds."""
_NEAR = 0.01
"""Share of a jump by which the next time stamp may miss the time before it, to undo it: frames may be missing there."""
_JITTER = 0.5
"""Seconds by which a time stamp may go back; more is a jump."""
_RECENT, _ENOUGH = 15, 3
"""Number of recent steps whose median is the usual step, and the least number that is needed."""
_BAD, _TOO_BAD = 8, 24
"""A bad time stamp adds the first number to a count, and a good one takes off 1. From the second number on, time stamps
are not believed."""


class StreamClock:
    """Stream time, from time stamps or, without them, by counting frames. It never goes back.

    Attributes:
        time: time of the frame, seconds.
        step: usual time between two frames, seconds, from recent frames; at first from the frame rate.
        shortest_step: shortest recent time between two frames, seconds.
        missing: number of frames that are missing just before this one.
        broken: why the time does not continue that of the frames before; usually empty.
    """

    def __init__(self, start: float, frame_rate: float, *, is_live: bool) -> None:
        """The first frame has the time ``start``, whatever its time stamp says."""
        self.time, self.step, self.shortest_step = start, 1 / frame_rate, 1 / frame_rate
        self.missing, self.broken = 0, ""
        self._is_live, self._is_first = is_live, True
        self._offset: float | None = None  # stream time minus time stamp
        self._arrived = 0.0
        self._steps: deque[float] = deque(maxlen=_RECENT)
        self._badness, self._believes = 0, True
        self._doubted: float | None = None  # a time stamp far ahead, until the next one confirms it
        self._left: float | None = None  # the offset before a jump, until the next time stamp confirms the jump

    def advance(self, stamp: float | None, arrived: float) -> None:
        """Go on to the next frame.

        Args:
            stamp: its time stamp, seconds; None if it has none.
            arrived: when its packet arrived, ``time.monotonic()``.
        """
        waited, self._arrived = arrived - self._arrived, arrived
        self.missing, self.broken = 0, ""
        following = self.time if self._is_first else self.time + self.step
        self._is_first = False
        if stamp is None or self._offset is None:
            self.time = following
            self._offset = self._offset if stamp is None else following - stamp
            return
        if self._left is not None:
            gap = max(_LOST * self.step, min(_JUMP, _NEAR * abs(self._left - self._offset)))
            if _SHORTEST <= stamp + self._left - self.time < gap:
                self._offset = self._left  # no jump, but one damaged time stamp
        self._left = None
        step = stamp + self._offset - self.time
        is_good = step >= _SHORTEST and not (self._is_live and step > waited + _JUMP)
        self._badness = max(self._badness - 1, 0) if is_good else min(self._badness + _BAD, 2 * _TOO_BAD)
        before, self._doubted = self._doubted, None
        if self._believes and is_good and step > _JUMP and not (before is not None and 0 < stamp - before < _JUMP):
            self.time, self._doubted = following, stamp  # a recording that goes on later, or a damaged time stamp
        elif self._believes and is_good:
            self._go(step)
        elif self._believes and -_JITTER < step < _SHORTEST and self._badness < _TOO_BAD:
            self.time += _SHORTEST
        else:
            if self._believes:
                self._left = self._offset
                self.broken = f"the clock of the source jumps by {step - self.step:+.1f} s"
                if self._badness >= _TOO_BAD:
                    self._believes = False
                    self.broken = "its time stamps are invalid; frames are counted instead"
            self._believes = self._believes or not self._badness
            self._offset = following - stamp
            self.time = following

    def _go(self, step: float) -> None:
        if step > _LOST * self.step:
            self.missing = round(step / self.step) - 1
        self.time += step
        self._steps.append(step)
        if len(self._steps) >= _ENOUGH:
            self.step = statistics.median(self._steps)
            self.shortest_step = min(self._steps)
