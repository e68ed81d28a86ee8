"""Parallel work in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from coviar_mocrop.errors import CoviarMocropError
from coviar_mocrop.parallel.work import ONE_THREAD, Bug, Item, attempt, use_one_thread

_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""How processes are started. A fork server imports modules once for all, and has no threads that a fork would break."""
_PATIENCE = 5.0
"""Time for processes to remove their temporary files before they are killed, seconds."""


class LocalProcesses:
    """Processes of this machine that apply one function to items. Dead ones are replaced.

    Leaving the context ends the processes.
    """

    def __init__(self, work: Callable[[Any], Any], count: int) -> None:
        """Set up the crew. A process is started when the first item is ready for it.

        Args:
            work: function to call; see :func:`~coviar_mocrop.parallel.run_map`.
            count: largest number of processes.
        """
        self._work, self._count = work, count
        self._workers: list[_Worker] = []

    def run(self, items: Iterable[Item], alone: bool = False) -> Iterator[tuple[Item, Any]]:
        """Yield items and their outcomes. If the process of an item died, the outcome is an EOFError.

        Args:
            items: the items. Each process has one at a time.
            alone: process one item at a time.
        """
        coming = iter(items)
        while True:
            while sum(worker.is_busy for worker in self._workers) < (1 if alone else self._count):
                try:
                    item = next(coming)
                except StopIteration:
                    break
                self._idle().give(item)
            busy: dict[Any, _Worker] = {worker.connection: worker for worker in self._workers if worker.is_busy}
            if not busy:
                return
            for ready in wait(list(busy)):
                worker = busy[ready]
                try:
                    taken = worker.take()
                except EOFError as error:
                    self._workers.remove(worker)
                    yield worker.item, error
                else:
                    if taken is not None:
                        yield worker.item, taken[0]

    def _idle(self) -> _Worker:
        for worker in self._workers:
            if not worker.is_busy:
                return worker
        self._workers.append(_Worker(self._work))
        return self._workers[-1]

    def __enter__(self) -> LocalProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes. They have a few seconds to remove their temporary files."""
        try:
            for worker in self._workers:
                worker.process.terminate()
            deadline = time.monotonic() + _PATIENCE
            for worker in self._workers:
                worker.process.join(max(deadline - time.monotonic(), 0))
        finally:  # also after a second Ctrl-C
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()
                worker.connection.close()


class _Worker:
    """A process and its current item."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        context: Any = multiprocessing.get_context(_METHOD)
        if _METHOD == "forkserver":
            parts = [type(part).__module__ for part in vars(work).values()] if hasattr(work, "__dict__") else []
            context.set_forkserver_preload(["__main__", __name__, getattr(work, "__module__", __name__), *parts])
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, work), daemon=True)
        with inherited_by_children():
            self.process.start()
        other.close()  # so that reading ends when the process does
        self.is_ready = False
        self.is_busy = False
        self.item: Any = None

    def give(self, item: Any) -> None:
        """Send an item. If the process is dead, this is noticed in :meth:`take`."""
        self.item, self.is_busy = item, True
        with suppress(OSError):
            self.connection.send(item)

    def take(self) -> Any:
        """Receive the outcome of the item. Call this when the connection is ready.

        Returns:
            The outcome in a tuple; None: the process has only reported that it has started.

        Raises:
            EOFError: the process died.
            CoviarMocropError: the process died before it had started.
        """
        try:
            found = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            self.connection.close()
            if self.is_ready:
                raise EOFError from None
            raise CoviarMocropError(
                f"a process ended before it could work (exit code {self.process.exitcode}), see above; a script that "
                "starts processes needs the line: if __name__ == '__main__':"
            ) from None
        if self.is_ready:
            self.is_busy = False
            return (found,)
        self.is_ready = True
        return None


@contextmanager
def inherited_by_children() -> Iterator[None]:
    """Start processes within this context so that each uses one native thread and ignores signals from a terminal."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    mask = None
    if sys.platform != "win32":  # blocked, not ignored: a Ctrl-C is handled when the context ends
        resource_tracker.ensure_running()  # starting it later would unblock the signals
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # raises a Ctrl-C that has waited


def _serve(connection: Connection, work: Callable[[Any], Any]) -> None:
    """Main function of a process: process items until the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the parent decides
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    use_one_thread()
    with suppress(EOFError, OSError):  # the parent has ended
        connection.send(None)
        while True:
            outcome = attempt(work, connection.recv())
            try:
                connection.send(outcome)
            except OSError:
                raise
            except Exception as error:  # it does not pickle
                connection.send(Bug(RuntimeError(f"{type(error).__name__}: {error}"), traceback.format_exc()))


def _leave(number: int, frame: object) -> None:
    """Exit with stack unwinding, so that unfinished files are removed. Further signals are ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(1)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    os._exit(1)
