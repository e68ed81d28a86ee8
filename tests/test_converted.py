"""Weights of other projects: each format loads and gives the scores that it gave there; bad files are refused."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from demo import demo_settings
from safetensors.torch import save_file
from tool import tool
from torch import Tensor, nn

from coviar_mocrop.checkpoint import digest, load_checkpoint, read_tensors, save_checkpoint, write_safetensors
from coviar_mocrop.config import Config
from coviar_mocrop.errors import CheckpointError, ConfigError
from coviar_mocrop.inference.import_weights import _hint, inspect_weights
from coviar_mocrop.inference.testing import load_stream
from coviar_mocrop.networks.backbones import IMAGENET_STD
from coviar_mocrop.networks.config import ModelConfig
from coviar_mocrop.networks.converted import Weights, recognise
from coviar_mocrop.networks.stream_net import StreamNet, create_network
from coviar_mocrop.streams.residual import ResidualStream

CLASSES = ("climb", "dive", "jump", "run", "swim", "throw", "walk")
CHANNELS = {"iframe": 3, "mv": 2, "residual": 3}
BACKBONE = "shufflenet_v2_x0_5"
"""Where the network does not matter, a small one: a ResNet-18 is 45 MB, and files are written by the dozen."""


def network(kind: str, classes: int, **model: Any) -> StreamNet:
    """The network of a stream, as training begins with it."""
    return create_network(
        CHANNELS[kind], classes, ModelConfig(**{"backbone": BACKBONE, **model}), input_norm=kind != "iframe"
    )


class CoviarNet(nn.Module):
    """A network as the original code lays it out: the classifier in base_model, data_bn but for I-frames."""

    def __init__(self, kind: str, classes: int = len(CLASSES), backbone: str = BACKBONE) -> None:
        super().__init__()
        self.base_model = torchvision.models.get_model(backbone)
        self.base_model.fc = nn.Linear(self.base_model.fc.in_features, classes)
        if kind != "iframe":
            self.data_bn = nn.BatchNorm2d(CHANNELS[kind])
        if kind == "mv":
            if backbone == BACKBONE:
                self.base_model.conv1[0] = nn.Conv2d(2, 24, 3, 2, 1, bias=False)
            else:
                self.base_model.conv1 = nn.Conv2d(2, 64, 7, 2, 3, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Logits of clips [N, T, C, H, W], averaged over T."""
        flat = frames.flatten(0, 1)
        flat = self.data_bn(flat) if hasattr(self, "data_bn") else flat
        return self.base_model(flat).unflatten(0, frames.shape[:2]).mean(1)


def lively(net: nn.Module) -> nn.Module:
    """Weights as training leaves them: scores depend on the input; no weight of normalisation is 0 or 1."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low in ((module.weight, 0.5), (module.bias, -0.2), (module.running_var, 0.3)):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + low)
                module.running_mean.copy_(torch.rand(module.running_mean.shape, generator=generator) * 0.2 - 0.1)
            elif isinstance(module, (nn.Conv2d, nn.Linear)):  # by default the signal dies away in deep networks
                nn.init.kaiming_normal_(module.weight, generator=generator)
    return net.eval()


def settings(tmp_path: Path, kind: str, **model: Any) -> Config:
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    values = demo_settings(tmp_path, tmp_path / "run", stream=kind, model={"backbone": BACKBONE, **model})
    values["data"]["classes"] = str(tmp_path / "classes.txt")
    return Config.model_validate(values)


def imported(path: Path, config: Config, **options: Any) -> nn.Module:
    """The way a user goes: import, then load the checkpoint."""
    converted = inspect_weights(path, config, **options)
    out = path.parent / f"{path.stem}.ours.pt"
    converted.save(out, overwrite=True)
    stream = load_stream(out)
    assert stream.classes == CLASSES
    return stream.network


def clips(channels: int) -> Tensor:
    return torch.randn(2, 3, channels, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def assert_same_scores(ours: nn.Module, theirs: nn.Module, frames: Tensor, theirs_see: Tensor | None = None) -> None:
    expected = theirs(frames if theirs_see is None else theirs_see)
    assert expected.std(0 if len(expected) > 1 else 1).min() > 1e-2  # scores that tell the clips apart
    torch.testing.assert_close(ours(frames), expected, rtol=1e-4, atol=1e-4)


def coviar_file(net: nn.Module, path: Path, best: Any = 76.5, *, old: bool = True) -> Path:
    """As the original code saves it in 2018: parallel wrapper, no counters in BatchNorms, PyTorch's old format."""
    state = OrderedDict(
        (f"module.{key}", value) for key, value in net.state_dict().items() if not (old and "num_batches" in key)
    )
    content = {"epoch": 510, "arch": "resnet18", "state_dict": state, "best_prec1": best}
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path


# -- layouts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "old", "dropout"),
    [
        *(("iframe", True, 0.0), ("iframe", False, 0.5), ("mv", True, 0.5), ("mv", False, 0.0)),
        pytest.param("iframe", True, 0.5, marks=pytest.mark.slow),
        pytest.param("iframe", False, 0.0, marks=pytest.mark.slow),
        pytest.param("mv", True, 0.0, marks=pytest.mark.slow),
        pytest.param("mv", False, 0.5, marks=pytest.mark.slow),
    ],
)
def test_original_coviar_checkpoints(tmp_path: Path, kind: str, old: bool, dropout: float) -> None:
    theirs = lively(CoviarNet(kind))
    path = coviar_file(theirs, tmp_path / "model_best.pth.tar", torch.tensor(76.5), old=old)
    config = settings(tmp_path, kind, dropout=dropout)
    converted = inspect_weights(path, config)
    report = converted.report()
    assert "original CoViAR code" in report and "epoch 510" in report and "best_prec1 76.5" in report
    assert len(converted.fit.used) == len(converted.weights.tensors) == len(load_state(path))
    assert_same_scores(imported(path, config), theirs, clips(CHANNELS[kind]))


def load_state(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def test_residual_weights_of_the_original_code_see_the_same_residuals(tmp_path: Path) -> None:
    """It reads residuals as BGR, and divides them by the deviations of R, G and B all the same."""
    theirs = lively(CoviarNet("residual", backbone="resnet18"))
    path = coviar_file(theirs, tmp_path / "residual.pth.tar")
    raw = np.random.default_rng(0).integers(-128, 128, (4, 64, 64, 3)).astype(np.int16)
    pixels = torch.from_numpy((raw + 128).astype(np.uint8)).permute(0, 3, 1, 2)
    bgr = torch.from_numpy(raw[..., ::-1].copy()).permute(0, 3, 1, 2).float()
    theirs_see = ((bgr + 128) / 255 - 0.5) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    config = settings(tmp_path, "residual", backbone="resnet18")
    ours_see = ResidualStream(config, CLASSES, weights=False).normalise(pixels)[None]
    ours = imported(path, config)
    assert_same_scores(ours, theirs, ours_see, theirs_see[None])
    as_they_are = network("residual", len(CLASSES), backbone="resnet18").eval()
    as_they_are.load_state_dict(inspect_weights(path, config, residual_order="rgb").fit.state)
    assert_same_scores(as_they_are, theirs, theirs_see[None])
    assert (ours(ours_see) - as_they_are(ours_see)).abs().max() > 1e-2
    tuned = network("residual", len(CLASSES), backbone="resnet18", weights=str(path)).eval()  # the other way in
    assert_same_scores(tuned, theirs, ours_see, theirs_see[None])


@pytest.mark.parametrize(
    ("backbone", "prefix"),
    [
        *((BACKBONE, prefix) for prefix in ("backbone.", "base_model.", "module.backbone.", "")),
        pytest.param(BACKBONE, "module.base_model.", marks=pytest.mark.slow),
        pytest.param("mobilenet_v3_large", "backbone.", marks=pytest.mark.slow),
        pytest.param("efficientnet_b1", "base_model.", marks=pytest.mark.slow),
        pytest.param("swin_t", "", marks=pytest.mark.slow),
    ],
)
def test_mocrop_and_torchvision_layouts(tmp_path: Path, backbone: str, prefix: str) -> None:
    net = lively(torchvision.models.get_model(backbone, num_classes=len(CLASSES)))
    path = tmp_path / "Net_ucf101_best.pth.tar"
    torch.save({f"{prefix}{key}": value for key, value in net.state_dict().items()}, path)
    config = settings(tmp_path, "iframe", backbone=backbone)
    converted = inspect_weights(path, config)
    if prefix:
        assert "MoCrop authors" in converted.report()
    frames = clips(3)
    expected = nn.Sequential(nn.Flatten(0, 1), net)
    with torch.no_grad():
        mean = expected(frames).unflatten(0, frames.shape[:2]).mean(1)
        if prefix:
            ours = imported(path, config)
        else:  # as torchvision's files are used
            ours = network("iframe", len(CLASSES), backbone=backbone, weights=str(path)).eval()
        torch.testing.assert_close(ours(frames), mean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("container", ["state_dict", pytest.param("model_state_dict", marks=pytest.mark.slow), "model"])
def test_containers_safetensors_and_wrappers(tmp_path: Path, container: str) -> None:
    theirs = lively(CoviarNet("mv"))
    state = {f"module._orig_mod.{key}": value for key, value in theirs.state_dict().items()}
    torch.save({container: state, "optimizer": {"lr": 0.1}}, tmp_path / "a.pth")
    save_file(theirs.state_dict(), tmp_path / "b.safetensors")
    save_file(theirs.state_dict(), tmp_path / "misnamed.pth")
    config = settings(tmp_path, "mv")
    for name in ("a.pth", "b.safetensors", "misnamed.pth"):
        assert_same_scores(imported(tmp_path / name, config), theirs, clips(2))


def test_own_checkpoints_and_half_precision(tmp_path: Path) -> None:
    config = settings(tmp_path, "mv", dropout=0.3)
    model = lively(network("mv", len(CLASSES), dropout=0.3))
    content = {"config": config.model_dump(mode="json"), "classes": list(CLASSES)}
    save_checkpoint(tmp_path / "own.pt", {"model": model.state_dict(), **content})
    plain = settings(tmp_path, "mv")  # without the dropout it was trained with
    assert_same_scores(imported(tmp_path / "own.pt", plain), model, clips(2))
    half = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    torch.save(half, tmp_path / "half.pt")
    ours = imported(tmp_path / "half.pt", plain)
    assert all(parameter.dtype == torch.float32 for parameter in ours.parameters())
    content["classes"] = list(reversed(CLASSES))
    save_checkpoint(tmp_path / "other.pt", {"model": model.state_dict(), **content})
    with pytest.raises(CheckpointError, match=r"other classes .*or in another order"):
        imported(tmp_path / "other.pt", plain)


def test_old_densenets_and_training_heads(tmp_path: Path) -> None:
    net = torchvision.models.densenet121()
    old = {key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for key, v in net.state_dict().items()}
    assert any(".norm.1." in key for key in old)
    torch.save(old, tmp_path / "d.pth")
    stream = network("iframe", 5, backbone="densenet121", weights=str(tmp_path / "d.pth"))
    key = "features.denseblock1.denselayer1.conv2.weight"
    torch.testing.assert_close(stream.backbone.get_parameter(key), net.get_parameter(key))
    google = lively(torchvision.models.googlenet(num_classes=1000, init_weights=False, transform_input=True))
    torch.save(google.state_dict(), tmp_path / "g.pth")
    stream = network("iframe", 1000, backbone="googlenet", weights=str(tmp_path / "g.pth")).eval()
    frames = clips(3)[:, :1]
    with torch.no_grad():
        torch.testing.assert_close(stream(frames), google(frames[:, 0]), rtol=1e-4, atol=1e-4)


# -- fine-tuning -----------------------------------------------------------------------------------------


def test_fine_tuning_keeps_a_classifier_that_fits_and_drops_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = lively(CoviarNet("mv"))
    path = str(coviar_file(theirs, tmp_path / "mv.pth.tar"))
    with caplog.at_level("INFO"):
        same = network("mv", len(CLASSES), weights=path).eval()
        assert "the classifier is initialised randomly" not in caplog.text
        fewer = network("mv", 3, weights=path, dropout=0.5).eval()
    assert "original CoViAR code" in caplog.text and "the classifier is initialised randomly" in caplog.text
    assert_same_scores(same, theirs, clips(2))
    assert fewer(clips(2)).shape == (2, 3)
    torch.testing.assert_close(fewer.data_bn.weight, theirs.data_bn.weight)
    torch.testing.assert_close(fewer.backbone.conv5[0].weight, theirs.base_model.conv5[0].weight)


def test_a_checkpoint_of_another_stream_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "best.pt"
    content = {"model": network("iframe", 3).state_dict(), "config": {}, "classes": ["a", "b", "c"]}
    save_checkpoint(path, content)
    for kind in ("mv", "residual"):
        caplog.clear()
        network(kind, 3, weights=str(path))
        assert "best.pt: belongs to another stream (it " in caplog.text and "streams.NAME.model.weights" in caplog.text
    caplog.clear()
    network("iframe", 3, weights=str(path))
    assert not caplog.text


def test_an_iframe_network_starts_a_motion_network_by_its_mean(tmp_path: Path) -> None:
    theirs = CoviarNet("iframe")
    path = str(coviar_file(theirs, tmp_path / "i.pth.tar"))
    stream = network("mv", 3, weights=path)
    mean = theirs.base_model.conv1[0].weight.mean(dim=1, keepdim=True)
    torch.testing.assert_close(stream.backbone.conv1[0].weight, mean.expand(-1, 2, -1, -1))


def test_what_is_beside_the_backbone_is_taken_or_starts_anew(tmp_path: Path) -> None:
    squeeze = {"backbone": "resnet18", "motion_squeeze": True}
    squeezing = lively(network("mv", 3, **squeeze))
    write_safetensors(tmp_path / "squeeze.safetensors", squeezing.state_dict())
    again = network("mv", 3, **squeeze, weights=str(tmp_path / "squeeze.safetensors"))
    assert all(torch.equal(value, squeezing.state_dict()[key]) for key, value in again.state_dict().items())
    with pytest.raises(CheckpointError, match=r"left over, first motion_squeeze\."):
        network("mv", 3, backbone="resnet18", weights=str(tmp_path / "squeeze.safetensors"))
    plain = coviar_file(CoviarNet("iframe", backbone="resnet18").half(), tmp_path / "i.pth.tar")
    anew = network("mv", 3, **squeeze, weights=str(plain))
    assert anew.data_bn.running_mean.eq(0).all()
    state = squeezing.half().state_dict()
    del state["data_bn.bias"]
    write_safetensors(tmp_path / "part.safetensors", state)
    with pytest.raises(CheckpointError, match=r"1 missing, first data_bn\.bias"):
        network("mv", 3, **squeeze, weights=str(tmp_path / "part.safetensors"))


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        ("mv", "iframe", "to a stream of 2 channels"),
        ("mv", "residual", "to a stream of 2 channels"),
        ("residual", "mv", "to a stream of 3 channels"),
        ("residual", "iframe", "BatchNorm over the input"),
    ],
)
def test_a_wrong_stream_is_told(tmp_path: Path, theirs: str, ours: Any, message: str) -> None:
    path = coviar_file(CoviarNet(theirs), tmp_path / "x.pth.tar")
    with pytest.raises(CheckpointError, match=message):
        network(ours, len(CLASSES), weights=str(path))
    with pytest.raises(CheckpointError, match=message):
        imported(path, settings(tmp_path, ours))


# -- what does not fit -----------------------------------------------------------------------------------


def test_wrong_class_count_and_wrong_architecture_are_told(tmp_path: Path) -> None:
    config = settings(tmp_path, "mv")
    path = coviar_file(CoviarNet("mv", classes=51), tmp_path / "hmdb.pth.tar")
    with pytest.raises(CheckpointError, match=r"has 51 classes, .*classes\.txt names 7"):
        imported(path, config)
    path = coviar_file(CoviarNet("mv", backbone="resnet18"), tmp_path / "deep.pth.tar")
    with pytest.raises(CheckpointError, match=r"looks like resnet18 \(--set model.backbone=resnet18\)"):
        imported(path, config)
    with torch.device("meta"):
        deep = torchvision.models.resnet50().state_dict()
    weights = Weights("", {f"backbone.{key}": value for key, value in deep.items()}, {})
    assert "looks like resnet50 (" in _hint(weights, Config.model_validate(demo_settings(tmp_path, tmp_path)))
    path = coviar_file(CoviarNet("iframe"), tmp_path / "i.pth.tar")
    with pytest.raises(CheckpointError, match=r"has no BatchNorm over the input"):
        imported(path, settings(tmp_path, "residual"))
    torch.save(torchvision.models.get_model(BACKBONE).state_dict(), tmp_path / "imagenet.pth")
    with pytest.raises(CheckpointError, match=r"has 1000 classes.*fine-tune from it by model.weights"):
        imported(tmp_path / "imagenet.pth", settings(tmp_path, "iframe"))


@pytest.mark.slow
def test_every_entry_that_does_not_fit_is_named(tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in CoviarNet("mv").state_dict().items()}
    del state["module.base_model.conv1.1.weight"], state["module.base_model.stage3.1.branch2.5.weight"]
    state["module.ema.decay"] = torch.zeros(1)
    state["module.base_model.layer9.weight"] = torch.zeros(1)
    state["module.base_model.conv1.1.bias"] = torch.zeros(3)
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    config = settings(tmp_path, "mv")
    report = inspect_weights(tmp_path / "x.pth", config).report().splitlines()
    assert [line.strip() for line in report if "missing" in line] == [
        "missing: backbone.conv1.1.weight",
        "missing: backbone.stage3.1.branch2.5.weight",
    ]
    assert {line.strip() for line in report if "left over" in line} == {
        "left over: module.ema.decay",
        "left over: module.base_model.layer9.weight",
    }
    assert "  another shape: module.base_model.conv1.1.bias is 3, the stream's 24" in report
    with pytest.raises(CheckpointError, match=r"2 missing.*2 left over.*1 of another shape"):
        imported(tmp_path / "x.pth", config)
    whole = {f"module.{key}": value for key, value in CoviarNet("mv").state_dict().items()}
    torch.save({"state_dict": {**whole, "module.ema.decay": torch.zeros(1)}}, tmp_path / "y.pth")
    assert imported(tmp_path / "y.pth", config, ignore=["module.ema."]) is not None


def test_an_output_is_not_replaced_unasked(tmp_path: Path) -> None:
    config = settings(tmp_path, "mv")
    converted = inspect_weights(coviar_file(CoviarNet("mv"), tmp_path / "mv.pth.tar"), config)
    converted.save(tmp_path / "best.pt")
    with pytest.raises(ConfigError, match=r"already exists.*--overwrite"):
        converted.save(tmp_path / "best.pt")
    content = load_checkpoint(tmp_path / "best.pt")
    assert content["imported"]["epoch"] == 510 and content["imported"]["file"] == "mv.pth.tar"


def test_odd_entries_are_refused() -> None:
    weight = torch.zeros(1)
    for content in ([weight], {}, {"a": 1}, {"state_dict": {}}, {"state_dict": {"a": "b"}}, {3: weight}, weight):
        with pytest.raises(CheckpointError, match="holds no state dict"):
            recognise(content, "x.pth")
    with pytest.raises(CheckpointError, match="which are the same entry"):
        recognise({"base_model.fc.bias": weight, "backbone.fc.bias": weight}, "x.pth")
    with pytest.raises(CheckpointError, match=r"fc\.bias holds values that are not finite"):
        recognise({"fc.bias": weight / 0}, "x.pth")
    for shape in ((), (3,), (1, 1)):  # of any rank, and no traceback
        recognise({"data_bn.running_mean": torch.ones(shape), "conv1.weight": torch.ones(shape)}, "x.pth")


# -- files -----------------------------------------------------------------------------------------------


class Malicious:
    """Pickles into a call."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_malicious_files_run_nothing(tmp_path: Path, zipped: bool) -> None:
    trace = tmp_path / "executed"
    state = CoviarNet("mv").state_dict()
    content = {"epoch": 1, "state_dict": state, "best_prec1": Malicious(trace)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    torch.save({**state, "x": Malicious(trace)}, tmp_path / "b.pth", _use_new_zipfile_serialization=zipped)
    (tmp_path / "c.pth").write_bytes(pickle.dumps(Malicious(trace)))
    (tmp_path / "d.safetensors").write_bytes(pickle.dumps(Malicious(trace)))
    config = settings(tmp_path, "mv")
    for name in ("a.pth", "b.pth", "c.pth", "d.safetensors"):
        with pytest.raises(CheckpointError, match=name):
            inspect_weights(tmp_path / name, config)
        with pytest.raises(CheckpointError, match=name):
            network("mv", 7, weights=str(tmp_path / name))
    assert not trace.exists()
    with pytest.raises(CheckpointError, match=r"a\.pth: holds \w+\.mkdir, which is not safe.*weights alone"):
        inspect_weights(tmp_path / "a.pth", config)
    pickle.loads(pickle.dumps(Malicious(trace)))  # it would have worked
    assert trace.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_plain_numpy_numbers_load_and_nothing_else_of_numpy_does(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "n.pth"
    numbers = [np.float64(76.25), np.float32(0.5), np.int64(-7), np.bool_(True), np.array(1.5, ">f8")[()]]
    torch.save({"numbers": numbers}, path, _use_new_zipfile_serialization=zipped)
    loaded = read_tensors(path, "")["numbers"]
    assert loaded == [76.25, 0.5, -7, True, 1.5]
    assert [type(value) for value in loaded] == [float, float, int, bool, float]
    for value in (np.zeros(2), np.str_("text"), np.void(b"ab"), np.array([(1, 2.0)], "i4,f8")[0], np.dtype("O")):
        torch.save({"numbers": value}, path, _use_new_zipfile_serialization=zipped)
        if isinstance(value, np.dtype):
            assert not isinstance(read_tensors(path, "")["numbers"], np.dtype)  # the stand-in, harmless
            continue
        with pytest.raises(CheckpointError, match="safe"):
            read_tensors(path, "")


@pytest.mark.parametrize("name", ["zip.pth", "old.pth", "st.safetensors"])
def test_damaged_files_are_one_line(tmp_path: Path, name: str) -> None:
    state = {key: value for key, value in CoviarNet("mv").state_dict().items() if "stage" not in key}
    path = tmp_path / name
    if name == "st.safetensors":
        write_safetensors(path, state)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name == "zip.pth")
    whole = path.read_bytes()
    assert digest(read_tensors(path, "")) == digest(state)
    cases = {
        "empty": b"",
        "text": b"<html>404: not found</html>",
        "json": b'{"state_dict": {}}',
        "cut": whole[: len(whole) // 2],
        "head": whole[:7],
        "last": whole[:-1],
    }
    if name != "old.pth":  # the old format has no checksum
        cases["flipped"] = bytes([*whole[: len(whole) // 2], whole[len(whole) // 2] ^ 4, *whole[len(whole) // 2 + 1 :]])
    for what, content in cases.items():
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=name) as caught:
            inspect_weights(path, settings(tmp_path, "mv"))
        assert "\n" not in str(caught.value), what


def test_every_flipped_bit_of_our_safetensors_is_found_or_harmless(tmp_path: Path) -> None:
    state = {"a": torch.randn(3), "b": torch.tensor(4)}
    write_safetensors(tmp_path / "w.safetensors", state)
    whole = (tmp_path / "w.safetensors").read_bytes()
    found = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        (tmp_path / "w.safetensors").write_bytes(damaged)
        try:
            assert digest(read_tensors(tmp_path / "w.safetensors", "")) == digest(state)
        except CheckpointError:
            found += 1
    assert found > len(whole) * 0.7


def test_folders_and_missing_files(tmp_path: Path) -> None:
    config = settings(tmp_path, "mv")
    with pytest.raises(CheckpointError, match="is a folder"):
        inspect_weights(tmp_path, config)
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="is a folder"):
        inspect_weights(tmp_path / "x.safetensors", config)
    with pytest.raises(CheckpointError, match="no such file"):
        inspect_weights(tmp_path / "none.pth", config)
    coviar_file(CoviarNet("mv"), tmp_path / "mv.pth.tar")
    with pytest.raises(CheckpointError, match=r"coviar import"):
        load_stream(tmp_path / "mv.pth.tar")
    if os.geteuid():
        (tmp_path / "mv.pth.tar").chmod(0)
        with pytest.raises(CheckpointError, match=r"mv\.pth\.tar"):
            inspect_weights(tmp_path / "mv.pth.tar", config)


def test_the_tool_reports_and_ends_in_one_line(tmp_path: Path) -> None:
    config = settings(tmp_path, "mv")
    (tmp_path / "c.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    good = coviar_file(CoviarNet("mv"), tmp_path / "mv.pth.tar", np.float64(70.5))
    bad = coviar_file(CoviarNet("mv", classes=9), tmp_path / "nine.pth.tar")

    command = ["--config", tmp_path / "c.yaml", "--output", tmp_path / "best.pt"]
    assert "has 9 classes" in tool("import_weights", bad, *command, ok=False)
    assert not (tmp_path / "best.pt").exists()
    report = inspect_weights(bad, config).report()
    assert "another shape: module.base_model.fc.weight is 9 x 1024, the stream's 7 x 1024" in report
    told = tool("import_weights", good, *command)
    assert "best_prec1 70.5" in told and "wrote" in told
    assert load_stream(tmp_path / "best.pt").classes == CLASSES
