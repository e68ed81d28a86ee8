"""Save the state of a run in checkpoints, and restore it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from coviar_mocrop.checkpoint import load_checkpoint, load_model_state, save_checkpoint
from coviar_mocrop.errors import CheckpointError
from coviar_mocrop.training.run import Trainer
from coviar_mocrop.training.state import Metrics, TrainState

_FREE_TO_CHANGE = (
    *("output", "data.root", "data.shards", "data.follow_links", "data.cache", "data.index_cache", "data.backend"),
    *("data.workers", "data.start_method", "data.on_error"),
    *("data.max_frame_pixels", "data.test_list", "data.train_list", "data.val_list", "data.classes"),
    *("train.device", "train.threads", "train.precision", "train.save_minutes", "train.channels_last", "train.compile"),
    *("train.deterministic", "train.test_batch_size", "train.frames_at_once", "train.epochs"),
)
"""Settings that may differ when a run is resumed. The paths of lists may change, but their content is compared."""
logger = logging.getLogger(__name__)


def save_state(trainer: Trainer, *, resumable: bool = True) -> None:
    """Write the checkpoints of a stream.

    ``best.pt`` is written if the epoch just finished is the best, or the last one without validation. Then ``last.pt``
    is written with the optimizer's state. If the process is killed in between, the epoch is repeated with the same
    result.

    Args:
        trainer: the stream's training.
        resumable: whether to write ``last.pt``.

    Raises:
        CoviarMocropError: a file cannot be written. The old file is kept.
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
    """Restore ``trainer`` from ``last.pt``: weights, optimizer, schedule and metrics.

    Raises:
        CheckpointError: the file is missing or damaged, or belongs to a run with other settings, classes or lists.
    """
    path = trainer.folder.last
    content = load_checkpoint(path)
    try:
        _require_same_run(content, trainer, path)
        load_model_state(trainer.stream.network, content["model"], path)
        trainer.optimizer.load_state_dict(content["optimizer"])
        trainer.scheduler.load_state_dict(content["schedule"])
        if content["scaler"]:  # empty unless the run was in fp16; a scaler then starts anew
            trainer.scaler.load_state_dict(content["scaler"])
        metrics = Metrics(**{name: float(value) for name, value in content["sums"].items()})
        history = [{**line, "epoch": epoch} for epoch, line in enumerate(content["history"], 1)]  # once counted from 0
        trainer.state = TrainState(content["epoch"], content["step"], metrics, history)
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: cannot be resumed from, because its optimizer or schedule does not fit these settings, or a part "
            "is missing or has the wrong type; start with --overwrite"
        ) from error
    if not trainer.done:
        logger.info("resuming %s in epoch %d, after step %d", path, trainer.state.epoch + 1, trainer.state.step)


def _require_same_run(content: dict[str, Any], trainer: Trainer, path: Any) -> None:
    """Check that classes, settings and lists are those of the run to resume.

    Raises:
        CheckpointError: they differ.
    """
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
        # streams that are trained together have folders named after them, and separate initial weights
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
    """Flatten nested settings to a dictionary with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def how_to_resume(trainers: Sequence[Trainer]) -> str:
    """Return a sentence on how to resume after an interruption."""
    files = [str(trainer.folder.last) for trainer in trainers if trainer.folder.last.exists()]
    if not files:
        return "nothing was done yet; start the same command again"
    return f"everything is in {', '.join(files)}; continue with the same command and --resume"
