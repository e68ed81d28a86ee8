"""Testing a stream: scores of every clip, what they cost and how long they took."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from coviar_mocrop.checkpoint import load_checkpoint, load_model_state
from coviar_mocrop.clips.dataset import Batch, ClipDataset
from coviar_mocrop.clips.features import FeatureDataset
from coviar_mocrop.clips.loading import SkipLog, create_testing_loader, open_clips, read_batches
from coviar_mocrop.config import Config, build_config, load_config
from coviar_mocrop.datasets.lists import read_classes
from coviar_mocrop.device import Compute, choose_compute
from coviar_mocrop.distributed import ALONE, Group
from coviar_mocrop.errors import CheckpointError, ConfigError, CoviarMocropError, DataError
from coviar_mocrop.flops import StreamCost, count_flops
from coviar_mocrop.inference.card import is_export, load_exported
from coviar_mocrop.networks.clip import title
from coviar_mocrop.networks.fusion_head import ClipNet, ZeroShotNet
from coviar_mocrop.networks.stream_net import StreamNet
from coviar_mocrop.scores import Scores
from coviar_mocrop.streams.clip_stream import clip_cost, create_zero_shot
from coviar_mocrop.streams.factory import create_model

StreamModel = StreamNet | ClipNet | ZeroShotNet
"""Networks that give clip logits; the last two take features."""


@dataclass(frozen=True)
class LoadedStream:
    """A trained stream and the settings it was trained with."""

    model: StreamModel
    config: Config
    classes: tuple[str, ...]


def load_stream(
    checkpoint: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    config_file: str | os.PathLike[str] | None = None,
) -> LoadedStream:
    """Load a stream from a checkpoint.

    Args:
        checkpoint: made by training; or ``.safetensors`` with its card beside it, made by ``tools/export.py``.
        overrides: ``a.b=value`` items on top of the settings, such as ``setting=efficiency``.
        config_file: settings to use in place of those in the checkpoint; they must describe the same network.

    Raises:
        CheckpointError: the file cannot be used, or does not fit the settings.
        ConfigError: a setting is wrong.
    """
    content = load_exported(checkpoint) if is_export(checkpoint) else load_checkpoint(checkpoint)
    if config_file is not None:
        config = load_config(config_file, overrides)
    else:
        config = build_config(content["config"], overrides, str(checkpoint))
    trained = content["config"].get("stream")
    if config.stream != trained:
        raise CheckpointError(f"{os.fspath(checkpoint)}: is a {trained} stream; it cannot be tested as {config.stream}")
    classes = tuple(content["classes"])
    model = create_model(config, len(classes))
    load_model_state(model, content["model"], checkpoint)
    return LoadedStream(model.eval(), config, classes)


def load_zero_shot(config_file: str | os.PathLike[str] | None, overrides: Sequence[str] = ()) -> LoadedStream:
    """The zero-shot stream, which has no checkpoint: its classes are those of the settings.

    Raises:
        ConfigError: there are no settings, or they are of a stream that is trained.
        CoviarMocropError: CLIP or the prompts cannot be had.
    """
    if config_file is None:
        raise ConfigError("there is nothing to score; give --checkpoint, or --config of the zero_shot stream")
    config = load_config(config_file, overrides)
    if config.stream != "zero_shot":
        raise ConfigError(f"{os.fspath(config_file)}: the {config.stream} stream is trained; give its --checkpoint")
    classes = read_classes(config.data.classes)
    return LoadedStream(create_zero_shot(config, classes).eval(), config, classes)


def stream_cost(model: StreamModel, config: Config) -> StreamCost:
    """What testing costs by the compute model."""
    if isinstance(model, ClipNet | ZeroShotNet):
        return clip_cost(model, config)
    length = config.input.test_segments if model.temporal else 1  # what sees its neighbours is counted with them
    clip = count_flops(model, (1, length, model.in_channels, config.size, config.size))
    return StreamCost(clip // length, config.input.test_segments * config.input.test_crops)


def score_checkpoint(
    checkpoint: str | os.PathLike[str] | None,
    overrides: Sequence[str] = (),
    config_file: str | os.PathLike[str] | None = None,
    *,
    group: Group = ALONE,
) -> Scores:
    """Score the test list with a trained stream; the processes of ``group`` share the work and get the same.

    Without a checkpoint ``config_file`` names the stream, which must be one without training (zero-shot).

    Raises:
        CoviarMocropError: of whatever kind the input deserves.
    """
    if checkpoint is None:
        stream = load_zero_shot(config_file, overrides)
    else:
        stream = load_stream(checkpoint, overrides, config_file)
    dataset, skipped = open_clips(stream.config, "test", group, model=stream.model)
    if dataset.videos.classes != stream.classes:
        raise CheckpointError(
            f"{checkpoint}: was trained on other classes than {stream.config.data.classes} names "
            f"({len(stream.classes)} against {len(dataset.videos.classes)})"
        )
    compute = choose_compute(stream.config.train, group.local_rank)
    compute.place(stream.model)
    batches = read_batches(create_testing_loader(dataset, stream.config, group))
    scored = score_clips(stream.model, batches, dataset, skipped, compute, stream.config.stream, group=group)
    skipped.summarise(group)
    scored.settings.update(describe(stream.model, stream.config))
    if checkpoint is not None:
        scored.settings["checkpoint"] = os.fspath(checkpoint)
    if isinstance(dataset, FeatureDataset):  # its features came from the cache, so take the time of making a few
        reading, networks = dataset.stopwatch()
        scored.settings["ms_read"] += reading
        scored.settings["ms_network"] += networks
    return scored


def describe(model: StreamModel, config: Config) -> dict[str, Any]:
    """The settings that a score file carries."""
    cost = stream_cost(model, config)
    if isinstance(model, ClipNet | ZeroShotNet):
        parts = [title(config.clip)] * bool(model.image_dim) + [config.model.backbone] * bool(model.motion_dim)
        more = {
            "backbone": " + ".join(parts),
            "segments": config.input.test_segments if model.motion_dim else config.clip.frames,
            "crops": config.input.test_crops if model.motion_dim else 1,
            "gflops_once": cost.once / 1e9,
        }
        return {**_describe(cost, config), **more}
    return _describe(cost, config)


def _describe(cost: StreamCost, config: Config) -> dict[str, Any]:
    return {
        "stream": config.stream,
        "setting": config.setting,
        "backbone": config.model.backbone,
        "size": config.size,
        "segments": config.input.test_segments,
        "crops": config.input.test_crops,
        "seed": config.seed,
        "gflops_per_frame": cost.gflops_per_frame,
        "gflops_per_clip": cost.gflops_per_clip,
        "config": config.model_dump(mode="json"),
    }


def score_clips(
    model: StreamModel,
    batches: Iterable[Batch],
    dataset: ClipDataset | FeatureDataset,
    skipped: SkipLog,
    compute: Compute,
    title: str,
    *,
    group: Group = ALONE,
) -> Scores:
    """Mean logits of every clip that can be read, in the list's order; the same on every process of ``group``.

    ``settings`` of the result hold ``ms_read`` and ``ms_network``: per clip, on this machine.

    Raises:
        DataError: no clip could be read.
    """
    numbers: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    seconds_read = seconds_network = 0.0
    problem: CoviarMocropError | None = None
    was_training = model.training
    model.eval()
    bar = tqdm(total=len(dataset), desc=f"test {title}", unit="clip", leave=False, disable=not group.is_main)
    if isinstance(model, StreamNet) and compute.device.type == "cpu":
        model.frames_at_once = compute.frames_at_once
    # one context for all batches, so that weights are brought to half precision once
    with torch.inference_mode(), compute.autocast(), bar:
        try:
            for batch in batches:
                bar.update(group.world * (len(batch.labels) + len(batch.errors)))
                skipped.add(batch.errors)
                if not len(batch.labels):
                    continue
                start = time.perf_counter()
                logits = model(batch.frames.to(compute.device))
                rows.append(logits.float().cpu().numpy())
                seconds_network += time.perf_counter() - start
                seconds_read += batch.seconds
                numbers.append(batch.numbers.numpy())
        except CoviarMocropError as error:
            if group.world == 1:
                raise
            problem = error  # the others are waiting to hear of it
    model.train(was_training)
    number, scores = _collect(numbers, rows, problem, group)
    if not len(number):
        raise DataError(f"none of the {len(dataset)} test clips could be read: {next(iter(skipped.reasons.values()))}")
    seconds_read, seconds_network = group.table([seconds_read, seconds_network]).sum(dim=0).tolist()
    clips = [dataset.videos.clips[i] for i in number]
    return Scores(
        names=np.array([clip.path for clip in clips]),
        labels=np.array([clip.label for clip in clips], dtype=np.int64),
        scores=scores,
        classes=np.array(dataset.videos.classes),
        settings={
            "ms_read": 1e3 * seconds_read / len(number),
            "ms_network": 1e3 * seconds_network / len(number),
            "compute": str(compute),
            "skipped": len(skipped.reasons),
        },
    )


def _collect(
    numbers: list[np.ndarray], rows: list[np.ndarray], problem: CoviarMocropError | None, group: Group
) -> tuple[np.ndarray, np.ndarray]:
    """All processes' clips, in the list's order, each once; the error of whichever met one."""
    shares = group.gather((numbers, rows, problem))
    for _, _, error in shares:
        if error is not None:
            raise error
    number = np.concatenate([np.empty(0, np.int64), *(part for share in shares for part in share[0])])
    scores = [part for share in shares for part in share[1]]
    order = np.argsort(number)
    return number[order], np.concatenate(scores)[order] if scores else np.empty((0, 0), np.float32)
