"""Learning rates, weight decay and schedules."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from coviar_mocrop.networks.stream_net import create_network
from coviar_mocrop.training.config import RateFactors, TrainConfig
from coviar_mocrop.training.optim import create_optimizer, create_schedule, parameter_groups


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


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"schedule": "step", "steps": (2, 3)}, [1, 1, 0.1, 0.01]),
        ({"schedule": "constant"}, [1, 1, 1, 1]),
        ({"schedule": "cosine"}, [1, 0.8536, 0.5, 0.1464]),
        ({"schedule": "step", "steps": (2,), "warmup_epochs": 1}, [0.25, 1, 0.1, 0.1]),
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
