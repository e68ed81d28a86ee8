"""The files that ``coviar watch`` writes while it runs: tables, timelines, annotated videos and TensorBoard runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coviar_mocrop.clips.time_windows import TimeWindow
from coviar_mocrop.inference.events import Event
from coviar_mocrop.inference.prediction import WindowPrediction
from coviar_mocrop.viz.pictures import save_figure
from coviar_mocrop.viz.timeline_recorder import TimelineRecorder
from coviar_mocrop.viz.window_table import CsvWriter

if TYPE_CHECKING:  # matplotlib and TensorBoard take time and memory
    from torch.utils.tensorboard import SummaryWriter

    from coviar_mocrop.viz.annotate import AnnotatedVideo

_DRAWN_EVERY = 60.0
"""Minimum time between two drawings of a live source's timeline, seconds."""
_FRAMES = 16
"""Number of frames kept for a timeline. When there are twice as many, every other one is dropped."""
_WIDTH = 240
"""Largest side of these frames, pixels."""


class WatchOutputs:
    """Writes the requested outputs of several sources. Memory does not grow with their length.

    Attributes:
        written: paths of the outputs. Timelines and videos are added by :meth:`close`.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        csv: Path | None = None,
        timelines: dict[str, Path] | None = None,
        frames: bool = True,
        videos: dict[str, Path] | None = None,
        tensorboard: Path | None = None,
    ) -> None:
        """Open the outputs that do not depend on the first window.

        Args:
            classes: class names, in the order of the labels.
            csv: path of a table of all windows. An existing table is continued.
            timelines: path of the timeline of each source, by name of the source.
            frames: whether timelines show frames.
            videos: path of the annotated video of each source, by name of the source.
            tensorboard: folder of a TensorBoard run.

        Raises:
            CoviarMocropError: a file cannot be written.
        """
        self._classes = classes
        self._open = ExitStack()
        self.written: list[Path] = []
        self._table: CsvWriter | None = None
        if csv is not None:
            self._table = CsvWriter(csv, classes)
            self._open.callback(self._table.close)
            self.written.append(csv)
        self._timelines = {
            name: _Timeline(path, TimelineRecorder(name, classes), frames) for name, path in (timelines or {}).items()
        }
        self._videos = {name: _Video(path) for name, path in (videos or {}).items()}
        self._board: SummaryWriter | None = None
        if tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(tensorboard))  # other files in the folder are kept
            self._open.callback(self._board.close)
            self.written.append(tensorboard)

    def add(self, prediction: WindowPrediction, window: TimeWindow, events: Sequence[Event] = ()) -> None:
        """Add the next window of a source.

        Args:
            prediction: prediction for the window.
            window: the window's frames.
            events: events that begin or end with the window.

        Raises:
            CoviarMocropError: a file cannot be written.
        """
        if self._table is not None:
            self._table.add(prediction)
        if timeline := self._timelines.get(prediction.path):
            timeline.add(prediction, window, events)
        if video := self._videos.get(prediction.path):
            video.add(prediction, window)
        if self._board is not None:
            self._add_scalars(self._board, prediction)

    def _add_scalars(self, board: SummaryWriter, prediction: WindowPrediction) -> None:
        at = {"global_step": round(1000 * prediction.end), "walltime": prediction.wall_time}  # milliseconds
        board.add_scalar(f"{prediction.path}/motion", prediction.motion, **at)
        board.add_scalar(f"{prediction.path}/latency", prediction.latency, **at)
        shares = np.zeros(len(self._classes)) if prediction.idle else prediction.probabilities["fused"]
        for name, share in zip(self._classes, shares.tolist(), strict=True):
            board.add_scalar(f"{prediction.path}/p({name})", share, **at)

    def close(self, events: Sequence[Event] = ()) -> None:
        """Finish all files.

        Args:
            events: events that were still in progress.

        Raises:
            CoviarMocropError: a file cannot be written. The other files are finished nevertheless.
        """
        for event in events:
            if timeline := self._timelines.get(event.source):
                timeline.recorder.add_event(event)
        writers: list[_Timeline | _Video] = [*self._timelines.values(), *self._videos.values()]
        with self._open:  # an ExitStack calls the remaining callbacks even if one fails
            for writer in reversed(writers):
                self._open.callback(self._finish, writer)

    def _finish(self, writer: _Timeline | _Video) -> None:
        if writer.close():
            self.written.append(writer.path)


class _Timeline:
    """The timeline of one source."""

    def __init__(self, path: Path, recorder: TimelineRecorder, frames: bool) -> None:
        self.path, self.recorder, self._frames = path, recorder, frames
        self._shown: list[tuple[float, NDArray[np.uint8]]] = []
        self._every = self._drawn = 0.0

    def add(self, prediction: WindowPrediction, window: TimeWindow, events: Sequence[Event]) -> None:
        self.recorder.add(prediction)
        for event in events:
            self.recorder.add_event(event)
        if self._frames and (not self._shown or prediction.start >= self._shown[-1][0] + self._every):
            self._shown.append((prediction.start, _small(window.get_frames_at([0])[0])))
            if len(self._shown) == 2 * _FRAMES:
                del self._shown[1::2]
                self._every = (self._shown[-1][0] - self._shown[0][0]) / (_FRAMES - 1)
        if prediction.wall_time is not None and time.monotonic() > self._drawn + _DRAWN_EVERY:
            self.close()

    def close(self) -> bool:
        """Draw the timeline. Returns False if there is no window to draw."""
        from coviar_mocrop.viz.timeline import timeline_figure

        self._drawn = time.monotonic()
        if self.recorder.windows:
            save_figure(timeline_figure(self.recorder, self._shown), self.path)
        return bool(self.recorder.windows)


class _Video:
    """The annotated video of one source. Each frame is written once, with the first window that it belongs to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: AnnotatedVideo | None = None
        self._until, self._start = -1.0, 0.0

    def add(self, prediction: WindowPrediction, window: TimeWindow) -> None:
        if self._writer is None:
            from coviar_mocrop.viz.annotate import AnnotatedVideo

            size = (window.info.width, window.info.height)
            self._writer = AnnotatedVideo(self.path, window.info.frame_rate, size).__enter__()
            self._start = window.frames[0].time
        for number, frame in enumerate(window.frames):
            if frame.time > self._until:
                self._writer.add(window.get_frames_at([number])[0], prediction, frame.time - self._start)
                self._until = frame.time

    def close(self) -> bool:
        """Finish the file. Returns False if there was no frame."""
        if self._writer is None:
            return False
        self._writer.__exit__(None, None, None)
        return True


def _small(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(picture)
    image.thumbnail((_WIDTH, _WIDTH))
    return np.asarray(image)
