"""Parallel work in threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

from coviar_mocrop.parallel.work import Item, attempt, use_one_thread_of_torch


class LocalThreads:
    """Threads of this process. In each, PyTorch uses one thread. Leaving the context waits for the current items."""

    def __init__(self, work: Callable[[Any], Any], count: int) -> None:
        """Set up the crew. A thread is started when the first item is ready for it.

        Args:
            work: function to call; see :func:`~coviar_mocrop.parallel.run_map`.
            count: largest number of threads.
        """
        self._work, self._count = work, count
        self._pool = ThreadPoolExecutor(count, initializer=use_one_thread_of_torch)

    def run(self, items: Iterable[Item], alone: bool = False) -> Iterator[tuple[Item, Any]]:
        """Yield items and their outcomes. Each thread has one item at a time; ``alone`` is ignored."""
        coming = iter(items)
        futures: dict[Future[Any], Item] = {}
        while True:
            for item in islice(coming, self._count - len(futures)):
                futures[self._pool.submit(attempt, self._work, item)] = item
            if not futures:
                return
            for future in wait(futures, return_when=FIRST_COMPLETED).done:
                yield futures.pop(future), future.result()

    def __enter__(self) -> LocalThreads:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
