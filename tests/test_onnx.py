"""Prediction from an ONNX export: what PyTorch says, without PyTorch; what does not belong together is refused."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from clips import record, wandering
from demo import demo_settings
from tool import run_tool, tool
from torch import nn

from coviar_mocrop.checkpoint import save_checkpoint
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import form_of
from coviar_mocrop.errors import CheckpointError, ConfigError, CoviarMocropError, DataError, ScoreError
from coviar_mocrop.fusion_weights import LearnedFusion
from coviar_mocrop.inference.export import export_run
from coviar_mocrop.inference.predictor import Predictor
from coviar_mocrop.inference.stored_fusion import store_fusion
from coviar_mocrop.inference.testing import load_streams
from coviar_mocrop.streams.base import Stream, create_stream

pytest.importorskip("onnxruntime")
STREAMS = ("iframe", "mv", "residual")
LEARNED = LearnedFusion({"iframe": 0.5, "mv": 0.2, "residual": 0.3}, 2.0, 8, 0.5, 0.75, dict.fromkeys(STREAMS, 0.5))


@pytest.fixture(scope="module")
def run(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as training leaves it, without training it."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    classes = (demo / "lists/classes.txt").read_text().split()
    for name in STREAMS:
        values = demo_settings(
            demo, folder / name, stream=name, setting="attention", model={"backbone": "squeezenet1_1"}
        )
        values["input"] = {"full_size": 32, "reduced_size": 32, "test_segments": 3}
        values["train"] = {"device": "cpu", "precision": "fp32", "threads": 1}
        config = Config.model_validate(values)
        network = create_stream(config, classes, weights=False).network
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):  # statistics that are not 0 and 1
                nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
        content = {"model": network.state_dict(), "config": config.model_dump(mode="json"), "classes": classes}
        (folder / name).mkdir()
        save_checkpoint(folder / name / "best.pt", content)
    store_fusion(folder / "fusion.json", load_streams([folder]), LEARNED)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_run([run], folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(wandering(100, 96, 64, 5, seed=3), tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.mark.slow  # the export
def test_the_default_export_holds_fp32_and_int8_and_says_what_both_are_worth(exported: Path) -> None:
    card = json.loads((exported / "card.json").read_text())
    files = {f"{name}{suffix}" for name in STREAMS for suffix in (".onnx", ".int8.onnx")}
    assert {path.name for path in exported.iterdir()} == files | {"card.json"}
    assert (card["accuracy"]["list"], card["accuracy"]["clips"]) == ("validation", 8)
    assert card["accuracy"]["fitted"] == []
    for top1 in card["accuracy"]["top1"].values():
        assert top1.keys() == {*STREAMS, "fused"} and all(0 <= share <= 1 for share in top1.values())
    assert card["fusion"]["weights"] == LEARNED.weights and card["fusion"]["temperature"] == 2.0
    for entry in card["streams"].values():
        assert entry["files"]["int8"]["bytes"] < 0.4 * entry["files"]["onnx"]["bytes"]
        assert entry["files"]["onnx"]["relative_difference"] < 1e-4 < entry["files"]["int8"]["relative_difference"]


@pytest.mark.slow  # the export
def test_onnx_says_what_pytorch_says(run: Path, exported: Path, clip: Path) -> None:
    ours, theirs = Predictor(onnx=exported), Predictor([run])
    assert (ours.weights, ours.weights_from, ours.classes) == (theirs.weights, theirs.weights_from, theirs.classes)
    first, second = ours(clip), theirs(clip)
    assert first.box == second.box and first.scores.keys() == second.scores.keys()
    for name, scores in second.scores.items():
        np.testing.assert_allclose(first.scores[name], scores, atol=1e-4)
        np.testing.assert_array_equal(first.seen.get(name, 0), second.seen.get(name, 0))
    for one, other in zip(ours.over_time(clip), theirs.over_time(clip), strict=True):
        assert (one.start, one.end, one.motion, one.box) == (other.start, other.end, other.motion, other.box)
        np.testing.assert_allclose(one.scores["fused"], other.scores["fused"], atol=1e-4)


@pytest.mark.slow  # the export
def test_int8_is_near(exported: Path, clip: Path) -> None:
    exact, near = Predictor(onnx=exported)(clip), Predictor(onnx=exported, precision="int8")(clip)
    for name in STREAMS:
        difference = float(np.abs(exact.scores[name] - near.scores[name]).max())
        assert 0 < difference < 0.5 * float(np.abs(exact.scores[name]).max())


@pytest.mark.slow  # the export
def test_a_clip_scores_the_same_whatever_is_beside_it(exported: Path, clip: Path) -> None:
    alone = list(Predictor(onnx=exported).over_time(clip))
    again = Predictor(onnx=exported)(clip).scores, Predictor(onnx=exported)(clip).scores
    assert len(alone) > 1
    np.testing.assert_array_equal(again[0]["fused"], again[1]["fused"])


@pytest.mark.slow  # the export
def test_settings_that_are_built_in_cannot_change(exported: Path) -> None:
    predictor = Predictor(onnx=exported, overrides=["data.max_frame_pixels=1000000", "train.threads=2"])
    assert predictor.data.max_frame_pixels == 1_000_000
    with pytest.raises(ConfigError, match=r"^--set setting=baseline: is built into the exported networks"):
        Predictor(onnx=exported, overrides=["data.backend=pyav", "setting=baseline", "train.threads=2"])
    with pytest.raises(ScoreError, match="clip"):
        Predictor(onnx=exported, weights={"clip": 1})
    assert Predictor(onnx=exported, weights={"iframe": 1}).weights_from == "given"


def damage(folder: Path, what: str) -> str:
    """Damage an export; what the error must say."""
    card, network = folder / "card.json", folder / "mv.onnx"
    content = json.loads(card.read_text())
    files = content["streams"]["mv"]["files"]
    if what == "flipped bit":
        whole = bytearray(network.read_bytes())
        whole[len(whole) // 2] ^= 1
        network.write_bytes(whole)
        return r"mv\.onnx: is damaged"
    if what == "no network":
        network.unlink()
        return r"mv\.onnx: no such file, though card\.json names it"
    if what == "no card":
        card.unlink()
        return r"card\.json: no such file"
    if what == "way out":
        files["onnx"]["name"] = "../mv.onnx"
    if what == "other precision":
        del files["onnx"]
    if what == "weights":
        content["fusion"]["learned"] = {"weights": 1}
    if what == "settings":
        content["streams"]["mv"]["config"]["input"]["test_segments"] = -1
    if what == "no streams":
        content["streams"] = {}
    card.write_text(json.dumps(content))
    return {
        "way out": "lacks config, weights, input or files of the mv stream",
        "other precision": "no network in fp32",
        "weights": "weights of the fusion are damaged",
        "settings": "test_segments",
        "no streams": "names no stream",
    }[what]


@pytest.mark.slow  # the export
@pytest.mark.parametrize(
    "what",
    ["flipped bit", "no network", "no card", "way out", "other precision", "weights", "settings", "no streams"],
)
def test_what_does_not_belong_together_is_one_line(exported: Path, tmp_path: Path, what: str) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    message = damage(folder, what)
    with pytest.raises((CheckpointError, ConfigError), match=message) as caught:
        Predictor(onnx=folder)
    assert "\n" not in str(caught.value)


FUSION = {**asdict(LEARNED), "weights": dict.fromkeys(STREAMS, 0.5)}
WRONG: dict[str, Any] = {
    # what the card says of the mv stream; None: nothing
    "title": [None, 3],
    "fusion_weight": [None, "x", float("nan"), -1, 10**400],
    "input.kind": [None, "sound", ["mv"], "residual", "frame"],
    "files.onnx.name": ["a\0b", "folder", "a" * 3000, "card.json", "loop"],
    "config.setting": ["baseline"],
    "config.stream": ["iframe", "fused"],
    "config.input.full_size": [48],
    # and of the export
    "/classes": [["one"], ["one", "two"] * 9],
    "/fusion.learned": [
        *({**FUSION, "temperature": value} for value in (0, -1, float("nan"), "2", 10**400)),
        *({**FUSION, "weights": value} for value in (1, {}, {"mv": 1.0}, dict.fromkeys((*STREAMS, "clip"), 1.0))),
        {**FUSION, "weights": dict.fromkeys(STREAMS, 0.0)},
    ],
}


@pytest.mark.slow  # the export
@pytest.mark.parametrize("where", WRONG)
def test_a_card_that_was_tampered_with_is_one_line(exported: Path, tmp_path: Path, where: str) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    for value in WRONG[where]:
        card = json.loads((exported / "card.json").read_text())
        *sections, key = where.removeprefix("/").split(".")
        values = card if where.startswith("/") else card["streams"]["mv"]
        for section in sections:
            values = values[section]
        values.pop(key) if value is None else values.update({key: value})
        (folder / "card.json").write_text(json.dumps(card))
        with pytest.raises(CheckpointError, match=re.escape(str(folder))) as caught:
            Predictor(onnx=folder)
        assert str(caught.value).endswith("; export again") and "\n" not in str(caught.value)


@pytest.mark.slow  # the export
@pytest.mark.parametrize("name", ["", "fused", "a/b"])
def test_names_of_streams_that_mean_something_else_are_refused(exported: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    card = json.loads((folder / "card.json").read_text())
    card["streams"][name] = card["streams"].pop("mv")
    card["streams"][name]["config"]["stream"] = name
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=r"card\.json: .* stream"):
        Predictor(onnx=folder)


def test_a_form_without_end_is_none() -> None:
    assert form_of({"codec": "h264", "size": None, "gop": float("inf")}) is None


def replace_network(folder: Path, content: bytes) -> None:
    """Put another file in the place of ``mv.onnx``, with its checksum on the card."""
    card = json.loads((folder / "card.json").read_text())
    (folder / "mv.onnx").write_bytes(content)
    card["streams"]["mv"]["files"]["onnx"]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "card.json").write_text(json.dumps(card))


@pytest.mark.slow  # the export
def test_a_network_that_is_none_is_one_line(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    replace_network(folder, b"no network")
    with pytest.raises(CheckpointError, match=r"mv\.onnx: ONNX Runtime cannot use it") as caught:
        Predictor(onnx=folder)
    assert "\n" not in str(caught.value)
    replace_network(folder, (folder / "iframe.onnx").read_bytes())
    with pytest.raises(CheckpointError, match=r"mv\.onnx: .*does not take .*; export again"):
        Predictor(onnx=folder)


@pytest.mark.slow  # the export
def test_logits_that_are_no_numbers_are_refused(run: Path, exported: Path, clip: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    network = onnx.load(folder / "mv.onnx")
    for tensor in network.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor) * np.float32("nan")
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    replace_network(folder, network.SerializeToString())
    predictor = Predictor(onnx=folder)
    with pytest.raises(CheckpointError, match=r"mv stream .*not finite"):
        predictor(clip)
    streams = Predictor([run])
    network = cast(Stream, streams.streams["mv"]).network
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"mv stream .*not finite"):
        streams(clip)


def test_learned_weights_go_with_exported_weights(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    export_run([run], tmp_path / "first", ["safetensors"])
    card = export_run([tmp_path / "first"], tmp_path / "second", ["safetensors"])
    assert card["fusion"]["weights"] == LEARNED.weights and card["fusion"]["temperature"] == LEARNED.temperature
    ours, theirs = Predictor([tmp_path / "second"]), Predictor([run])
    assert (ours.weights, ours.weights_from) == (theirs.weights, theirs.weights_from)
    assert Predictor([tmp_path / "second"], weights={}).weights_from == "default"
    assert Predictor([tmp_path / "second"], ["setting=baseline"]).weights_from == "default"
    assert "are not of the setting baseline" in caplog.text
    assert Predictor([tmp_path / f"second/{name}.safetensors" for name in ("iframe", "mv")]).weights_from == "default"
    assert "are of other streams (iframe, mv, residual)" in caplog.text
    card["fusion"]["learned"]["temperature"] = 0
    (tmp_path / "second/card.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="weights of the fusion are damaged"):
        Predictor([tmp_path / "second"])


@pytest.mark.slow  # the export
def test_what_is_no_folder_of_an_export(run: Path, exported: Path) -> None:
    for path in (exported / "mv.onnx", exported / "card.json"):
        with pytest.raises(CheckpointError, match=r"is a file; give the folder that coviar export made"):
            Predictor(onnx=path)
    with pytest.raises(CheckpointError, match=r"none/card\.json: no such file"):
        Predictor(onnx=exported / "none")
    with pytest.raises(ConfigError, match=r"int4.*fp32, int8"):
        Predictor(onnx=exported, precision="int4")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"precision=int8 is for networks of an export"):
        Predictor([run], precision="int8")


@pytest.mark.slow  # the export
def test_without_onnx_runtime_one_line_says_what_to_install(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CoviarMocropError, match="pip install onnxruntime"):
        Predictor(onnx=exported)


@pytest.mark.slow  # the export
def test_threads_may_share_a_predictor(exported: Path, clip: Path) -> None:
    predictor = Predictor(onnx=exported)
    expected = predictor(clip).scores["fused"]
    with ThreadPoolExecutor(4) as threads:
        for prediction in threads.map(predictor, [clip] * 8):
            np.testing.assert_array_equal(prediction.scores["fused"], expected)


@pytest.mark.slow  # the export
def test_one_of_two_sources(run: Path, exported: Path, clip: Path) -> None:
    with pytest.raises(CheckpointError, match="give one of the two"):
        Predictor([run], onnx=exported)
    failed = tool("predict", clip, "--checkpoints", run, "--precision", "int8", ok=False)
    assert "--precision is for networks of an export" in failed
    assert "not allowed with" in run_tool("predict", clip, "--checkpoints", run, "--onnx", exported, check=False).stderr
    with pytest.raises(CheckpointError, match="export without safetensors; --onnx reads"):
        Predictor([exported])


def test_int8_needs_clips(demo: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"int8 needs clips of a validation list.*--format onnx"):
        export_run([run], tmp_path, ["int8"], ["data.val_list=null"])
    classes = (demo / "lists/classes.txt").read_text().split()[::-1]  # in another order, and a list that agrees
    (tmp_path / "classes.txt").write_text("\n".join(classes))
    lines = [line.split() for line in (demo / "lists/test_split1.txt").read_text().splitlines()]
    (tmp_path / "val.txt").write_text("".join(f"{path} {name} {classes.index(name)}\n" for path, name, _ in lines))
    others = [f"data.classes={tmp_path}/classes.txt", f"data.val_list={tmp_path}/val.txt"]
    for changes, kind, message in (
        ([f"data.root={tmp_path / 'none'}"], DataError, r"int8 needs clips.*or leave int8 out \(--format onnx\)"),
        ([f"data.root={tmp_path}"], DataError, r"none of them can be read; or leave int8 out"),
        (others, CheckpointError, "trained on other classes"),
    ):
        with pytest.raises(kind, match=message) as caught:
            export_run([run], tmp_path / "out", ["int8"], changes)
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


WITHOUT_TORCH = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "safetensors", "tensorboard"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
sys.argv = ["coviar", *sys.argv[1:]]
from coviar_mocrop.__main__ import main
main()
"""


def without_torch(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``coviar`` in a process in which PyTorch cannot be imported."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow  # processes of their own
def test_prediction_needs_no_pytorch(run: Path, exported: Path, clip: Path, tmp_path: Path) -> None:
    done = without_torch("predict", clip, "--onnx", exported, "--json", "--output", tmp_path / "clip.png")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["class"] == Predictor([run])(clip).best(1)[0][0]
    assert (tmp_path / "clip.png").exists()
    done = without_torch("watch", clip, "--onnx", exported, "--precision", "int8", "--timeline", tmp_path / "time.png")
    assert done.returncode == 0 and "0:00.0 to 0:02.0" in done.stdout, done.stderr
    done = without_torch("show", clip, "--output", tmp_path / "show.png")
    assert done.returncode == 0 and (tmp_path / "show.png").exists(), done.stderr
    failed = without_torch("predict", clip, "--checkpoints", run)
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1 and "pip install" in failed.stderr, failed.stderr


@pytest.mark.slow  # a further export
def test_ten_crops_are_exported_as_they_are_tested(run: Path, clip: Path, tmp_path: Path) -> None:
    export_run([run], tmp_path, ["onnx"], ["input.test_crops=10"])
    ours, theirs = Predictor(onnx=tmp_path)(clip), Predictor([run], ["input.test_crops=10"])(clip)
    for name in STREAMS:
        np.testing.assert_allclose(ours.scores[name], theirs.scores[name], atol=1e-4)
