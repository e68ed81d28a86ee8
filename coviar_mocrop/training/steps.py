"""Read the clips of a step, and agree on the step with all other processes before computing it."""

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
    """What one process has read for a step.

    Attributes:
        batches: micro-batches of the step.
        error: error while reading, in which case ``batches`` is empty; None: no error.
        waited: time spent waiting for data, seconds.
    """

    batches: list[Batch]
    error: CoviarMocropError | None
    waited: float


@dataclass(frozen=True)
class SyncedStep:
    """What all processes agree on before a step begins.

    Attributes:
        batches: this process's micro-batches by stream, without those that are empty on any process.
        clips: number of clips in the step over all processes, by stream.
        stop: whether any process was asked to stop.
        save: whether it is time to save.
        failed: rank of the first process that could not read its clips; None: all could.
    """

    batches: dict[str, list[StreamBatch]]
    clips: dict[str, int]
    stop: bool
    save: bool
    failed: int | None


def read_steps(loader: ClipLoader, accumulate: int) -> Iterator[StepBatches]:
    """Read the steps of an epoch, with ``accumulate`` micro-batches each. Reading ends after the first error."""
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
    """Exchange micro-batch sizes and errors between processes, so that all take the same step.

    Collective: every process must call it. A stream's micro-batch that is empty on any process is skipped on all.

    Args:
        group: the processes of the run.
        read: what this process has read.
        streams: names of the streams.
        accumulate: number of micro-batches per step.
        stop: whether this process was asked to stop.
        save: whether it is time to save. Only the main process's value counts.
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
        bool(table[0, 1]),  # the main process's clock decides
        int(failed[0]) if len(failed) else None,
    )
