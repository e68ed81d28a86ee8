"""A regularised linear classifier on features: convex, so that the data alone decide it; fitted in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTHS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
"""Strengths of regularisation that are tried on validation clips, the strongest first."""
DEFAULT_STRENGTH = 0.1
"""Without validation clips."""


class LinearFit(NamedTuple):
    """A fitted classifier.

    Attributes:
        weight: float32 [classes, dim].
        bias: float32 [classes].
        strength: of the regularisation.
    """

    weight: Tensor
    bias: Tensor
    strength: float


def column_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation float64 [dim] of features [clips, dim]; the deviation of a column that never changes is 1."""
    values = features.double()
    deviation, mean = torch.std_mean(values, dim=0, correction=0)
    flat = deviation <= 1e-6 * values.abs().amax(dim=0).clamp(min=1e-6)
    return mean, deviation.masked_fill(flat, 1.0)


def fit_linear(features: Tensor, labels: Tensor, num_classes: int, strength: float = DEFAULT_STRENGTH) -> LinearFit:
    """Fit multinomial logistic regression with a quadratic penalty (ridge) on the weights.

    It minimises the sum over clips of the cross-entropy plus ``strength * dim / 2`` times the squared norm of the
    weights, in float64, by L-BFGS. The penalty grows with the length of the features, so that a strength means the same
    for all networks; the biases are free.

    Args:
        features: [clips, dim], standardised: each column of mean 0 and deviation 1.
        labels: int64 [clips].
        num_classes: classes, those without a clip included.
        strength: above 0.
    """
    inputs, dim = features.double(), features.shape[1]
    weight = torch.zeros(num_classes, dim, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=500, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        # scaled, the weights are of the size of the logits, which is what the solver starts from
        logits = inputs @ (weight / dim**0.5).T + bias
        # a small pull on the biases: where a class has no clip, its own would fall for ever
        total = F.cross_entropy(logits, labels, reduction="sum") + (strength * weight.square().sum()) / 2
        total = total + 1e-3 * bias.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        solver.step(loss)
    return LinearFit((weight.detach() / dim**0.5).float(), bias.detach().float(), strength)


def choose_linear(
    features: Tensor,
    labels: Tensor,
    held_out: Tensor,
    held_out_labels: Tensor,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
) -> LinearFit:
    """The fit whose strength has the lowest cross-entropy on clips held out; of equal ones, the strongest.

    Args:
        features, labels, num_classes: see :func:`fit_linear`.
        held_out: [clips, dim], standardised as ``features`` are.
        held_out_labels: int64 [clips].
        strengths: to try.
    """
    fits = [fit_linear(features, labels, num_classes, strength) for strength in strengths]

    def loss(fit: LinearFit) -> float:
        return float(F.cross_entropy(F.linear(held_out, fit.weight.to(held_out), fit.bias.to(held_out)), held_out_labels))

    return min(fits, key=loss)
