"""What a run says while it trains: a line an epoch, scalars for TensorBoard, hints."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from coviar_mocrop.config import Config
from coviar_mocrop.datasets.convert import form_of_folder
from coviar_mocrop.training.run_folder import Metrics

if TYPE_CHECKING:
    from coviar_mocrop.training.setup import Trainer

logger = logging.getLogger(__name__)
WAIT_WARNING = 0.2
"""Share of the time spent waiting for data above which a hint is given."""


def report_epoch(trainer: Trainer) -> None:
    """Print a line and log the scalars of the epoch just done."""
    config, metrics = trainer.config, trainer.state.history[-1]
    epoch = int(metrics["epoch"])
    for name, value in metrics.items():
        if trainer.writer and name != "epoch":
            trainer.writer.add_scalar("test/top1" if name == "test_top1" else f"train/{name}", value, epoch)
    test = f", test top-1 {metrics['test_top1']:.3f}" if "test_top1" in metrics else ""
    waiting = metrics["waiting_for_data"]
    tqdm.write(
        f"{config.stream} epoch {epoch + 1}/{config.train.epochs}: loss {metrics['loss']:.3f}, "
        f"top-1 {metrics['top1']:.3f}{test}, {metrics['clips_per_second']:.0f} clips/s, {waiting:.0%} waiting for data"
    )
    if waiting > WAIT_WARNING and epoch == 1 and metrics["seconds"] > 10:  # epoch 0 also starts the reading processes
        logger.warning("%.0f %% of the time goes into waiting for data; %s", 100 * waiting, _faster_reading(config))


def report_end(trainer: Trainer) -> None:
    """Say why a stream is not trained further, where that is not obvious."""
    state, train = trainer.state, trainer.config.train
    if state.epoch < train.epochs:
        logger.info(
            "%s: no better test top-1 in %d epochs (train.patience): done", trainer.stream.name, state.epochs_since_best
        )


def running(metrics: Metrics) -> str:
    """Loss and top-1 of the epoch so far, for the progress bar."""
    seen = max(metrics.seen, 1)
    return f"loss {float(metrics.loss) / seen:.3f} top1 {float(metrics.correct) / seen:.3f}"


def how_to_resume(trainers: Sequence[Trainer]) -> str:
    """What to do after an interruption."""
    files = [str(trainer.folder.last) for trainer in trainers if trainer.folder.last.exists()]
    if not files:
        return "nothing was done yet; start the same command again"
    return f"everything is in {', '.join(files)}; go on with the same command and --resume"


def _faster_reading(config: Config) -> str:
    if config.data.workers < (os.cpu_count() or 1):
        return f"raise data.workers (now {config.data.workers})"
    if form_of_folder(config.data.root) is None:
        return "transcode to the canonical form (tools/prepare_data.py folder --transcode)"
    return "the disk or the processor is the limit"
