"""Print windows in a terminal: one line per window, or one line per source that is updated in place."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

from coviar_mocrop.inference.prediction import WindowPrediction
from coviar_mocrop.messages import clock, counted

_BAR = 20


class LiveTable:
    """Prints windows as they arrive.

    Attributes:
        updates: whether there is one line per source, which is updated in place.
    """

    def __init__(self, sources: Sequence[str], out: TextIO | None = None, *, update: bool | None = None) -> None:
        """Set up the table. Nothing is printed yet.

        Args:
            sources: names of the sources.
            out: where to print; None: standard output.
            update: whether to update the line of a source in place; None: if there are several sources and ``out`` is
                a terminal.
        """
        self._out = out or sys.stdout
        self._sources = list(dict.fromkeys(sources))
        self.updates = len(self._sources) > 1 and self._out.isatty() if update is None else update
        self._width = max(len(name) for name in self._sources) if len(self._sources) > 1 else 0
        self._lines = {name: f"{name:{self._width}}  no window yet" for name in self._sources}
        self._shown = False

    def add(self, prediction: WindowPrediction) -> None:
        """Print a window."""
        name = f"{prediction.path:{self._width}}  " if self._width else ""
        self._lines[prediction.path] = name + line_of(prediction)
        if self.updates:
            self._draw()
        else:
            print(self._lines[prediction.path], file=self._out, flush=True)

    def say(self, text: str) -> None:
        """Print a line above the table."""
        if self.updates and self._shown:
            self._out.write(f"\x1b[{len(self._sources)}F\x1b[J")
            self._shown = False
        print(text, file=self._out, flush=True)
        if self.updates:
            self._draw()

    def _draw(self) -> None:
        if self._shown:
            self._out.write(f"\x1b[{len(self._sources)}F")
        columns = shutil.get_terminal_size().columns - 1  # a line that wraps would take two, and the table move down
        for name in self._sources:
            self._out.write(f"\x1b[2K{self._lines[name][:columns]}\n")
        self._out.flush()
        self._shown = True


def line_of(prediction: WindowPrediction) -> str:
    """Format a window as one line: time span, best class and its probability, latency, and faults."""
    span = f"{clock(prediction.start):>7} to {clock(prediction.end):<7}"
    if prediction.idle:
        text = f"{'idle':{_BAR}}         "
    else:
        name, share = prediction.best(1)[0]
        text = f"{'█' * round(_BAR * share):{_BAR}}  {share:6.1%} {name}"
    faults = {
        "damaged frame": prediction.damaged_frames,
        "missing frame": prediction.missing_frames,
        "dropped window": prediction.dropped,
    }
    told = [counted(number, what) for what, number in faults.items() if number]
    late = f"  {prediction.latency:.2f} s late" if prediction.wall_time is not None else ""
    return f"{span}  {text}{late}" + (f"  ({', '.join(told)})" if told else "")
