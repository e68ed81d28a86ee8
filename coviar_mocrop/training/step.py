"""One step of training: its clips, read and agreed upon by all processes; gradients; the new weights."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F

from coviar_mocrop.clips.dataset import Batch
from coviar_mocrop.clips.loading import read_batches
from coviar_mocrop.errors import CoviarMocropError, DataError
from coviar_mocrop.training.job import Job
from coviar_mocrop.training.optim import mix
from coviar_mocrop.training.state import Progress, seed_of


@dataclass(frozen=True)
class Reading:
    """What a process has read for a step: one batch a part, or the error that kept it from it."""

    parts: list[Batch]
    error: CoviarMocropError | None
    waited: float


@dataclass(frozen=True)
class Agreement:
    """What all processes know of a step before it begins.

    Attributes:
        parts: this process's batches that everybody has clips for.
        clips: how many clips these are over all processes.
        stop: somebody wants to end.
        save: it is time to save.
        failed: number of a process that could not read, or None.
    """

    parts: list[Batch]
    clips: int
    stop: bool
    save: bool
    failed: int | None


def readings(job: Job) -> Iterator[Reading]:
    """The steps of an epoch, as they are read; ends with the first that carries an error."""
    batches = read_batches(job.loader)
    while True:
        start = time.perf_counter()
        parts: list[Batch] = []
        error: CoviarMocropError | None = None
        try:
            parts = list(islice(batches, job.config.train.accumulate))
            for batch in parts:
                job.skipped.add(batch.errors)
        except CoviarMocropError as problem:
            error = problem
        if not parts and error is None:
            return
        yield Reading(parts, error, time.perf_counter() - start)
        if error is not None:
            return


def agree(job: Job, reading: Reading, *, stop: bool, save: bool) -> Agreement:
    """Tell each other what was read. A part for which some process has no clip is left out by all."""
    counts = [len(batch.labels) for batch in reading.parts]
    counts += [0] * (job.config.train.accumulate - len(counts))
    table = job.group.table([float(stop), float(save), float(reading.error is not None), *counts])
    usable = (table[:, 3:] > 0).all(dim=0)
    failed = table[:, 2].nonzero().flatten()
    return Agreement(
        [batch for batch, wanted in zip(reading.parts, usable.tolist(), strict=False) if wanted],
        int(table[:, 3:][:, usable].sum()),
        bool(table[:, 0].any()),
        bool(table[0, 1]),  # the first process has the clock
        int(failed[0]) if len(failed) else None,
    )


def failure(job: Job, reading: Reading, agreement: Agreement) -> CoviarMocropError:
    """The error with which this process ends when any could not read."""
    return reading.error or DataError(f"process {agreement.failed} could not go on; see what it says")


def train_step(job: Job, progress: Progress, agreement: Agreement) -> None:
    """Compute gradients of the agreed parts, step optimizer and schedule, add to the sums."""
    train, group, learner = job.config.train, job.group, job.learner
    seed = seed_of(job.config.seed, progress.epoch, progress.step, group.rank)
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    learner.optimizer.zero_grad(set_to_none=True)
    losses, corrects = [], []
    for number, batch in enumerate(agreement.parts, 1):
        frames = batch.frames.to(job.compute.device, non_blocking=True)
        labels = batch.labels.to(job.compute.device, non_blocking=True)
        targets = labels
        if train.mixup:
            frames, targets = mix(frames, labels, len(job.classes), train.mixup, generator)
        last = number == len(agreement.parts)
        with nullcontext() if last or group.world == 1 else job.network.no_sync():  # type: ignore[operator]
            with job.compute.autocast():
                logits = job.network(frames)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            loss = F.cross_entropy(logits, targets, label_smoothing=train.label_smoothing, reduction="sum")
            # processes average their gradients, and what is wanted is the mean over all clips of the step
            learner.scaler.scale(loss * (group.world / agreement.clips)).backward()
        wanted = targets if targets.dim() == 1 else targets.argmax(dim=1)
        losses.append(loss.detach())
        corrects.append((logits.argmax(dim=1) == wanted).sum())
    if train.grad_clip:
        learner.scaler.unscale_(learner.optimizer)
        torch.nn.utils.clip_grad_norm_(job.model.parameters(), train.grad_clip)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    learner.schedule.step()
    progress.sums.loss += float(torch.stack(losses).sum())
    progress.sums.correct += float(torch.stack(corrects).sum())
    progress.sums.seen += sum(len(batch.labels) for batch in agreement.parts)
