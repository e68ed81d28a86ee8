"""The search for fusion weights, on a validation set and never on the clips that are reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.errors import ScoreError
from coviar_mocrop.fusion import fuse, resolve_weights
from coviar_mocrop.scores import Scores

Scale = Literal["logits", "softmax"]
_MOST_TRIED = 3500
"""Combinations of weights at most; the grid is as fine as this allows."""


@dataclass(frozen=True)
class TunedWeights:
    """Result of a search.

    Attributes:
        weights: by stream, in [0, 1]. They add up to 1.
        before: top-1 on the validation set with the default weights, in [0, 1].
        after: top-1 on the validation set with ``weights``, in [0, 1].
    """

    weights: dict[str, float]
    before: float
    after: float


def rescale(streams: Mapping[str, Scores], scale: Scale) -> dict[str, Scores]:
    """Scores as they are (``logits``), or the softmax of every clip's (``softmax``)."""
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
    """Softmax of each row of ``logits`` [N, classes]."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True).astype(np.float64))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def require_disjoint(validation: Mapping[str, Scores], reported: Mapping[str, Scores]) -> None:
    """Refuse a validation set that shares clips with the reported set, by name or by their scores.

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
    mine, theirs = _rows(validation), _rows(reported)
    copies = [mine[row] for row in mine.keys() & theirs.keys()]
    if copies:
        raise ScoreError(
            f"{len(copies)} clips of the validation set have the very scores of reported ones in every stream, first "
            f"{min(copies)}; are they the same clips under other names?"
        )


def _rows(streams: Mapping[str, Scores]) -> dict[bytes, str]:
    """Clips by their scores in all streams; less those that share theirs, as clips do where a network has collapsed."""
    clips: dict[bytes, list[str]] = {}
    rows = np.concatenate([streams[name].scores for name in sorted(streams)], axis=1)
    for clip, row in zip(next(iter(streams.values())).names.tolist(), rows, strict=True):
        clips.setdefault(row.tobytes(), []).append(clip)
    return {row: names[0] for row, names in clips.items() if len(names) == 1}


def tune_weights(streams: Mapping[str, Scores]) -> TunedWeights:
    """Find the weights with the best top-1 on these clips.

    All weights on a grid are tried: multiples of 1/20 for up to four streams, of 1/10 for five or six, coarser ones for
    more. Ties are broken by the lower mean log loss. If no weights beat the defaults, the defaults are kept, because a
    preference that the clips do not show would be chance. The result is the same every time.

    Args:
        streams: validation scores by stream, on the scale that they are to be fused on.

    Raises:
        ScoreError: the score files do not belong together.
    """
    labels = fuse(streams).labels  # refuses what does not belong together
    scores = np.stack([stream.scores.astype(np.float64) for stream in streams.values()])
    are_shares = all(stream.settings.get("scale") == "softmax" for stream in streams.values())

    def quality(weights: NDArray[np.float64]) -> tuple[float, float]:
        """Top-1, and minus the mean log loss."""
        fused = np.tensordot(weights, scores, axes=1)
        right = float((fused.argmax(axis=1) == labels).mean())
        own = (fused if are_shares else softmax(fused))[np.arange(len(labels)), labels]
        return right, float(np.log(np.maximum(own, 1e-12)).mean())

    default = np.array(list(resolve_weights(streams).values()))
    default /= default.sum()
    before = quality(default)[0]
    best = max(_grid(len(streams)), key=quality)
    after = quality(best)[0]
    if after <= before:
        best, after = default, before
    return TunedWeights(dict(zip(streams, best.tolist(), strict=True)), before, after)


def _grid(count: int) -> Iterator[NDArray[np.float64]]:
    """All weights of ``count`` streams that are multiples of 1/steps and add up to 1."""
    steps = next(steps for steps in (20, 10, 5, 2, 1) if steps == 1 or comb(steps + count - 1, steps) <= _MOST_TRIED)
    for bars in combinations(range(steps + count - 1), count - 1):
        edges = np.array([-1, *bars, steps + count - 1])
        yield (np.diff(edges) - 1) / steps
