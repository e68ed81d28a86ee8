"""One piece of work on one item, in whichever process, and what all who do such work have in common."""

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
"""Environment of a process that works: N processes use N processors, and no bit depends on N."""


class Bug(NamedTuple):
    """An exception that is none of ours, on its way to the process that asked."""

    error: Exception
    where: str

    def throw(self) -> None:
        """Raise it, with the traceback of the other process as its cause."""
        raise self.error from RuntimeError(f"\n{self.where}")


class Crew(Protocol):
    """Processes that do one piece of work, wherever they are. As a context, it ends what is under way."""

    def run(self, items: Iterable[Item], alone: bool = False) -> Iterator[tuple[Item, Any]]:
        """Items and what :func:`attempt` gave, in any order; of those whose process died, an EOFError.

        ``alone``: an item has a process for itself, so that it is known who is to blame.
        """
        ...

    def __enter__(self) -> Crew: ...

    def __exit__(self, *_: object) -> None: ...


def attempt(work: Callable[[Item], Result], item: Item) -> Result | CoviarMocropError | Bug:
    """The result, or the error as a value, which crosses process borders unchanged."""
    try:
        return work(item)
    except CoviarMocropError as error:
        return error
    except Exception as error:
        return Bug(error, traceback.format_exc())


def use_one_thread() -> None:
    """For processes in which libraries were loaded before their environment could say so."""
    os.environ.update(ONE_THREAD)
    use_one_thread_of_torch()


def use_one_thread_of_torch() -> None:
    """Of this process, where PyTorch is loaded."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
