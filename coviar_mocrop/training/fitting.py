"""Training in one go, for streams whose network is frozen but for a linear classifier.

Few clips are too few to hold some of them back. So the classifier is fitted on the training and the validation list
together, and everything that is chosen is chosen by cross-validation over their groups: the strength of the
regularisation, and afterwards the weights of the fusion, from what each clip got when it was held out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from coviar_mocrop.checkpoint import digest
from coviar_mocrop.clips.loading import ClipLoader
from coviar_mocrop.datasets.lists import Clip
from coviar_mocrop.datasets.splits import divide, group_sizes
from coviar_mocrop.errors import DataError
from coviar_mocrop.scores import Scores, save_scores
from coviar_mocrop.training.metrics import Metrics
from coviar_mocrop.training.setup import Run, Trainer

FOLDS = 5
"""Of the cross-validation, where there are as many groups."""


def fit_at_once(run: Run) -> tuple[list[Trainer], dict[str, Scores]]:
    """Fit the streams that need no steps; every process of a group fits the same.

    Returns:
        Their trainers, with the metrics of what counts as their only epoch; and, by stream, the scores of the clips
        when they were held out, which go into the folder of the run as well.
    """
    trainers = [trainer for trainer in run.trainers if trainer.stream.fitted and not trainer.done]
    loaders = [run.loader, *([run.validation] if run.validation else [])]
    clips = [clip for loader in loaders for clip in loader.clips.videos.clips]
    group_of = {name: group for loader in loaders for name, group in loader.clips.videos.group_of.items()}
    folds = fold_of(clips, group_of, run.loader.clips.seed) if trainers else None
    held_out = {}
    for trainer in trainers:
        start, stream = time.monotonic(), trainer.stream
        features = torch.cat([_rows(loader, stream.name) for loader in loaders])
        labels = torch.tensor([clip.label for clip in clips])
        readable = ~features.isnan().any(dim=1)
        if not readable.any():
            raise DataError(f"none of the clips of {trainer.config.data.train_list} could be read")
        features, labels = features[readable], labels[readable]
        kept = None if folds is None else folds[readable]
        logits = stream.fit(features, labels, None if kept is None or len(kept.unique()) < 2 else kept)
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
    return trainers, held_out


def _rows(loader: ClipLoader, stream: str) -> torch.Tensor:
    return loader.clips.features[stream].rows


def fold_of(clips: Sequence[Clip], group_of: Mapping[str, str], seed: int) -> torch.Tensor | None:
    """The fold int64 [clips] of each clip in the cross-validation, whole groups together.

    Args:
        clips: of distinct paths.
        group_of: by path; a clip that is not named is a group of its own.
        seed: decides the division.

    Returns:
        None where there is one group only.
    """
    group_of = {clip.path: group_of.get(clip.path, clip.path) for clip in clips}
    sizes = group_sizes(clips, group_of)
    count = min(FOLDS, len(sizes))
    if count < 2:
        return None
    part_of = divide(sizes, [1 / count] * count, seed)
    return torch.tensor([part_of[group_of[clip.path]] for clip in clips])
