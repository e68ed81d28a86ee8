"""One source, read by a thread of its own: windows come out, and notices of what happens to it.

Files and pipes wait until their windows are taken. Live sources do not: their oldest windows are left out and counted.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from coviar_mocrop.bitstream.addresses import Transport, is_endless, is_remote, redacted, source_name
from coviar_mocrop.bitstream.remote import is_address
from coviar_mocrop.bitstream.stream import TIMEOUT, StreamFrame, VideoStream
from coviar_mocrop.bitstream.transcoded_stream import TranscodedStream
from coviar_mocrop.bitstream.types import Source
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.time_windows import TimeWindow, WindowCutter
from coviar_mocrop.datasets.lists import Form
from coviar_mocrop.errors import VideoError

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a source that broke is opened again; doubled every time in vain."""
_STALLED = 10.0
"""Seconds without a frame after which that is said."""
_NOTICES = 100
"""Of a source; older ones that nobody has taken are forgotten."""


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
        form: what frames are transcoded to on their way; None: they are not.
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
    """A window that waits for the networks, and how many before it were left out."""

    window: TimeWindow
    dropped: int


class SourceReader(threading.Thread):
    """Reads one source and cuts it into windows.

    Attributes:
        name: of the source, without a password.
        error: why it could not be opened, or has ended; None while all is well.
        opened: whether a frame has ever come.
        is_live: see :class:`StreamOptions`.
        is_file: whether it is a file on a disk, which never lets others wait.
        done: whether it has ended for good; what is ``ready`` may still be taken.
        ready: windows that wait for the networks.
        notices: what has happened.
    """

    def __init__(self, source: Source, data: DataConfig, options: StreamOptions, changed: threading.Condition) -> None:
        """Start with ``start()``.

        Args:
            source: see :func:`~coviar_mocrop.bitstream.addresses.open_source`.
            data: how frames are read; ``anchor_every`` is set.
            options: how the source is read.
            changed: is told of every window and notice, and held while they are changed.
        """
        super().__init__(daemon=True, name=source_name(source))
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
        self._lost = 0.0  # when the connection broke; 0: it has not
        self._is_stopped = threading.Event()

    def stop(self) -> None:
        """Ask it to end."""
        self._is_stopped.set()
        stream = self._stream
        if stream is not None:
            stream.stop()

    def fail(self, error: VideoError) -> None:
        """End it for good, because its windows cannot be used."""
        self.stop()
        with self._changed:
            self.error, self.done = error, True
            self.ready.clear()
            self._changed.notify_all()

    def take_notices(self) -> list[Notice]:
        """What has happened since the last call, a stall included."""
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
            except Exception as error:  # whatever it is, the others go on
                problem = VideoError(redacted(f"{self.name}: {type(error).__name__}: {error}"))
            now = time.monotonic()
            if self._is_stopped.is_set():
                return
            with self._changed:
                self.error = problem
                self._changed.notify_all()
            if not self._returns:
                return
            if not self._lost:
                self._lost = now
                pause = _FIRST_PAUSE if now - began > 2 * pause else pause
            why = "the source ended" if problem is None else str(problem).removeprefix(f"{self.name}: ")
            self._tell(f"{why}; trying again in {pause:g} s")
            self._is_stopped.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _read(self) -> None:
        """One connection, from the first frame to the last."""
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
        """The first frame has come."""
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
