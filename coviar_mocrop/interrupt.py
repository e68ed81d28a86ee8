"""Ctrl-C, and the signals with which clusters end jobs: the step under way is finished and saved first."""

from __future__ import annotations

import atexit
import signal
import sys
import threading
from collections.abc import Iterable
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Remembers that somebody wants the run to end; as a context, it listens for signals.

    The first signal sets ``made``; a second one ends the process as it would have without this.
    """

    def __init__(self, quiet: bool = False) -> None:
        """``quiet``: say nothing when the signal comes."""
        self.made = False
        self._quiet = quiet
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread set handlers
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.made = True
        self._restore()
        if not self._quiet:
            print("\nfinishing the step, then saving; once more to stop at once", file=sys.stderr)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}


def leave_ending_to_the_parent() -> None:
    """For processes that read data: signals to a whole job reach them too, but their parent decides when they end.

    They ignore SIGINT and SIGTERM; see :func:`kill_at_exit`.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def kill_at_exit(processes: Iterable[BaseProcess]) -> None:
    """Kill ``processes`` that still run when this one exits. Call it once they are started.

    Python would send them SIGTERM, which they ignore, and wait for them without end. What was registered last is called
    first, so they are dead by then.
    """
    for process in processes:
        atexit.register(process.kill)
