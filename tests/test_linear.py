"""The linear classifier of frozen networks: the minimum of a convex loss, chosen by clips held out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coviar_mocrop.networks.linear import STRENGTHS, LinearFit, column_statistics, cross_validate, fit_linear

SHAPES = [(40, 6, 3), (12, 30, 3), (5, 8, 7), (30, 30, 2)]
"""Clips, length of the features, classes: the third has more classes than clips."""


def draw(clips: int, dim: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features float32 [clips, dim] that tell something of the labels int64 [clips]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (clips,), generator=generator)
    centres = torch.randn(classes, dim, generator=generator)
    return centres[labels] + 1.5 * torch.randn(clips, dim, generator=generator), labels


def penalised(fit: LinearFit, features: Tensor, labels: Tensor, strength: float) -> tuple[float, Tensor]:
    """The loss as it is described, and the largest entry of its gradient with respect to weights and biases."""
    weight, bias = fit.weight.clone().requires_grad_(), fit.bias.clone().requires_grad_()
    own = LinearFit(fit.mean, fit.deviation, weight, bias)
    loss = F.cross_entropy(own.logits(features), labels, reduction="sum")
    loss = loss + strength * features.shape[1] / 2 * weight.square().sum() + 1e-3 * bias.square().sum()
    gradients = torch.autograd.grad(loss, (weight, bias))
    gradients = (gradients[0].flatten() / features.shape[1] ** 0.5, gradients[1])
    return float(loss.detach()), torch.cat(gradients).abs().max()


def same_logits(first: LinearFit, second: LinearFit, features: Tensor, other: Tensor | None = None) -> None:
    torch.testing.assert_close(
        first.logits(features), second.logits(features if other is None else other), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_of_the_penalised_loss_is_zero(shape: tuple[int, int, int]) -> None:
    features, labels = draw(*shape)
    for strength, fit in zip(STRENGTHS, fit_linear(features, labels, shape[2], STRENGTHS), strict=True):
        assert fit.weight.shape == (shape[2], shape[1]) and fit.weight.dtype == torch.float64
        _, gradient = penalised(fit, features, labels, strength)
        assert gradient < 1e-5


@settings(max_examples=8)
@given(
    seed=st.integers(0, 10**6),
    clips=st.integers(2, 25),
    dim=st.integers(1, 25),
    classes=st.integers(2, 5),
    strength=st.floats(0.01, 10),
)
def test_no_other_classifier_is_better(seed: int, clips: int, dim: int, classes: int, strength: float) -> None:
    """The loss is convex: it is at its minimum where its gradient is zero, so every step aside costs."""
    features, labels = draw(clips, dim, classes, seed)
    (fit,) = fit_linear(features, labels, classes, [strength])
    least, gradient = penalised(fit, features, labels, strength)
    assert gradient < 1e-4
    generator = torch.Generator().manual_seed(seed)
    for size in (1e-2, 1.0):
        weight = fit.weight + size * torch.randn(fit.weight.shape, generator=generator, dtype=torch.float64)
        assert penalised(fit._replace(weight=weight), features, labels, strength)[0] > least


def test_few_clips_are_fitted_in_their_span_as_directly() -> None:
    """Fitted once more with a weight for each feature, as the loss is written down."""
    features, labels = draw(12, 30, 3)
    (spanned,) = fit_linear(features, labels, 3)
    inputs = (features.double() - spanned.mean) / spanned.deviation
    weight = torch.zeros(3, 30, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=2000, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = F.cross_entropy(inputs @ weight.T + bias, labels, reduction="sum")
        total = total + 0.1 * 30 / 2 * weight.square().sum() + 1e-3 * bias.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    torch.testing.assert_close(spanned.weight, weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(spanned.bias, bias.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_units_of_the_features_do_not_matter(shape: tuple[int, int, int]) -> None:
    features, labels = draw(*shape)
    features = features.double()
    scale = torch.logspace(-3, 3, shape[1], dtype=torch.float64)
    moved = features * scale + 10 * scale
    same_logits(*(fit_linear(x, labels, shape[2])[0] for x in (features, moved)), features, moved)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("times", [2, 5])
def test_a_strength_means_the_same_for_longer_features(shape: tuple[int, int, int], times: int) -> None:
    features, labels = draw(*shape)
    longer = features.repeat(1, times)
    same_logits(*(fit_linear(x, labels, shape[2])[0] for x in (features, longer)), features, longer)


def test_a_column_that_never_changes_says_nothing() -> None:
    features, labels = draw(20, 5, 2)
    features[:, 3] = 7.1
    mean, deviation = column_statistics(features)
    assert deviation[3] == 1
    assert mean[3] == pytest.approx(7.1)
    (fit,) = fit_linear(features, labels, 2)
    assert fit.weight[:, 3].abs().max() < 1e-6


def test_a_class_without_clips_is_unlikely_and_finite() -> None:
    features, labels = draw(30, 6, 3)
    (fit,) = fit_linear(features, labels, 4)
    shares = fit.logits(features).softmax(dim=1)
    assert fit.bias.isfinite().all() and fit.weight.isfinite().all()
    assert shares[:, 3].max() < 0.01
    (alone,) = fit_linear(features[labels == 1], labels[labels == 1], 3)  # one class only
    assert (alone.logits(features).argmax(dim=1) == 1).all()


def test_strong_regularisation_gives_the_shares_of_the_classes() -> None:
    features, labels = draw(40, 6, 3)
    (fit,) = fit_linear(features, labels, 3, [1e6])
    shares = torch.bincount(labels, minlength=3) / 40
    torch.testing.assert_close(fit.logits(features).softmax(1)[0].float(), shares, rtol=1e-2, atol=1e-3)


def losses(features: Tensor, labels: Tensor, folds: Tensor, classes: int, strengths: Sequence[float]) -> list[float]:
    """The cross-entropy on clips held out, strength by strength and fold by fold."""
    found = []
    for strength in strengths:
        total = 0.0
        for fold in range(int(folds.max()) + 1):
            out = folds == fold
            (fit,) = fit_linear(features[~out], labels[~out], classes, [strength])
            total += float(F.cross_entropy(fit.logits(features[out]), labels[out], reduction="sum"))
        found.append(total / len(labels))
    return found


@pytest.mark.parametrize("seed", range(2))
def test_the_strength_is_chosen_by_clips_held_out(seed: int) -> None:
    features, labels = draw(18, 10, 3, seed)
    folds, strengths = torch.arange(18) % 3, STRENGTHS[::2]
    strength, logits = cross_validate(features, labels, folds[None], 3, strengths)
    tried = losses(features, labels, folds, 3, strengths)
    assert strength == strengths[tried.index(min(tried))]
    assert float(F.cross_entropy(logits, labels)) == pytest.approx(min(tried), rel=1e-4)
    for fold in range(3):
        out = folds == fold
        (fit,) = fit_linear(features[~out], labels[~out], 3, [strength])
        torch.testing.assert_close(logits[out], fit.logits(features[out]), rtol=1e-3, atol=1e-3)


def test_several_divisions_are_averaged() -> None:
    """The first one chooses the strength."""
    features, labels = draw(24, 10, 3, 1)
    divisions = torch.stack([torch.arange(24) % 3, torch.arange(24) // 6])
    strength, logits = cross_validate(features, labels, divisions, 3, STRENGTHS[::2])
    chosen, first = cross_validate(features, labels, divisions[:1], 3, STRENGTHS[::2])
    _, second = cross_validate(features, labels, divisions[1:], 3, [strength])
    assert strength == chosen
    torch.testing.assert_close(logits, (first + second) / 2)


def test_held_out_clips_do_not_know_their_own_fold() -> None:
    """Wrong labels in a fold change what all other clips get, and nothing in the fold itself."""
    features, labels = draw(30, 20, 3)
    folds = torch.arange(30) % 5
    _, before = cross_validate(features, labels, folds[None], 3, [0.1])
    wrong = labels.where(folds != 2, (labels + 1) % 3)
    _, after = cross_validate(features, wrong, folds[None], 3, [0.1])
    assert torch.equal(before[folds == 2], after[folds == 2])
    assert not torch.isclose(before[folds != 2], after[folds != 2]).any(dim=1).all()


def test_of_equal_strengths_the_strongest_is_chosen() -> None:
    labels = torch.tensor([0, 1] * 6)
    strength, _ = cross_validate(torch.zeros(12, 3), labels, (torch.arange(12) // 4)[None], 2)
    assert strength == STRENGTHS[0]


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_the_order_of_the_clips_does_not_matter(shape: tuple[int, int, int]) -> None:
    features, labels = draw(*shape)
    folds = torch.arange(shape[0]) % 3
    strength, logits = cross_validate(features, labels, folds[None], shape[2], STRENGTHS[::2])
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(1))
    other, moved = cross_validate(features[order], labels[order], folds[None, order], shape[2], STRENGTHS[::2])
    assert other == strength
    torch.testing.assert_close(moved, logits[order], rtol=1e-3, atol=1e-3)
