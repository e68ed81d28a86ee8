"""Several sources at once: each is read by a thread of its own, and their windows go through one set of networks.

Files and pipes wait for the networks. Live sources do not: where computing is slower than they are, their oldest
windows are left out and counted, so that what is said is never old.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from coviar_mocrop.bitstream.addresses import Transport, is_endless, source_name
from coviar_mocrop.bitstream.remote import is_address
from coviar_mocrop.bitstream.stream import TIMEOUT, VideoStream
from coviar_mocrop.bitstream.types import Source
from coviar_mocrop.clips.time_windows import TimeWindow, WindowCutter
from coviar_mocrop.errors import ConfigError, NoMotionVectorsError, VideoError
from coviar_mocrop.inference.prediction import WindowPrediction
from coviar_mocrop.inference.predictor import Predictor
from coviar_mocrop.mocrop import MoCropSettings
from coviar_mocrop.mocrop.density import motion_level

GATE = 0.002
"""Default of the gate; see :func:`~coviar_mocrop.mocrop.density.motion_level`."""
_WAITING = 2
"""Windows of a source that may wait for the networks."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a source that broke is opened again; doubled every time in vain."""
_STALLED = 10.0
"""Seconds without a frame after which that is said."""
logger = logging.getLogger(__name__)


class Notice(NamedTuple):
    """Something that happened to a source: a break, a reconnection, a stall."""

    source: str
    text: str


@dataclass(frozen=True)
class StreamOptions:
    """How sources are read.

    Attributes:
        window, stride: seconds.
        live: whether windows may be left out; None: of cameras, and of servers that send without end.
        transport: of RTSP.
        timeout: seconds without data after which a server is given up.
        reconnect: whether a live source that breaks is opened again.
    """

    window: float = 2.0
    stride: float = 1.0
    live: bool | None = None
    transport: Transport = "tcp"
    timeout: float = TIMEOUT
    reconnect: bool = True


class _Waiting(NamedTuple):
    """A window that waits for the networks, and how many before it were left out."""

    window: TimeWindow
    dropped: int


class SourceReader(threading.Thread):
    """Reads one source and cuts it into windows.

    Attributes:
        name: of the source, without a password.
        error: why it could not be opened, or has ended; None while all is well.
        opened: whether it has ever been open.
        is_live: see :class:`StreamOptions`.
        done: whether it has ended for good; what is ``ready`` may still be taken.
        ready: windows that wait for the networks.
    """

    def __init__(
        self, source: Source, predictor: Predictor, options: StreamOptions, changed: threading.Condition
    ) -> None:
        """Start with ``start()``; ``changed`` is told of every window."""
        super().__init__(daemon=True, name=source_name(source))
        data = predictor.data
        self._source, self._options, self._changed = source, options, changed
        assert data.anchor_every is not None
        self._how = {"anchor_every": data.anchor_every, "max_frame_pixels": data.max_frame_pixels}
        self._may_return = options.reconnect and (is_endless(source) or is_address(source)) and source != "-"
        self.ready: deque[_Waiting] = deque()
        self.notices: deque[Notice] = deque()
        self.error: VideoError | None = None
        self.opened = self.done = False
        self.is_live = bool(options.live)
        self._frames = self._dropped = 0
        self._time, self._arrived = 0.0, time.monotonic()
        self._silent = False
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ask it to end."""
        self._stopped.set()

    def take_notices(self) -> list[Notice]:
        """What has happened since the last call, a stall included."""
        silent = time.monotonic() - self._arrived
        if self.opened and not (self.done or self._silent or self.ready) and silent > _STALLED:
            self._silent = True
            self._tell(f"no frame has come for {silent:.0f} s")
        elif self._silent and silent < 1:
            self._silent = False
            self._tell("frames come again")
        told = list(self.notices)
        self.notices.clear()
        return told

    def run(self) -> None:
        """Read until the source ends for good, or :meth:`stop`."""
        try:
            self._run()
        finally:
            with self._changed:
                self.done = True
                self._changed.notify_all()

    def _run(self) -> None:
        pause, stream_time, lost = _FIRST_PAUSE, 0.0, 0.0
        while not self._stopped.is_set():
            problem: VideoError | None = None
            before = self._frames
            if lost:
                stream_time += time.monotonic() - lost
            try:
                stream_time = self._read(stream_time, lost)
            except VideoError as error:
                problem, stream_time = error, max(stream_time, self._time)
            except Exception as error:  # whatever it is, the others go on
                problem = VideoError(f"{self.name}: {type(error).__name__}: {error}")
                logger.debug("reading %s", self.name, exc_info=True)
            with self._changed:
                self.error = problem
                self._changed.notify_all()
            if self._stopped.is_set() or not (self._may_return and (self.is_live or problem)):
                return
            if self._frames > before:
                pause = _FIRST_PAUSE
            lost = time.monotonic()
            why = "the source ended" if problem is None else str(problem).removeprefix(f"{self.name}: ")
            self._tell(f"{why}; trying again in {pause:g} s")
            self._stopped.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _read(self, start: float, lost: float) -> float:
        """One connection, from the first frame to the last; returns the stream time at which it ends."""
        options = self._options
        self._time = start
        stream = VideoStream(
            self._source, **self._how, transport=options.transport, timeout=options.timeout, start=start
        )
        try:
            self.is_live = stream.is_live if options.live is None else options.live
            cutter = WindowCutter(stream, options.window, options.stride)
            for frame in stream:
                if not self.opened or lost:
                    self.opened = True
                    if lost:
                        self._tell(f"is back after {time.monotonic() - lost:.1f} s")
                        lost = 0.0
                self._frames += 1
                self._arrived, self._time = frame.arrived, frame.time
                if frame.broken:
                    self._tell(frame.broken)
                for window in cutter.add(frame):
                    self._put(window)
                if self._stopped.is_set():
                    return self._time
            for window in cutter.finish():
                self._put(window)
        finally:
            stream.close()
        return self._time + 1 / stream.frame_rate

    def _put(self, window: TimeWindow) -> None:
        with self._changed:
            while len(self.ready) >= _WAITING and not self._stopped.is_set():
                if self.is_live:
                    self._dropped += self.ready.popleft().dropped + 1
                else:
                    self._changed.wait()
            self.ready.append(_Waiting(window, self._dropped))
            self._dropped = 0
            self._changed.notify_all()

    def _tell(self, text: str) -> None:
        with self._changed:
            self.notices.append(Notice(self.name, text))
            self._changed.notify_all()


def watch(
    predictor: Predictor,
    sources: Sequence[Source],
    *,
    window: float = 2.0,
    stride: float = 1.0,
    gate: float = GATE,
    options: StreamOptions | None = None,
    on_notice: Callable[[Notice], None] | None = None,
    on_window: Callable[[WindowPrediction, TimeWindow], None] | None = None,
) -> Iterator[WindowPrediction]:
    """Classify windows of several sources as they come.

    Args:
        predictor: the networks.
        sources: see :func:`~coviar_mocrop.bitstream.addresses.open_source`.
        window: seconds.
        stride: seconds from one window to the next.
        gate: see :meth:`Predictor.over_time`.
        options: how the sources are read.
        on_notice: is told what happens to a source; None: a warning is logged.
        on_window: is given each window with its prediction, for its frames.

    Raises:
        VideoError: none of the sources could be opened, or the last one that was left ended in an error.
        ConfigError: the window, the stride or the gate is out of range, or ``data.anchor_every`` is not set.
    """
    options = options or StreamOptions(window, stride)
    if not 0 <= gate < 1:
        raise ConfigError(f"the gate is {gate:g}; give a share of the picture from 0 to below 1")
    if not 0 < options.stride <= options.window:
        raise ConfigError(
            f"windows of {options.window:g} s every {options.stride:g} s: give a stride above 0 s, and no longer than "
            "the window"
        )
    if predictor.data.anchor_every is None:
        raise ConfigError("data.anchor_every is null: a GOP could fill the memory; set data.anchor_every=12")
    return _watch(predictor, sources, gate, options, on_notice or _warn, on_window)


def _watch(
    predictor: Predictor,
    sources: Sequence[Source],
    gate: float,
    options: StreamOptions,
    on_notice: Callable[[Notice], None],
    on_window: Callable[[WindowPrediction, TimeWindow], None] | None,
) -> Iterator[WindowPrediction]:
    changed = threading.Condition()
    readers = [SourceReader(source, predictor, options, changed) for source in sources]
    for reader in readers:
        reader.start()
    known: set[str] = set()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: _has_news(readers), timeout=1.0)
                notices = [notice for reader in readers for notice in reader.take_notices()]
                taken = _take(readers)
                ended = all(reader.done and not reader.ready for reader in readers)
                changed.notify_all()
            for reader, waiting in taken:
                if reader.name not in known and not predictor.has_form(waiting.window.info):
                    notices.append(Notice(reader.name, f"is not of the form that was trained on ({predictor.form})"))
                known.add(reader.name)
            for notice in notices:
                on_notice(notice)
            if all(reader.error and not reader.opened for reader in readers):
                raise next(reader.error for reader in readers if reader.error)
            if taken:
                for prediction, cut in _predict(predictor, taken, gate):
                    if on_window is not None:
                        on_window(prediction, cut)
                    yield prediction
            elif ended:
                _report_errors(readers, on_notice)
                return
    finally:
        for reader in readers:
            reader.stop()
        with changed:
            changed.notify_all()
        for reader in readers:
            reader.join(1.0)


def _has_news(readers: Sequence[SourceReader]) -> bool:
    return (
        bool(_takeable(readers))
        or any(reader.notices for reader in readers)
        or all(reader.done for reader in readers)
        or all(reader.error and not reader.opened for reader in readers)
    )


def _takeable(readers: Sequence[SourceReader]) -> list[SourceReader]:
    """Those of which a window can be taken. Files wait for one another, so that batches are the same every time."""
    in_step = all(reader.ready for reader in readers if not (reader.is_live or reader.done))
    return [reader for reader in readers if reader.ready and (reader.is_live or in_step)]


def _take(readers: Sequence[SourceReader]) -> list[tuple[SourceReader, _Waiting]]:
    return [(reader, reader.ready.popleft()) for reader in _takeable(readers)]


def _report_errors(readers: Sequence[SourceReader], on_notice: Callable[[Notice], None]) -> None:
    errors = [reader.error for reader in readers if reader.error is not None]
    if len(errors) == len(readers):
        raise errors[0]
    for error in errors:
        name, _, text = str(error).partition(": ")
        on_notice(Notice(name, text))


def _predict(
    predictor: Predictor, taken: Sequence[tuple[SourceReader, _Waiting]], gate: float
) -> Iterator[tuple[WindowPrediction, TimeWindow]]:
    """Predictions of windows, those that move through the networks together."""
    levels = [_level(waiting.window) for _, waiting in taken]
    moving = [number for number, level in enumerate(levels) if level is None or level >= gate]
    try:
        found = predictor.classify([taken[number][1].window for number in moving]) if moving else []
    except NoMotionVectorsError as error:
        raise NoMotionVectorsError(
            f"{str(error).partition('; transcode')[0]}; have the camera send H.264, or use the I-frame stream alone "
            "with --set setting=baseline"
        ) from None
    scores = dict(zip(moving, found, strict=True))
    for number, (reader, (window, dropped)) in enumerate(taken):
        row, box = scores.get(number, ({}, None))
        yield (
            WindowPrediction(
                path=reader.name,
                classes=predictor.classes,
                scores=row,
                box=box,
                milliseconds={},
                seen={},
                iframes=[],
                damaged_frames=window.damaged_frames,
                as_trained=predictor.has_form(window.info),
                start=window.start,
                end=window.end,
                motion=levels[number] or 0.0,
                idle=number not in scores,
                frames=window.info.num_frames,
                missing_frames=window.missing_frames,
                dropped=dropped,
                latency=time.monotonic() - window.arrived if reader.is_live else 0.0,
                wall_time=time.time() - time.monotonic() + window.arrived if reader.is_live else None,
            ),
            window,
        )


def _level(window: TimeWindow) -> float | None:
    """The share of the picture that moves; None where the codec has no motion vectors."""
    if not window.has_vectors:
        return None
    return motion_level(window.raw_vectors(), window.frames[0].size, MoCropSettings())


def _warn(notice: Notice) -> None:
    logger.warning("%s: %s", notice.source, notice.text)
