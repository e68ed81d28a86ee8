"""Networks of streams: channels, classifier, consensus, weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from coviar_mocrop.errors import CheckpointError, ModelError
from coviar_mocrop.networks.config import ModelConfig
from coviar_mocrop.networks.stream_net import create_network


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "mobilenet_v3_large", "efficientnet_b0", "squeezenet1_1", "googlenet"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("swin_t", "densenet121")),
    ],
)
@pytest.mark.parametrize(("channels", "input_norm"), [(3, False), (2, True)])
def test_any_classifier_serves_any_stream(name: str, channels: int, input_norm: bool) -> None:
    stream = create_network(channels, 7, ModelConfig(backbone=name), input_norm=input_norm).train()
    logits = stream(torch.randn(2, 3, channels, 64, 64))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert stream.get_parameter(f"{stream.stem_names[0]}.weight").grad is not None
    assert stream.get_submodule(stream.classifier_name).weight.shape[0] == 7  # type: ignore[index]


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
    assert normed.data_bn.weight.shape == (2,)
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


def test_frames_in_portions_score_like_all_at_once() -> None:
    model = create_network(2, 5, input_norm=True).eval()
    clips = torch.randn(3, 5, 2, 32, 32)
    with torch.inference_mode():
        whole = model(clips)
        for portion in (1, 4, 100):
            model.frames_at_once = portion
            torch.testing.assert_close(model(clips), whole, atol=1e-5, rtol=1e-5)
