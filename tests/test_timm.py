"""Networks of timm as backbones: they train, resume, export and load weights like torchvision's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from demo import outcome, same, small_config
from safetensors.torch import save_file
from torch import nn

from coviar_mocrop.config import Config
from coviar_mocrop.errors import CheckpointError, CoviarMocropError, ModelError
from coviar_mocrop.inference.export import export_run
from coviar_mocrop.inference.testing import load_stream
from coviar_mocrop.networks.config import ModelConfig
from coviar_mocrop.networks.stream_net import StreamNet, create_network
from coviar_mocrop.streams.base import create_stream
from coviar_mocrop.training.setup import convert_batch_norms
from coviar_mocrop.training.trainer import train

timm = pytest.importorskip("timm")
FAMILIES = [
    ("iframe", "resnet18", ("conv1", "bn1"), "fc"),
    ("mv", "tf_efficientnet_lite0", ("conv_stem", "bn1"), "classifier"),
    ("residual", "mobilenetv3_small_100", ("conv_stem", "bn1"), "classifier"),
    ("iframe", "vit_tiny_patch16_224", ("patch_embed.proj",), "head"),
]


@pytest.mark.slow  # exports
@pytest.mark.parametrize(("kind", "name", "stem", "classifier"), FAMILIES)
def test_a_network_of_each_family_trains_resumes_and_exports(
    demo: Path, tmp_path: Path, kind: str, name: str, stem: tuple[str, ...], classifier: str
) -> None:
    def config(folder: str, epochs: int) -> Config:
        model = {"backbone": f"timm/{name}", "dropout": 0.2}
        trained = {"epochs": epochs, "schedule": "constant"}
        return small_config(demo, tmp_path / folder, stream=kind, model=model, train=trained)

    train({kind: config("once", 2)})
    train({kind: config("twice", 1)})
    train({kind: config("twice", 2)}, resume=True)
    assert same(outcome(tmp_path / "once"), outcome(tmp_path / "twice"))

    formats = ("onnx", "safetensors", "torch_export")
    entry = export_run([tmp_path / "once/best.pt"], tmp_path / "exported", formats)["streams"][kind]
    assert set(entry["files"]) == set(formats)
    assert all(file["input"][:3] == ("clips", 1, "segments") for file in entry["files"].values() if "input" in file)
    assert entry["backbone"] == f"timm/{name}" and entry["gflops_per_frame"] > 0
    mean = timm.get_pretrained_cfg(name).mean
    assert entry["input"]["scaling"].get("mean", mean) == mean
    network = cast(StreamNet, load_stream(tmp_path / f"exported/{kind}.safetensors").network)
    assert network.stem_names == (*(f"backbone.{part}" for part in stem), *(["data_bn"] * (kind != "iframe")))
    assert network.classifier_name == f"backbone.{classifier}"
    assert network.get_submodule(network.classifier_name).weight.shape[0] == 8  # type: ignore[index]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, nn.Module]:
    """Networks that timm returns as pretrained, by name, in place of downloads: random weights."""
    given: dict[str, nn.Module] = {}
    create = timm.create_model

    def create_model(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        net: nn.Module = create(name, **options)
        if pretrained:
            given[name] = create(name, **options)
            net.load_state_dict(given[name].state_dict())
        return net

    monkeypatch.setattr(timm, "create_model", create_model)
    return given


def test_published_weights_by_tag_and_the_mean_of_the_colours(hub: dict[str, nn.Module]) -> None:
    config = ModelConfig(backbone="timm/tf_efficientnet_lite0", weights="in1k")
    network = create_network(2, 5, config, input_norm=True)
    published = hub["tf_efficientnet_lite0.in1k"]
    first, theirs = network.get_submodule("backbone.conv_stem"), published.get_submodule("conv_stem")
    assert type(first) is type(theirs)  # which pads in TensorFlow's way
    expected = theirs.weight.mean(dim=1, keepdim=True).expand(-1, 2, -1, -1)  # type: ignore[operator, union-attr]
    torch.testing.assert_close(first.weight, expected)
    head = network.get_submodule("backbone.conv_head")
    assert torch.equal(head.weight, published.get_submodule("conv_head").weight)  # type: ignore[arg-type]
    assert network(torch.randn(2, 1, 2, 64, 64)).shape == (2, 5)
    create_network(3, 5, ModelConfig(backbone="timm/test_resnet.r160_in1k", weights="DEFAULT"))
    assert "test_resnet.r160_in1k" in hub


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "test_resnet", "test_vit"])
def test_few_classes_begin_at_the_loss_of_guessing(name: str) -> None:
    torch.manual_seed(0)
    network = create_network(3, 2, ModelConfig(backbone=f"timm/{name}"))
    with torch.no_grad():
        logits = network.train()(torch.randn(8, 2, 3, 64, 64).clamp(-2, 2))
    assert float(nn.functional.cross_entropy(logits, torch.arange(8) % 2)) == pytest.approx(0.69, abs=0.15)
    classifier = network.get_submodule(network.classifier_name)
    assert isinstance(classifier, nn.Linear)
    assert float(classifier.weight.detach().abs().max()) <= classifier.in_features**-0.5


def test_the_tag_tells_mean_and_deviation_even_where_a_checkpoint_brings_the_weights(
    demo: Path, tmp_path: Path
) -> None:
    pixels = torch.full((1, 1, 1, 3, 4, 4), 255, dtype=torch.uint8)
    for weights, mean, std in (("ap_in1k", 0.5, 0.5), ("ns_jft_in1k", 0.485, 0.229)):
        model = {"backbone": "timm/tf_efficientnet_b0", "weights": weights}
        for kind, value in (("iframe", (1 - mean) / std), ("residual", 0.5 / std)):
            config = small_config(demo, tmp_path, stream=kind, model=model)
            stream = create_stream(config, ["a", "b"], weights=False)
            assert stream.scaling is not None and stream.scaling["std"][0] == std
            assert stream.rules()["scaling"] == stream.scaling
            assert float(stream.normalise(pixels)[..., 0, 0, 0]) == pytest.approx(value)  # type: ignore[attr-defined]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_local_files_fit_entry_by_entry_and_embeddings_are_resized(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    source = timm.create_model("test_vit").state_dict()  # 1000 classes, 160 pixels
    path = tmp_path / f"weights{suffix}"
    torch.save({"model": source}, path) if suffix == ".pth" else save_file(source, path)
    config = ModelConfig(backbone="timm/test_vit", weights=str(path))
    for size, cells in ((160, 10), (96, 6)):
        network = create_network(2, 5, config, size=size)
        own = network.backbone.state_dict()
        assert own["pos_embed"].shape[1] == cells**2 + 1
        mean = source["patch_embed.proj.weight"].mean(dim=1, keepdim=True)
        torch.testing.assert_close(own["patch_embed.proj.weight"], mean.expand(-1, 2, -1, -1))
        assert torch.equal(own["blocks.3.mlp.fc1.weight"], source["blocks.3.mlp.fc1.weight"])
        assert network(torch.randn(1, 1, 2, size, size)).shape == (1, 5)
        kept = create_network(3, 1000, config, size=size).backbone.state_dict()
        assert torch.equal(kept["head.weight"], source["head.weight"])
        if size == 160:
            assert same(dict(kept), dict(source))
    with pytest.raises(CheckpointError, match=r"weights\.\w+: does not fit model\.backbone"):
        create_network(3, 5, ModelConfig(backbone="timm/test_resnet", weights=str(path)))


def test_a_trained_network_is_tested_at_another_size() -> None:
    config = ModelConfig(backbone="timm/test_vit")
    large, small = (create_network(3, 5, config, size=size).eval() for size in (64, 32))
    small.load_state_dict(large.state_dict())
    assert small(torch.randn(1, 1, 3, 32, 32)).shape == (1, 5)
    again = create_network(3, 5, config, size=32)
    again.load_state_dict(small.state_dict())
    assert same(dict(again.state_dict()), dict(small.state_dict()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "timm/resnet_18"}, r"'timm/resnet_18' is not a network of timm; did you mean 'timm/resnet18'\?"),
        ({"backbone": "tf_efficientnet_lite0"}, r"did you mean timm/tf_efficientnet_lite0\?"),
        ({"backbone": "timm/resnet18", "weights": "IMAGENET1K_V1"}, "choose from DEFAULT, a1_in1k, "),
        ({"backbone": "timm/resnet18.nobodys"}, "choose from DEFAULT, a1_in1k, "),
        ({"backbone": "timm/resnet18.a1_in1k", "weights": "a2_in1k"}, "give one of them"),
        ({"backbone": "timm/repvgg_a0"}, "has no first convolution, or several"),
        ({"backbone": "timm/deit_tiny_distilled_patch16_224"}, "has no classifier, or several"),
        ({"backbone": "timm/resnet18", "temporal": "shift"}, "need a ResNet of torchvision"),
        ({"backbone": "timm/test_vit"}, r"test_vit: takes no input of 100 pixels .*; 96 or 112 pixels work"),
    ],
)
def test_what_cannot_be_built_is_one_clear_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        create_network(3, 5, ModelConfig(**settings), size=100 if "pixels" in message else None)
    assert "\n" not in str(caught.value)


def test_without_a_network_or_without_timm_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **options: Any) -> None:
        raise OSError("no connection\nto the hub")

    monkeypatch.setattr(timm, "create_model", offline)
    message = r"the weights 'DEFAULT' of timm/resnet18 cannot be downloaded .*no connection\).*path of a local file"
    with pytest.raises(ModelError, match=message) as caught:
        create_network(3, 5, ModelConfig(backbone="timm/resnet18", weights="DEFAULT"))
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(CoviarMocropError, match=r"timm is not installed; pip install .*\[pretrained\]'?$"):
        create_network(3, 5, ModelConfig(backbone="timm/resnet18"))
    with pytest.raises(ModelError, match="did you mean resnet18"):
        create_network(3, 5, ModelConfig(backbone="resnet_18"))


def test_batch_norms_over_several_gpus_keep_their_activations() -> None:
    """timm's BatchNorms may hold one, which ``train.sync_bn`` must not lose."""
    torch.manual_seed(0)
    network = create_network(3, 4, ModelConfig(backbone="timm/test_efficientnet")).eval()
    frames = torch.randn(1, 2, 3, 64, 64)
    with torch.inference_mode():
        before = network(frames)
        convert_batch_norms(network, torch.device("cuda"))
        assert any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
        torch.testing.assert_close(network(frames), before)
