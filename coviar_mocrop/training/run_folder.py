"""The folder of a run: checkpoints, settings, what made it, metrics. Every file is written whole or not at all.

Random states are not kept: everything random follows from seed, epoch and step (see :func:`step_seed`).
"""

from __future__ import annotations

import csv
import io
import json
import logging
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from torch import Tensor

from coviar_mocrop.checkpoint import load_checkpoint, load_model_state, save_checkpoint
from coviar_mocrop.config import Config
from coviar_mocrop.errors import CheckpointError, ConfigError, CoviarMocropError
from coviar_mocrop.files import write_json, write_text
from coviar_mocrop.runtime import Group

if TYPE_CHECKING:
    from coviar_mocrop.training.setup import Trainer

_PACKAGES = ("coviar_mocrop", "torch", "torchvision", "av", "numpy", "motion-vector-extractor", "open_clip_torch")


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
"""Settings of training that may differ when a run is resumed elsewhere."""
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
        write_json(file, {"parts": [*parts, {**_environment(), **facts}]})

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


def _environment() -> dict[str, Any]:
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclass
class Metrics:
    """Sums over the steps of an epoch, of one process until :meth:`reduce`. Losses stay on the device until then."""

    loss: float | Tensor = 0.0
    correct: float | Tensor = 0.0
    seen: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0

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
    """Resuming with other settings would be another run."""
    if tuple(content["classes"]) != trainer.stream.classes:
        raise CheckpointError(f"{path}: was trained on other classes; use another --output, or no --resume")
    if "optimizer" not in content:
        raise CheckpointError(f"{path}: holds no optimizer state, so training cannot resume from it")
    before, now = content["config"], trainer.config.model_dump(mode="json")
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
