"""Apply a function to many items in parallel: in processes or threads of this machine, or on a Ray cluster.

The results do not depend on where they are computed. If a process dies (killed, out of memory, a crash in a decoder),
only its current item is affected, and it is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from typing import Any

from tqdm import tqdm

from coviar_mocrop.errors import CoviarMocropError, VideoError
from coviar_mocrop.interrupt import ended_by_signals
from coviar_mocrop.parallel.processes import LocalProcesses
from coviar_mocrop.parallel.threads import LocalThreads
from coviar_mocrop.parallel.work import Bug, Crew, Item, Result

__all__ = ["MORE_TRIES", "run_map"]

MORE_TRIES = 2
"""Number of retries of an item whose process died."""


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
    """Call ``work`` on all items in parallel, and yield each result as soon as it is ready, in any order.

    Only a few items are in progress at a time, so ``items`` may be a long or lazy iterable. Until the iterator ends,
    SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does. If a loop over the results may end early, wrap the
    iterator in ``contextlib.closing``. Closing it ends the processes, which first remove their temporary files.

    Args:
        work: a picklable function or callable object. It is sent to each process once. Repeated calls with the same
            item must give the same result.
        items: picklable items. ``str(item)`` names an item in messages.
        workers: number of processes or threads. Does not affect results.
        threads: use threads of this process instead of processes. Then nothing needs to pickle, but a crash ends the
            whole program.
        ray: address of a Ray cluster to use instead, with all its CPU cores: ``auto`` or ``host:port``. Its machines
            need access to the current working directory and to all paths that ``work`` uses.
        gpus: number of GPUs, or a fraction of one, that a process on the cluster needs.
        title: title of the progress bar.
        unit: unit of the progress bar.
        progress: show a progress bar.

    Yields:
        An item, and the result of ``work`` or the :class:`CoviarMocropError` that it raised. If the process of an item
        dies three times, it is a :class:`VideoError`.

    Raises:
        CoviarMocropError: no process can be started, or the cluster cannot be reached.
        Exception: ``work`` raised any other error, which is a bug.
    """
    crew: Crew
    if ray is not None:
        from coviar_mocrop.parallel.ray_cluster import RayCluster

        crew = RayCluster(work, ray, gpus)
    else:
        crew = (LocalThreads if threads else LocalProcesses)(work, max(workers, 1))
    total = len(items) if isinstance(items, Sized) else None
    with (
        ended_by_signals(),
        crew,
        tqdm(desc=title, total=total, unit=unit, disable=not progress or total == 0) as bar,
    ):
        for item, outcome in _tried_again(crew, items):
            if isinstance(outcome, Bug):
                outcome.throw()
            bar.update()
            yield item, outcome


def _tried_again(crew: Crew, items: Iterable[Item]) -> Iterator[tuple[Item, Any]]:
    """Items and outcomes. Items whose process died are tried again after all others, one at a time."""
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
        yield item, VideoError(f"{tried}, because memory ran out or a decoder crashed; leave it out")
