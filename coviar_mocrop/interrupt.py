"""Handle Ctrl-C and the signals by which clusters end jobs, so that work is saved and child processes end."""

from __future__ import annotations

import atexit
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType
from weakref import WeakSet

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that end a process: sent by Ctrl-C, by a cluster, and by a terminal that is closed."""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt, so that temporary files and child processes are cleaned up.

    Signals that are ignored (SIGHUP under nohup) or have another handler are not changed.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()  # only this thread can set handlers
    ours = [number for number in _SIGNALS if in_main_thread and signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number in ours:
                signal.signal(number, signal.SIG_DFL)


class StopRequest:
    """Records a request to stop the run. Within its context, SIGINT (Ctrl-C), SIGTERM and SIGHUP are such requests.

    After the first signal, the former handlers are restored, so a second signal acts as it would without this class.

    Attributes:
        made: whether there was a request.
    """

    def __init__(self, quiet: bool = False) -> None:
        """Set up the request. Handlers are installed when the context is entered.

        Args:
            quiet: whether to print nothing when a signal arrives.
        """
        self.made = False
        self._quiet = quiet
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # only this thread can set handlers
            for number in _SIGNALS:
                # shells ignore SIGINT for what runs in the background, which must not keep anybody from sending it
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
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
            with suppress(OSError):  # the terminal may be gone
                print("\nfinishing the step, then saving; press Ctrl-C again to stop at once", file=sys.stderr)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}


def leave_ending_to_the_parent() -> None:
    """Make this data-loading process ignore signals that are often sent to all processes of a job.

    Its parent decides when it ends; see :func:`kill_at_exit`.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


_children: WeakSet[BaseProcess] = WeakSet()


def kill_at_exit(processes: Iterable[BaseProcess]) -> None:
    """Kill ``processes`` that are still running when this process exits. Call it after they have started.

    Otherwise Python would send them SIGTERM, which they ignore, and wait for them forever. Exit functions are called in
    reverse order of registration, so the processes are killed before that.
    """
    _children.update(processes)
    atexit.unregister(_kill_children)
    atexit.register(_kill_children)


def _kill_children() -> None:
    for process in _children:
        process.kill()
