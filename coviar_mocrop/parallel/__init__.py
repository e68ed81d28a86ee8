"""One piece of work on many items: in processes of this machine, or on the machines of a Ray cluster.

What is given back depends on neither. A process that dies (killed, out of memory, a fault in a decoder) costs the item
that it was at, which is tried again.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from coviar_mocrop.errors import CoviarMocropError, VideoError
from coviar_mocrop.parallel.processes import LocalProcesses
from coviar_mocrop.parallel.threads import LocalThreads
from coviar_mocrop.parallel.work import Bug, Crew, Item, Result

__all__ = ["MORE_TRIES", "run_map"]

MORE_TRIES = 2
"""How often an item whose process died is tried again."""
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that end a process: from a cluster, and from a terminal that is closed."""


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
    iterator ends, SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does. A loop that may end early closes it
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
        from coviar_mocrop.parallel.ray_cluster import RayCluster

        crew = RayCluster(work, ray, gpus)
    else:
        crew = (LocalThreads if threads else LocalProcesses)(work, max(workers, 1))
    total = len(items) if isinstance(items, Sized) else None
    with (
        _ended_by_signals(),
        crew,
        tqdm(desc=title, total=total, unit=unit, disable=not progress or total == 0) as bar,
    ):
        for item, outcome in _tried_again(crew, items):
            if isinstance(outcome, Bug):
                outcome.throw()
            bar.update()
            yield item, outcome


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


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Signals that would end this process without a word to its children raise KeyboardInterrupt.

    Those that are ignored (SIGHUP under nohup), or handled by somebody, stay so.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()  # Python lets no other set handlers
    ours = [number for number in _ENDING if in_main_thread and signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number in ours:
                signal.signal(number, signal.SIG_DFL)
