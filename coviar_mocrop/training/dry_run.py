"""A run in small: one step of training and one batch of testing, on the real clips, before days are spent on it."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from itertools import islice

import torch

from coviar_mocrop.clips.loading import read_batches
from coviar_mocrop.config import Config
from coviar_mocrop.distributed import ALONE
from coviar_mocrop.errors import DataError
from coviar_mocrop.fusion import measure
from coviar_mocrop.inference.testing import score_clips
from coviar_mocrop.training.job import Job, open_test, prepare
from coviar_mocrop.training.state import Progress
from coviar_mocrop.training.step import agree, failure, readings, train_step


@dataclass(frozen=True)
class DryRun:
    """What a dry run found; ``lines`` are what it says."""

    shape: tuple[int, ...]
    parameters: int
    trainable: int
    gflops_per_frame: float
    gflops_per_clip: float
    loss: float
    seconds_reading: float
    seconds_step: float
    steps_per_epoch: int
    memory: float
    tested: int
    seconds_test: float
    lines: tuple[str, ...]


def dry_run(config: Config) -> DryRun:
    """Do one step and one test batch; nothing is written but the box cache.

    Raises:
        CoviarMocropError: whatever the run itself would have met at its start.
    """
    job = prepare(config, ALONE)
    job.model.train()
    progress = Progress()
    reading = next(readings(job), None)
    if reading is None:
        raise DataError(f"{config.data.train_list}: holds no clips")
    agreement = agree(job, reading, stop=False, save=False)
    if agreement.failed is not None:
        raise failure(job, reading, agreement)
    if not agreement.clips:
        raise DataError(f"none of the first {config.train.batch_size} clips could be read")
    start = time.perf_counter()
    train_step(job, progress, agreement)
    seconds_step = time.perf_counter() - start
    test = job.test or (open_test(config, ALONE) if config.data.test_list else None)
    tested, seconds_test, top1 = 0, 0.0, 0.0
    if test:
        start = time.perf_counter()
        batches = islice(read_batches(test.loader), 1)
        scores = score_clips(job.model, batches, test.clips, test.skipped, job.compute, config.stream)
        tested, seconds_test, top1 = len(scores.names), time.perf_counter() - start, measure(scores).top1
    shape = tuple(agreement.parts[0].frames.shape)
    parameters = list(job.model.parameters())
    total = sum(p.numel() for p in parameters)
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    loss = progress.sums.loss / max(progress.sums.seen, 1)
    memory = _memory(job)
    steps = job.batches.steps
    hours = steps * config.train.epochs * max(seconds_step, reading.waited) / 3600
    lines = [
        f"input: {' x '.join(map(str, shape))} (clips x segments x channels x height x width), {job.compute}",
        f"network: {config.model.backbone}, {total / 1e6:.2f} M parameters, {trainable / 1e6:.2f} M of them trained",
        f"compute: {job.cost.gflops_per_frame:.3f} GFLOPs a frame, {job.cost.gflops_per_clip:.2f} a test clip",
        f"step: loss {loss:.3f}, {reading.waited:.2f} s to read the first, {seconds_step:.2f} s to compute it",
        f"run: {len(job.clips)} clips, {steps} steps an epoch, {config.train.epochs} epochs: about {hours:.1f} hours "
        "at this pace (the first step is the slowest)",
        f"memory: {memory:.2f} GB at most",
    ]
    if test:
        lines.append(f"test: {tested} of {len(test.clips)} clips in {seconds_test:.2f} s, top-1 {top1:.1%} untrained")
    else:
        lines.append("test: data.test_list is not set")
    lines.append(f"output: {config.output} (nothing written)")
    return DryRun(
        shape=shape,
        parameters=total,
        trainable=trainable,
        gflops_per_frame=job.cost.gflops_per_frame,
        gflops_per_clip=job.cost.gflops_per_clip,
        loss=loss,
        seconds_reading=reading.waited,
        seconds_step=seconds_step,
        steps_per_epoch=steps,
        memory=memory,
        tested=tested,
        seconds_test=seconds_test,
        lines=tuple(lines),
    )


def _memory(job: Job) -> float:
    """Peak so far, GB: of the GPU where there is one, else of this process."""
    if job.compute.device.type == "cuda":
        return torch.cuda.max_memory_allocated(job.compute.device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
