"""How far a run has come: all that a checkpoint holds besides settings, and how it gets there and back.

Random states are not among it: whatever is random follows from seed, epoch and step (see :func:`seed_of`), so that
there is nothing to lose.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from coviar_mocrop.checkpoint import load_checkpoint, load_model_state, save_checkpoint
from coviar_mocrop.config import Config
from coviar_mocrop.distributed import Group
from coviar_mocrop.errors import CheckpointError
from coviar_mocrop.networks.fusion_head import ClipNet
from coviar_mocrop.networks.stream_net import StreamNet
from coviar_mocrop.training.run_folder import RunFolder

logger = logging.getLogger(__name__)
_FREE_TO_CHANGE = (
    "device",
    "threads",
    "precision",
    "save_minutes",
    "channels_last",
    "compile",
    "test_batch_size",
    "frames_at_once",
)
"""Settings of training that may differ when a run goes on elsewhere."""


@dataclass
class Sums:
    """Over the steps of an epoch, on one process until :meth:`together`."""

    loss: float = 0.0
    correct: float = 0.0
    seen: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0

    def together(self, group: Group) -> Sums:
        """The sums of all processes; seconds are their mean."""
        loss, correct, seen, seconds, waited = group.table(list(asdict(self).values())).sum(dim=0).tolist()
        return Sums(loss, correct, seen, seconds / group.world, waited / group.world)


@dataclass
class Learner:
    """What training changes."""

    model: StreamNet | ClipNet
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler


@dataclass
class Progress:
    """Whole epochs done, steps done of the next one, their sums, and the metrics of all epochs before."""

    epoch: int = 0
    step: int = 0
    sums: Sums = field(default_factory=Sums)
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def best(self) -> float | None:
        """Best test top-1 so far."""
        return max((line["test_top1"] for line in self.history if "test_top1" in line), default=None)

    @property
    def epochs_since_best(self) -> int:
        """Epochs since the best test; 0 before the first."""
        if self.best is None:
            return 0
        first = next(line["epoch"] for line in self.history if line.get("test_top1") == self.best)
        return self.epoch - 1 - int(first)

    @property
    def is_best(self) -> bool:
        """Whether the epoch just done had the best test top-1 yet."""
        return self.best is not None and self.epochs_since_best == 0 and "test_top1" in self.history[-1]


def seed_of(seed: int, epoch: int, step: int, rank: int) -> int:
    """The seed of a step's dropout and mixup on a process."""
    return int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1)[0])


def save_progress(
    folder: RunFolder, learner: Learner, progress: Progress, config: Config, classes: tuple[str, ...]
) -> None:
    """Write ``best.pt`` if the epoch just done is the best, then ``last.pt``.

    In this order: killed in between, the epoch is done again, with the same result.

    Raises:
        CoviarMocropError: they cannot be written; what was there stays.
    """
    content = {
        "model": learner.model.state_dict(),
        "classes": list(classes),
        "config": config.model_dump(mode="json"),
        "epoch": progress.epoch,
        "step": progress.step,
        "history": progress.history,
    }
    finished = progress.epoch == config.train.epochs and progress.best is None
    if progress.step == 0 and (progress.is_best or finished):
        save_checkpoint(folder.best, content)
    resuming = {
        "optimizer": learner.optimizer.state_dict(),
        "schedule": learner.schedule.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "sums": asdict(progress.sums),
    }
    save_checkpoint(folder.last, {**content, **resuming})


def load_progress(folder: RunFolder, learner: Learner, config: Config, classes: tuple[str, ...]) -> Progress:
    """Put the state of ``last.pt`` into ``learner``.

    Raises:
        CheckpointError: it is missing, damaged, or of another run.
    """
    path = folder.last
    content = load_checkpoint(path)
    _require_same_run(content, config, classes, path)
    load_model_state(learner.model, content["model"], path)
    try:
        learner.optimizer.load_state_dict(content["optimizer"])
        learner.schedule.load_state_dict(content["schedule"])
        learner.scaler.load_state_dict(content["scaler"])
        progress = Progress(content["epoch"], content["step"], Sums(**content["sums"]), content["history"])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: cannot be resumed from ({type(error).__name__}: {error}); start anew with --overwrite"
        ) from error
    logger.info("resuming %s after epoch %d, step %d", path, progress.epoch, progress.step)
    return progress


def _require_same_run(content: dict[str, Any], config: Config, classes: tuple[str, ...], path: Any) -> None:
    """Resuming with other settings would be another run."""
    if tuple(content["classes"]) != classes:
        raise CheckpointError(f"{path}: was trained on other classes; use another --output, or no --resume")
    if "optimizer" not in content:
        raise CheckpointError(f"{path}: holds no optimizer state, so training cannot resume from it")
    before, now = content["config"], config.model_dump(mode="json")
    for section in now:
        if section in ("output", "data"):  # moved elsewhere, read by more workers: the same run
            continue
        then = before.get(section)
        if isinstance(then, dict):
            changed = [k for k in now[section] if then.get(k) != now[section][k] and k not in _FREE_TO_CHANGE]
        else:
            changed = [""] if then != now[section] else []
        if changed:
            name = f"{section}.{changed[0]}".rstrip(".")
            raise CheckpointError(
                f"{path}: was made with other settings ({name}); resume with the same, or use another --output"
            )
