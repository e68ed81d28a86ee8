"""Fit streams whose network is frozen except for a linear classifier.

This is meant for small data sets, where holding out validation clips would cost too much. So the classifier is fitted
on the training and validation lists together. Cross-validation over groups of clips chooses the strength of the
regularisation. The scores that each clip gets while it is held out serve later to choose the fusion weights.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from coviar_mocrop.checkpoint import digest
from coviar_mocrop.clips.lists import read_videos
from coviar_mocrop.clips.loading import ClipLoader
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import Clip
from coviar_mocrop.datasets.splits import divide, group_sizes
from coviar_mocrop.errors import DataError
from coviar_mocrop.runtime import process_group
from coviar_mocrop.scores import Scores, save_scores
from coviar_mocrop.streams.base import stream_class
from coviar_mocrop.training.run import Draw, Run, Trainer
from coviar_mocrop.training.run_folder import RunFolder
from coviar_mocrop.training.state import Metrics
from coviar_mocrop.training.trainer import begin, best_files, finish_epoch, train

FOLDS = 5
DIVISIONS = 5
"""The cross-validation divides the clips this many times into at most ``FOLDS`` folds."""


FEW_CLIPS = 500
"""``model.freeze=few`` freezes the network if the training list has fewer clips than this."""


def train_streams(
    configs: Mapping[str, Config], *, resume: bool = False, overwrite: bool = False, draw: Draw | None = None
) -> dict[str, Path]:
    """Train streams: fit those with frozen networks, and train the others step by step.

    For the arguments see :func:`~coviar_mocrop.training.trainer.train`.

    Returns:
        The path of ``best.pt``, by name.

    Raises:
        CoviarMocropError: see :func:`~coviar_mocrop.training.trainer.train`.
    """
    configs = resolve_freeze(configs)
    fitted = {name: config for name, config in configs.items() if _is_fitted(config)}
    others = {name: config for name, config in configs.items() if name not in fitted}
    best: dict[str, Path] = {}
    if not overwrite:
        for config in configs.values():  # all of them, before the first is trained
            RunFolder(config.output).require_free(resume=resume)
    with process_group():  # one group for both: a second one may meet what is left of the first
        if fitted:
            best |= fit(fitted, resume=resume, overwrite=overwrite, draw=draw)
        if others:
            best |= train(others, resume=resume, overwrite=overwrite, draw=draw)
    return {name: best[name] for name in configs}


def resolve_freeze(configs: Mapping[str, Config]) -> dict[str, Config]:
    """Replace ``model.freeze=few`` by true or false, according to the weights and the length of the training list.

    Raises:
        CoviarMocropError: a list cannot be read.
    """
    resolved = {}
    for name, config in configs.items():
        freeze = config.model.freeze
        if freeze == "few":  # without initial weights there is nothing worth freezing
            freeze = config.model.weights is not None and len(read_videos(config.data, "train")) < FEW_CLIPS
        resolved[name] = config.model_copy(update={"model": config.model.model_copy(update={"freeze": freeze})})
    return resolved


def _is_fitted(config: Config) -> bool:
    return stream_class(config.stream).is_fitted(config)


def fit(
    configs: Mapping[str, Config], *, resume: bool = False, overwrite: bool = False, draw: Draw | None = None
) -> dict[str, Path]:
    """Fit streams with frozen networks. Each clip is decoded once for all streams; see :func:`train_streams`."""
    with process_group() as group, ExitStack() as stack:
        run = begin(configs, group, stack, resume=resume, overwrite=overwrite, draw=draw)
        if trainers := [trainer for trainer in run.trainers if not trainer.done]:
            finish_epoch(run, trainers, _fit(run, trainers))
        run.loader.summarise(group, "training clips")
        if run.validation:
            run.validation.summarise(group, "validation clips")
    return best_files(configs)


def _fit(run: Run, trainers: Sequence[Trainer]) -> dict[str, Scores]:
    """Fit streams and set the metrics of their single epoch. Every process fits the same classifiers.

    Returns:
        The scores of the held-out clips by stream. They are also saved in the run's folder. Streams that could not be
        cross-validated have none.
    """
    loaders = [run.loader, *([run.validation] if run.validation else [])]
    clips = [clip for loader in loaders for clip in loader.clips.videos.clips]
    group_of = {name: group for loader in loaders for name, group in loader.clips.videos.group_of.items()}
    folds = fold_of(clips, group_of, run.loader.clips.seed)
    held_out = {}
    for trainer in trainers:
        start, stream = time.monotonic(), trainer.stream
        features = torch.cat([_rows(loader, stream.name) for loader in loaders])
        labels = torch.tensor([clip.label for clip in clips])
        readable = ~features.isnan().any(dim=1)
        if not readable.any():
            raise DataError(f"none of the clips of {trainer.config.data.train_list} could be read")
        features, labels = features[readable], labels[readable]
        kept = None if folds is None else folds[:, readable]
        one_fold = kept is None or any(len(division.unique()) < 2 for division in kept)
        logits = stream.fit(features, labels, None if one_fold else kept)
        with torch.inference_mode():
            own = stream.network(features.to(stream.device)).float().cpu()
        trainer.state.metrics = Metrics(
            loss=float(F.cross_entropy(own, labels, reduction="sum")) / run.group.world,
            correct=float((own.argmax(dim=1) == labels).sum()) / run.group.world,
            seen=len(labels) / run.group.world,
            seconds=time.monotonic() - start,
        )
        if logits is None:
            continue
        held_out[stream.name] = Scores(
            names=np.array([clip.path for clip, usable in zip(clips, readable.tolist(), strict=True) if usable]),
            labels=labels.numpy(),
            scores=logits.float().numpy(),
            classes=np.array(stream.classes),
            settings={
                **stream.description(),
                "held_out": True,
                "weights": digest(stream.network.state_dict()),
                "rules": stream.rules(),
            },
        )
        if run.group.is_main:
            save_scores(trainer.folder.held_out, held_out[stream.name])
    return held_out


def _rows(loader: ClipLoader, stream: str) -> torch.Tensor:
    return loader.clips.features[stream].rows


def fold_of(clips: Sequence[Clip], group_of: Mapping[str, str], seed: int) -> torch.Tensor | None:
    """Assign clips to the folds of the cross-validation, keeping groups whole.

    There are several divisions into folds, because with few groups the result depends on which groups are held out
    together.

    Args:
        clips: clips with distinct paths.
        group_of: group of each clip, by path. A clip that is not named is its own group.
        seed: random seed of the divisions.

    Returns:
        The fold of each clip, int64 [``DIVISIONS``, clips]; None if there is only one group.
    """
    group_of = {clip.path: group_of.get(clip.path, clip.path) for clip in clips}
    sizes = group_sizes(clips, group_of)
    count = min(FOLDS, len(sizes))
    if count < 2:
        return None
    parts = [divide(sizes, [1 / count] * count, DIVISIONS * seed + number) for number in range(DIVISIONS)]
    return torch.tensor([[part_of[group_of[clip.path]] for clip in clips] for part_of in parts])
