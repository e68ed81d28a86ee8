"""Training one stream: a loop one reads in a sitting."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from coviar_mocrop.config import Config
from coviar_mocrop.data.dataset import Batch
from coviar_mocrop.engine.checkpoint import load_checkpoint, load_model_state, save_checkpoint
from coviar_mocrop.engine.device import choose_compute
from coviar_mocrop.engine.evaluate import score_clips, stream_cost
from coviar_mocrop.engine.loading import create_loader, open_clips
from coviar_mocrop.errors import CheckpointError, ConfigError, DataError
from coviar_mocrop.files import write_text
from coviar_mocrop.fusion import measure
from coviar_mocrop.models import create_stream
from coviar_mocrop.recipe import create_optimizer, create_schedule
from coviar_mocrop.report.pictures import log_crops

logger = logging.getLogger(__name__)
WAIT_WARNING = 0.2


def train(config: Config, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Train a stream.

    Writes into ``config.output``: ``last.pt`` after every epoch, ``best.pt``, ``settings.yaml``,
    ``metrics.jsonl`` and TensorBoard files. Everything random follows from ``config.seed``, epoch and clip, so
    a run that was stopped and resumed ends like one that was not.

    Args:
        config: all settings.
        resume: continue from ``last.pt`` if there is one.
        overwrite: start anew where there is a run already.

    Returns:
        The path of ``best.pt``: the checkpoint with the best test top-1 where the run tests
        (``train.test_every``), else the last.

    Raises:
        CoviarMocropError: of whatever kind the input deserves.
    """
    output = Path(config.output)
    if (output / "last.pt").exists() and not (resume or overwrite):
        raise ConfigError(
            f"{output}: already holds a run; go on with it (--resume), replace it (--overwrite) or choose another "
            "--output"
        )
    dataset, skipped = open_clips(config, "train")
    classes = dataset.videos.classes
    compute = choose_compute(config.train)
    torch.manual_seed(config.seed)
    model = create_stream(config.stream, len(classes), config.model)
    cost = stream_cost(model, config)
    model = model.to(memory_format=torch.channels_last).to(compute.device)
    loader, sampler = create_loader(dataset, config)
    optimizer = create_optimizer(model, config.train)
    schedule = create_schedule(optimizer, config.train, len(loader))
    test_clips = open_clips(config, "test") if config.train.test_every else None
    test_loader = create_loader(test_clips[0], config)[0] if test_clips else None

    first_epoch, best = 0, -1.0
    last_path, best_path = output / "last.pt", output / "best.pt"
    if resume and last_path.exists():
        content = load_checkpoint(last_path)
        _require_same_run(content, config, classes, last_path)
        load_model_state(model, content["model"], last_path)
        optimizer.load_state_dict(content["optimizer"])
        schedule.load_state_dict(content["schedule"])
        first_epoch, best = content["epoch"], content["best"]
        logger.info("resuming %s after epoch %d", last_path, first_epoch)
    write_text(output / "settings.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    logger.info(
        "%s stream, %s, %s setting: %d clips, %d classes, %.3f GFLOPs a frame, %s",
        *(config.stream, config.model.backbone, config.setting, len(dataset), len(classes)),
        *(cost.gflops_per_frame, compute),
    )

    with SummaryWriter(str(output), purge_step=first_epoch) as board:
        if first_epoch == 0:
            log_crops(board, dataset.videos, config.data, config.mocrop)
        for epoch in range(first_epoch, config.train.epochs):
            torch.manual_seed(_epoch_seed(config.seed, epoch))  # dropout; makes resuming exact
            sampler.epoch = epoch
            model.train()
            metrics: dict[str, float] = {"lr": float(schedule.get_last_lr()[0])}
            loss_sum = correct = seen = waited = 0.0
            start = mark = time.perf_counter()
            bar = tqdm(loader, f"{config.stream} epoch {epoch + 1}/{config.train.epochs}", unit="batch", leave=False)
            batch: Batch
            for batch in bar:
                waited += time.perf_counter() - mark
                skipped.add(batch.errors)
                if len(batch.labels):
                    frames = batch.frames.to(compute.device, non_blocking=True)
                    labels = batch.labels.to(compute.device, non_blocking=True)
                    with compute.autocast():
                        logits = model(frames)
                    loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.train.label_smoothing)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    if config.train.grad_clip:
                        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.grad_clip)
                    optimizer.step()
                    loss_sum += float(loss.detach()) * len(labels)
                    correct += float((logits.argmax(dim=1) == labels).sum())
                    seen += len(labels)
                    bar.set_postfix(loss=f"{loss_sum / seen:.3f}", top1=f"{correct / seen:.3f}", refresh=False)
                    schedule.step()
                mark = time.perf_counter()
            elapsed = time.perf_counter() - start
            if not seen:
                raise DataError(f"none of the clips of {config.data.train_list} could be read")
            metrics |= {"loss": loss_sum / seen, "top1": correct / seen}
            metrics |= {"clips_per_second": seen / elapsed, "waiting_for_data": waited / elapsed}
            if not math.isfinite(metrics["loss"]):
                raise DataError(f"the loss is not finite after epoch {epoch + 1}; lower train.lr ({config.train.lr})")
            if test_clips and test_loader and (epoch + 1) % config.train.test_every == 0:
                scores = score_clips(model, test_loader, *test_clips, compute, config.stream)
                metrics["test_top1"] = measure(scores).top1
            for name, value in metrics.items():
                board.add_scalar(f"train/{name}" if name != "test_top1" else "test/top1", value, epoch)
            _append_line(output / "metrics.jsonl", {"epoch": epoch, **metrics}, first=epoch == 0)
            content = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "epoch": epoch + 1,
                "best": max(best, metrics.get("test_top1", -1.0)),
                "classes": list(classes),
                "config": config.model_dump(mode="json"),
            }
            save_checkpoint(last_path, content)
            if metrics.get("test_top1", best) > best or (best < 0 and epoch + 1 == config.train.epochs):
                best = content["best"]
                save_checkpoint(best_path, {k: v for k, v in content.items() if k not in ("optimizer", "schedule")})
            _report(epoch, metrics, config)
    skipped.summarise()
    return best_path if best_path.exists() else last_path


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _report(epoch: int, metrics: dict[str, float], config: Config) -> None:
    test = f", test top-1 {metrics['test_top1']:.3f}" if "test_top1" in metrics else ""
    tqdm.write(
        f"{config.stream} epoch {epoch + 1}/{config.train.epochs}: loss {metrics['loss']:.3f}, "
        f"top-1 {metrics['top1']:.3f}{test}, {metrics['clips_per_second']:.0f} clips/s, "
        f"{metrics['waiting_for_data']:.0%} waiting for data"
    )
    if metrics["waiting_for_data"] > WAIT_WARNING and epoch == 1:
        logger.warning(
            "%.0f %% of the time goes into waiting for data; raise data.workers (now %d) or transcode to the "
            "canonical form (tools/prepare_data.py folder --transcode)",
            *(100 * metrics["waiting_for_data"], config.data.workers),
        )


def _append_line(path: Path, values: dict[str, Any], *, first: bool) -> None:
    with path.open("w" if first else "a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def _require_same_run(content: dict[str, Any], config: Config, classes: tuple[str, ...], path: Path) -> None:
    """Resuming with other settings would be another run."""
    if tuple(content["classes"]) != classes:
        raise CheckpointError(f"{path}: was trained on other classes; use another --output, or no --resume")
    if "optimizer" not in content:
        raise CheckpointError(f"{path}: holds no optimizer state, so training cannot resume from it")
    before, now = content["config"], config.model_dump(mode="json")
    for section in ("stream", "setting", "seed", "input", "mocrop", "model", "train"):
        if before.get(section) != now[section]:
            raise CheckpointError(
                f"{path}: was made with other settings ({section}); resume with the same, or use another --output"
            )
