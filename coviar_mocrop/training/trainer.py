"""Training one stream, or several from one decode of each clip: what an epoch does, in the order it happens."""

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
from coviar_mocrop.training.metrics import Metrics, epoch_metrics, report_epoch
from coviar_mocrop.training.optim import mixup
from coviar_mocrop.training.run_folder import RunFolder
from coviar_mocrop.training.setup import Draw, Run, Trainer, prepare
from coviar_mocrop.training.state import how_to_resume, load_state, save_state, step_seed
from coviar_mocrop.training.steps import read_steps, sync_step

logger = logging.getLogger(__name__)


def train(
    configs: Mapping[str, Config], *, resume: bool = False, overwrite: bool = False, draw: Draw | None = None
) -> dict[str, Path]:
    """Train streams together, from one decode of each clip; under torchrun, on all its processes.

    Each stream has its own network, optimizer, schedule and folder, and gets the weights that it would get by itself.
    Into each ``config.output`` go ``last.pt`` every ``train.save_minutes`` and at the end, ``best.pt``,
    ``settings.yaml``, ``run.json``, ``metrics.jsonl``, ``metrics.csv`` and TensorBoard files. Everything random follows
    from seed, epoch, step and clip, so a run that was interrupted anywhere and resumed ends like one that was not.

    Args:
        configs: settings by name of the run.
        resume: continue from ``last.pt`` where there is one.
        overwrite: start anew where there is a run already.
        draw: adds pictures to TensorBoard at the start and after every epoch, such as
            :func:`coviar_mocrop.inference.show.log_pictures`.

    Returns:
        By name, the path of ``best.pt``: the epoch with the best top-1 on the validation list (``data.val_list``);
        without such a list, the last. The test list is never opened.

    Raises:
        Interrupted: Ctrl-C or a signal to end; all steps done are saved.
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
    """Take up the runs in the folders of ``configs``, or begin new ones; see :func:`train`."""
    for config in configs.values():
        if not (resume or overwrite):
            RunFolder(config.output).require_free()
    run = prepare(configs, group)
    run.draw = draw
    for trainer in run.trainers:
        _start(trainer, run, stack, resume=resume)
    return run


def best_files(configs: Mapping[str, Config]) -> dict[str, Path]:
    """By name of the run, its ``best.pt``; ``last.pt`` where it stopped before it had one."""
    folders = {name: RunFolder(config.output) for name, config in configs.items()}
    return {name: folder.best if folder.best.exists() else folder.last for name, folder in folders.items()}


def _start(trainer: Trainer, run: Run, stack: ExitStack, *, resume: bool) -> None:
    """Take up the run in the trainer's folder, or begin a new one."""
    folder, config = trainer.folder, trainer.config
    if resume and folder.last.exists():
        load_state(trainer)
        if not run.group.is_main:  # the sums in a checkpoint are those of all processes
            trainer.state.metrics = Metrics()
        if trainer.done:
            logger.info("%s: is finished already (%s)", folder.path, counted(trainer.state.epoch, "epoch"))
    elif run.group.is_main:
        if resume:
            logger.warning("%s: holds no run to go on with; starting one", folder.path)
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
    """Do what is left of the epoch under way."""
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
            if trainer.state.step > step:  # it was further when the run was interrupted
                continue
            name = trainer.stream.name
            if synced.clips[name]:
                train_step(trainer, synced.batches[name], synced.clips[name], run.group)
            trainer.state.step = step + 1
        run.unsaved = True
        seconds, mark = time.monotonic() - mark, time.monotonic()
        for trainer in trainers:
            trainer.state.metrics.waited += read.waited
            trainer.state.metrics.seconds += seconds
        if step % 10 == 0 and run.group.is_main:  # not every step, because it waits for the GPU
            bar.set_postfix({t.stream.name: str(t.state.metrics) for t in trainers}, refresh=False)


def train_step(trainer: Trainer, batches: Sequence[StreamBatch], clips: int, group: Group) -> None:
    """One optimizer step over micro-batches, ``clips`` clips over all processes."""
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
            # processes average their gradients, and what is wanted is the mean over all clips of the step
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
    trainer.scheduler.step()


def finish_epoch(run: Run, trainers: Sequence[Trainer], scores: Mapping[str, Scores] | None = None) -> None:
    """Metrics of the epoch just done, validated where it is due; save, log, and go on to the next.

    ``scores`` take the place of a validation, where clips were held out in training.
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
    due = bool(run.group.table([late])[0, 0])  # the first process has the clock
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
    """The metrics of all processes go into the checkpoint, and from there on count as the first one's."""
    for trainer in trainers:
        trainer.state.metrics = trainer.state.metrics.reduce(run.group)
        if run.group.is_main:
            save_state(trainer)
        else:
            trainer.state.metrics = Metrics()
    run.saved, run.unsaved = time.monotonic(), False
