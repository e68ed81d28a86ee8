"""The training loop, for one stream or for several that share one decode of each clip."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from coviar_mocrop.clips.batch import StreamBatch
from coviar_mocrop.config import Config
from coviar_mocrop.errors import DataError, Interrupted
from coviar_mocrop.inference.testing import score_clips
from coviar_mocrop.interrupt import StopRequest
from coviar_mocrop.messages import counted
from coviar_mocrop.runtime import Group, process_group
from coviar_mocrop.scores import Scores
from coviar_mocrop.training.metrics import epoch_metrics, report_epoch
from coviar_mocrop.training.optim import mixup
from coviar_mocrop.training.run import Draw, Run, Trainer
from coviar_mocrop.training.run_folder import RunFolder
from coviar_mocrop.training.saving import how_to_resume, load_state, save_state
from coviar_mocrop.training.setup import prepare
from coviar_mocrop.training.state import Metrics, step_seed
from coviar_mocrop.training.steps import read_steps, sync_step

logger = logging.getLogger(__name__)


def train(
    configs: Mapping[str, Config], *, resume: bool = False, overwrite: bool = False, draw: Draw | None = None
) -> dict[str, Path]:
    """Train streams together, decoding each clip once. Under torchrun, all its processes take part.

    Each stream has its own network, optimizer, schedule and folder, and ends with the same weights as if it were
    trained alone. Each folder ``config.output`` gets ``last.pt`` (after the first epoch, every ``train.save_minutes``
    and at the end), ``best.pt``, ``settings.yaml``, ``run.json``, ``metrics.jsonl``, ``metrics.csv`` and TensorBoard
    files. All randomness is derived from seed, epoch, step and clip, so interrupting and resuming a run does not change
    its result.

    Args:
        configs: settings of each stream, by name.
        resume: continue from ``last.pt``, for streams that have one.
        overwrite: replace runs that are in the folders already.
        draw: function that adds figures to TensorBoard at the start and after every epoch, such as
            :func:`coviar_mocrop.viz.show.log_pictures`; None: no figures.

    Returns:
        The path of ``best.pt``, by name. It holds the epoch with the best top-1 on the validation list
        (``data.val_list``), or without validation the last epoch. The test list is never opened.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; all finished steps are saved.
        CoviarMocropError: a setting, list, clip, checkpoint or folder cannot be used.
    """
    with process_group() as group, ExitStack() as stack:
        run = begin(configs, group, stack, resume=resume, overwrite=overwrite, draw=draw)
        with StopRequest(quiet=not group.is_main) as stop:
            while active := [trainer for trainer in run.trainers if not trainer.done]:
                epoch = min(trainer.state.epoch for trainer in active)
                together = [trainer for trainer in active if trainer.state.epoch == epoch]
                _train_epoch(run, together, stop)
                finish_epoch(run, together)
        run.loader.summarise(group, "training clips")
        if run.validation:
            run.validation.summarise(group, "validation clips")
    return best_files(configs)


def begin(
    configs: Mapping[str, Config], group: Group, stack: ExitStack, *, resume: bool, overwrite: bool, draw: Draw | None
) -> Run:
    """Set up a run: resume from the folders of ``configs``, or start a new run; see :func:`train`."""
    for config in configs.values():
        if not overwrite:
            RunFolder(config.output).require_free(resume=resume)
    run = prepare(configs, group)
    run.draw = draw
    for trainer in run.trainers:
        _start(trainer, run, stack, resume=resume)
    return run


def best_files(configs: Mapping[str, Config]) -> dict[str, Path]:
    """Return the path of each run's ``best.pt``, by name; of ``last.pt`` if it has no ``best.pt``."""
    folders = {name: RunFolder(config.output) for name, config in configs.items()}
    return {name: folder.best if folder.best.exists() else folder.last for name, folder in folders.items()}


def _start(trainer: Trainer, run: Run, stack: ExitStack, *, resume: bool) -> None:
    """Resume the run in the trainer's folder, or start a new one."""
    folder, config = trainer.folder, trainer.config
    if resume and folder.last.exists():
        load_state(trainer)
        if not run.group.is_main:
            trainer.state.metrics = trainer.state.metrics.times()
        if trainer.done:
            logger.info("%s: is finished already (%s)", folder.path, counted(trainer.state.epoch, "epoch"))
    elif run.group.is_main:
        if resume:
            logger.warning("%s: holds no run to continue; starting one", folder.path)
        folder.clear()
    logger.info(
        "%s stream, %s, %s setting: %d clips, %d classes, %s",
        *(config.stream, config.model.backbone, config.setting, len(run.loader.clips), len(trainer.stream.classes)),
        trainer.runtime,
    )
    if run.group.is_main:
        folder.remove_temporaries()
        facts = {"processes": run.group.world, "compute": str(trainer.runtime), "epochs_done": trainer.state.epoch}
        folder.describe(config, facts)
        trainer.writer = stack.enter_context(SummaryWriter(str(folder.path), purge_step=trainer.state.epoch + 1))
        if run.draw and trainer is run.trainers[0] and trainer.state.epoch == 0:  # all streams see the same boxes
            run.draw(trainer.writer, trainer.stream, run.loader.clips, 0)


def _train_epoch(run: Run, trainers: Sequence[Trainer], stop: StopRequest) -> None:
    """Do the remaining steps of the current epoch."""
    train = trainers[0].config.train
    epoch, first = trainers[0].state.epoch, min(trainer.state.step for trainer in trainers)
    names = [trainer.stream.name for trainer in trainers]
    run.sampler.epoch, run.sampler.first_step, run.sampler.streams = epoch, first, tuple(names)
    for trainer in trainers:
        trainer.stream.network.train()
    title = f"{' '.join(names)} epoch {epoch + 1}/{max(trainer.config.train.epochs for trainer in trainers)}"
    bar = tqdm(
        read_steps(run.loader, train.accumulate),
        *(title, run.sampler.steps),
        initial=first,
        unit="step",
        leave=False,
        disable=not run.group.is_main,
    )
    mark = time.monotonic()
    for step, read in enumerate(bar, first):
        due = time.monotonic() - run.saved >= 60 * train.save_minutes
        synced = sync_step(run.group, read, names, train.accumulate, stop=stop.made, save=due)
        if run.unsaved and (synced.stop or synced.save or synced.failed is not None):
            _save_within_epoch(run, trainers)
        if synced.failed is not None:
            raise read.error or DataError(f"process {synced.failed} could not go on; see what it says")
        if synced.stop:
            raise Interrupted(f"stopped in epoch {epoch + 1}, after step {step}: {how_to_resume(trainers)}")
        for trainer in trainers:
            if trainer.state.step > step:  # this stream did the step before the run was interrupted
                continue
            name = trainer.stream.name
            if synced.clips[name]:
                train_step(trainer, synced.batches[name], synced.clips[name], run.group)
            trainer.scheduler.step()  # also if no clip of the step could be read: the schedule counts steps
            trainer.state.step = step + 1
        run.unsaved = True
        seconds, mark = time.monotonic() - mark, time.monotonic()
        for trainer in trainers:
            trainer.state.metrics.waited += read.waited
            trainer.state.metrics.seconds += seconds
        if step % 10 == 0 and run.group.is_main:  # not every step, because it waits for the GPU
            bar.set_postfix({t.stream.name: str(t.state.metrics) for t in trainers}, refresh=False)


def train_step(trainer: Trainer, batches: Sequence[StreamBatch], clips: int, group: Group) -> None:
    """Do one optimizer step.

    Args:
        trainer: the stream's training.
        batches: micro-batches of this process. Their gradients are summed.
        clips: number of clips in the step over all processes. The loss is the mean over these.
        group: the processes of the run.
    """
    train, state, stream = trainer.config.train, trainer.state, trainer.stream
    seed = step_seed(trainer.config.seed, state.epoch, state.step, group.rank)
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    trainer.optimizer.zero_grad(set_to_none=True)
    for number, batch in enumerate(batches, 1):
        batch = batch.to(trainer.runtime.device)
        inputs, targets = stream.inputs(batch.inputs), batch.labels
        if train.mixup:
            inputs, targets = mixup(inputs, targets, len(stream.classes), train.mixup, generator)
        last = number == len(batches)
        with nullcontext() if last or group.world == 1 else trainer.model.no_sync():  # type: ignore[operator]
            with trainer.runtime.autocast():
                logits = trainer.model(inputs)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            loss = F.cross_entropy(logits, targets, label_smoothing=train.label_smoothing, reduction="sum")
            # DistributedDataParallel averages over processes; this makes it the mean over all clips of the step
            trainer.scaler.scale(loss * (group.world / clips)).backward()
        wanted = targets if targets.dim() == 1 else targets.argmax(dim=1)
        state.metrics.loss = state.metrics.loss + loss.detach().double()
        state.metrics.correct = state.metrics.correct + (logits.argmax(dim=1) == wanted).sum()
        state.metrics.seen += len(batch.labels)
    if train.grad_clip:
        trainer.scaler.unscale_(trainer.optimizer)
        torch.nn.utils.clip_grad_norm_(stream.network.parameters(), train.grad_clip)
    trainer.scaler.step(trainer.optimizer)
    trainer.scaler.update()


def finish_epoch(run: Run, trainers: Sequence[Trainer], scores: Mapping[str, Scores] | None = None) -> None:
    """Finish an epoch: compute its metrics, validate if it is due, save and log.

    Args:
        run: the run.
        trainers: the streams that have done the epoch.
        scores: scores of held-out clips by stream, which replace the validation; None: validate.
    """
    epoch = trainers[0].state.epoch
    run.loader.clips.keep_boxes()
    metrics = {trainer.stream.name: epoch_metrics(trainer, run.group) for trainer in trainers}
    streams = [trainer.stream for trainer in trainers if trainer.validates(epoch)]
    if run.validation and streams and scores is None:
        for stream in streams:
            run.group.broadcast_buffers(stream.network)  # each process has its own running statistics
        scores = score_clips(streams, run.validation, run.runtime, title="validate", group=run.group)
    for name, scored in (scores or {}).items():
        metrics[name] |= {"val_top1": scored.top1, "val_loss": scored.loss}
    late = time.monotonic() - run.saved >= 60 * trainers[0].config.train.save_minutes
    first = not all(trainer.folder.last.exists() for trainer in trainers)
    due = bool(run.group.table([late or first])[0, 0])  # the main process decides
    for trainer in trainers:
        state = trainer.state
        state.history.append(metrics[trainer.stream.name])
        state.epoch, state.step, state.metrics = epoch + 1, 0, Metrics()
        if run.group.is_main:
            save_state(trainer, resumable=due or trainer.done)
            trainer.folder.write_metrics(state.history)
            report_epoch(trainer)
        if run.draw and trainer.writer:
            run.draw(trainer.writer, trainer.stream, run.loader.clips, state.epoch)
    if due:
        run.saved, run.unsaved = time.monotonic(), False


def _save_within_epoch(run: Run, trainers: Sequence[Trainer]) -> None:
    """Save in the middle of an epoch.

    The sums of all processes are saved, and from then on counted on the main process. The others keep the times only.
    """
    for trainer in trainers:
        trainer.state.metrics = trainer.state.metrics.reduce(run.group)
        if run.group.is_main:
            save_state(trainer)
        else:
            trainer.state.metrics = trainer.state.metrics.times()
    run.saved, run.unsaved = time.monotonic(), False
