"""How the videos of a data set are processed: workers, progress bar, and videos that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, TypeVar

from coviar_mocrop.errors import CoviarMocropError, VideoError
from coviar_mocrop.parallel import run_map

Item = TypeVar("Item")


@dataclass(frozen=True)
class Handling:
    """How the videos are processed.

    Attributes:
        check: open each video and check that it has motion vectors.
        on_error: what to do if videos cannot be used. ``raise``: raise an error after all have been tried. ``skip``:
            leave them out with a warning.
        workers: number of processes.
        ray: address of a Ray cluster to use instead; see :func:`~coviar_mocrop.parallel.run_map`.
        progress: show a progress bar.
        follow_links: whether symbolic links may lead out of the data folder (only for videos that are not transcoded).
        overwrite: whether different lists in the folder may be replaced.
    """

    check: bool = True
    on_error: Literal["raise", "skip"] = "raise"
    workers: int = 2
    ray: str | None = None
    progress: bool = True
    follow_links: bool = False
    overwrite: bool = False


def for_each(work: Callable[[Item], None], items: Sequence[Item], doing: str, handling: Handling) -> dict[Item, str]:
    """Call ``work`` on every item with a progress bar.

    Args:
        work: see :func:`~coviar_mocrop.parallel.run_map`.
        items: see :func:`~coviar_mocrop.parallel.run_map`.
        doing: title of the progress bar.
        handling: workers, Ray, progress.

    Returns:
        The error messages of the items for which ``work`` raised :class:`VideoError`.

    Raises:
        CoviarMocropError: ``work`` raised one that is not a :class:`VideoError`, for instance because the disk is full.
    """
    failed: dict[Item, str] = {}
    outcomes = run_map(work, items, workers=handling.workers, ray=handling.ray, title=doing, progress=handling.progress)
    with closing(outcomes):
        for item, outcome in outcomes:
            if isinstance(outcome, VideoError):
                failed[item] = str(outcome)
            elif isinstance(outcome, CoviarMocropError):
                raise outcome
    return failed
