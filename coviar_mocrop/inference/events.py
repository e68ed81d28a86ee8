"""Events in long videos: when a class begins and ends, from the probabilities of overlapping windows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coviar_mocrop.errors import ConfigError
from coviar_mocrop.inference.prediction import WindowPrediction

_TOUCHING = 1.5
"""Largest gap between two windows without a break, frames. A window may end at the start of its last frame."""


@dataclass(frozen=True)
class Event:
    """A time span in which a class was recognised.

    Attributes:
        source: name of the source; see :attr:`WindowPrediction.path`.
        name: name of the class.
        start: start of the first window of the event, seconds of stream time.
        end: end of the last window of the event so far, seconds of stream time.
        peak: highest fused probability in its windows so far.
        peak_time: middle of the first window with this probability, seconds of stream time.
        ended: whether the event has ended. Until then, ``end``, ``peak`` and ``peak_time`` can change.
    """

    source: str
    name: str
    start: float
    end: float
    peak: float
    peak_time: float
    ended: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints for an event. Only lines of events have the key ``event``."""
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
    """One source: start of its last window, end of its windows so far, and events in progress by label."""

    start: float
    end: float
    under_way: dict[int, Event] = field(default_factory=dict)


class EventFinder:
    """Finds events window by window, with hysteresis.

    An event begins with the first window whose fused probability reaches ``threshold``, and ends with the last window
    before it falls below ``release``. An idle window counts as probability 0. An event also ends at a gap between
    windows, and when stream time goes backwards.

    One finder can serve several sources, whose windows may arrive in any order relative to each other.
    """

    def __init__(
        self, classes: Sequence[str], names: Sequence[str], threshold: float = 0.5, release: float = 0.3
    ) -> None:
        """Set up the finder.

        Args:
            classes: classes to look for.
            names: all class names, in the order of the labels.
            threshold: probability from which on an event begins, in (0, 1].
            release: probability below which an event ends, in (0, ``threshold``].

        Raises:
            ConfigError: a class is unknown, or the probabilities are out of range.
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
        """Add the next window of its source.

        Returns:
            Events that ended before this window, then events that begin with it.
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
        """End the events in progress, because no further window will follow.

        Args:
            source: name of the source; None: all sources.

        Returns:
            The events, now ended.
        """
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
