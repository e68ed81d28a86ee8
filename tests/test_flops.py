"""Counting multiply-adds: every published figure, with fvcore as a cross-check."""

from __future__ import annotations

from math import prod
from threading import Thread
from typing import Any, ClassVar

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from coviar_mocrop.errors import ModelError
from coviar_mocrop.flops import StreamCost, count_flops
from coviar_mocrop.networks.config import ModelConfig
from coviar_mocrop.networks.stream_net import create_network

FIGURES = [
    ("resnet152", 224, 11.557),
    ("resnet152", 192, 8.491),
    ("resnet50", 224, 4.110),
    ("resnet50", 192, 3.019),
    ("resnet18", 224, 1.819),
    ("resnet18", 192, 1.336),
    ("mobilenet_v3_large", 224, 0.225),
    ("mobilenet_v3_large", 192, 0.166),
    ("efficientnet_b1", 224, 0.591),
    ("efficientnet_b1", 192, 0.434),
    pytest.param("efficientnet_b0", 224, 0.401, marks=pytest.mark.slow),
    pytest.param("efficientnet_b0", 192, 0.294, marks=pytest.mark.slow),
    pytest.param("swin_b", 224, 15.467, marks=pytest.mark.slow),
    pytest.param("swin_b", 192, 12.638, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "size", "gflops"), FIGURES)
def test_published_figures(name: str, size: int, gflops: float) -> None:
    with torch.device("meta"):
        net = torchvision.models.get_model(name, num_classes=101)
    assert round(count_flops(net, (1, 3, size, size)) / 1e9, 3) == gflops


def test_the_coviar_result() -> None:
    """11.6 -> 8.5 GFLOPs, counted on the network itself."""
    network = create_network(3, 101, ModelConfig(backbone="resnet152"))
    before, after = (count_flops(network, (1, 1, 3, size, size)) / 1e9 for size in (224, 192))
    assert (f"{before:.1f}", f"{after:.1f}") == ("11.6", "8.5")
    assert 1 - after / before == pytest.approx(0.265, abs=0.001)


def test_two_channel_stem() -> None:
    network = create_network(2, 101, ModelConfig(backbone="efficientnet_b0"), input_norm=True)
    assert round(count_flops(network.backbone, (1, 2, 224, 224)) / 1e9, 3) == 0.397


class ClipTower(nn.Module):
    """The visual tower of CLIP ViT-B/32: 12 pre-norm layers of width 768, then a projection to 512."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 768, 32, 32, bias=False)
        layer = nn.TransformerEncoderLayer(768, 12, 3072, activation="gelu", batch_first=True, norm_first=True)
        self.before, self.after = nn.LayerNorm(768), nn.LayerNorm(768)
        self.layers = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.projection = nn.Linear(768, 512, bias=False)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(pictures).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.new_zeros(len(tokens), 1, 768), tokens], dim=1)
        return self.projection(self.after(self.layers(self.before(tokens))[:, 0]))


def test_attention_fast_path_is_not_missed() -> None:
    with torch.device("meta"):
        tower = ClipTower()
    counted = count_flops(tower, (1, 3, 224, 224))
    assert round(counted / 1e9, 3) == 4.368
    # 12 layers, 50 x 50 tokens, width 768, two products
    assert count_flops(tower, (1, 3, 224, 224), fused_attention=True) - counted == 12 * 2 * 50 * 50 * 768


@pytest.mark.parametrize(
    "name",
    [
        *("mobilenet_v3_small", "resnet18"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("efficientnet_b0", "swin_t", "densenet121")),
    ],
)
def test_agrees_with_fvcore(name: str) -> None:
    fvcore: Any = pytest.importorskip("fvcore.nn")
    net = torchvision.models.get_model(name, num_classes=7).eval()
    analysis = fvcore.FlopCountAnalysis(net, torch.zeros(1, 3, 64, 64))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    assert count_flops(net, (1, 3, 64, 64)) == analysis.total()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(("tf_efficientnet_lite0", 64), ("vit_tiny_patch16_224", 48)),
        pytest.param("convnext_atto", 64, marks=pytest.mark.slow),
        pytest.param("resnet18", 64, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", 64, marks=pytest.mark.slow),
        pytest.param("mobilenetv3_small_100", 64, marks=pytest.mark.slow),
    ],
)
def test_networks_of_timm_agree_with_fvcore(name: str, size: int) -> None:
    pytest.importorskip("timm")
    fvcore: Any = pytest.importorskip("fvcore.nn")
    net = create_network(3, 7, ModelConfig(backbone=f"timm/{name}"), size=size).backbone.eval()
    analysis = fvcore.FlopCountAnalysis(net, torch.zeros(1, 3, size, size))
    # timm's squeeze-and-excitation takes the mean where torchvision's pools adaptively; fvcore counts pooling alone
    analysis.set_op_handle("aten::mean", lambda inputs, outputs: prod(inputs[0].type().sizes()))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    assert count_flops(net, (1, 3, size, size)) == analysis.total()


def test_a_network_costs_the_same_in_both_zoos() -> None:
    timm = pytest.importorskip("timm")
    for name in ("resnet18", "efficientnet_b0"):
        ours = torchvision.models.get_model(name, num_classes=101)
        assert count_flops(timm.create_model(name, num_classes=101), (1, 3, 64, 64)) == count_flops(
            ours, (1, 3, 64, 64)
        )


def test_normalisation_and_pooling_by_hand() -> None:
    shape = (1, 4, 8, 8)  # 256 elements
    assert count_flops(nn.BatchNorm2d(4), shape) == 2 * 256
    assert count_flops(nn.BatchNorm2d(4), shape, norm_cost=1) == 256
    # those whose mean and variance are computed, with and without scale and shift
    for norm, cost in (
        (nn.GroupNorm(2, 4), 5),
        (nn.BatchNorm2d(4, track_running_stats=False), 5),
        (nn.BatchNorm2d(4, affine=False, track_running_stats=False), 4),
        (nn.InstanceNorm2d(4, affine=True), 5),
        (nn.InstanceNorm2d(4), 4),
    ):
        assert count_flops(norm, shape) == cost * 256
    assert count_flops(nn.AdaptiveAvgPool2d(2), shape) == count_flops(nn.AdaptiveAvgPool2d(1), shape) == 256


def test_counting_neither_runs_nor_changes_the_module() -> None:
    network = create_network(2, 5, input_norm=True)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.train()
    flops = count_flops(network, (1, 3, 2, 64, 64))
    assert network.training
    assert flops == 3 * count_flops(network, (1, 1, 2, 64, 64))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class Meanwhile(nn.Module):
    """Another thread runs a norm while this one is counted."""

    seen: ClassVar[list[float]] = []

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)

    def train(self, mode: bool = True) -> Meanwhile:
        for parameter in self.norm.parameters():
            parameter.requires_grad_(mode)
        return super().train(mode)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        real = nn.BatchNorm2d(2).eval().requires_grad_(False)
        real.running_mean += 3

        def run() -> None:
            self.seen.append(real(torch.zeros(1, 2, 1, 1))[0, 0, 0, 0].item())

        other = Thread(target=run)
        other.start()
        other.join()
        assert isinstance(self.norm.weight, nn.Parameter)
        named = {"running_mean": self.norm.running_mean, "running_var": self.norm.running_var}
        return functional.batch_norm(self.norm(pictures), **named)


def test_other_threads_compute_meanwhile() -> None:
    module = Meanwhile()
    assert count_flops(module, (1, 2, 8, 8)) == 2 * 2 * 128
    assert module.seen == [pytest.approx(-3, abs=1e-3)]
    assert module.norm.weight.requires_grad and not module.norm.weight.is_meta
    assert functional.batch_norm.__module__ == "torch.nn.functional"


def test_a_shape_that_does_not_fit_is_one_clear_error() -> None:
    with pytest.raises(ModelError, match=r"does not take an input of shape \(1, 1, 4, 64, 64\)") as caught:
        count_flops(create_network(3, 5), (1, 1, 4, 64, 64))
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="should contain 3 elements not 4"):
        count_flops(nn.BatchNorm2d(4), (1, 3, 8, 8))


def test_the_cost_of_a_clip() -> None:
    cost = StreamCost(per_frame=2_000_000_000, frames_per_clip=250)
    assert (cost.gflops_per_frame, cost.gflops_per_clip) == (2.0, 500.0)
    assert StreamCost(per_frame=2_000_000_000, frames_per_clip=8, once=500_000_000).gflops_per_clip == 16.5
