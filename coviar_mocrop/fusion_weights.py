"""Learned fusion: streams are calibrated and weighted on validation clips, never on the clips that are reported.

There are two convex fits. First, each stream gets an inverse temperature, so that a stream at chance hardly counts,
however large its scores are. Then the calibrated streams get weights, with a penalty on their distance from a common
value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.errors import ScoreError
from coviar_mocrop.fusion import fuse, spread
from coviar_mocrop.scores import Scores, log_losses

Scale = Literal["logits", "softmax"]
CALIBRATION_PENALTY = 0.5
"""Strength of the prior that draws an inverse temperature to 1, for scores of unit spread.

Near 0, a clip adds 1/2 on average to the curvature of the same form, so the prior counts as much as one clip. It keeps
the temperature finite if a stream is always right. On n clips, a stream at chance gets an inverse temperature near 1/n.
"""
EQUALITY_PENALTY = 20.0
"""Strength of the prior that draws the weights of the calibrated streams to their common value.

A clip of two classes adds at most max p (1 - p) g^2 / 2 = 0.22 to the curvature of the same form, where g is the
difference of its two logits and p = 1 / (1 + exp(-g)). So the prior counts as much as 90 clips or more. On 20 clips the
weights move by a few percent. On 1000 clips the prior hardly matters.
"""
LEAST = 1e-3
"""Inverse temperature, for scores of unit spread, of a stream that is worse than chance."""
_CANDIDATES = 2000
"""Maximum number of sets of weights that are tried if the learned ones are worse than the best stream alone."""
_ITERATIONS = 200


@dataclass(frozen=True)
class LearnedFusion:
    """Weights that were learned on validation clips.

    Attributes:
        weights: weights by stream. They add up to 1.
        temperature: number by which the fused scores are divided to give calibrated logits.
        clips: number of validation clips.
        before: top-1 on these clips with the default weights, in [0, 1].
        after: top-1 on these clips with ``weights``, in [0, 1]; at least the best of ``alone``.
        alone: top-1 on these clips of each stream alone, in [0, 1].
    """

    weights: dict[str, float]
    temperature: float
    clips: int
    before: float
    after: float
    alone: dict[str, float]

    @classmethod
    def from_json(cls, values: Any, streams: Iterable[str]) -> LearnedFusion:
        """Read the weights of ``streams`` from the content of a JSON file.

        Raises:
            ValueError: the content is not fusion weights, or they belong to other streams.
        """
        try:
            learned = cls(**{field.name: values[field.name] for field in fields(cls)})
            numbers = [learned.temperature, *learned.weights.values()]
            sound = all(math.isfinite(number) and number >= 0 for number in numbers)
            if sound and learned.temperature and any(numbers[1:]) and learned.weights.keys() == set(streams):
                return learned
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError("are no fusion weights") from error
        raise ValueError("are no fusion weights of these streams")

    @property
    def found(self) -> str:
        """Description of how the weights were found."""
        return f"learned on {self.clips} held-out clips"

    @property
    def report(self) -> str:
        """One line: top-1 of each stream and of their fusion on the clips that the weights were learned on."""
        alone = ", ".join(f"{name} {top1:.1%}" for name, top1 in self.alone.items())
        told = f"fused {self.before:.1%} with the default weights, {self.after:.1%} with the learned ones"
        return f"held out, {self.clips} clips: top-1 {alone}; {told}"


def rescale(streams: Mapping[str, Scores], scale: Scale) -> dict[str, Scores]:
    """Return scores unchanged (``logits``), or their softmax over the classes (``softmax``)."""
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
    """Compute the softmax of each row of ``logits`` [N, classes]."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True).astype(np.float64))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def require_disjoint(validation: Mapping[str, Scores], reported: Mapping[str, Scores]) -> None:
    """Check that the validation set shares no clip with the reported set. Clips are compared by name and by scores.

    Raises:
        ScoreError: the sets share clips, or differ in streams or classes.
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
    """Clips by their scores in all streams. Clips with equal scores, as a collapsed network gives, are left out."""
    clips: dict[bytes, list[str]] = {}
    rows = np.concatenate([streams[name].scores for name in sorted(streams)], axis=1)
    for clip, row in zip(next(iter(streams.values())).names.tolist(), rows, strict=True):
        clips.setdefault(row.tobytes(), []).append(clip)
    return {row: names[0] for row, names in clips.items() if len(names) == 1}


def tune_weights(streams: Mapping[str, Scores]) -> LearnedFusion:
    """Learn the weights of streams on validation clips.

    The streams are calibrated one by one (:func:`inverse_temperature`). The weights of the calibrated streams then
    minimise the log loss of their sum plus ``EQUALITY_PENALTY`` times their squared distance from a common weight. This
    is the weight that calibrates the unweighted sum. If the fusion is right on fewer clips than the best stream alone,
    the nearest weights are taken for which it is not. They change as little as is needed, because on few clips a stream
    may be the best by chance. The result does not depend on the order of clips and streams.

    Args:
        streams: validation scores by stream, on the scale on which they will be fused.

    Raises:
        ScoreError: the score files do not belong together, or their clips have only one class.
    """
    fuse(streams)  # checks that the score files belong together
    ordered = {name: _by_name(streams[name]) for name in sorted(streams)}
    labels = next(iter(ordered.values())).labels
    if len(np.unique(labels)) < 2:
        raise ScoreError("fusion weights cannot be learned on clips of one class; give clips of two or more")
    logits = {name: scores.scores.astype(np.float64) for name, scores in ordered.items()}
    factors = {name: inverse_temperature(rows, labels) for name, rows in logits.items()}
    calibrated = np.stack([factors[name] * rows for name, rows in logits.items()])
    common = inverse_temperature(calibrated.sum(axis=0), labels)
    fitted = fit_weights(calibrated, labels, common, EQUALITY_PENALTY)
    learned = {name: weight * factors[name] for name, weight in zip(ordered, fitted.tolist(), strict=True)}
    alone = {name: scores.top1 for name, scores in ordered.items()}
    best = max(ordered, key=lambda name: (alone[name], -log_losses(factors[name] * logits[name], labels).sum()))
    if not any(learned.values()):  # no stream is better than chance
        learned = factors
    after = _fused(streams, learned).top1
    if after < alone[best]:
        near, least = np.array(list(learned.values())) / np.array(list(factors.values())), alone[best]
        shares = next(shares for shares in _by_distance(near / near.sum()) if _right(streams, factors, shares) >= least)
        moved = {name: share * factors[name] for name, share in zip(ordered, shares, strict=True)}
        scale = inverse_temperature(np.tensordot(shares, calibrated, axes=1), labels)
        learned = {name: scale * weight for name, weight in moved.items()}
        after = _fused(streams, learned).top1
    total = sum(learned.values())
    weights = {name: learned[name] / total for name in streams}
    own = {name: alone[name] for name in streams}
    return LearnedFusion(weights, 1 / total, len(labels), fuse(streams).top1, after, own)


def _fused(streams: Mapping[str, Scores], weights: Mapping[str, float]) -> Scores:
    return fuse(streams, {name: weights[name] for name in streams})


def _right(streams: Mapping[str, Scores], factors: Mapping[str, float], shares: NDArray[np.float64]) -> float:
    """Top-1 of calibrated streams with ``shares``, in the order of ``factors``."""
    weights = {name: share * factors[name] for name, share in zip(factors, shares.tolist(), strict=True)}
    return _fused(streams, weights).top1


def _by_distance(centre: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Shares of the streams on an even grid, the nearest to ``centre`` first. They add up to 1.

    Each stream alone is one of the grid points.
    """
    count, steps = len(centre), 1
    while math.comb(steps + count, count - 1) <= _CANDIDATES and steps < _CANDIDATES // 20:
        steps += 1
    cuts = itertools.combinations(range(steps + count - 1), count - 1)
    spread_out = np.array([np.diff([-1, *cut, steps + count - 1]) - 1 for cut in cuts]) / steps
    distance = ((spread_out - centre) ** 2).sum(axis=1).round(12)  # ties are broken by the order, not by rounding
    yield from spread_out[np.argsort(distance, kind="stable")]


def inverse_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the factor, > 0, that calibrates ``logits`` [N, classes]; 1 if the logits of each clip are all equal.

    For the logits divided by their spread, the factor b >= ``LEAST`` minimises the summed log loss plus
    ``CALIBRATION_PENALTY`` (b - 1)^2. The result is b divided by the spread.
    """
    width = spread(logits)
    if width <= 1e-6 * np.abs(logits).max():  # rounding
        return 1.0
    return max(LEAST, float(fit_weights(logits[None] / width, labels, 1.0, CALIBRATION_PENALTY)[0])) / width


def fit_weights(
    logits: NDArray[np.float64], labels: NDArray[np.int64], centre: float, penalty: float
) -> NDArray[np.float64]:
    """Minimise the summed log loss of sum(v_s logits_s) plus ``penalty`` times sum((v_s - centre)^2) over v >= 0.

    The problem is strictly convex, so it has one solution. Projected Newton steps (Bertsekas, SIAM J. Control Optim.
    20, 1982) with backtracking find it.

    Args:
        logits: [streams, N, classes].
        labels: [N].
        centre: weight at which the penalty is 0, >= 0.
        penalty: strength of the penalty, > 0.

    Returns:
        Weights v, float64 [streams].
    """
    count = len(logits)
    own = np.take_along_axis(logits, labels[None, :, None], axis=2)[:, :, 0]
    weights = np.full(count, centre)
    value = float(log_losses(np.tensordot(weights, logits, axes=1), labels).sum())
    for _ in range(_ITERATIONS):
        shares = softmax(np.tensordot(weights, logits, axes=1))
        mean = (shares * logits).sum(axis=2)
        gradient = (mean - own).sum(axis=1) + 2 * penalty * (weights - centre)
        free = (weights > 0) | (gradient < 0)
        if not free.any() or np.abs(gradient[free]).max() < 1e-10 * len(labels):
            break
        deviation = logits - mean[:, :, None]
        curvature = np.tensordot(shares * deviation, deviation, ((1, 2), (1, 2))) + 2 * penalty * np.eye(count)
        step = np.zeros(count)
        step[free] = np.linalg.solve(curvature[np.ix_(free, free)], gradient[free])
        for halvings in range(50):
            moved = np.maximum(weights - step / 2**halvings, 0)
            losses = log_losses(np.tensordot(moved, logits, axes=1), labels)
            new = float(losses.sum()) + penalty * float(((moved - centre) ** 2).sum())
            if new <= value - 1e-4 * float(gradient @ (weights - moved)):
                break
        else:
            break  # no further progress at floating-point precision
        weights, value = moved, new
    return weights


def _by_name(scores: Scores) -> Scores:
    order = np.argsort(scores.names)
    return replace(scores, names=scores.names[order], labels=scores.labels[order], scores=scores.scores[order])
