"""Rows of numbers for many clips: read from caches, or computed and added to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

from coviar_mocrop.clips.cache import ClipCache, Row
from coviar_mocrop.clips.store import ClipStore, State
from coviar_mocrop.errors import CoviarMocropError
from coviar_mocrop.parallel import run_map

_SAVE_EVERY = 2000
_SAVE_SECONDS = 60.0

Rows = dict[str, Row]
"""The rows of a clip, by name of the cache."""
Errors = dict[str, CoviarMocropError]
"""Why a clip lacks rows, by name of the cache."""


class Missing(NamedTuple):
    """A clip, and the names of the caches that lack it."""

    clip: str
    caches: tuple[str, ...]

    def __str__(self) -> str:
        return self.clip


Compute = Callable[[Missing], Mapping[str, Row | CoviarMocropError]]
"""Function that returns the missing rows [dim] of a clip, or errors, by name of the cache."""


def compute_rows(
    names: Iterable[str],
    caches: Mapping[str, ClipCache],
    compute: Compute,
    *,
    title: str = "clips",
    **options: Any,
) -> tuple[dict[str, Rows], dict[str, Errors]]:
    """Return the rows of many clips: from the caches if they have them, else computed and added to the caches.

    New rows are saved every 2000 clips, every minute, at the end, and when the work is interrupted. Only this process
    writes to the caches, wherever the rows are computed.

    Args:
        names: names of clips in the store. Repeats are ignored.
        caches: caches of one store, by any name, one for each kind of row.
        compute: function that computes the missing rows of a clip. It must pickle; see
            :func:`~coviar_mocrop.parallel.run_map`.
        title: title of the progress bar.
        **options: options of :func:`~coviar_mocrop.parallel.run_map`, such as ``workers``, ``ray`` and ``progress``.

    Returns:
        Rows by clip and cache, for all clips. And, for clips that lack rows, errors by clip and cache: errors that
        ``compute`` returned or raised, or the error that a row is not finite. Both are in the order of ``names``.

    Raises:
        DataError: a clip with a cached row lies outside the data root.
        CoviarMocropError: a cache cannot be written.
    """
    names = list(dict.fromkeys(names))
    rows = {name: {key: row for key, cache in caches.items() if (row := cache.get(name)) is not None} for name in names}
    errors: dict[str, Errors] = {}
    missing = [
        Missing(name, tuple(key for key in caches if key not in found))
        for name, found in rows.items()
        if len(found) < len(caches)
    ]
    new: dict[str, tuple[State, Rows]] = {}

    def save() -> None:
        for key, cache in caches.items():
            cache.put({name: (state, found[key]) for name, (state, found) in new.items() if key in found})
        new.clear()

    work = _WithState(next(iter(caches.values())).store, compute)
    saved = time.monotonic()
    try:
        with closing(run_map(work, missing, title=title, unit="clip", **options)) as outcomes:
            for (name, keys), outcome in outcomes:
                found, failed = _sorted_out(name, keys, outcome, caches)
                if not isinstance(outcome, CoviarMocropError):
                    new[name] = outcome[0], found
                rows[name] |= found
                if failed:
                    errors[name] = failed
                if len(new) >= _SAVE_EVERY or time.monotonic() - saved > _SAVE_SECONDS:
                    save()
                    saved = time.monotonic()
    finally:
        save()
    return rows, {name: errors[name] for name in names if name in errors}


@dataclass(frozen=True)
class _WithState:
    """Computes the rows of a clip, and returns them with the state of its video before reading."""

    store: ClipStore
    compute: Compute

    def __call__(self, missing: Missing) -> tuple[State, Mapping[str, Row | CoviarMocropError]]:
        return self.store.state(missing.clip), self.compute(missing)


def _sorted_out(
    name: str,
    keys: Iterable[str],
    outcome: tuple[State, Mapping[str, Row | CoviarMocropError]] | CoviarMocropError,
    caches: Mapping[str, ClipCache],
) -> tuple[Rows, Errors]:
    if isinstance(outcome, CoviarMocropError):
        return {}, dict.fromkeys(keys, outcome)
    rows: Rows = {}
    errors: Errors = {}
    for key, row in outcome[1].items():
        try:
            if isinstance(row, CoviarMocropError):
                raise row
            rows[key] = caches[key].checked(name, row)
        except CoviarMocropError as error:
            errors[key] = error
    return rows, errors
