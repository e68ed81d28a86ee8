"""Exported streams give the stream's scores; what does not belong together or differs is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from demo import demo_settings
from tool import tool
from torch import Tensor, nn

from coviar_mocrop.checkpoint import read_tensors, save_checkpoint, write_safetensors
from coviar_mocrop.clips.reader import View
from coviar_mocrop.clips.windows import Window
from coviar_mocrop.config import Config
from coviar_mocrop.errors import CheckpointError, ConfigError, CoviarMocropError, ModelError
from coviar_mocrop.flops import count_flops
from coviar_mocrop.fusion_weights import LearnedFusion
from coviar_mocrop.inference import export, export_folder
from coviar_mocrop.inference.export import export_run
from coviar_mocrop.inference.export_folder import SUFFIXES
from coviar_mocrop.inference.exported_stream import ExportedStream, Traced, compare, share_of
from coviar_mocrop.inference.stored_fusion import store_fusion
from coviar_mocrop.inference.testing import load_stream, load_streams, score_checkpoint
from coviar_mocrop.networks.config import ModelConfig
from coviar_mocrop.networks.stream_net import StreamNet, create_network
from coviar_mocrop.streams.base import create_stream
from coviar_mocrop.streams.frames import FrameStream
from coviar_mocrop.streams.mv import MotionStream


def checkpoint(demo: Path, path: Path, kind: str = "mv", backbone: str = "shufflenet_v2_x0_5", seed: int = 0) -> Path:
    """A stream as training leaves it, without training it."""
    torch.manual_seed(seed)
    values = demo_settings(demo, path.parent / "run", stream=kind, model={"backbone": backbone, "dropout": 0.1})
    config = Config.model_validate(values)
    classes = (demo / "lists" / "classes.txt").read_text().split()
    model = cast(StreamNet, create_stream(config, classes, weights=False).network).train()
    with torch.no_grad():
        for _ in range(3):  # running statistics that are not 0 and 1
            model(torch.randn(2, 2, model.in_channels, 64, 64) * 0.5 + 0.1)
    content = {"model": model.state_dict(), "config": config.model_dump(mode="json"), "classes": classes}
    save_checkpoint(path, content)
    return path


@pytest.fixture(scope="module")
def best(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(demo, tmp_path_factory.mktemp("run") / "best.pt")


@pytest.fixture(scope="module")
def exported(best: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_run([best], folder, ["safetensors"])
    return folder


def test_safetensors_and_card_score_like_the_checkpoint_bit_for_bit(best: Path, exported: Path) -> None:
    first, second = load_stream(best), load_stream(exported / "mv.safetensors")
    assert first.config == second.config and first.classes == second.classes
    ours, theirs = first.network.state_dict(), second.network.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    scores = [score_checkpoint(path).scores for path in (best, exported / "mv.safetensors")]
    assert scores[0].std() > 0
    np.testing.assert_array_equal(*scores)


def test_the_card_tells_what_a_stranger_needs(best: Path, exported: Path) -> None:
    card = json.loads((exported / "card.json").read_text())
    stream, entry = load_stream(best), card["streams"]["mv"]
    assert (entry["title"], entry["backbone"], card["setting"]) == ("motion", "shufflenet_v2_x0_5", "baseline")
    assert card["classes"] == list(stream.classes)
    assert entry["input"]["shape"] == ["clips", 1, "segments", 2, 64, 64]
    assert (entry["input"]["dtype"], entry["input"]["kind"]) == ("uint8", "mv")
    assert entry["input"]["scaling"]["bound"] == 20
    assert entry["parameters"] == sum(parameter.numel() for parameter in stream.network.parameters())
    assert entry["gflops_per_frame"] == count_flops(stream.network, (1, 1, 2, 64, 64)) / 1e9
    assert entry["gflops_per_clip"] == pytest.approx(3 * entry["gflops_per_frame"])
    assert {"coviar_mocrop", "python", "torch"} <= card["versions"].keys()
    assert entry["files"]["safetensors"]["relative_difference"] == 0
    assert card["fusion"]["weights"] == {"mv": 1.0} and card["fusion"]["learned"] is None


def test_exporting_what_was_exported_changes_nothing(exported: Path, tmp_path: Path) -> None:
    export_run([exported], tmp_path, ["safetensors"])
    assert (tmp_path / "mv.safetensors").read_bytes() == (exported / "mv.safetensors").read_bytes()


@pytest.mark.parametrize(
    "damage", ["no card", "unknown card", "other card", "text", "version", "no config", "no name", "path", "flip"]
)
def test_weights_and_card_must_belong_together(demo: Path, exported: Path, tmp_path: Path, damage: str) -> None:
    weights, card = tmp_path / "mv.safetensors", tmp_path / "card.json"
    shutil.copy(exported / "mv.safetensors", weights)
    content = json.loads((exported / "card.json").read_text())
    entry = content["streams"]["mv"]
    message = r"card\.json"
    if damage == "no card":
        message = r"card\.json: no such file.*coviar import"
    elif damage == "unknown card":
        card.write_text('{"a": 1}')
    elif damage == "text":
        card.write_text("[" * 100_000)
    elif damage == "version":
        card.write_text(json.dumps({**content, "version": 9}))
        message = "version 9"
    elif damage == "no config":
        card.write_text(json.dumps({**content, "streams": {"mv": {**entry, "config": None}}}))
        message = "lacks config"
    elif damage == "no name":
        files = {"safetensors": {**entry["files"]["safetensors"], "name": "other.safetensors"}}
        card.write_text(json.dumps({**content, "streams": {"mv": {**entry, "files": files}}}))
        message = "does not name mv.safetensors"
    elif damage == "path":
        files = {"safetensors": {**entry["files"]["safetensors"], "name": "../mv.safetensors"}}
        card.write_text(json.dumps({**content, "streams": {"mv": {**entry, "files": files}}}))
    elif damage == "other card":
        other = checkpoint(demo, tmp_path / "other.pt", seed=1)
        export_run([other], tmp_path / "other", ["safetensors"])
        shutil.copy(tmp_path / "other" / "card.json", card)
        message = "does not belong to"
    else:
        card.write_text(json.dumps(content))
        whole = bytearray(weights.read_bytes())
        whole[len(whole) // 2] ^= 1
        weights.write_bytes(whole)
        message = "checksum"
    with pytest.raises(CheckpointError, match=message) as caught:
        load_stream(weights)
    assert "\n" not in str(caught.value)


def test_a_changed_card_is_refused_in_one_line(exported: Path, tmp_path: Path) -> None:
    shutil.copy(exported / "mv.safetensors", tmp_path)
    content = json.loads((exported / "card.json").read_text())
    entry = content["streams"]["mv"]

    def other(stream: str) -> dict[str, Any]:
        return {"streams": {"mv": {**entry, "config": {**entry["config"], "stream": stream}}}}

    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"classes": content["classes"][:-1]}, CheckpointError, "does not fit the network"),
        (other("residual"), CheckpointError, "does not fit the network"),
        (other("sound"), ConfigError, "stream"),
    ]
    for change, kind, message in cases:
        (tmp_path / "card.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(kind, match=message) as caught:
            load_stream(tmp_path / "mv.safetensors")
        assert "\n" not in str(caught.value)


def test_cards_of_the_first_version_are_read(best: Path, exported: Path, tmp_path: Path) -> None:
    """A card for each stream, ``STREAM.json``, beside its weights."""
    shutil.copy(exported / "mv.safetensors", tmp_path)
    card = json.loads((exported / "card.json").read_text())
    entry = {key: card["streams"]["mv"][key] for key in ("config", "weights", "rules")}
    first = {"format": "coviar_mocrop stream", "version": 1, "classes": card["classes"], **entry}
    (tmp_path / "mv.json").write_text(json.dumps(first))
    assert load_stream(tmp_path / "mv.safetensors").config == load_stream(best).config
    (tmp_path / "mv.json").write_text(json.dumps({**first, "weights": {"sha256": "0"}}))
    with pytest.raises(CheckpointError, match=r"does not belong to .*mv\.json"):
        load_stream(tmp_path / "mv.safetensors")


@pytest.mark.slow  # traces a network
def test_nothing_of_another_network_stays_beside_the_card(demo: Path, best: Path, tmp_path: Path) -> None:
    def files() -> set[str]:
        return set(json.loads((tmp_path / "card.json").read_text())["streams"]["mv"]["files"])

    export_run([best], tmp_path, ["safetensors", "torch_export"])
    export_run([best], tmp_path, ["safetensors"])  # of the same network: the program stays, on the card too
    assert files() == {"safetensors", "torch_export"}
    before = (tmp_path / "mv.safetensors").read_bytes()
    other = checkpoint(demo, tmp_path / "other.pt", seed=9)
    with pytest.raises(ConfigError, match="card of other streams"):
        export_run([other], tmp_path, ["safetensors"])
    assert (tmp_path / "mv.safetensors").read_bytes() == before
    export_run([other], tmp_path, ["safetensors"], overwrite=True)
    assert (tmp_path / "mv.safetensors").read_bytes() != before
    assert files() == {"safetensors"}
    assert not (tmp_path / "mv.pt2").exists()


def card_of(folder: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((folder / "card.json").read_text())
    return card


@pytest.mark.parametrize("kind", ["iframe", "mv"])
def test_an_export_goes_on_with_an_earlier_one_of_the_same_streams(demo: Path, tmp_path: Path, kind: str) -> None:
    best, folder = checkpoint(demo, tmp_path / "best.pt", kind), tmp_path / "out"
    export_run([best], folder, ["safetensors"])
    card = card_of(folder)
    files = card["streams"][kind]["files"]
    for program, content in (("onnx", b"whole"), ("torch_export", b"changed")):
        name = f"{kind}{SUFFIXES[program]}"  # type: ignore[index]
        files[program] = {"name": name, "bytes": 5, "sha256": hashlib.sha256(b"whole").hexdigest()}
        (folder / name).write_bytes(content)
    files["int8"] = {"name": f"{kind}.int8.onnx", "bytes": 5, "sha256": "0"}  # is not there
    card["accuracy"] = {"top1": {}}
    (folder / "card.json").write_text(json.dumps(card))
    export_run([best], folder, ["safetensors"])
    assert card_of(folder)["streams"][kind]["files"].keys() == {"safetensors", "onnx"}
    assert card_of(folder)["accuracy"] == {"top1": {}}
    card["fusion"]["temperature"] = 2.0
    (folder / "card.json").write_text(json.dumps(card))
    export_run([best], folder, ["safetensors"])
    assert card_of(folder)["accuracy"] is None  # was that of another fusion
    with pytest.raises(ConfigError, match="card of other streams or settings"):
        export_run([best], folder, ["safetensors"], ["mocrop.area_ratio=0.4", "setting=attention"])


def test_overwriting_removes_what_exports_write_and_nothing_else(demo: Path, best: Path, tmp_path: Path) -> None:
    export_run([best], tmp_path, ["safetensors"])
    card = card_of(tmp_path)
    (tmp_path / "thesis.tex").touch()
    (tmp_path / "mv.pt2").touch()
    files = card["streams"]["mv"]["files"]
    files["onnx"], files["torch_export"] = {"name": "thesis.tex"}, {"name": "mv.pt2"}
    (tmp_path / "card.json").write_text(json.dumps(card))
    other = checkpoint(demo, tmp_path / "runs/other.pt", "iframe")
    export_run([other], tmp_path, ["safetensors"], overwrite=True)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"card.json", "iframe.safetensors", "thesis.tex", "runs"}
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(ConfigError, match=r"not a card that this version reads; .*--overwrite"):
        export_run([other], tmp_path, ["safetensors"])
    export_run([other], tmp_path, ["safetensors"], overwrite=True)
    assert card_of(tmp_path)["streams"].keys() == {"iframe"}


@pytest.mark.parametrize(
    "when", ["second stream", *(pytest.param(when, marks=pytest.mark.slow) for when in ("card", "moving"))]
)
def test_an_export_that_fails_leaves_what_was_there(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    runs = [checkpoint(demo, tmp_path / f"{kind}.pt", kind) for kind in ("iframe", "mv")]
    folder, out = tmp_path / "out", []
    export_run(runs, folder, ["safetensors"])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(path: Path, *others: Any) -> Any:
        out.append(path)
        if len(out) == 2 or when != "second stream":
            raise KeyboardInterrupt
        return write_safetensors(path, *others)

    if when == "moving":
        monkeypatch.setattr(export_folder, "os", SimpleNamespace(replace=fail))
    else:
        monkeypatch.setattr(export, "write_safetensors" if when == "second stream" else "write_json", fail)
    others = [checkpoint(demo, tmp_path / f"{kind}.pt", kind, seed=5) for kind in ("iframe", "mv")]
    with pytest.raises(KeyboardInterrupt):
        export_run(others, folder, ["safetensors"], overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    out.clear()
    with pytest.raises(KeyboardInterrupt):
        export_run(others, tmp_path / "new", ["safetensors"])
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_is_one_line(best: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CoviarMocropError, match=r"file.*: cannot be written \("):
        export_run([best], tmp_path / "file" / "out", ["safetensors"])
    export_run([best], tmp_path / "out", ["safetensors"])
    (tmp_path / "out/mv.safetensors").unlink()
    (tmp_path / "out/mv.safetensors").mkdir()
    with pytest.raises(CoviarMocropError, match=r"out: cannot be written \("):
        export_run([best], tmp_path / "out", ["safetensors"])


def test_an_unknown_format_is_told(best: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'tflite' is unknown; choose from onnx"):
        export_run([best], tmp_path / "out", ["tflite"])  # type: ignore[list-item]


def test_a_network_that_a_converter_refuses_is_one_line(
    best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("no such operator\nTraceback of somebody else")

    monkeypatch.setattr(export, "_trace", lambda stream: SimpleNamespace(write_torch_export=refuse))
    with pytest.raises(ModelError, match=r"shufflenet.* as torch_export \(no such operator\); choose") as caught:
        export_run([best], tmp_path / "out", ["torch_export"])
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_stream_that_looks_elsewhere_is_left_out_and_so_are_weights_learned_with_it(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for kind in ("iframe", "mv"):
        checkpoint(demo, tmp_path / "run" / kind / "best.pt", kind)
    streams = load_streams([tmp_path / "run"])
    learned = LearnedFusion({"iframe": 0.5, "mv": 0.5}, 2.0, 8, 0.5, 0.75, {"iframe": 0.5, "mv": 0.5})
    store_fusion(tmp_path / "run/fusion.json", streams, learned)
    assert export_run([tmp_path / "run"], tmp_path / "both", ["safetensors"])["fusion"]["weights"] == learned.weights
    views = MotionStream.views

    def upper_half(self: MotionStream, *given: Any) -> dict[str, View]:
        wanted = views(self, *given)
        return {
            name: v._replace(windows=lambda size, box: [Window(0, 0, size[0] // 2, size[1])])
            for name, v in wanted.items()
        }

    monkeypatch.setattr(MotionStream, "views", upper_half)
    with caplog.at_level("WARNING"):
        card = export_run([tmp_path / "run"], tmp_path / "one", ["safetensors"])
    assert card["streams"].keys() == {"iframe"} and card["fusion"]["learned"] is None
    assert "the mv stream is left out" in caplog.text and "of other streams (iframe, mv)" in caplog.text


@pytest.mark.slow  # traces a network of another family
@pytest.mark.parametrize(("kind", "backbone"), [("mv", "mobilenet_v3_small"), ("iframe", "squeezenet1_1")])
def test_programs_take_any_number_of_clips_and_segments(demo: Path, tmp_path: Path, kind: str, backbone: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    best = checkpoint(demo, tmp_path / "best.pt", kind, backbone)
    card = export_run([best], tmp_path, ("torch_export", "onnx"), ["setting=efficiency"])
    entry = card["streams"][kind]
    assert {file["name"] for file in entry["files"].values()} == {f"{kind}.pt2", f"{kind}.onnx"}
    assert all(file["input"][:3] == ("clips", 1, "segments") for file in entry["files"].values())
    assert all(file["relative_difference"] < 1e-4 for file in entry["files"].values())
    assert entry["input"]["shape"][-1] == 48 and card["setting"] == "efficiency"
    assert not (tmp_path / f"{kind}.safetensors").exists()
    stream = load_stream(best)
    channels = cast(StreamNet, stream.network).in_channels
    windows = torch.randint(256, (3, 1, 7, channels, 48, 48), dtype=torch.uint8)
    program = torch.export.load(tmp_path / f"{kind}.pt2").module()
    session = onnxruntime.InferenceSession(str(tmp_path / f"{kind}.onnx"))
    with torch.no_grad():
        expected = ExportedStream(cast(FrameStream, stream))(windows)
        torch.testing.assert_close(program(windows), expected, rtol=1e-4, atol=1e-4)
    given = session.run(["logits"], {"windows": windows.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(given), expected, rtol=1e-4, atol=1e-4)
    for name, what in ((f"{kind}.onnx", "an ONNX program"), (f"{kind}.pt2", r"a torch\.export program")):
        # no trace of where it was made
        assert str(Path(__file__).parent.parent).encode() not in (tmp_path / name).read_bytes()
        with pytest.raises(
            CheckpointError, match=rf"{name}: is not a checkpoint but {what}, which .*; give the checkpoint"
        ):
            load_stream(tmp_path / name)


class OneClip(nn.Module):
    """Goes another way for one clip, so the number of clips cannot stay free."""

    def forward(self, clips: Tensor) -> Tensor:
        """Logits of windows [N, W, T, C, H, W]."""
        clips = clips.float().flatten(1)
        return clips.sum(1) if clips.shape[0] == 1 else clips.mean(1)


class ByValue(nn.Module):
    """Cannot be followed at all."""

    def forward(self, clips: Tensor) -> Tensor:
        """Logits of windows [N, W, T, C, H, W]."""
        return clips.sum() if clips.max().item() > 0.5 else clips


def test_what_cannot_stay_free_is_fixed_and_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        traced = Traced(OneClip(), 1, 4, (2, 8, 8))
    assert traced.shape == (1, 1, 4, 2, 8, 8) and traced.tried == [traced.shape]
    assert "fixed to 1 x 4" in caplog.text and "--tolerance" not in caplog.text  # which would not help
    with pytest.raises(ModelError, match=r"ByValue: torch\.export cannot follow it") as caught:
        Traced(ByValue(), 1, 4, (2, 8, 8))
    assert "\n" not in str(caught.value)


def test_a_difference_above_the_tolerance_is_an_error() -> None:
    def model(windows: Tensor) -> Tensor:
        return windows.flatten(1).float()

    shapes, network = [(2, 1, 1, 2, 4, 4)], cast(nn.Module, model)
    assert compare(network, model, shapes, 0.0, Path("x.onnx")) == 0
    for wrong, message in ((10.0, r"differ from the stream's by 0\.039 of the largest"), (float("nan"), "differ")):
        with pytest.raises(ModelError, match=message):
            compare(network, lambda w, wrong=wrong: model(w) + wrong, shapes, 1e-4, Path("x.onnx"))
    with pytest.raises(ModelError, match="of shape"):
        compare(network, lambda w: model(w)[:1], shapes, 1e-4, Path("x.onnx"))
    assert compare(network, lambda w: model(w) + 10, shapes, 0.04, Path("x.onnx")) == pytest.approx(10 / 255, rel=0.05)


@pytest.mark.parametrize(
    ("given", "expected", "share"), [([3.0, -8.0], [3.0, -10.0], 0.2), ([0.5, 0.0], [0.25, 0.0], 0.25)]
)
def test_differences_are_shares_of_the_largest_logit(given: list[float], expected: list[float], share: float) -> None:
    assert share_of(torch.tensor(given), torch.tensor(expected)) == pytest.approx(share)


def test_onnx_without_its_packages_is_one_line(best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(CoviarMocropError, match=r"onnxscript.*\[export\]"):
        export_run([best], tmp_path / "out", ("safetensors", "onnx"))
    assert not (tmp_path / "out").exists()


def test_the_tool(best: Path, tmp_path: Path) -> None:
    told = tool("export", "--checkpoints", best, "--output", tmp_path / "out", "--format", "safetensors")
    assert "mv.safetensors: " in told and "logits differ by at most 0 of the largest\n" in told
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"mv.safetensors", "card.json"}
    assert "no such file" in tool("export", "--checkpoints", tmp_path / "none.pt", "--output", tmp_path, ok=False)


@pytest.mark.parametrize("videos", [None, {"codec": "h264"}])
def test_the_next_command_transcodes_where_training_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, videos: dict[str, str] | None
) -> None:
    file = {"name": "mv.onnx", "bytes": 10**6, "relative_difference": 0.25}
    entry = {"backbone": "resnet18", "parameters": 1, "gflops_per_frame": 1.0, "input": {"shape": [224]}}
    card = {"streams": {"mv": {**entry, "files": {"onnx": file}}}, "classes": ["a"], "accuracy": None, "videos": videos}
    monkeypatch.setattr("coviar_mocrop.inference.export.export_run", lambda *_, **__: card)
    told = tool("export", "--checkpoints", "best.pt", "--output", tmp_path)
    assert "mv.onnx: 1.0 MB, logits differ by at most 0.25 of the largest\n" in told
    assert f"next: coviar predict VIDEO {'--transcode ' if videos else ''}--onnx {tmp_path}\n" in told


def test_own_safetensors_start_a_stream_too(best: Path, exported: Path) -> None:
    path = exported / "mv.safetensors"
    stream = create_network(2, 3, ModelConfig(backbone="shufflenet_v2_x0_5", weights=str(path)), input_norm=True)
    tensors = read_tensors(path, "")
    torch.testing.assert_close(stream.data_bn.weight, tensors["data_bn.weight"])
    torch.testing.assert_close(stream.backbone.conv5[0].weight, tensors["backbone.conv5.0.weight"])


def test_shared_and_odd_tensors_are_written(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state = {"a": base, "b": base, "turned": base.T, "empty": torch.zeros(0), "number": torch.tensor(5)}
    write_safetensors(tmp_path / "x.safetensors", state)
    read = read_tensors(tmp_path / "x.safetensors", "")
    assert read.keys() == state.keys() and all(torch.equal(read[key], state[key]) for key in state)
