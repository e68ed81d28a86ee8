"""The clips of a step: read, and agreed upon by all processes before any of them computes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from coviar_mocrop.clips.batch import Batch, StreamBatch
from coviar_mocrop.clips.loading import ClipLoader
from coviar_mocrop.errors import CoviarMocropError
from coviar_mocrop.runtime import Group


@dataclass(frozen=True)
class StepBatches:
    """What a process has read for a step: one batch a micro-batch, or the error that kept it from it."""

    batches: list[Batch]
    error: CoviarMocropError | None
    waited: float


@dataclass(frozen=True)
class SyncedStep:
    """What all processes know of a step before it begins.

    Attributes:
        batches: by stream, this process's micro-batches that no process lacks clips for.
        clips: by stream, how many clips these are over all processes.
        stop: some process was asked to stop.
        save: it is time to save.
        failed: rank of a process that could not read, or None.
    """

    batches: dict[str, list[StreamBatch]]
    clips: dict[str, int]
    stop: bool
    save: bool
    failed: int | None


def read_steps(loader: ClipLoader, accumulate: int) -> Iterator[StepBatches]:
    """The steps of an epoch as they are read, ``accumulate`` batches each; ends with the first that has an error."""
    batches = iter(loader)
    while True:
        start = time.perf_counter()
        parts: list[Batch] = []
        error: CoviarMocropError | None = None
        try:
            parts = list(islice(batches, accumulate))
        except CoviarMocropError as problem:
            error = problem
        if not parts and error is None:
            return
        yield StepBatches(parts, error, time.perf_counter() - start)
        if error is not None:
            return


def sync_step(
    group: Group, read: StepBatches, streams: Sequence[str], accumulate: int, *, stop: bool, save: bool
) -> SyncedStep:
    """Exchange micro-batch sizes and errors between processes, so that all take the same step. Collective.

    A stream's micro-batch that is empty anywhere is skipped everywhere.
    """
    mine = {name: [batch.streams.get(name) for batch in read.batches] for name in streams}
    counts = [
        0 if part is None else len(part.labels)
        for name in streams
        for part in (mine[name] + [None] * accumulate)[:accumulate]
    ]
    table = group.table([float(stop), float(save), float(read.error is not None), *counts])
    sizes = table[:, 3:].unflatten(1, (len(streams), accumulate))  # [processes, streams, micro-batches]
    usable = (sizes > 0).all(dim=0)
    failed = table[:, 2].nonzero().flatten()
    batches = {
        name: [part for part, wanted in zip(mine[name], usable[row].tolist(), strict=False) if wanted and part]
        for row, name in enumerate(streams)
    }
    return SyncedStep(
        batches,
        {name: int(sizes[:, row, usable[row]].sum()) for row, name in enumerate(streams)},
        bool(table[:, 0].any()),
        bool(table[0, 1]),  # the first process has the clock
        int(failed[0]) if len(failed) else None,
    )
