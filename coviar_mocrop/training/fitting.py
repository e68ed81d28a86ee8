"""Training in one go, for streams whose network is frozen but for a linear classifier.

Few clips are too few to hold some of them back. So the classifier is fitted on the training and the validation list
together, and everything that is chosen is chosen by cross-validation over their groups: the strength of the
regularisation, and afterwards the weights of the fusion, from what each clip got when it was held out.
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
from coviar_mocrop.training.metrics import Metrics
from coviar_mocrop.training.run_folder import RunFolder
from coviar_mocrop.training.setup import Draw, Run, Trainer
from coviar_mocrop.training.trainer import begin, best_files, finish_epoch, train

FOLDS = 5
DIVISIONS = 5
"""Of the cross-validation, where there are as many groups."""


FEW_CLIPS = 500
"""Training lists with fewer are few (``model.freeze``)."""


def train_streams(
    configs: Mapping[str, Config], *, resume: bool = False, overwrite: bool = False, draw: Draw | None = None
) -> dict[str, Path]:
    """Train streams: frozen networks in one go, the others step by step (:func:`train`, which has the arguments).

    Returns:
        By name, the path of ``best.pt``.

    Raises:
        CoviarMocropError: see :func:`train`.
    """
    configs = resolve_freeze(configs)
    fitted = {name: config for name, config in configs.items() if _is_fitted(config)}
    others = {name: config for name, config in configs.items() if name not in fitted}
    best: dict[str, Path] = {}
    if not (resume or overwrite):
        for config in configs.values():  # of those that come second, too
            RunFolder(config.output).require_free()
    if fitted:
        best |= fit(fitted, resume=resume, overwrite=overwrite, draw=draw)
    if others:
        best |= train(others, resume=resume, overwrite=overwrite, draw=draw)
    return {name: best[name] for name in configs}


def resolve_freeze(configs: Mapping[str, Config]) -> dict[str, Config]:
    """Settings in which ``model.freeze`` is true or false.

    Raises:
        CoviarMocropError: a list cannot be read.
    """
    resolved = {}
    for name, config in configs.items():
        freeze = config.model.freeze
        if freeze == "few":  # a network that knows nothing is trained, however few they are
            freeze = config.model.weights is not None and len(read_videos(config.data, "train")) < FEW_CLIPS
        resolved[name] = config.model_copy(update={"model": config.model.model_copy(update={"freeze": freeze})})
    return resolved


def _is_fitted(config: Config) -> bool:
    return stream_class(config.stream).is_fitted(config)


def fit(
    configs: Mapping[str, Config], *, resume: bool = False, overwrite: bool = False, draw: Draw | None = None
) -> dict[str, Path]:
    """Fit streams with frozen networks, on features from one decode of each clip; see :func:`train_streams`."""
    with process_group() as group, ExitStack() as stack:
        run = begin(configs, group, stack, resume=resume, overwrite=overwrite, draw=draw)
        if trainers := [trainer for trainer in run.trainers if not trainer.done]:
            finish_epoch(run, trainers, _fit(run, trainers))
        run.loader.summarise(group, "training clips")
        if run.validation:
            run.validation.summarise(group, "validation clips")
    return best_files(configs)


def _fit(run: Run, trainers: Sequence[Trainer]) -> dict[str, Scores]:
    """Fit streams, and keep the metrics of what counts as their only epoch; every process of a group fits the same.

    Returns:
        By stream, the scores of the clips when they were held out, which go into the folder of the run as well.
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
    """The fold of each clip in the cross-validation, whole groups together: int64 [``DIVISIONS``, clips].

    Several divisions, because which groups are held out together decides much where there are few.

    Args:
        clips: of distinct paths.
        group_of: by path; a clip that is not named is a group of its own.
        seed: decides the divisions.

    Returns:
        None where there is one group only.
    """
    group_of = {clip.path: group_of.get(clip.path, clip.path) for clip in clips}
    sizes = group_sizes(clips, group_of)
    count = min(FOLDS, len(sizes))
    if count < 2:
        return None
    parts = [divide(sizes, [1 / count] * count, DIVISIONS * seed + number) for number in range(DIVISIONS)]
    return torch.tensor([[part_of[group_of[clip.path]] for clip in clips] for part_of in parts])
