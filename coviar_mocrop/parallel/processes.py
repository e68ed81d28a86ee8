"""Work in processes of this machine."""

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
"""How processes start. The server imports once what all need, and has none of the threads that a fork would break."""
_PATIENCE = 5.0
"""Seconds that processes get to remove their temporary files before they are killed."""


class LocalProcesses:
    """Processes of this machine that do one piece of work; those that die are replaced. As a context, it ends them."""

    def __init__(self, work: Callable[[Any], Any], count: int) -> None:
        """Nothing is started before there is an item for it."""
        self._work, self._count = work, count
        self._workers: list[_Worker] = []

    def run(self, items: Iterable[Item], alone: bool = False) -> Iterator[tuple[Item, Any]]:
        """Items and their outcomes; of those whose process died, an EOFError.

        Args:
            items: as many are in flight as there are processes.
            alone: one at a time.
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
        """End the processes: those at work remove their temporary files, unless that takes too long."""
        try:
            for worker in self._workers:
                worker.process.terminate()
            deadline = time.monotonic() + _PATIENCE
            for worker in self._workers:
                worker.process.join(max(deadline - time.monotonic(), 0))
        finally:  # an impatient second Ctrl-C comes here too
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()
                worker.connection.close()


class _Worker:
    """A process, and the item that it is at."""

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
        """Send an item. A process that is dead already is noticed by whoever waits for it."""
        self.item, self.is_busy = item, True
        with suppress(OSError):
            self.connection.send(item)

    def take(self) -> Any:
        """What became of the item; None: nothing yet, the process has only begun. To be called when there is something.

        Raises:
            EOFError: the process is dead.
            CoviarMocropError: it died before it could begin.
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
    """What processes have from their first moment on: one native thread each, and no ear for what a terminal sends."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    mask = None
    if sys.platform != "win32":  # blocked, not ignored: Ctrl-C waits until this process hears it again
        resource_tracker.ensure_running()  # it would end the blocking when it is started
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
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # raises what has waited


def _serve(connection: Connection, work: Callable[[Any], Any]) -> None:
    """The life of a process: work on what comes, until nothing comes any more."""
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
    """Unwind, so that files that are half written are removed. Another signal changes nothing."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(1)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    os._exit(1)
