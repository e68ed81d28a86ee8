"""The windows of a long video in bounded memory, for a picture of them; see :mod:`coviar_mocrop.viz.timeline`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.inference.events import Event
from coviar_mocrop.inference.prediction import WindowPrediction

_FINEST = 1 / 128
"""Seconds of a bin of a new recorder."""


class TimelineRecorder:
    """The windows of one source in a bounded number of bins of equal length.

    When a window ends behind the last bin, the bins are joined in pairs and are twice as long from then on. Joined
    bins keep the highest probability of every class, so no peak is lost.

    Times are at least 0.

    Attributes:
        source: what the source is called.
        classes: names, in the order of the labels.
        bin_length: seconds.
        probability: float32 [bins, classes], the highest fused one of the windows whose middle is in the bin.
        motion: float64 [bins], the highest of its windows.
        start, end: float64 [bins], seconds: from when to when the bin's windows reach.
        seen: bool [bins, classes], where there is an event.
        sums: float64 [bins] by name, over the bin's windows: ``windows``, ``idle`` (windows), ``motion``,
            ``damaged`` and ``missing`` (frames), ``dropped`` (windows), ``boxes`` (windows), ``x0`` to ``y1``.
        events: number of events by class.
    """

    def __init__(self, source: str, classes: Sequence[str], bins: int = 2048) -> None:
        """Record nothing yet. ``bins`` is even; by default, half of them are as many as a picture has columns."""
        self.source, self.classes = source, tuple(classes)
        self.bin_length = _FINEST
        self.probability = np.zeros((bins, len(self.classes)), np.float32)
        self.motion = np.zeros(bins)
        self.start, self.end = np.full(bins, np.inf), np.full(bins, -np.inf)
        self.seen = np.zeros((bins, len(self.classes)), bool)
        names = ("windows", "idle", "motion", "damaged", "missing", "dropped", "boxes", "x0", "y0", "x1", "y1")
        self.sums = {name: np.zeros(bins) for name in names}
        self.events = dict.fromkeys(self.classes, 0)
        self._joined: list[tuple[NDArray[Any], np.ufunc, float]] = [
            (self.start, np.minimum, np.inf),
            (self.end, np.maximum, -np.inf),
            *((values, np.maximum, 0) for values in (self.probability, self.motion, self.seen)),
            *((values, np.add, 0) for values in self.sums.values()),
        ]

    @property
    def windows(self) -> int:
        """How many there were."""
        return int(self.sums["windows"].sum())

    def add(self, prediction: WindowPrediction) -> None:
        """Record a window."""
        number = self._bin((prediction.start + prediction.end) / 2)
        self.start[number] = min(self.start[number], prediction.start)
        self.end[number] = max(self.end[number], prediction.end)
        self.motion[number] = max(self.motion[number], prediction.motion)
        if not prediction.idle:
            np.maximum(self.probability[number], prediction.probabilities["fused"], out=self.probability[number])
        values = {
            "windows": 1,
            "idle": prediction.idle,
            "motion": prediction.motion,
            "damaged": prediction.damaged_frames,
            "missing": prediction.missing_frames,
            "dropped": prediction.dropped,
        }
        if prediction.box is not None:
            values |= {"boxes": 1, **prediction.box._asdict()}
        for name, value in values.items():
            self.sums[name][number] += value

    def add_event(self, event: Event) -> None:
        """Record an event, or how far one under way has come. It is counted when it has ended."""
        self._bin(event.end)  # first, because it may join bins
        first, behind = self._bin(event.start), math.ceil(event.end / self.bin_length)
        self.seen[first : max(behind, first + 1), self.classes.index(event.name)] = True
        self.events[event.name] += event.ended

    def _bin(self, time: float) -> int:
        """The number of the bin that a time is in; the bins are joined until there is one."""
        bins = len(self.motion)
        while time >= bins * self.bin_length:
            for values, join, empty in self._joined:
                values[: bins // 2] = join(values[::2], values[1::2])
                values[bins // 2 :] = empty
            self.bin_length *= 2
        return int(time / self.bin_length)
