"""Events in long video: from when to when a class was seen, from the probabilities of overlapping windows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coviar_mocrop.errors import ConfigError
from coviar_mocrop.inference.prediction import WindowPrediction

_TOUCHING = 1.5
"""Frames between two windows that still touch: a window may end with the time at which its last frame begins."""


@dataclass(frozen=True)
class Event:
    """A class that was seen for a time.

    Attributes:
        source: what the source is called; see :attr:`WindowPrediction.path`.
        name: of the class.
        start: seconds of stream time, of the first window in the event.
        end: seconds of stream time, of the last window in the event so far.
        peak: highest fused probability of its windows.
        peak_time: middle, in seconds of stream time, of the first window that reached it.
        ended: False when the event has just begun; ``end`` and the peak are final once it is True.
    """

    source: str
    name: str
    start: float
    end: float
    peak: float
    peak_time: float
    ended: bool = False

    def as_json(self) -> dict[str, Any]:
        """One line of the JSON output. The key ``event`` tells it from the line of a window."""
        return {
            "source": self.source,
            "event": "ended" if self.ended else "began",
            "class": self.name,
            "start": round(self.start, 3),
            "end": round(self.end, 3) if self.ended else None,
            "peak": round(self.peak, 6),
            "peak_time": round(self.peak_time, 3),
        }


@dataclass
class _Timeline:
    """One source: how far its windows reach, and the events under way by label."""

    start: float
    end: float
    under_way: dict[int, Event] = field(default_factory=dict)


class EventFinder:
    """Finds events with hysteresis, window by window.

    An event begins with the first window whose fused probability reaches ``threshold``, and ends with the last one
    before it falls below ``release``. An idle window counts as probability 0. An event also ends where no window
    covers the stream time, and where the time runs backwards.

    One finder serves several sources; their windows may come in any mixture.
    """

    def __init__(
        self, classes: Sequence[str], names: Sequence[str], threshold: float = 0.5, release: float = 0.3
    ) -> None:
        """Find nothing yet.

        Args:
            classes: the classes to look for.
            names: all class names, in the order of the labels.
            threshold: probability that begins an event, in (0, 1].
            release: probability below which an event ends, in (0, ``threshold``].

        Raises:
            ConfigError: there is no such class, or the probabilities are out of range.
        """
        if not 0 < release <= threshold <= 1:
            raise ConfigError(
                f"events: threshold {threshold:g}, release {release:g}: use 0 < release <= threshold <= 1"
            )
        self._labels = [_label(name, names) for name in dict.fromkeys(classes)]
        self._names = tuple(names)
        self._threshold, self._release = threshold, release
        self._timelines: dict[str, _Timeline] = {}

    def add(self, prediction: WindowPrediction) -> list[Event]:
        """Take the next window of its source.

        Returns:
            The events that ended before this window, then those that begin with it.
        """
        timeline = self._timelines.setdefault(prediction.path, _Timeline(prediction.start, prediction.end))
        frame = (prediction.end - prediction.start) / max(prediction.frames + prediction.missing_frames, 1)
        if prediction.start < timeline.start or prediction.start - timeline.end > _TOUCHING * frame:
            changes = self._end(timeline)
            timeline.end = prediction.end
        else:
            changes = []
            timeline.end = max(timeline.end, prediction.end)
        timeline.start = prediction.start
        shares = None if prediction.idle else prediction.probabilities["fused"]
        begun = []
        for label in self._labels:
            share = 0.0 if shares is None else float(shares[label])
            event = timeline.under_way.get(label)
            if event is not None and share < self._release:
                changes.append(replace(timeline.under_way.pop(label), ended=True))
            elif event is not None:
                timeline.under_way[label] = _extended(event, prediction, share)
            elif share >= self._threshold:
                middle = (prediction.start + prediction.end) / 2
                event = Event(prediction.path, self._names[label], prediction.start, prediction.end, share, middle)
                timeline.under_way[label] = event
                begun.append(event)
        return changes + begun

    def finish(self, source: str | None = None) -> list[Event]:
        """End the events under way of a source, or of all sources, because no window will follow."""
        sources = list(self._timelines) if source is None else [source]
        return [event for name in sources if name in self._timelines for event in self._end(self._timelines.pop(name))]

    @staticmethod
    def _end(timeline: _Timeline) -> list[Event]:
        ended = [replace(event, ended=True) for event in timeline.under_way.values()]
        timeline.under_way.clear()
        return ended


def _extended(event: Event, prediction: WindowPrediction, share: float) -> Event:
    longer = replace(event, end=max(event.end, prediction.end))
    if share <= event.peak:
        return longer
    return replace(longer, peak=share, peak_time=(prediction.start + prediction.end) / 2)


def _label(name: str, names: Sequence[str]) -> int:
    if name in names:
        return list(names).index(name)
    near = difflib.get_close_matches(name, names, 1)
    some = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    raise ConfigError(f"class {name!r} is unknown; " + (f"did you mean {near[0]}?" if near else f"choose from {some}"))
