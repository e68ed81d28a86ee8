"""Training one stream: a loop one reads in a sitting."""

from __future__ import annotations

import logging
import math
import os
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.clips.loading import read_batches
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.convert import form_of_folder
from coviar_mocrop.distributed import process_group
from coviar_mocrop.errors import DataError, Interrupted
from coviar_mocrop.fusion import measure
from coviar_mocrop.inference.testing import score_clips
from coviar_mocrop.networks.stream_net import StreamNet
from coviar_mocrop.training.interrupt import StopRequest
from coviar_mocrop.training.job import Job, prepare
from coviar_mocrop.training.run_folder import RunFolder
from coviar_mocrop.training.state import Progress, Sums, load_progress, save_progress
from coviar_mocrop.training.step import agree, failure, readings, train_step
from coviar_mocrop.viz.pictures import log_crops, log_displacement

logger = logging.getLogger(__name__)
WAIT_WARNING = 0.2


def train(config: Config, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Train a stream; under torchrun, on all its processes together.

    Writes into ``config.output``: ``last.pt`` after every epoch and every ``train.save_minutes``, ``best.pt``,
    ``settings.yaml``, ``run.json``, ``metrics.jsonl``, ``metrics.csv`` and TensorBoard files. Everything random
    follows from ``config.seed``, epoch, step and clip, so a run that was stopped anywhere and resumed ends like one
    that was not.

    Args:
        config: all settings.
        resume: continue from ``last.pt`` if there is one.
        overwrite: start anew where there is a run already.

    Returns:
        The path of ``best.pt``: the checkpoint with the best test top-1 where the run tests
        (``train.test_every``), else the last.

    Raises:
        Interrupted: Ctrl-C or a signal to end; all steps done are saved.
        CoviarMocropError: of whatever kind the input deserves.
    """
    folder = RunFolder(config.output)
    with process_group() as group:
        if not (resume or overwrite):
            folder.require_free()
        job = prepare(config, group)
        progress = Progress()
        if resume and folder.last.exists():
            progress = load_progress(folder, job.learner, config, job.classes)
        elif group.is_main:
            if resume:
                logger.warning("%s: holds no run to go on with; starting one", folder.path)
            folder.clear()
        if group.is_main:
            folder.describe(config, {"processes": group.world, "compute": str(job.compute), "epoch": progress.epoch})
        logger.info(
            "%s stream, %s, %s setting: %d clips, %d classes, %.3f GFLOPs a frame, %s",
            *(config.stream, config.model.backbone, config.setting, len(job.clips), len(job.classes)),
            *(job.cost.gflops_per_frame, job.compute),
        )
        with _open_board(folder, progress, group.is_main) as board, StopRequest(quiet=not group.is_main) as stop:
            if board and progress.epoch == 0:
                log_crops(board, job.clips.videos, config.data, config.mocrop)
            if progress.epoch == config.train.epochs:
                logger.info("all %d epochs are done already", progress.epoch)
            while progress.epoch < config.train.epochs and not _out_of_patience(progress, config):
                _train_epoch(job, progress, folder, stop)
                metrics = _finish_epoch(job, progress)
                if group.is_main:
                    save_progress(folder, job.learner, progress, config, job.classes)
                    folder.write_metrics(progress.history)
                    _report(metrics, config, board)
                if board and isinstance(job.model, StreamNet) and isinstance(job.clips, ClipDataset):
                    log_displacement(board, job.model, job.clips, progress.epoch, config.train.epochs)
        job.skipped.summarise(group)
    return folder.best if folder.best.exists() else folder.last


def _train_epoch(job: Job, progress: Progress, folder: RunFolder, stop: StopRequest) -> None:
    """Do what is left of the epoch under way."""
    config, group = job.config, job.group
    job.batches.epoch, job.batches.first_step = progress.epoch, progress.step
    job.model.train()
    bar = tqdm(
        readings(job),
        f"{config.stream} epoch {progress.epoch + 1}/{config.train.epochs}",
        total=job.batches.steps,
        initial=progress.step,
        unit="step",
        leave=False,
        disable=not group.is_main,
    )
    saved = mark = time.monotonic()
    for reading in bar:
        due = time.monotonic() - saved >= 60 * config.train.save_minutes
        agreement = agree(job, reading, stop=stop.made, save=due)
        if (agreement.stop or agreement.save or agreement.failed is not None) and (progress.epoch or progress.step):
            _save_within_epoch(job, progress, folder)
            saved = time.monotonic()
        if agreement.failed is not None:
            raise failure(job, reading, agreement)
        if agreement.stop:
            raise Interrupted(f"stopped after epoch {progress.epoch}, step {progress.step}: {_how_to_resume(folder)}")
        if agreement.clips:
            train_step(job, progress, agreement)
        progress.step += 1
        sums = progress.sums
        if sums.seen:
            bar.set_postfix(loss=f"{sums.loss / sums.seen:.3f}", top1=f"{sums.correct / sums.seen:.3f}", refresh=False)
        sums.waited += reading.waited
        sums.seconds += time.monotonic() - mark
        mark = time.monotonic()


def _save_within_epoch(job: Job, progress: Progress, folder: RunFolder) -> None:
    """All processes' sums go into the checkpoint, and from there on count as the first one's."""
    progress.sums = progress.sums.together(job.group)
    if job.group.is_main:
        save_progress(folder, job.learner, progress, job.config, job.classes)
    else:
        progress.sums = Sums()


def _finish_epoch(job: Job, progress: Progress) -> dict[str, float]:
    """Metrics of the epoch just done, tested where it is due; advance ``progress`` to the next."""
    config = job.config
    sums = progress.sums.together(job.group)
    if not sums.seen:
        raise DataError(f"none of the clips of {config.data.train_list} could be read")
    metrics = {
        "epoch": progress.epoch,
        "lr": float(job.learner.schedule.get_last_lr()[0]),
        "loss": sums.loss / sums.seen,
        "top1": sums.correct / sums.seen,
        "seconds": sums.seconds,
        "clips_per_second": sums.seen / max(sums.seconds, 1e-9),
        "waiting_for_data": sums.waited / max(sums.seconds, 1e-9),
    }
    if not math.isfinite(metrics["loss"]):
        raise DataError(
            f"the loss is not finite in epoch {progress.epoch + 1}; lower train.lr ({config.train.lr}) or set "
            "train.grad_clip=1"
        )
    if job.test and (progress.epoch + 1) % config.train.test_every == 0:
        job.group.broadcast_buffers(job.model)  # each process has its own running statistics; the first one's are kept
        test, batches = job.test, read_batches(job.test.loader)
        scores = score_clips(job.model, batches, test.clips, test.skipped, job.compute, config.stream, group=job.group)
        metrics["test_top1"] = measure(scores).top1
    progress.history.append(metrics)
    progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, Sums()
    return metrics


def _report(metrics: dict[str, float], config: Config, board: SummaryWriter | None) -> None:
    epoch, seconds = int(metrics["epoch"]), metrics.get("seconds", 0.0)
    for name, value in metrics.items():
        if board and name != "epoch":
            board.add_scalar("test/top1" if name == "test_top1" else f"train/{name}", value, epoch)
    test = f", test top-1 {metrics['test_top1']:.3f}" if "test_top1" in metrics else ""
    waiting = metrics["waiting_for_data"]
    tqdm.write(
        f"{config.stream} epoch {epoch + 1}/{config.train.epochs}: loss {metrics['loss']:.3f}, "
        f"top-1 {metrics['top1']:.3f}{test}, {metrics['clips_per_second']:.0f} clips/s, {waiting:.0%} waiting for data"
    )
    if waiting > WAIT_WARNING and epoch == 1 and seconds > 10:  # the first epoch also starts the reading processes
        logger.warning("%.0f %% of the time goes into waiting for data; %s", 100 * waiting, _faster_reading(config))


def _faster_reading(config: Config) -> str:
    if config.data.workers < (os.cpu_count() or 1):
        return f"raise data.workers (now {config.data.workers})"
    if form_of_folder(config.data.root) is None:
        return "transcode to the canonical form (tools/prepare_data.py folder --transcode)"
    return "the disk or the processor is the limit"


def _out_of_patience(progress: Progress, config: Config) -> bool:
    patience = config.train.patience
    if not patience or progress.epochs_since_best < patience:
        return False
    logger.info("no better test top-1 in %d epochs (train.patience): done", progress.epochs_since_best)
    return True


def _open_board(folder: RunFolder, progress: Progress, is_main: bool) -> AbstractContextManager[Any]:
    return SummaryWriter(str(folder.path), purge_step=progress.epoch) if is_main else nullcontext()


def _how_to_resume(folder: RunFolder) -> str:
    if not folder.last.exists():
        return "nothing was done yet; start the same command again"
    return f"{folder.last} holds everything; go on with the same command and --resume"
