"""A regularised linear classifier on features. Fitting it is a convex problem with a unique solution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTHS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
"""Strengths of regularisation to choose from, strongest first."""
DEFAULT_STRENGTH = 0.1
"""Strength of regularisation without cross-validation."""


class LinearFit(NamedTuple):
    """A fitted classifier: logits = (features - mean) / deviation @ weight.T + bias.

    Attributes:
        mean: mean of the features over the clips, float64 [dim].
        deviation: standard deviation of the features over the clips, float64 [dim].
        weight: float64 [classes, dim].
        bias: float64 [classes].
    """

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Compute logits float64 [clips, classes] of features [clips, dim]."""
        return F.linear((features.double() - self.mean) / self.deviation, self.weight, self.bias)


def column_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, float64 [dim] each, of features [clips, dim].

    For a column that is constant over all clips, the deviation is set to 1.
    """
    values = features.double()
    deviation, mean = torch.std_mean(values, dim=0, correction=0)
    flat = deviation <= 1e-6 * values.abs().amax(dim=0).clamp(min=1e-6)
    return mean, deviation.masked_fill(flat, 1.0)


def fit_linear(
    features: Tensor, labels: Tensor, num_classes: int, strengths: Sequence[float] = (DEFAULT_STRENGTH,)
) -> list[LinearFit]:
    """Fit multinomial logistic regression with a quadratic penalty (ridge) on the weights.

    Features are standardised. L-BFGS minimises, in float64, the sum over clips of the cross-entropy plus
    ``strength * dim / 2`` times the squared norm of the weights, plus 0.001 times the squared norm of the biases. The
    factor ``dim`` makes a strength mean the same for networks with features of any length.

    Args:
        features: [clips, dim].
        labels: int64 [clips].
        num_classes: number of classes, including those without clips.
        strengths: strengths of the penalty, above 0.

    Returns:
        One fit for each strength, in the same order.
    """
    mean, deviation = column_statistics(features)
    inputs = (features.double() - mean) / deviation / features.shape[1] ** 0.5
    # The optimal weights lie in the span of the clips. With fewer clips than features, solve in coordinates of it.
    basis = torch.linalg.svd(inputs, full_matrices=False)[2] if len(inputs) < inputs.shape[1] else None
    if basis is not None:
        inputs = inputs @ basis.T
    fits = []
    weight = torch.zeros(num_classes, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    for strength in strengths:  # each fit starts from the one before

        def loss(strength: float = strength) -> Tensor:
            penalty = strength * weight.square().sum() / 2
            # without a penalty, the bias of a class without clips would go to minus infinity
            penalty = penalty + 1e-3 * bias.square().sum()
            total = F.cross_entropy(inputs @ weight.T + bias, labels, reduction="sum") + penalty
            weight.grad, bias.grad = torch.autograd.grad(total, (weight, bias))
            return total

        with torch.enable_grad():
            torch.optim.LBFGS(
                *([weight, bias],),
                max_iter=500,
                tolerance_grad=1e-7,
                tolerance_change=1e-12,
                line_search_fn="strong_wolfe",
            ).step(loss)
        whole = weight.detach() if basis is None else weight.detach() @ basis
        fits.append(LinearFit(mean, deviation, whole / features.shape[1] ** 0.5, bias.detach().clone()))
    return fits


def cross_validate(
    features: Tensor, labels: Tensor, folds: Tensor, num_classes: int, strengths: Sequence[float] = STRENGTHS
) -> tuple[float, Tensor]:
    """Choose the strength of the regularisation by cross-validation, and compute logits of held-out clips.

    The strength with the lowest cross-entropy on held-out clips is chosen. Ties go to the strongest.

    Args:
        features: see :func:`fit_linear`.
        labels: see :func:`fit_linear`.
        folds: fold of each clip in each division, int64 [divisions, clips]. Only the first division is used to choose
            the strength.
        num_classes: see :func:`fit_linear`.
        strengths: strengths to choose from, strongest first.

    Returns:
        The strength; and the logits of each clip, float64 [clips, classes], from the fits that held out its fold,
        averaged over the divisions.
    """
    first, *others = folds
    logits = _held_out(features, labels, first, num_classes, strengths)
    losses = [float(F.cross_entropy(rows, labels)) for rows in logits]
    best = losses.index(min(losses))
    chosen = [_held_out(features, labels, division, num_classes, [strengths[best]])[0] for division in others]
    return strengths[best], torch.stack([logits[best], *chosen]).mean(dim=0)


def _held_out(features: Tensor, labels: Tensor, folds: Tensor, num_classes: int, strengths: Sequence[float]) -> Tensor:
    """Logits float64 [strengths, clips, classes] of each clip, from the fit that held out its fold."""
    logits = torch.zeros(len(strengths), len(labels), num_classes, dtype=torch.float64)
    for fold in folds.unique():
        out = folds == fold
        for row, fit in enumerate(fit_linear(features[~out], labels[~out], num_classes, strengths)):
            logits[row, out] = fit.logits(features[out])
    return logits
