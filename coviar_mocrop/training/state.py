"""How far the training of a stream has come, and the checkpoints that keep it.

Random states are not kept: everything random follows from seed, epoch and step (see :func:`step_seed`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from coviar_mocrop.checkpoint import load_checkpoint, load_model_state, save_checkpoint
from coviar_mocrop.errors import CheckpointError
from coviar_mocrop.training.metrics import Metrics

if TYPE_CHECKING:
    from coviar_mocrop.training.setup import Trainer

_FREE_TO_CHANGE = (
    *("output", "data.root", "data.shards", "data.follow_links", "data.cache", "data.index_cache", "data.backend"),
    *("data.workers", "data.start_method"),
    *("data.max_frame_pixels", "data.test_list", "data.train_list", "data.val_list", "data.classes"),
    *("train.device", "train.threads", "train.precision", "train.save_minutes", "train.channels_last", "train.compile"),
    *("train.deterministic", "train.test_batch_size", "train.frames_at_once", "train.epochs"),
)
"""Settings that may differ when a run is resumed. Lists may lie elsewhere; what they hold is compared."""
logger = logging.getLogger(__name__)


@dataclass
class TrainState:
    """Epochs done, steps done of the next one, their metrics, and the metrics of all epochs before, counted from 1."""

    epoch: int = 0
    step: int = 0
    metrics: Metrics = field(default_factory=Metrics)
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def best(self) -> float | None:
        """Best top-1 on the validation list so far."""
        return max((line["val_top1"] for line in self.history if "val_top1" in line), default=None)

    @property
    def epochs_since_best(self) -> int:
        """Epochs since the best validation; 0 before the first."""
        if self.best is None:
            return 0
        first = next(line["epoch"] for line in self.history if line.get("val_top1") == self.best)
        return self.epoch - int(first)

    @property
    def is_best(self) -> bool:
        """Whether the epoch just done had the best validation yet."""
        return self.best is not None and self.epochs_since_best == 0 and "val_top1" in self.history[-1]


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """The seed of a step's dropout and mixup on a process."""
    return int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1)[0])


def save_state(trainer: Trainer, *, resumable: bool = True) -> None:
    """Write ``best.pt`` if the epoch just done is the best, then, if ``resumable``, ``last.pt`` with the optimizer.

    In this order: killed in between, the epoch is done again, with the same result.

    Raises:
        CoviarMocropError: they cannot be written; what was there stays.
    """
    state, folder = trainer.state, trainer.folder
    content = {
        "model": trainer.stream.network.state_dict(),
        "classes": list(trainer.stream.classes),
        "config": trainer.config.model_dump(mode="json"),
        "epoch": state.epoch,
        "step": state.step,
        "history": state.history,
        "lists": trainer.lists,
        "rules": trainer.stream.rules(),
    }
    finished = state.epoch == trainer.config.train.epochs and state.best is None
    if state.step == 0 and (state.is_best or finished):
        save_checkpoint(folder.best, content)
    if not resumable:
        return
    sums = {name: float(value) for name, value in vars(state.metrics).items()}
    resuming = {
        "optimizer": trainer.optimizer.state_dict(),
        "schedule": trainer.scheduler.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "sums": sums,
    }
    save_checkpoint(folder.last, {**content, **resuming})


def load_state(trainer: Trainer) -> None:
    """Put the content of ``last.pt`` into ``trainer``.

    Raises:
        CheckpointError: it is missing, damaged, or of another run.
    """
    path = trainer.folder.last
    content = load_checkpoint(path)
    _require_same_run(content, trainer, path)
    load_model_state(trainer.stream.network, content["model"], path)
    try:
        trainer.optimizer.load_state_dict(content["optimizer"])
        trainer.scheduler.load_state_dict(content["schedule"])
        trainer.scaler.load_state_dict(content["scaler"])
        metrics = Metrics(**content["sums"])
        history = [{**line, "epoch": epoch} for epoch, line in enumerate(content["history"], 1)]  # once counted from 0
        trainer.state = TrainState(content["epoch"], content["step"], metrics, history)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: cannot be resumed from, because its optimizer or schedule does not fit these settings; start "
            "with --overwrite"
        ) from error
    if not trainer.done:
        logger.info("resuming %s in epoch %d, after step %d", path, trainer.state.epoch + 1, trainer.state.step)


def _require_same_run(content: dict[str, Any], trainer: Trainer, path: Any) -> None:
    """Resuming with other settings or clips would be another run."""
    if tuple(content["classes"]) != trainer.stream.classes:
        raise CheckpointError(f"{path}: was trained on other classes; use another --output, or no --resume")
    if "optimizer" not in content:
        raise CheckpointError(f"{path}: holds no optimizer state, so training cannot resume from it")
    before, now = _flat(content["config"]), _flat(trainer.config.model_dump(mode="json"))
    for name, value in now.items():
        if name not in _FREE_TO_CHANGE and name in before and before[name] != value:
            raise CheckpointError(
                f"{path}: was made with other settings ({name}: {before[name]}, now {value}); resume with the same, or "
                "use another --output"
            )
    for part, digest in trainer.lists.items():
        if content.get("lists", {}).get(part, digest) != digest:
            raise CheckpointError(
                f"{path}: data.{part}_list names other clips or labels than when the run began; resume with the same "
                "list, or use another --output"
            )
    epochs, schedule, stream = before["train.epochs"], trainer.config.train.schedule, trainer.config.stream
    if epochs != now["train.epochs"] and schedule == "cosine":
        # streams that are trained together have folders of their names, and weights of their own
        key = f"streams.{stream}.model.weights" if trainer.folder.path.name == stream else "model.weights"
        raise CheckpointError(
            f"{path}: its cosine schedule ends after {epochs} epochs, so train.epochs cannot change; start another run "
            f"from its weights (--set {key}={trainer.folder.best}). Runs begun with train.schedule=constant or step "
            "can be made longer"
        )
    if content["epoch"] > now["train.epochs"]:
        raise CheckpointError(
            f"{path}: has done {content['epoch']} epochs already; train.epochs is {now['train.epochs']}"
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def how_to_resume(trainers: Sequence[Trainer]) -> str:
    """What to do after an interruption."""
    files = [str(trainer.folder.last) for trainer in trainers if trainer.folder.last.exists()]
    if not files:
        return "nothing was done yet; start the same command again"
    return f"everything is in {', '.join(files)}; go on with the same command and --resume"
