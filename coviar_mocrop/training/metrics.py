"""Compute and report the metrics of an epoch."""

from __future__ import annotations

import logging
import math

from tqdm import tqdm

from coviar_mocrop.errors import DataError
from coviar_mocrop.runtime import Group
from coviar_mocrop.training.run import Trainer

_WAIT_WARNING = 0.2
"""Share of time spent waiting for data above which a warning is logged."""
logger = logging.getLogger(__name__)


def epoch_metrics(trainer: Trainer, group: Group) -> dict[str, float]:
    """Return the metrics of the epoch just finished, over all processes. Collective: every process must call it.

    Returns:
        ``epoch`` (from 1), ``lr`` (or ``lr/<group>`` if parameter groups differ), ``loss`` and ``top1`` (means over
        clips), ``seconds``, ``clips_per_second``, and ``waiting_for_data`` (share of the time).

    Raises:
        DataError: no clip could be read, or the loss is not finite.
    """
    sums, state, config = trainer.state.metrics.reduce(group), trainer.state, trainer.config
    if not sums.seen:
        raise DataError(f"none of the clips of {config.data.train_list} could be read")
    groups = zip(trainer.optimizer.param_groups, trainer.scheduler.get_last_lr(), strict=True)
    rates = {f"lr/{group.get('name', number)}": float(rate) for number, (group, rate) in enumerate(groups)}
    metrics = {
        "epoch": state.epoch + 1,
        **(rates if len(set(rates.values())) > 1 else {"lr": next(iter(rates.values()))}),
        "loss": float(sums.loss) / sums.seen,
        "top1": float(sums.correct) / sums.seen,
        "seconds": sums.seconds,
        "clips_per_second": sums.seen / max(sums.seconds, 1e-9),
        "waiting_for_data": sums.waited / max(sums.seconds, 1e-9),
    }
    if not math.isfinite(metrics["loss"]):
        raise DataError(
            f"the loss is not finite in epoch {state.epoch + 1}; lower train.lr ({config.train.lr}) or set "
            "train.grad_clip=1"
        )
    return metrics


def report_epoch(trainer: Trainer) -> None:
    """Print a line about the epoch just finished, and write its metrics to TensorBoard."""
    config, metrics = trainer.config, trainer.state.history[-1]
    epoch = int(metrics["epoch"])
    for name, value in metrics.items():
        if trainer.writer and name != "epoch":
            part = "val" if name.startswith("val_") else "train"
            trainer.writer.add_scalar(f"{part}/{name.removeprefix('val_')}", value, epoch)
    if trainer.stream.fitted:  # has no epochs to choose the best from
        held_out = f", {metrics['val_top1']:.3f} when they were held out" if "val_top1" in metrics else ""
        tqdm.write(f"{config.stream}: top-1 {metrics['top1']:.3f} on the clips it was fitted on{held_out}")
        return
    validated = f", validation top-1 {metrics['val_top1']:.3f}" if "val_top1" in metrics else ""
    waiting = metrics["waiting_for_data"]
    tqdm.write(
        f"{config.stream} epoch {epoch}/{config.train.epochs}: loss {metrics['loss']:.3f}, "
        f"top-1 {metrics['top1']:.3f}{validated}, {metrics['clips_per_second']:.3g} clips/s, "
        f"{waiting:.0%} waiting for data"
    )
    if waiting > _WAIT_WARNING and epoch == 2 and metrics["seconds"] > 10:  # epoch 1 starts the loader
        logger.warning(
            "%.0f%% of the time goes into waiting for data; raise data.workers (now %d), or transcode the "
            "videos to the canonical format (coviar prepare has --transcode)",
            *(100 * waiting, config.data.workers),
        )
    state = trainer.state
    if trainer.done and state.best is None:
        logger.info("%s: best.pt is the last epoch, because there was no validation", config.stream)
    elif trainer.done:
        reason = "" if state.epoch == config.train.epochs else f"; none was better in {state.epochs_since_best} epochs"
        best = state.epoch - state.epochs_since_best
        logger.info("%s: best.pt is epoch %d, validation top-1 %.3f%s", config.stream, best, state.best, reason)
