"""One piece of work on many items: in processes of this machine, or on the machines of a Ray cluster.

What is given back depends on neither. A process that dies (killed, out of memory, a fault in a decoder) costs the item
that it was at, which is tried again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as futures_done
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol, TypeVar

from tqdm import tqdm

from coviar_mocrop.errors import CoviarMocropError, VideoError

Item = TypeVar("Item")
Result = TypeVar("Result")

MORE_TRIES = 2
"""How often an item whose process died is tried again."""
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
"""Environment of a process that works: N processes use N processors, and no bit depends on N."""
_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""How processes start. The server imports once what all need, and has none of the threads that a fork would break."""
_PATIENCE = 5.0
"""Seconds that processes get to remove their temporary files before they are killed."""


class Bug(NamedTuple):
    """An exception that is none of ours, on its way to the process that asked."""

    error: Exception
    where: str

    def throw(self) -> None:
        """Raise it, with the traceback of the other process as its cause."""
        raise self.error from RuntimeError(f"\n{self.where}")


def run_map(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int = 2,
    threads: bool = False,
    ray: str | None = None,
    gpus: float = 0,
    title: str = "",
    unit: str = "video",
    progress: bool = True,
) -> Generator[tuple[Item, Result | CoviarMocropError], None, None]:
    """Do ``work`` on all items; each comes back with its result as soon as it is done, in any order.

    Few items are in flight at a time, so ``items`` may be long, and may be made while they are asked for. Until the
    iterator ends, SIGTERM raises KeyboardInterrupt, as Ctrl-C does. A loop that may end early closes the iterator
    (``contextlib.closing``): that ends the processes, which remove their temporary files first.

    Args:
        work: a function of a module, or an object of a class of a module, that pickles. It is sent to each process
            once. It must give the same whenever it is called again with the same item.
        items: what pickles; ``str(item)`` names it in messages.
        workers: number of processes. Does not affect results.
        threads: work in threads of this process instead; nothing is sent, and a fault ends the process.
        ray: address of a Ray cluster that works instead, with all its processors: ``auto``, or ``host:port``. Its
            machines need the folder that this process is in, and what lies at the paths that ``work`` uses.
        gpus: GPUs that a process needs on the cluster; may be a fraction.
        title: of the progress bar.
        unit: of the progress bar.
        progress: show a bar.

    Yields:
        The item, and the result of ``work`` or the :class:`CoviarMocropError` that it raised. An item whose process
        dies again and again comes with a :class:`VideoError` that says so.

    Raises:
        CoviarMocropError: no process can be started, or the cluster cannot be reached.
        Exception: ``work`` raised another error, which is a bug.
    """
    crew: Crew
    if ray is not None:
        from coviar_mocrop.ray_cluster import RayCluster

        crew = RayCluster(work, ray, gpus)
    else:
        crew = (LocalThreads if threads else LocalProcesses)(work, max(workers, 1))
    total = len(items) if isinstance(items, Sized) else None
    with (
        _ended_by_sigterm(),
        crew,
        tqdm(desc=title, total=total, unit=unit, disable=not progress or total == 0) as bar,
    ):
        for item, outcome in _tried_again(crew, items):
            if isinstance(outcome, Bug):
                outcome.throw()
            bar.update()
            yield item, outcome


class Crew(Protocol):
    """Processes that do one piece of work, wherever they are. As a context, it ends what is under way."""

    def run(self, items: Iterable[Item], alone: bool = False) -> Iterator[tuple[Item, Any]]:
        """Items and what :func:`attempt` gave, in any order; of those whose process died, an EOFError.

        ``alone``: an item has a process for itself, so that it is known who is to blame.
        """
        ...

    def __enter__(self) -> Crew: ...

    def __exit__(self, *_: object) -> None: ...


def _tried_again(crew: Crew, items: Iterable[Item]) -> Iterator[tuple[Item, Any]]:
    """Items and outcomes. Those whose process died wait until the others are done, then are tried alone."""
    for attempt_number in range(1 + MORE_TRIES):
        suspects = []
        for item, outcome in crew.run(items, alone=attempt_number > 0):
            if isinstance(outcome, EOFError):
                suspects.append(item)
            else:
                yield item, outcome
        items = suspects
    for item in items:
        tried = f"{item}: the process that worked on it died {1 + MORE_TRIES} times"
        yield item, VideoError(f"{tried}, for want of memory or by a fault in a decoder; leave it out")


def attempt(work: Callable[[Item], Result], item: Item) -> Result | CoviarMocropError | Bug:
    """The result, or the error as a value, which crosses process borders unchanged."""
    try:
        return work(item)
    except CoviarMocropError as error:
        return error
    except Exception as error:
        return Bug(error, traceback.format_exc())


class LocalThreads:
    """Threads of this process, each with one thread of PyTorch. As a context, it waits for what is under way."""

    def __init__(self, work: Callable[[Any], Any], count: int) -> None:
        """Nothing is started before there is an item for it."""
        self._work, self._count = work, count
        self._pool = ThreadPoolExecutor(count, initializer=_use_one_thread_of_torch)

    def run(self, items: Iterable[Item], alone: bool = False) -> Iterator[tuple[Item, Any]]:
        """Items and their outcomes; as many are in flight as there are threads."""
        coming = iter(items)
        futures: dict[Future[Any], Item] = {}
        while True:
            for item in islice(coming, self._count - len(futures)):
                futures[self._pool.submit(attempt, self._work, item)] = item
            if not futures:
                return
            for future in futures_done(futures, return_when=FIRST_COMPLETED).done:
                yield futures.pop(future), future.result()

    def __enter__(self) -> LocalThreads:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


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


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, where it would end the process without a word to its children."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def inherited_by_children() -> Iterator[None]:
    """What processes have from their first moment on: one native thread each, and no ear for Ctrl-C."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    mask = None
    if sys.platform != "win32":  # blocked, not ignored: Ctrl-C waits until this process hears it again
        resource_tracker.ensure_running()  # it would end the blocking when it is started
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
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


def use_one_thread() -> None:
    """For processes in which libraries were loaded before their environment could say so."""
    os.environ.update(ONE_THREAD)
    _use_one_thread_of_torch()


def _use_one_thread_of_torch() -> None:
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


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
