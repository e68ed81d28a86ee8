"""Learning rates, weight decay and schedules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from coviar_mocrop.networks.config import ModelConfig
from coviar_mocrop.networks.stream_net import create_network
from coviar_mocrop.training.config import RateFactors, TrainConfig
from coviar_mocrop.training.optim import create_optimizer, create_schedule, mixup, parameter_groups


def test_rate_factors_and_weight_decay_reach_the_right_parameters() -> None:
    stream = create_network(2, 5, input_norm=True)
    settings = TrainConfig(lr=1.0, weight_decay=0.1, rate_factors=RateFactors(classifier=1, stem=0.1, rest=0.01))
    rate = {id(p): (g["lr"], g["weight_decay"]) for g in parameter_groups(stream, settings) for p in g["params"]}
    named = {name: rate[id(parameter)] for name, parameter in stream.named_parameters()}
    assert len(rate) == len(list(stream.parameters()))
    assert named["backbone.fc.weight"] == (1.0, 0.1)
    assert named["backbone.fc.bias"] == (1.0, 0.0)
    assert named["backbone.conv1.weight"] == (0.1, 0.1)
    assert named["backbone.bn1.weight"] == (0.1, 0.0)
    assert named["data_bn.bias"] == (0.1, 0.0)
    assert named["backbone.layer1.0.conv1.weight"] == (0.01, 0.1)


def test_the_motion_module_learns_as_fast_as_the_classifier() -> None:
    """Neither is pretrained."""
    settings = TrainConfig(lr=1.0, rate_factors=RateFactors(classifier=1, stem=0.1, rest=0.01))
    network = create_network(3, 5, ModelConfig(backbone="resnet18", motion_squeeze=True))
    rate = {id(p): g["lr"] for g in parameter_groups(network, settings) for p in g["params"]}
    assert network.motion_squeeze is not None
    assert {rate[id(parameter)] for parameter in network.motion_squeeze.parameters()} == {1.0}
    assert rate[id(network.get_parameter("backbone.layer1.0.conv1.weight"))] == 0.01


def test_only_matrices_and_kernels_decay() -> None:
    """Whatever a vector is called: an attention's in_proj_bias is a bias too."""
    kinds = [torch.nn.BatchNorm2d(4), torch.nn.RMSNorm(4), torch.nn.GroupNorm(2, 4), torch.nn.MultiheadAttention(4, 2)]
    network = torch.nn.Sequential(*kinds)
    groups = parameter_groups(network, TrainConfig(weight_decay=0.1))
    decays = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    found = {name for name, parameter in network.named_parameters() if decays[id(parameter)]}
    assert found == {"3.in_proj_weight", "3.out_proj.weight"}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"schedule": "step", "steps": (2, 3)}, [1, 1, 0.1, 0.01]),
        ({"schedule": "constant"}, [1, 1, 1, 1]),
        ({"schedule": "cosine"}, [1, 0.8536, 0.5, 0.1464]),
        ({"schedule": "step", "steps": (2,), "warmup_epochs": 1}, [0.25, 1, 0.1, 0.1]),
        ({"schedule": "step", "steps": (1,), "warmup_epochs": 2}, [1 / 7, 4 / 7, 0.1, 0.1]),  # never at the full rate
        ({"schedule": "cosine", "warmup_epochs": 1}, [0.25, 1, 0.75, 0.25]),
        ({"schedule": "cosine", "warmup_epochs": 4}, [1 / 12, 4 / 12, 7 / 12, 10 / 12]),  # to the last step but one
    ],
)
def test_schedules(schedule: dict[str, Any], expected: list[float]) -> None:
    settings = TrainConfig(lr=1.0, epochs=4, optimizer="sgd", **schedule)
    optimizer = create_optimizer(create_network(3, 2), settings)
    plan = create_schedule(optimizer, settings, steps_per_epoch=3)
    rates = []
    for _ in range(4):
        rates.append(plan.get_last_lr()[0])
        for _ in range(3):
            optimizer.step()
            plan.step()
    assert rates == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("schedule", ["constant", "step"])
def test_a_longer_run_begins_as_a_shorter_one(schedule: Any) -> None:
    """So that a run can be made longer, even one that ends in its warm-up; only cosine depends on the end."""

    def rates(epochs: int) -> list[float]:
        settings = TrainConfig(lr=1.0, epochs=epochs, schedule=schedule, warmup_epochs=2, steps=(1,))
        optimizer = create_optimizer(torch.nn.Linear(2, 2), settings)
        plan = create_schedule(optimizer, settings, steps_per_epoch=3)
        found = []
        for _ in range(6):
            found.append(plan.get_last_lr()[0])
            optimizer.step()
            plan.step()
        return found

    assert rates(1) == rates(2) == rates(9)


def test_frozen_parameters_are_left_alone() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    network[0].requires_grad_(False)
    groups = parameter_groups(network, TrainConfig())
    assert [parameter for group in groups for parameter in group["params"]] == [network[1].weight, network[1].bias]


@pytest.mark.parametrize(("name", "kind"), [("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD")])
def test_optimizers(name: Any, kind: str) -> None:
    optimizer = create_optimizer(torch.nn.Linear(2, 2), TrainConfig(optimizer=name, eps=1e-3, momentum=0.7, lr=0.5))
    assert type(optimizer).__name__ == kind
    assert optimizer.defaults["lr"] == 0.5
    assert optimizer.defaults["fused"]  # one pass over all weights
    assert optimizer.defaults["momentum" if name == "sgd" else "eps"] == (0.7 if name == "sgd" else 1e-3)


def test_mixup_favours_neither_clip_of_a_pair() -> None:
    """Beta(a, a) has mean 1/2 and variance 1 / (8 a + 4)."""
    generator, weights = np.random.default_rng(0), []
    for _ in range(2000):
        inputs, targets = mixup(torch.tensor([[1.0], [0.0]]), torch.tensor([0, 1]), 2, 0.3, generator)
        assert torch.equal(inputs[:, 0], targets[:, 0])
        weights += [float(targets[0, 0])] if not torch.equal(targets, torch.eye(2)) else []
    assert len(weights) > 800
    assert np.mean(weights) == pytest.approx(0.5, abs=0.05)
    assert np.var(weights) == pytest.approx(1 / 6.4, abs=0.02)
