"""Events: the same as by their definition, whatever comes."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coviar_mocrop.errors import ConfigError
from coviar_mocrop.inference.events import Event, EventFinder
from coviar_mocrop.inference.prediction import WindowPrediction

CLASSES = ("fall", "fight", "walk")


def window(
    start: float, shares: tuple[float, ...] | None, source: str = "camera", length: float = 2.0
) -> WindowPrediction:
    """A window at 10 frames a second; ``shares`` are the fused probabilities, None is an idle window."""
    scores = {} if shares is None else {"fused": np.log(np.maximum(shares, 1e-30)).astype(np.float32)}
    return WindowPrediction(
        path=source,
        classes=CLASSES,
        scores=scores,
        box=None,
        milliseconds={},
        seen={},
        iframes=[],
        damaged_frames=0,
        start=start,
        end=start + length,
        motion=0.1,
        idle=shares is None,
        frames=round(10 * length),
        missing_frames=0,
    )


def fights(*shares: float | None, stride: float = 1.0) -> list[WindowPrediction]:
    """Windows with these probabilities of a fight."""
    rows = [None if share is None else (1 - share, share, 0.0) for share in shares]
    return [window(number * stride, row) for number, row in enumerate(rows)]


def found(
    windows: list[WindowPrediction], threshold: float = 0.5, release: float = 0.3, classes: Sequence[str] = CLASSES
) -> list[Event]:
    """The events, when they have ended."""
    finder = EventFinder(classes, CLASSES, threshold, release)
    changes = [event for each in windows for event in finder.add(each)] + finder.finish()
    return [event for event in changes if event.ended]


class Step(NamedTuple):
    """How a window follows the one before: steps of a quarter of a second; up to 8 (2 s) they touch."""

    quarters: int
    shares: tuple[float, ...] | None


WEIGHTS = st.tuples(*[st.floats(0, 1)] * 3).filter(lambda row: sum(row) > 0.1)
SHARES = WEIGHTS.map(lambda row: tuple(value / sum(row) for value in row))
STEPS = st.lists(st.builds(Step, st.sampled_from([-4, 1, 2, 4, 8, 12, 40]), st.none() | SHARES), max_size=40)


def by_definition(windows: list[WindowPrediction], threshold: float, release: float) -> list[tuple[object, ...]]:
    """Every pair of a first and a last window is tried against the definition of an event."""
    events: list[tuple[object, ...]] = []
    count = len(windows)
    for label, name in enumerate(CLASSES):
        share = [0.0 if each.idle else float(each.probabilities["fused"][label]) for each in windows]
        ahead = [windows[k].start >= windows[k - 1].start for k in range(1, count)]
        # all windows have one length, so the one before reaches as far as any on the same time line
        joined = [ahead[k - 1] and windows[k].start <= windows[k - 1].end for k in range(1, count)]
        goes_on = [joined[k - 1] and share[k] >= release for k in range(1, count)]
        for first in range(count):
            for last in range(first, count):
                held = share[first] >= threshold and all(goes_on[first:last])
                closed = last == count - 1 or not goes_on[last]
                # an earlier window that could have begun it, with nothing that ends it in between
                begun = any(share[k] >= threshold and all(goes_on[k:first]) for k in range(first))
                if held and closed and not begun:
                    inside = range(first, last + 1)
                    top = max(inside, key=lambda k: share[k])
                    middle = (windows[top].start + windows[top].end) / 2
                    events.append((name, windows[first].start, windows[last].end, share[top], middle))
    return events


@given(steps=STEPS, bounds=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)))
def test_events_are_those_of_the_definition(steps: list[Step], bounds: tuple[float, float]) -> None:
    release, threshold = sorted(bounds)
    times = np.cumsum([100.0, *(step.quarters / 4 for step in steps)])[1:]
    windows = [window(float(time), step.shares) for time, step in zip(times, steps, strict=True)]
    events = found(windows, threshold, release)
    got = [(event.name, event.start, event.end, event.peak, event.peak_time) for event in events]
    assert sorted(got) == sorted(by_definition(windows, threshold, release))


@given(steps=STEPS)
def test_every_event_begins_once_and_ends_once(steps: list[Step]) -> None:
    finder, under_way = EventFinder(CLASSES, CLASSES, 0.4, 0.2), dict[str, Event]()
    time = 0.0
    for step in steps:
        time += step.quarters / 4
        for event in finder.add(window(time, step.shares)):
            if event.ended:
                begun = under_way.pop(event.name)
                assert begun.start == event.start and begun.end <= event.end and begun.peak <= event.peak
            else:
                assert event.name not in under_way and event.start == time and event.peak >= 0.4
                under_way[event.name] = event
    assert {event.name for event in finder.finish()} == set(under_way)
    assert finder.finish() == []


@given(first=STEPS, second=STEPS, order=st.randoms(use_true_random=False))
def test_sources_do_not_mix(first: list[Step], second: list[Step], order: random.Random) -> None:
    lists = []
    for source, steps in (("a", first), ("b", second)):
        times = np.cumsum([0.0, *(step.quarters / 4 for step in steps)])[1:]
        lists.append([window(float(time), step.shares, source) for time, step in zip(times, steps, strict=True)])
    apart = found(lists[0]) + found(lists[1])
    mixed, left = [], [list(reversed(each)) for each in lists]
    while any(left):
        mixed.append(order.choice([each for each in left if each]).pop())
    together = found(mixed)
    for source in "ab":
        assert [e for e in together if e.source == source] == [e for e in apart if e.source == source]


def test_between_the_two_bounds_an_event_goes_on_but_none_begins() -> None:
    (event,) = found(fights(0.45, 0.6, 0.45, 0.9, 0.31, 0.29, 0.45), classes=["fight"])
    assert (event.name, event.start, event.end, event.peak_time) == ("fight", 1.0, 6.0, 4.0)
    assert event.peak == pytest.approx(0.9)


def test_an_idle_window_ends_an_event() -> None:
    events = found(fights(0.8, 0.7, None, 0.8), classes=["fight"])
    assert [(event.start, event.end) for event in events] == [(0.0, 3.0), (3.0, 5.0)]


def test_windows_side_by_side_are_one_event_and_uncovered_time_divides_it() -> None:
    # as long as the windows; one frame more, because a window may end with the time at which its last frame begins
    for stride in (2.0, 2.1):
        assert len(found(fights(0.8, 0.8, stride=stride), classes=["fight"])) == 1
    assert len(found(fights(0.8, 0.8, stride=2.2), classes=["fight"])) == 2


def test_what_ended_comes_before_what_begins_and_a_source_ends_alone() -> None:
    finder = EventFinder(["fight"], CLASSES)
    first, _, second = fights(0.8, 0.8, 0.9, stride=5.0)
    assert [event.ended for event in finder.add(first)] == [False]
    assert [(event.ended, event.start) for event in finder.add(second)] == [(True, 0.0), (False, 10.0)]
    finder.add(window(3.0, (0.0, 1.0, 0.0), "door"))
    assert finder.finish("never seen") == []
    assert [(event.source, event.ended) for event in finder.finish("door")] == [("door", True)]
    assert [event.source for event in finder.finish()] == ["camera"]


def test_the_json_form_is_a_line_and_says_whether_the_event_is_over() -> None:
    finder = EventFinder(["fight", "fight"], CLASSES)
    (begun,) = finder.add(fights(0.75)[0])
    (ended,) = finder.finish()
    told = [json.loads(json.dumps(event.as_json())) for event in (begun, ended)]
    common = {"source": "camera", "class": "fight", "start": 0.0, "peak": 0.75, "peak_time": 1.0}
    assert told == [{"event": "began", "end": None, **common}, {"event": "ended", "end": 2.0, **common}]


def test_what_cannot_be_found_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"class 'figth' is unknown; did you mean fight\?"):
        EventFinder(["figth"], CLASSES)
    with pytest.raises(ConfigError, match="choose from fall, fight, walk"):
        EventFinder(["xyz"], CLASSES)
    with pytest.raises(ConfigError, match=r"c19, \.\.\. \(400 in all\)$"):
        EventFinder(["xyz"], [f"c{number}" for number in range(400)])
    for threshold, release in ((0.5, 0.6), (1.1, 0.3), (0.5, 0.0), (float("nan"), 0.3)):
        with pytest.raises(ConfigError, match="use 0 < release <= threshold <= 1"):
            EventFinder(["fight"], CLASSES, threshold, release)


def test_of_equal_peaks_the_first_counts() -> None:
    (event,) = found(fights(0.6, 0.8, 0.8), classes=["fight"])
    assert event.peak_time == 2.0


def test_frames_that_are_missing_do_not_make_the_others_last_longer() -> None:
    first, second = fights(0.8, 0.8, stride=2.3)
    lossy = replace(first, frames=5, missing_frames=15), replace(second, frames=5, missing_frames=15)
    assert len(found([*lossy], classes=["fight"])) == 2


def test_a_window_that_ends_before_the_one_before_it_takes_nothing_away() -> None:
    share = (0.2, 0.8, 0.0)
    windows = [window(0.0, share, length=4.0), window(1.0, share, length=2.0)]
    assert [event.end for event in found(windows, classes=["fight"])] == [4.0]
    assert len(found([*windows, window(3.5, share)], classes=["fight"])) == 1  # it is covered up to 4 s
