"""What processes, threads and clusters have in common: the interface, and calling a function on one item."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

from coviar_mocrop.errors import CoviarMocropError

Item = TypeVar("Item")
Result = TypeVar("Result")

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
"""Environment variables for one native thread per process. N processes use N cores, and results do not depend on N."""


class Bug(NamedTuple):
    """An unexpected exception, to be passed on to the calling process."""

    error: Exception
    where: str

    def throw(self) -> None:
        """Raise the exception, with the traceback of the other process as its cause."""
        raise self.error from RuntimeError(f"\n{self.where}")


class Crew(Protocol):
    """Workers that apply one function to items. Leaving the context ends work in progress."""

    def run(self, items: Iterable[Item], alone: bool = False) -> Iterator[tuple[Item, Any]]:
        """Yield items and the results of :func:`attempt`, in any order.

        If the process of an item died, the result is an EOFError.

        Args:
            items: the items.
            alone: send each item separately, so that the item that makes a process die is known.
        """
        ...

    def __enter__(self) -> Crew: ...

    def __exit__(self, *_: object) -> None: ...


def attempt(work: Callable[[Item], Result], item: Item) -> Result | CoviarMocropError | Bug:
    """Call ``work`` on an item. Errors are returned as values, which can be sent to other processes unchanged."""
    try:
        return work(item)
    except CoviarMocropError as error:
        return error
    except Exception as error:
        return Bug(error, traceback.format_exc())


def use_one_thread() -> None:
    """Make libraries use one thread in this process, even if PyTorch was loaded before the environment was set."""
    os.environ.update(ONE_THREAD)
    use_one_thread_of_torch()


def use_one_thread_of_torch() -> None:
    """Make PyTorch, if it is loaded, use one thread for what the current thread computes."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
