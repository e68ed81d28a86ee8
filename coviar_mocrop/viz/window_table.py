"""Write the windows of long videos to a CSV table, for spreadsheets and other programs."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from coviar_mocrop.errors import CoviarMocropError
from coviar_mocrop.files import require_writable
from coviar_mocrop.inference.prediction import WindowPrediction

_LONGEST = 1 << 20
"""Upper bound of the length of a line, bytes."""


class CsvWriter:
    """A CSV table with one row per window. Rows are in the file as soon as they are added.

    Columns: source, start, end (seconds of stream time), idle (0 or 1), motion, class, probability, ``p(NAME)`` for
    each class (fused), x0, y0, x1, y1 (fractions of the frame), frames, missing_frames, damaged_frames, dropped,
    latency (seconds). Values that an idle window lacks are empty.

    An existing table is continued. If its last line is incomplete because a program was killed, that line is removed.
    """

    def __init__(self, path: str | os.PathLike[str], classes: Sequence[str]) -> None:
        """Open the table.

        Args:
            path: path of the file.
            classes: class names, in the order of the labels.

        Raises:
            CoviarMocropError: the file cannot be written, or is not a table of windows with these classes.
        """
        self.path = Path(path)
        require_writable(self.path)
        box = ("x0", "y0", "x1", "y1")
        counts = ("frames", "missing_frames", "damaged_frames", "dropped", "latency")
        shares = (f"p({name})" for name in classes)
        columns = ["source", "start", "end", "idle", "motion", "class", "probability", *shares, *box, *counts]
        self._classes = len(classes)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            begun = _trim(self.path, _line(columns))
            self._file = open(self.path, "ab")  # noqa: SIM115 - closed by close()
            if not begun:
                self._write(columns)
        except OSError as error:
            raise self._failed(error) from error

    def add(self, prediction: WindowPrediction) -> None:
        """Write the row of a window.

        Raises:
            CoviarMocropError: the file cannot be written, for example because the disk is full.
        """
        idle, box = prediction.idle, prediction.box
        best = [("", None)] if idle else prediction.best(1)
        shares = [None] * self._classes if idle else prediction.probabilities["fused"].tolist()
        row = [
            prediction.path,
            f"{prediction.start:.3f}",
            f"{prediction.end:.3f}",
            int(idle),
            _fraction(prediction.motion),
            best[0][0],
            *map(_fraction, (best[0][1], *shares, *(box or [None] * 4))),
            prediction.frames,
            prediction.missing_frames,
            prediction.damaged_frames,
            prediction.dropped,
            f"{prediction.latency:.3f}",
        ]
        try:
            self._write(row)
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the file.

        Raises:
            CoviarMocropError: the file cannot be written, for example because the disk is full.
        """
        try:
            self._file.close()
        except OSError as error:  # closing tries to write what is still buffered
            raise self._failed(error) from error

    def _write(self, row: Sequence[object]) -> None:
        self._file.write(_line(row))
        self._file.flush()

    def _failed(self, error: OSError) -> CoviarMocropError:
        return CoviarMocropError(f"{self.path}: cannot be written ({error.strerror or error})")

    def __enter__(self) -> CsvWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _line(row: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue().encode()


def _fraction(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _trim(path: Path, head: bytes) -> bool:
    """Cut off the last line of a table if it is incomplete. Returns whether the file has the header ``head``."""
    if not path.exists():
        return False
    with open(path, "r+b") as file:
        first = file.readline()
        if first != head and (first.endswith(b"\n") or not head.startswith(first)):
            raise CoviarMocropError(f"{path}: is not a table of windows with these classes; choose another file")
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _LONGEST, 0))
        tail = file.read()
        file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)
    return first == head
