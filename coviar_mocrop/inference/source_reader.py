"""Read one source in a thread, which gives windows, and notices of what happens to the source.

Files and pipes wait until their windows are taken. Live sources do not wait: their oldest windows are dropped and
counted.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from coviar_mocrop.bitstream.addresses import Transport, is_endless, is_remote, source_name
from coviar_mocrop.bitstream.remote import is_address
from coviar_mocrop.bitstream.stream import TIMEOUT, StreamFrame, VideoStream
from coviar_mocrop.bitstream.transcoded_stream import TranscodedStream
from coviar_mocrop.bitstream.types import Source
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.time_windows import TimeWindow, WindowCutter
from coviar_mocrop.datasets.lists import Form
from coviar_mocrop.errors import VideoError
from coviar_mocrop.messages import redacted

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a source that broke is opened again. The pause doubles with every attempt that fails."""
_STALLED = 10.0
"""Seconds without a frame after which a notice says so."""
_NOTICES = 100
"""Maximum number of notices of a source that wait to be taken. The oldest are dropped."""


class Notice(NamedTuple):
    """Something that happened to a source: a break, a reconnection, a stall."""

    source: str
    text: str


@dataclass(frozen=True)
class StreamOptions:
    """How sources are read.

    Attributes:
        window: length of a window, seconds.
        stride: time from the start of one window to the start of the next, seconds.
        live: whether windows may be dropped; None: only those of cameras, and of servers that send without end.
        transport: transport of RTSP.
        timeout: seconds without data after which a server is given up.
        reconnect: whether a live source that breaks is opened again.
        form: format that frames are transcoded to as they come; None: they are not transcoded.
        key_frames_only: see :class:`~coviar_mocrop.bitstream.stream.VideoStream`.
    """

    window: float = 2.0
    stride: float = 1.0
    live: bool | None = None
    transport: Transport = "tcp"
    timeout: float = TIMEOUT
    reconnect: bool = True
    form: Form | None = None
    key_frames_only: bool = False


class Waiting(NamedTuple):
    """A window that waits for the networks, and the number of windows dropped just before it."""

    window: TimeWindow
    dropped: int


class SourceReader(threading.Thread):
    """Reads one source and cuts it into windows.

    Attributes:
        name: name of the source among those that are watched, without a password.
        error: why the source could not be opened, or has ended; None if there is no error.
        opened: whether a frame has ever come.
        is_live: see ``live`` of :class:`StreamOptions`.
        is_file: whether the source is a file on a disk, which can be read at any time.
        done: whether reading has ended for good. Windows in ``ready`` can still be taken.
        ready: windows that wait for the networks.
        notices: notices that have not been taken yet.
    """

    def __init__(
        self, source: Source, name: str, data: DataConfig, options: StreamOptions, changed: threading.Condition
    ) -> None:
        """Prepare reading, which ``start()`` begins.

        Args:
            source: see :func:`~coviar_mocrop.bitstream.addresses.open_source`.
            name: see :func:`~coviar_mocrop.bitstream.addresses.source_names`.
            data: how frames are read. ``anchor_every`` must not be None.
            options: how the source is read.
            changed: condition that is notified of every window and notice, and held while they are changed.
        """
        super().__init__(daemon=True, name=name)
        self._source, self._options, self._changed = source, options, changed
        assert data.anchor_every is not None
        self._how = {"anchor_every": data.anchor_every, "max_frame_pixels": data.max_frame_pixels}
        self.ready: deque[Waiting] = deque()
        self.notices: deque[Notice] = deque(maxlen=_NOTICES)
        self.error: VideoError | None = None
        self.opened = self.done = False
        self.is_live = bool(options.live)
        self.is_file = not (is_endless(source) or is_address(source))
        self._returns = options.reconnect and is_remote(source)
        self._stream: VideoStream | TranscodedStream | None = None
        self._frames = self._silent_at = 0
        self._time, self._latest = 0.0, time.monotonic()
        self._lost = 0.0  # when the connection broke, time.monotonic(); 0: it is not broken
        self._is_stopped = threading.Event()

    def stop(self) -> None:
        """Ask the thread to end."""
        self._is_stopped.set()
        stream = self._stream
        if stream is not None:
            stream.stop()

    def fail(self, error: VideoError) -> None:
        """End reading for good, because the windows cannot be used."""
        self.stop()
        with self._changed:
            self.error, self.done = error, True
            self.ready.clear()
            self._changed.notify_all()

    def reason(self, error: VideoError) -> str:
        """An error message without the name of the source."""
        return str(error).removeprefix(f"{source_name(self._source)}: ")

    def take_notices(self) -> list[Notice]:
        """Return and clear the notices. If no frame has come for a while, one of them says so."""
        silent = time.monotonic() - self._latest
        if self._silent_at and self._frames > self._silent_at:
            self._silent_at = 0
            self._tell("frames come again")
        elif self.opened and not (self.done or self._silent_at or self._lost or self.ready) and silent > _STALLED:
            self._silent_at = self._frames
            self._tell(f"no frame has come for {silent:.0f} s")
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
        pause = _FIRST_PAUSE
        while not self._is_stopped.is_set():
            began, problem = time.monotonic(), None
            try:
                self._read()
            except VideoError as error:
                problem = error
            except Exception as error:  # whatever it is, other sources go on
                problem = VideoError(redacted(f"{source_name(self._source)}: {type(error).__name__}: {error}"))
            now = time.monotonic()
            with self._changed:
                if self._is_stopped.is_set():  # asked here, so that the error given to fail() stays
                    return
                self.error = problem
                self._changed.notify_all()
            if not self._returns:
                return
            if not self._lost:
                self._lost = now
                pause = _FIRST_PAUSE if now - began > 2 * pause else pause
            why = "the source ended" if problem is None else self.reason(problem)
            self._tell(f"{why}; trying again in {pause:g} s")
            self._is_stopped.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _read(self) -> None:
        """Read one connection, from the first frame to the last."""
        options = self._options
        opened = VideoStream(
            self._source,
            **self._how,
            transport=options.transport,
            timeout=options.timeout,
            start=self._time,
            since=self._lost or None,
            key_frames_only=options.key_frames_only,
        )
        stream = opened if options.form is None else TranscodedStream(opened, *options.form)
        try:
            self._stream = stream
            self._returns = options.reconnect and stream.is_live
            self.is_live = stream.is_live if options.live is None else options.live
            frames = iter(stream)
            first = next(frames, None)
            if first is None or self._is_stopped.is_set():
                return
            self._begin(stream, first)
            cutter = WindowCutter(stream, options.window, options.stride)
            try:
                for frame in itertools.chain([first], frames):
                    self._frames += 1
                    self._time = frame.time + frame.step
                    if frame.broken:
                        self._tell(frame.broken)
                    for window in cutter.add(frame):
                        self._put(window)
                    self._latest = time.monotonic()
                    if self._is_stopped.is_set():
                        return
            finally:
                for window in cutter.finish():
                    self._put(window)
        finally:
            self._stream = None
            stream.close()

    def _begin(self, stream: VideoStream | TranscodedStream, first: StreamFrame) -> None:
        """Note that the first frame has come."""
        with self._changed:
            self.opened, self.error, self._latest = True, None, time.monotonic()
        if self._lost:
            away = max(first.arrived - self._lost, 0.0)
            self._lost = 0.0
            self._tell(f"is back after {away:.1f} s")

    def _put(self, window: TimeWindow) -> None:
        dropped = 0
        with self._changed:
            while self.ready and not self._is_stopped.is_set():
                if self.is_live:
                    dropped += self.ready.popleft().dropped + 1
                else:
                    self._changed.wait()
            if self._is_stopped.is_set():
                return
            self.ready.append(Waiting(window, dropped))
            self._changed.notify_all()

    def _tell(self, text: str) -> None:
        with self._changed:
            self.notices.append(Notice(self.name, text))
            self._changed.notify_all()
