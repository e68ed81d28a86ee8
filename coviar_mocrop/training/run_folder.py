"""What a run keeps in its folder, and what it says: checkpoints, settings, what made it, metrics, a line an epoch.

Every file is written whole or not at all. Random states are not kept: everything random follows from seed, epoch and
step (see :func:`step_seed`).
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from torch import Tensor
from tqdm import tqdm

from coviar_mocrop.checkpoint import load_checkpoint, load_model_state, save_checkpoint
from coviar_mocrop.config import Config
from coviar_mocrop.errors import CheckpointError, ConfigError, CoviarMocropError, DataError
from coviar_mocrop.files import write_json, write_text
from coviar_mocrop.runtime import Group, describe_machine

if TYPE_CHECKING:
    from coviar_mocrop.training.setup import Trainer

_WAIT_WARNING = 0.2
"""Share of the time spent waiting for data above which a hint is given."""
_FREE_TO_CHANGE = (
    *("output", "data.root", "data.follow_links", "data.cache", "data.index_cache", "data.backend", "data.workers"),
    *("data.max_frame_pixels", "data.test_list", "data.train_list", "data.val_list", "data.classes"),
    *("train.device", "train.threads", "train.precision", "train.save_minutes", "train.channels_last", "train.compile"),
    *("train.deterministic", "data.start_method"),
    *("train.test_batch_size", "train.frames_at_once", "train.epochs"),
)
"""Settings that may differ when a run is resumed. Lists may lie elsewhere; what they hold is compared."""
logger = logging.getLogger(__name__)


class RunFolder:
    """Names and contents of a run's files.

    ``last.pt`` and ``best.pt``, ``settings.yaml``, ``run.json`` (versions, machine, command), ``metrics.jsonl`` and
    ``metrics.csv``, TensorBoard's files.
    """

    def __init__(self, path: str) -> None:
        """Name the folder; nothing is written."""
        self.path = Path(path)
        self.last = self.path / "last.pt"
        self.best = self.path / "best.pt"

    def require_free(self) -> None:
        """Refuse a folder that holds a run.

        Raises:
            ConfigError: it does.
        """
        if self.last.exists():
            raise ConfigError(
                f"{self.path}: already holds a run; go on with it (--resume), replace it (--overwrite) or choose "
                "another --output"
            )

    def remove_temporaries(self) -> None:
        """Remove checkpoints that a killed run did not finish writing."""
        for file in (*self.path.glob(".last.*.pt"), *self.path.glob(".best.*.pt")):
            file.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what an older run left.

        Raises:
            CoviarMocropError: the folder cannot be written to.
        """
        try:
            for old in (self.last, self.best, *self.path.glob("events.out.tfevents.*")):
                old.unlink(missing_ok=True)
        except OSError as error:
            raise CoviarMocropError(
                f"{self.path}: cannot be written ({error.strerror}); choose another --output"
            ) from error

    def describe(self, config: Config, facts: dict[str, Any]) -> None:
        """Write the settings, and what runs them; of a resumed run, every part is kept.

        Raises:
            CoviarMocropError: the folder cannot be written to.
        """
        write_text(self.path / "settings.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        file = self.path / "run.json"
        parts = _parts(file) if self.last.exists() else []
        write_json(file, {"parts": [*parts, {**describe_machine(), **facts}]})

    def write_metrics(self, history: Sequence[dict[str, Any]]) -> None:
        """Write the metrics of all epochs so far, as JSON lines and as CSV."""
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in history))
        table = io.StringIO()
        columns = list(dict.fromkeys(name for line in history for name in line))
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_text(self.path / "metrics.csv", table.getvalue())


def _parts(file: Path) -> list[Any]:
    try:
        parts = json.loads(file.read_text(encoding="utf-8"))["parts"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return parts if isinstance(parts, list) else []


@dataclass
class Metrics:
    """Sums over the steps of an epoch, of one process until :meth:`reduce`. Losses stay on the device until then."""

    loss: float | Tensor = 0.0
    correct: float | Tensor = 0.0
    seen: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0

    def __str__(self) -> str:
        """Loss and top-1 so far, for the progress bar."""
        seen = max(self.seen, 1)
        return f"loss {float(self.loss) / seen:.3f} top1 {float(self.correct) / seen:.3f}"

    def reduce(self, group: Group) -> Metrics:
        """The sums over all processes; seconds are their mean. Collective."""
        mine = [float(value) for value in (self.loss, self.correct, self.seen, self.seconds, self.waited)]
        loss, correct, seen, seconds, waited = group.table(mine).sum(dim=0).tolist()
        return Metrics(loss, correct, seen, seconds / group.world, waited / group.world)


@dataclass
class TrainState:
    """Epochs done, steps done of the next one, their metrics, and the metrics of all epochs before."""

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
        return self.epoch - 1 - int(first)

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
        trainer.state = TrainState(content["epoch"], content["step"], metrics, content["history"])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: cannot be resumed from ({type(error).__name__}: {error}); start anew with --overwrite"
        ) from error
    logger.info("resuming %s after epoch %d, step %d", path, trainer.state.epoch, trainer.state.step)


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
    epochs, schedule = before["train.epochs"], trainer.config.train.schedule
    if epochs != now["train.epochs"] and schedule == "cosine":
        raise CheckpointError(
            f"{path}: its cosine schedule ends after {epochs} epochs, so train.epochs cannot change; start another run "
            f"from its weights (--set model.weights={trainer.folder.best}). Runs begun with train.schedule=constant or "
            "step can be made longer"
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


def epoch_metrics(trainer: Trainer, group: Group) -> dict[str, float]:
    """The metrics of the epoch just done, over all processes. Collective.

    Raises:
        DataError: no clip could be read, or the loss is not finite.
    """
    sums, state, config = trainer.state.metrics.reduce(group), trainer.state, trainer.config
    if not sums.seen:
        raise DataError(f"none of the clips of {config.data.train_list} could be read")
    groups = zip(trainer.optimizer.param_groups, trainer.scheduler.get_last_lr(), strict=True)
    rates = {f"lr/{group.get('name', number)}": float(rate) for number, (group, rate) in enumerate(groups)}
    metrics = {
        "epoch": state.epoch,
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
    """Print a line and log the scalars of the epoch just done."""
    config, metrics = trainer.config, trainer.state.history[-1]
    epoch = int(metrics["epoch"])
    for name, value in metrics.items():
        if trainer.writer and name != "epoch":
            part = "val" if name.startswith("val_") else "train"
            trainer.writer.add_scalar(f"{part}/{name.removeprefix('val_')}", value, epoch)
    validated = f", validation top-1 {metrics['val_top1']:.3f}" if "val_top1" in metrics else ""
    waiting = metrics["waiting_for_data"]
    tqdm.write(
        f"{config.stream} epoch {epoch + 1}/{config.train.epochs}: loss {metrics['loss']:.3f}, "
        f"top-1 {metrics['top1']:.3f}{validated}, {metrics['clips_per_second']:.3g} clips/s, "
        f"{waiting:.0%} waiting for data"
    )
    if waiting > _WAIT_WARNING and epoch == 1 and metrics["seconds"] > 10:  # epoch 0 also starts the reading processes
        logger.warning(
            "%.0f %% of the time goes into waiting for data; raise data.workers (now %d), or transcode the "
            "videos to the canonical form (tools/prepare_data.py --transcode)",
            *(100 * waiting, config.data.workers),
        )

    state = trainer.state
    if trainer.done and state.best is None:
        logger.info("%s: best.pt is the last epoch, because there is no validation", config.stream)
    elif trainer.done:
        reason = "" if state.epoch == config.train.epochs else f"; none was better in {state.epochs_since_best} epochs"
        best = state.epoch - state.epochs_since_best
        logger.info("%s: best.pt is epoch %d, validation top-1 %.3f%s", config.stream, best, state.best, reason)


def how_to_resume(trainers: Sequence[Trainer]) -> str:
    """What to do after an interruption."""
    files = [str(trainer.folder.last) for trainer in trainers if trainer.folder.last.exists()]
    if not files:
        return "nothing was done yet; start the same command again"
    return f"everything is in {', '.join(files)}; go on with the same command and --resume"
