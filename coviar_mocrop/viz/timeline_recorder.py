"""Record the windows of a long video in bounded memory, to draw them with :mod:`coviar_mocrop.viz.timeline`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.inference.events import Event
from coviar_mocrop.inference.prediction import WindowPrediction

_FINEST = 1 / 128
"""Length of a bin of a new recorder, seconds."""


class TimelineRecorder:
    """The windows of one source in a fixed number of bins of equal length. Times must not be negative.

    When a window lies beyond the last bin, pairs of bins are merged, and all bins are twice as long from then on.
    Merged bins keep the highest probability of each class, so no peak is lost.

    Attributes:
        source: name of the source.
        classes: class names, in the order of the labels.
        bin_length: length of a bin, seconds.
        probability: highest fused probability of the windows whose middle lies in the bin, float32 [bins, classes].
        motion: highest motion of these windows, float64 [bins].
        start: start of the first of these windows, seconds, float64 [bins].
        end: end of the last of these windows, seconds, float64 [bins].
        seen: whether there is an event, bool [bins, classes].
        sums: sums over these windows, float64 [bins] by name: ``windows``, ``idle`` (windows), ``motion``, ``damaged``
            and ``missing`` (frames), ``dropped`` (windows), ``boxes`` (windows with a box), ``x0`` to ``y1``.
        events: number of events by class.
    """

    def __init__(self, source: str, classes: Sequence[str], bins: int = 2048) -> None:
        """Set up an empty recorder.

        Args:
            source: name of the source.
            classes: class names, in the order of the labels.
            bins: number of bins; even. After merging, half of them are in use. With the default, that is about one bin
                per pixel column of the figure.
        """
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
        """Number of windows recorded."""
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
        """Record an event, or the current extent of an event in progress. Events are counted when they have ended."""
        self._bin(event.end)  # first, because it may merge bins
        first, behind = self._bin(event.start), math.ceil(event.end / self.bin_length)
        self.seen[first : max(behind, first + 1), self.classes.index(event.name)] = True
        self.events[event.name] += event.ended

    def _bin(self, time: float) -> int:
        """The index of the bin for a time. Bins are merged until there is one."""
        bins = len(self.motion)
        while time >= bins * self.bin_length:
            for values, join, empty in self._joined:
                values[: bins // 2] = join(values[::2], values[1::2])
                values[bins // 2 :] = empty
            self.bin_length *= 2
        return int(time / self.bin_length)
