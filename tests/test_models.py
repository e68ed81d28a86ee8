"""Networks of streams: channels, classifier, consensus, weights, learning rate groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from coviar_mocrop.errors import CheckpointError, ModelError
from coviar_mocrop.networks.config import ModelConfig
from coviar_mocrop.networks.stream_net import create_network
from coviar_mocrop.training.config import RateFactors, TrainConfig
from coviar_mocrop.training.optim import create_optimizer, create_schedule, parameter_groups


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenet_v3_large", "efficientnet_b0", "swin_t", "squeezenet1_1", "densenet121", "googlenet"],
)
@pytest.mark.parametrize(("channels", "input_norm"), [(3, False), (2, True)])
def test_any_classifier_serves_any_stream(name: str, channels: int, input_norm: bool) -> None:
    stream = create_network(channels, 7, ModelConfig(backbone=name), input_norm=input_norm).train()
    logits = stream(torch.randn(2, 3, channels, 64, 64))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert stream.get_parameter(f"{stream.stem_names[0]}.weight").grad is not None
    assert stream.get_submodule(stream.classifier_name).weight.shape[0] == 7  # type: ignore[union-attr,index]


def test_clip_score_is_the_mean_of_the_segments_logits() -> None:
    stream = create_network(3, 5).eval()
    clip = torch.randn(1, 4, 3, 64, 64)
    with torch.no_grad():
        whole = stream(clip)
        single = torch.cat([stream(clip[:, i : i + 1]) for i in range(4)])
    torch.testing.assert_close(whole[0], single.mean(dim=0))


def test_a_norm_over_the_input_where_it_is_asked_for() -> None:
    plain, normed = create_network(3, 5), create_network(2, 5, input_norm=True)
    assert not any(name.startswith("data_bn.") for name in plain.state_dict())
    assert normed.data_bn.weight.shape == (2,)  # type: ignore[union-attr]
    assert normed.stem_names == (*plain.stem_names, "data_bn")


def test_local_weights_and_the_mean_stem(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = torchvision.models.resnet18(num_classes=1000)
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": source.state_dict()}, path)
    settings = ModelConfig(backbone="resnet18", weights=str(path))
    stream = create_network(2, 5, settings)
    mean = source.conv1.weight.mean(dim=1, keepdim=True)
    torch.testing.assert_close(stream.backbone.conv1.weight, mean.expand(-1, 2, -1, -1))  # type: ignore[union-attr]
    torch.testing.assert_close(stream.backbone.layer4[1].conv2.weight, source.layer4[1].conv2.weight)  # type: ignore
    assert stream.backbone.fc.weight.shape == (5, 512)  # type: ignore[union-attr]
    with pytest.raises(CheckpointError, match=r"weights\.pth: does not fit model.backbone \(165 missing"):
        create_network(3, 5, ModelConfig(backbone="resnet50", weights=str(path)))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken"])
def test_broken_weights_are_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.pth") as caught:
        create_network(3, 5, ModelConfig(weights=str(path)))
    assert "\n" not in str(caught.value)


def test_unknown_names_are_told() -> None:
    with pytest.raises(ModelError, match="did you mean resnet18"):
        create_network(3, 5, ModelConfig(backbone="resnet_18"))
    with pytest.raises(ModelError, match="IMAGENET1K_V1"):
        create_network(3, 5, ModelConfig(weights="IMAGENET"))


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


def test_frames_in_portions_score_like_all_at_once() -> None:
    model = create_network(2, 5, input_norm=True).eval()
    clips = torch.randn(3, 5, 2, 32, 32)
    with torch.inference_mode():
        whole = model(clips)
        for portion in (1, 4, 100):
            model.frames_at_once = portion
            torch.testing.assert_close(model(clips), whole, atol=1e-5, rtol=1e-5)
