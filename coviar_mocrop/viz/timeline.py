"""Draw a long video over time: classes, events, motion, box, and interruptions of the stream."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from numpy.typing import NDArray

from coviar_mocrop.errors import VideoError
from coviar_mocrop.messages import clock
from coviar_mocrop.viz.drawing import BOX_COLOUR
from coviar_mocrop.viz.timeline_recorder import TimelineRecorder

Shown = tuple[float, NDArray[np.uint8]]
"""The time of a frame, seconds, and the frame, uint8 [H, W, 3]."""

_CLASSES = 8
_THUMBNAILS = 8
_COLOURS = ("#1b7f5c", "#c2571a", "#3b6fb6", "#a23b72", "#7a7a1c", "#5b4ea8", "#2a8c94", "#8a5a3c")
_FAULTS = {
    "damaged": ("////", "#b03030", "frames"),
    "missing": ("\\\\\\\\", "#c2571a", "frames"),
    "dropped": ("xxxx", "#5b4ea8", "windows"),
    "nothing came": ("....", "#555555", ""),
}
"""Hatch, colour and unit of each fault."""
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, *(60 * n for n in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720)))
"""Possible distances between marks of the time axis, seconds; for longer videos, multiples of a day."""


def timeline_figure(recorder: TimelineRecorder, shown: Sequence[Shown] = ()) -> Figure:
    """Draw the timeline of one source.

    From top to bottom, it shows frames; a row for each of up to eight classes, first those with events (drawn as bars),
    then those with the highest peaks; motion, with the maximum in light and the mean in dark grey; the extent of the
    box; and times at which frames are damaged or missing, windows were dropped, or nothing arrived. Idle times are
    grey.

    Args:
        recorder: recorder with at least one window.
        shown: frames of the video. At most eight of them are drawn.

    Raises:
        VideoError: the recorder holds no window.
    """
    if not recorder.windows:
        raise VideoError(f"{recorder.source}: no window was classified, so there is no timeline to draw")
    cells = _Cells(recorder)
    peaks = recorder.probability.max(axis=0)
    has_events = [bool(seen.any()) for seen in recorder.seen.T]
    ranked = sorted(np.flatnonzero(peaks).tolist(), key=lambda label: (not has_events[label], -peaks[label]))
    labels, left_out = ranked[:_CLASSES], ranked[_CLASSES:]
    faults = cells.faults()
    boxes = "xy" if cells.sums["boxes"].any() else ""
    in_order = sorted(shown, key=lambda item: item[0])
    frames = [in_order[i] for i in np.unique(np.linspace(0, len(shown) - 1, min(len(shown), _THUMBNAILS)).astype(int))]

    page = _Page(frames, [*[0.55] * len(labels), 0.7, *[0.6] * len(boxes), *[0.22] * len(faults)])
    rows = iter(page.rows)
    for number, label in enumerate(labels):
        _draw_class(next(rows), recorder, label, cells, _COLOURS[number])
    _draw_motion(next(rows), recorder, cells)
    for side in boxes:
        _draw_box_side(next(rows), cells, side)
    for name, spans in faults.items():
        _draw_fault(next(rows), name, spans, float(cells.sums[name].sum()) if name in cells.sums else None)
    page.finish(float(cells.left[0]), float(cells.right[-1]), frames)
    footer = ""
    if left_out:
        footer = f"{len(left_out)} more classes are left out; their peaks reach {max(peaks[left_out]):.1%}"
    page.write(_title(recorder, cells), footer)
    return page.figure


class _Cells:
    """The bins of a recorder that hold windows. A cell reaches halfway to its neighbours.

    Attributes:
        bins: indices of the bins in the recorder, int64 [cells].
        sums: sums of the recorder for these bins, float64 [cells] by name.
        left: start of each cell, seconds, float64 [cells].
        right: end of each cell, seconds, float64 [cells]. It is the start of the next cell unless the stream is broken.
        broken: whether nothing arrived between a cell and the next one, bool [cells - 1].
    """

    def __init__(self, recorder: TimelineRecorder) -> None:
        self.bins = np.flatnonzero(recorder.sums["windows"])
        self.sums = {name: values[self.bins] for name, values in recorder.sums.items()}
        start, end = recorder.start[self.bins], recorder.end[self.bins]
        self._middle = np.maximum.accumulate((start + end) / 2)
        between = (self._middle[1:] + self._middle[:-1]) / 2
        self.broken = start[1:] - end[:-1] > 0.5 * np.median(end - start)
        self.left = np.append(start[0], np.where(self.broken, start[1:], between))
        self.right = np.append(np.where(self.broken, end[:-1], between), end[-1])

    def steps(self, values: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Convert values [cells] to the x and y of a step line, with NaN where the stream is broken."""
        x, y = np.stack([self.left, self.right], axis=1).ravel(), np.repeat(values, 2).astype(np.float64)
        at = np.flatnonzero(self.broken)
        return np.insert(x, 2 * at + 2, self.right[at]), np.insert(y, 2 * at + 2, np.nan)

    def spans(self, chosen: NDArray[np.bool_]) -> list[tuple[float, float]]:
        """The time spans (start, end), seconds, of the cells in ``chosen`` [cells]."""
        spans: list[tuple[float, float]] = []
        for left, right in zip(self.left[chosen].tolist(), self.right[chosen].tolist(), strict=True):
            begun = spans.pop()[0] if spans and spans[-1][1] == left else left
            spans.append((begun, right))
        return spans

    def idle(self) -> list[tuple[float, float]]:
        """The time spans (start, end), seconds, in which at least half of the windows are idle."""
        return self.spans(2 * self.sums["idle"] >= self.sums["windows"])

    def faults(self) -> dict[str, list[tuple[float, float]]]:
        """The time spans (start, end), seconds, of each fault that occurs."""
        found = {name: self.spans(self.sums[name] > 0) for name in ("damaged", "missing")}
        after = np.flatnonzero(self.sums["dropped"])  # reported by the window after the dropped ones
        before = np.append(self.left[0], self._middle)[after]
        found["dropped"] = list(zip(before.tolist(), self._middle[after].tolist(), strict=True))
        at = np.flatnonzero(self.broken)
        found["nothing came"] = list(zip(self.right[at].tolist(), self.left[at + 1].tolist(), strict=True))
        return {name: spans for name, spans in found.items() if spans}


class _Page:
    """A figure with frames, and below them rows of given heights (inches) with a common time axis."""

    _WIDTH, _LEFT, _RIGHT, _GAP, _HEAD, _FOOT = 12.0, 1.8, 0.95, 0.09, 0.45, 0.62

    def __init__(self, frames: Sequence[Shown], heights: Sequence[float]) -> None:
        aspects = [picture.shape[1] / picture.shape[0] for _, picture in frames]
        self._room = self._WIDTH - self._LEFT - self._RIGHT
        gap = 0.05
        high = min((self._room - gap * (len(frames) - 1)) / sum(aspects), 1.3) if frames else 0.0
        above = self._HEAD + (high + 0.5 if frames else 0.0)
        self._total = above + sum(heights) + self._GAP * (len(heights) - 1) + self._FOOT
        self.figure = Figure(figsize=(self._WIDTH, self._total), dpi=110)
        widths = [high * aspect for aspect in aspects]
        if len(frames) > 1:
            gap = (self._room - sum(widths)) / (len(frames) - 1)
        self._thumbnails = [
            self._axes(self._LEFT + sum(widths[:number]) + gap * number, self._HEAD, width, high)
            for number, width in enumerate(widths)
        ]
        tops = [above + sum(heights[:number]) + self._GAP * number for number in range(len(heights))]
        self.rows = [self._axes(self._LEFT, top, self._room, high) for top, high in zip(tops, heights, strict=True)]

    def _axes(self, left: float, top: float, width: float, height: float) -> Axes:
        place = left / self._WIDTH, 1 - (top + height) / self._total, width / self._WIDTH, height / self._total
        return self.figure.add_axes(place, xticks=[], yticks=[])

    def finish(self, start: float, end: float, frames: Sequence[Shown]) -> None:
        """Draw the time axis, and the frames with lines to their times."""
        places, names, unit = time_marks(start, end)
        for axis in self.rows:
            axis.set_xlim(start, end)
            axis.set_xticks(places, names if axis is self.rows[-1] else [""] * len(places))
            axis.tick_params(labelsize=8, length=3)
            axis.spines[["top", "right"]].set_visible(False)
        self.rows[-1].set_xlabel(unit, fontsize=8, labelpad=2)
        for axis, (time, picture) in zip(self._thumbnails, frames, strict=True):
            axis.imshow(picture, aspect="auto")
            axis.set_xlabel(clock(time), fontsize=8, labelpad=2)
            ends: dict[str, Any] = {"xyA": (0.5, -0.17), "coordsA": axis.transAxes, "xyB": (time, 1.0)}
            ends["coordsB"] = self.rows[0].get_xaxis_transform()
            self.figure.add_artist(ConnectionPatch(**ends, color="#888888", linewidth=0.7))

    def write(self, title: str, footer: str) -> None:
        """Write the title and the footer."""
        place: dict[str, Any] = {"x": 0.12 / self._WIDTH, "parse_math": False}
        self.figure.text(y=1 - 0.12 / self._total, s=title, fontsize=11, weight="bold", va="top", **place)
        self.figure.text(y=0.08 / self._total, s=footer, fontsize=8.5, color="#444444", va="bottom", **place)


def _draw_class(axis: Axes, recorder: TimelineRecorder, label: int, cells: _Cells, colour: str) -> None:
    x, y = cells.steps(recorder.probability[cells.bins, label])
    axis.fill_between(x, 0, y, color=colour, alpha=0.3, linewidth=0)
    axis.plot(x, y, color=colour, linewidth=0.9)
    name, peak = recorder.classes[label], float(recorder.probability[:, label].max())
    count = recorder.events[name]
    bounds = np.flatnonzero(np.diff(recorder.seen[:, label], prepend=False, append=False)) * recorder.bin_length
    _draw_spans(axis, bounds.reshape(-1, 2).tolist(), (0.85, 0.15), color=colour, linewidth=0.8)
    told = [f"up to {peak:.0%}"] + [f"{count:,} event{'s' * (count != 1)}"] * bool(len(bounds))
    _dress(axis, cells, name, "\n".join(told))
    axis.set_ylim(0, 1.3)
    axis.set_yticks([0, 0.5, 1], ["0", "", "1"])


def _draw_motion(axis: Axes, recorder: TimelineRecorder, cells: _Cells) -> None:
    highest, mean = recorder.motion[cells.bins], cells.sums["motion"] / cells.sums["windows"]
    x, y = cells.steps(highest)
    axis.fill_between(x, 0, y, color="#777777", alpha=0.4, linewidth=0)
    axis.plot(*cells.steps(mean), color="#333333", linewidth=0.9)
    _dress(axis, cells, "motion", f"up to {highest.max():.2g}")
    axis.set_ylim(0, max(1.1 * float(highest.max()), 1e-3))


def _draw_box_side(axis: Axes, cells: _Cells, side: str) -> None:
    boxes = cells.sums["boxes"]
    low, high = (np.where(boxes > 0, cells.sums[f"{side}{k}"] / np.maximum(boxes, 1), np.nan) for k in (0, 1))
    x, lower = cells.steps(low)
    upper = cells.steps(high)[1]
    axis.fill_between(x, lower, upper, color=BOX_COLOUR, alpha=0.4, linewidth=0)
    axis.plot(x, (lower + upper) / 2, color="#a87400", linewidth=0.9)
    across = side == "x"
    _dress(axis, cells, "box across" if across else "box down", "")
    axis.set_ylim((0, 1) if across else (1, 0))
    axis.set_yticks([0.1, 0.9], ["left", "right"] if across else ["top", "bottom"])
    axis.tick_params(axis="y", left=False)


def _draw_fault(axis: Axes, name: str, spans: Sequence[tuple[float, float]], count: float | None) -> None:
    hatch, colour, unit = _FAULTS[name]
    _draw_spans(axis, spans, (0.0, 1.0), facecolor="white", edgecolor=colour, hatch=hatch, linewidth=0.8)
    _dress(axis, None, name, "" if count is None else f"{count:,.0f} {unit}")


def _dress(axis: Axes, cells: _Cells | None, name: str, told: str) -> None:
    """Write the name of a row on the left and its numbers on the right, and shade idle times."""
    if cells:
        _draw_spans(axis, cells.idle(), (0.0, 1.0), color="#e2e2e2", linewidth=0, zorder=0)
    put: dict[str, Any] = {"va": "center", "transform": axis.transAxes, "parse_math": False}
    small = len(name) > 20
    wrapped = textwrap.fill(_shortened(name, 44), 24) if small else name
    axis.text(-0.038, 0.5, wrapped, ha="right", fontsize=7 if small else 8.5, **put)
    axis.text(1.008, 0.5, told, ha="left", fontsize=7.5, color="#444444", **put)


def _draw_spans(axis: Axes, spans: Sequence[Sequence[float]], place: tuple[float, float], **style: Any) -> None:
    """Draw time spans as bars. ``place`` is their bottom and height as fractions of the row."""
    bars = [(begun, ended - begun) for begun, ended in spans]
    axis.broken_barh(bars, place, transform=axis.get_xaxis_transform(), **style)


def time_marks(start: float, end: float, most: int = 12) -> tuple[list[float], list[str], str]:
    """Choose the marks of a time axis.

    Args:
        start: start of the axis, seconds.
        end: end of the axis, seconds.
        most: approximate largest number of marks.

    Returns:
        Positions in seconds, labels, and the unit of the labels.
    """
    span = end - start
    days = 86400 * max(int(np.ceil(span / most / 86400)), 1)
    step = next((step for step in _STEPS if span / step <= most), days)
    numbers = range(int(np.ceil(start / step - 1e-6)), int(np.floor(end / step + 1e-6)) + 1)
    places = [number * step for number in numbers]
    if span <= 120:
        return places, [f"{place:.{int(step < 1)}f}" for place in places], "s"
    if span <= 7200:
        return places, [f"{place // 60:.0f}:{place % 60:02.0f}" for place in places], "min:s"
    return places, [f"{place // 3600:.0f}:{place % 3600 // 60:02.0f}" for place in places], "h:min"


def _title(recorder: TimelineRecorder, cells: _Cells) -> str:
    source = recorder.source if "://" in recorder.source else Path(recorder.source).name
    windows, idle = recorder.windows, float(cells.sums["idle"].sum())
    events = sum(recorder.events.values())
    told = [f"{windows:,} window{'s' * (windows != 1)} in {clock(float(cells.right[-1] - cells.left[0]))}"]
    told += [f"{idle / windows:.0%} idle (grey)"] * bool(idle) + [f"{events:,} event{'s' * (events != 1)}"] * bool(
        events
    )
    return f"{_shortened(source, 60)}: {', '.join(told)}"


def _shortened(text: str, most: int) -> str:
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"
