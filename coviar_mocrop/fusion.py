"""Late fusion: the weighted sum of the streams' clip scores (CoViAR, section 4), and what it is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.errors import ScoreError
from coviar_mocrop.scores import Scores

DEFAULT_WEIGHTS = {"iframe": 2.0}
"""CoViAR's 2 : 1 : 1, for score files that do not name the weight of their stream; other streams have 1."""


def fuse(streams: Mapping[str, Scores], weights: Mapping[str, float] | None = None) -> Scores:
    """Weighted sum of clip scores.

    Args:
        streams: score files by stream name, such as ``iframe``, ``mv``, ``residual``.
        weights: by stream name; a stream not named takes the default that its score file names (2 : 1 : 1, others 1).

    Returns:
        Scores over the same clips and classes.

    Raises:
        ScoreError: no stream, clips, labels or classes that differ (the first difference is named), or a
            weight for no stream, negative or not finite.
    """
    if not streams:
        raise ScoreError("no score file given; give at least one, such as iframe=A.npz")
    weighted = resolve_weights(streams, weights)
    names = list(streams)
    for name, scores in streams.items():
        made_by = scores.settings.get("stream")
        if made_by and name != made_by and not name.startswith(f"{made_by}_"):
            raise ScoreError(
                f"{name}: its score file is of the {made_by} stream; name it {made_by}=, or {made_by}_SOMETHING="
            )
    first = streams[names[0]]
    total = np.zeros_like(first.scores, dtype=np.float64)
    for name in names:
        _require_same(names[0], first, name, streams[name])
        total += weighted[name] * streams[name].scores
    return Scores(
        names=first.names,
        labels=first.labels,
        scores=total.astype(np.float32),
        classes=first.classes,
        settings={"streams": {name: streams[name].settings for name in names}, "weights": weighted},
    )


def resolve_weights(streams: Mapping[str, Scores], weights: Mapping[str, float] | None = None) -> dict[str, float]:
    """The weight of each stream; see :func:`fuse`."""
    given = dict(weights or {})
    for name, weight in given.items():
        if name not in streams:
            raise ScoreError(f"weight for {name!r}, but the streams are {', '.join(streams)}")
        if not np.isfinite(weight) or weight < 0:
            raise ScoreError(f"the weight of {name} is {weight}; give a number >= 0")
    resolved = {
        name: float(given.get(name, scores.settings.get("fusion_weight", DEFAULT_WEIGHTS.get(name, 1.0))))
        for name, scores in streams.items()
    }
    if not any(resolved.values()):
        raise ScoreError("all weights are 0; give at least one above 0")
    return resolved


def common_clips(streams: Mapping[str, Scores]) -> dict[str, Scores]:
    """Every stream's scores of the clips that all of them hold, in the first one's order.

    For streams that were tested with ``on_error: skip`` and left out different clips.

    Raises:
        ScoreError: they have no clip in common.
    """
    shared = set.intersection(*(set(scores.names.tolist()) for scores in streams.values()))
    if not shared:
        raise ScoreError(f"{', '.join(streams)} have no clip in common; test them on the same list")
    order = [name for name in next(iter(streams.values())).names.tolist() if name in shared]
    common = {}
    for stream, scores in streams.items():
        row = {name: number for number, name in enumerate(scores.names.tolist())}
        rows = np.array([row[name] for name in order])
        common[stream] = replace(
            scores, names=scores.names[rows], labels=scores.labels[rows], scores=scores.scores[rows]
        )
    return common


def _require_same(first_name: str, first: Scores, name: str, other: Scores) -> None:
    for what in ("classes", "names", "labels"):
        mine, theirs = getattr(first, what), getattr(other, what)
        if len(mine) != len(theirs):
            raise ScoreError(
                f"{first_name} and {name} differ: {len(mine)} against {len(theirs)} {what}; "
                "test both streams on the same list"
            )
        different = np.flatnonzero(mine != theirs)
        if len(different):
            at = int(different[0])
            raise ScoreError(
                f"{first_name} and {name} differ in {what}, first at {at}: {mine[at]!s} against {theirs[at]!s}; "
                "test both streams on the same list"
            )


@dataclass(frozen=True)
class Accuracy:
    """How right scores are.

    Attributes:
        top1, top5: shares of clips in [0, 1]; top-5 means top-k with k = classes where there are fewer.
        per_class: float64 [classes], top-1 of each class; NaN for a class without clips.
        confusion: int64 [classes, classes], true class by row, predicted by column.
    """

    top1: float
    top5: float
    per_class: NDArray[np.float64]
    confusion: NDArray[np.int64]


def measure(scores: Scores) -> Accuracy:
    """Top-1, top-5, per-class accuracy and confusion matrix, by torchmetrics."""
    import torch
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

    predicted, labels = torch.from_numpy(scores.scores), torch.from_numpy(scores.labels)
    classes = len(scores.classes)
    if classes == 1:  # torchmetrics wants two; with one class every answer is right
        one = np.array([[len(labels)]], dtype=np.int64)
        return Accuracy(1.0, 1.0, np.ones(1), one)

    def top(k: int) -> float:
        return float(multiclass_accuracy(predicted, labels, classes, average="micro", top_k=min(k, classes)))

    confusion = multiclass_confusion_matrix(predicted, labels, classes).numpy().astype(np.int64)
    with np.errstate(invalid="ignore"):
        per_class = np.diag(confusion) / confusion.sum(axis=1)
    return Accuracy(top(1), top(5), per_class, confusion)
