"""Late fusion: the weighted sum of the streams' clip scores (CoViAR, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.errors import ScoreError
from coviar_mocrop.scores import Scores

DEFAULT_WEIGHTS = {"iframe": 2.0}
"""CoViAR's weights 2 : 1 : 1, for score files without the weight of their stream. Streams not listed have weight 1."""


def fuse(streams: Mapping[str, Scores], weights: Mapping[str, float] | None = None) -> Scores:
    """Compute the weighted sum of clip scores.

    Args:
        streams: score files by name. A name is a stream (``iframe``, ``mv``, ``residual``, ...), or a stream and a
            suffix (``mv_long``), so that several runs of a stream can be fused.
        weights: fusion weights by name. A file that is not named has the default weight of its stream, which is stored
            in the file.

    Returns:
        Scores of the same clips and classes.

    Raises:
        ScoreError: there is no score file; a name is ``fused``, that of the result; a file belongs to another stream
            than its name says; clips, labels or classes differ (the message names the first difference); a weight is
            negative, not finite or for an unknown stream; or all weights are 0.
    """
    if not streams:
        raise ScoreError("no score file given; give at least one, such as iframe=A.npz")
    if "fused" in streams:
        raise ScoreError("fused: is the name of the fusion; name the file after its stream, such as iframe=A.npz")
    weighted = resolve_weights(streams, weights)
    (first_name, first), *_ = streams.items()
    total = np.zeros_like(first.scores, dtype=np.float64)
    for name, scores in streams.items():
        stream = _stream_of(name, scores)
        if name != stream and not name.startswith(f"{stream}_"):
            raise ScoreError(
                f"{name}: its score file is of the {stream} stream; name it {stream}=, or {stream}_SOMETHING="
            )
        _require_same(first_name, first, name, scores)
        total += weighted[name] * scores.scores
    settings = {"streams": {name: scores.settings for name, scores in streams.items()}, "weights": weighted}
    return replace(first, scores=total.astype(np.float32), settings=settings)


def resolve_weights(streams: Mapping[str, Scores], weights: Mapping[str, float] | None = None) -> dict[str, float]:
    """Return the weight of each score file, by name. For arguments and errors see :func:`fuse`."""
    given = weights or {}
    if unknown := given.keys() - streams.keys():
        raise ScoreError(f"weight for {min(unknown)!r}, but the streams are {', '.join(streams)}")
    resolved = {}
    for name, scores in streams.items():
        default = scores.settings.get("fusion_weight", DEFAULT_WEIGHTS.get(_stream_of(name, scores), 1.0))
        weight = given.get(name, default)
        if not isinstance(weight, int | float) or not np.isfinite(weight) or weight < 0:
            raise ScoreError(f"the weight of {name} is {weight}; give a number >= 0")
        resolved[name] = float(weight)
    if not any(resolved.values()):
        raise ScoreError("all weights are 0; give at least one above 0")
    return resolved


def shares(streams: Mapping[str, Scores], weights: Mapping[str, float]) -> dict[str, float]:
    """Return the share of each stream in the fused scores, in [0, 1]. The shares add up to 1.

    A share is proportional to the weight times the :func:`spread` of the stream's scores. So unlike weights, shares
    compare streams whose scores have different scales.
    """
    parts = {name: weights[name] * spread(scores.scores) for name, scores in streams.items()}
    total = sum(parts.values())
    return {name: part / total if total else 1 / len(parts) for name, part in parts.items()}


def spread(logits: NDArray[np.floating]) -> float:
    """Return the root mean square deviation of ``logits`` [N, classes] from the mean of each clip."""
    return float(np.sqrt(logits.astype(np.float64).var(axis=1).mean()))


def _stream_of(name: str, scores: Scores) -> str:
    """The stream of a score file, as stored in it, or else its name."""
    return str(scores.settings.get("stream") or name)


def common_clips(streams: Mapping[str, Scores]) -> dict[str, Scores]:
    """Restrict the scores of each stream to the clips that all streams have, in the order of the first stream.

    This is for streams that were tested with ``on_error: skip`` and left out different clips.

    Raises:
        ScoreError: the streams have no clip in common.
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
    remedy = "test both on the same list"
    for what in ("classes", "names", "labels"):
        mine, theirs = getattr(first, what), getattr(other, what)
        if len(mine) != len(theirs):
            raise ScoreError(f"{first_name} and {name} differ: {len(mine)} against {len(theirs)} {what}; {remedy}")
        different = np.flatnonzero(mine != theirs)
        if len(different):
            at = int(different[0])
            raise ScoreError(
                f"{first_name} and {name} differ in {what}, first at {at}: {mine[at]} against {theirs[at]}; {remedy}"
            )


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of scores.

    Attributes:
        top1: share of clips whose class has the highest score, in [0, 1].
        top5: share of clips whose class is among the five highest scores, in [0, 1]; None if there are at most five
            classes, because it would always be 1.
        per_class: top-1 of each class, float64 [classes]; NaN for a class without clips.
        confusion: confusion matrix, int64 [classes, classes], true class by row, predicted class by column.
    """

    top1: float
    top5: float | None
    per_class: NDArray[np.float64]
    confusion: NDArray[np.int64]


def measure(scores: Scores) -> Accuracy:
    """Compute top-1, top-5, per-class accuracy and confusion matrix. If scores are equal, the first class wins."""
    classes = len(scores.classes)
    ranked = np.argsort(-scores.scores, axis=1, kind="stable")
    hits = ranked == scores.labels[:, None]
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (scores.labels, ranked[:, 0]), 1)
    with np.errstate(invalid="ignore"):
        per_class = np.diag(confusion) / confusion.sum(axis=1)
    top5 = float(hits[:, :5].any(axis=1).mean()) if classes > 5 else None
    return Accuracy(float(hits[:, 0].mean()), top5, per_class, confusion)
