"""Which fusion weights: found on a validation set, never on the clips that are reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.errors import ScoreError
from coviar_mocrop.fusion import fuse, resolve_weights
from coviar_mocrop.scores import Scores

Scale = Literal["logits", "softmax"]
STEPS = 20
"""Weights are multiples of 1/20 and add up to 1."""
_MOST_ON_GRID = 4


@dataclass(frozen=True)
class TunedWeights:
    """What a search found.

    Attributes:
        weights: by stream, in [0, 1], adding up to 1.
        before: top-1 on the validation set with the default weights, in [0, 1].
        after: with these.
    """

    weights: dict[str, float]
    before: float
    after: float


def rescale(streams: Mapping[str, Scores], scale: Scale) -> dict[str, Scores]:
    """Scores as they are (``logits``), or every clip's as shares that add up to 1 (``softmax``)."""
    if scale == "logits":
        return dict(streams)
    return {
        name: replace(
            scores,
            scores=softmax(scores.scores).astype(np.float32),
            settings={**scores.settings, "scale": scale},
        )
        for name, scores in streams.items()
    }


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rows of ``logits`` [N, classes] as shares that add up to 1."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True).astype(np.float64))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def require_disjoint(validation: Mapping[str, Scores], reported: Mapping[str, Scores]) -> None:
    """Refuse a validation set that shares clips with the reported set, by name or, of one stream, by their scores.

    Raises:
        ScoreError: it does, or the two have other streams or classes.
    """
    if validation.keys() != reported.keys():
        raise ScoreError(
            f"the validation scores are of {', '.join(sorted(validation))}, those reported of "
            f"{', '.join(sorted(reported))}; give both for the same streams"
        )
    for name, scores in validation.items():
        other = reported[name]
        if scores.classes.tolist() != other.classes.tolist():
            raise ScoreError(f"{name}: validation and reported scores are of different classes")
        shared = set(scores.names.tolist()) & set(other.names.tolist())
        if shared:
            raise ScoreError(
                f"{name}: {len(shared)} clips are in the validation set and in the reported one, first "
                f"{min(shared)}; weights found on clips that are reported say nothing"
            )
        known = {row.tobytes() for row in other.scores}
        same = [clip for clip, row in zip(scores.names.tolist(), scores.scores, strict=True) if row.tobytes() in known]
        if same:
            raise ScoreError(
                f"{name}: {len(same)} clips of the validation set have the very scores of reported ones, first "
                f"{same[0]}; are they the same clips under other names?"
            )


def tune_weights(streams: Mapping[str, Scores]) -> TunedWeights:
    """The weights with the best top-1 on these clips; of equally good ones those with the lowest mean log loss.

    The default ones stay where none are right more often: what the clips do not ask for is chance.

    Up to four streams, all weights on a grid of 1/20 are tried; of more, each weight is moved in turn, beginning from
    the default ones, as long as that helps. Both give the same weights every time.

    Args:
        streams: validation scores by stream, on the scale that they are to be fused on.

    Raises:
        ScoreError: the score files do not belong together.
    """
    names = list(streams)
    labels = fuse(streams).labels  # refuses what does not belong together
    logits = np.stack([streams[name].scores.astype(np.float64) for name in names])
    shares = all(scores.settings.get("scale") == "softmax" for scores in streams.values())
    default = np.array(list(resolve_weights(streams).values()))
    before = _quality(default / default.sum(), logits, labels, shares)
    if len(names) <= _MOST_ON_GRID:
        best = max(_grid(len(names)), key=lambda weights: _quality(weights, logits, labels, shares))
    else:
        best = _climb(default / default.sum(), logits, labels, shares)
    if _quality(best, logits, labels, shares)[0] <= before[0]:
        best = default / default.sum()
    found = {name: float(weight) for name, weight in zip(names, best, strict=True)}
    return TunedWeights(found, before[0], _quality(best, logits, labels, shares)[0])


def _quality(
    weights: NDArray[np.float64], scores: NDArray[np.float64], labels: NDArray[np.int64], shares: bool
) -> tuple[float, float]:
    """(top-1, minus the mean log loss) of the weighted sum of scores [streams, clips, classes]."""
    fused = np.tensordot(weights, scores, axes=1)
    right = float((fused.argmax(axis=1) == labels).mean())
    own = (fused if shares else softmax(fused))[np.arange(len(labels)), labels]
    return right, float(np.log(np.maximum(own, 1e-12)).mean())


def _grid(count: int) -> Iterator[NDArray[np.float64]]:
    """All weights that are multiples of 1/STEPS and add up to 1."""
    for bars in combinations(range(STEPS + count - 1), count - 1):
        edges = np.array([-1, *bars, STEPS + count - 1])
        yield (np.diff(edges) - 1) / STEPS


def _climb(
    weights: NDArray[np.float64], scores: NDArray[np.float64], labels: NDArray[np.int64], shares: bool
) -> NDArray[np.float64]:
    """Move one weight at a time to the best multiple of 1/STEPS, the others keeping their ratios, until none helps."""
    best = _quality(weights, scores, labels, shares)
    while True:
        start = best
        for stream in range(len(weights)):
            rest = np.delete(weights, stream)
            if not rest.sum():
                continue
            for step in range(STEPS + 1):
                own = step / STEPS
                moved = np.insert(rest / rest.sum() * (1 - own), stream, own)
                quality = _quality(moved, scores, labels, shares)
                if quality > best:
                    best, weights = quality, moved
        if best == start:
            return weights
