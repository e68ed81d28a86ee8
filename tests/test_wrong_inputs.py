"""What users get wrong: every command ends in one line that says what, before it works and without writing anything."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import record, wandering
from demo import BACKBONE, demo_settings
from tool import tool

from coviar_mocrop.checkpoint import load_checkpoint, save_checkpoint
from coviar_mocrop.config import Config
from coviar_mocrop.errors import CheckpointError
from coviar_mocrop.inference.testing import load_stream
from coviar_mocrop.networks.converted import read_weights
from coviar_mocrop.scores import Scores, save_scores
from coviar_mocrop.streams.base import create_stream

CLASSES = ("run", "sit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of each kind of file that a command takes."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "folder").mkdir()
    (folder / "text.txt").write_text("text")
    (folder / "empty.txt").touch()
    record(wandering(14, 64, 48, 3), folder / "clip.mp4")
    (folder / "classes.txt").write_text("run\nsit\n")
    (folder / "list.txt").write_text("clip.mp4 run 0\n")
    lists = dict.fromkeys(("train_list", "val_list", "test_list"), str(folder / "list.txt"))
    data = {"root": str(folder), "classes": str(folder / "classes.txt"), "cache": str(folder / "cache"), **lists}
    values = demo_settings(folder, folder / "run", data=data, model={"backbone": BACKBONE})
    (folder / "settings.yaml").write_text(json.dumps(values))
    network = create_stream(Config.model_validate(values), CLASSES, weights=False).network
    save_checkpoint(folder / "best.pt", {"model": network.state_dict(), "config": values, "classes": list(CLASSES)})
    logits = np.eye(2, dtype=np.float32)
    settings = {"stream": "mv", "setting": "baseline"}
    save_scores(folder / "mv.npz", Scores(np.array(["a", "b"]), np.arange(2), logits, np.array(CLASSES), settings))
    return folder


TEST = "test_stream --checkpoint {}/best.pt --scores {}/out.npz"
EXPORT = "export --checkpoints {}/best.pt --output {}/out"
FUSE = "fuse --scores mv={}/mv.npz --output {}/out"
IMPORT = "import_weights {}/best.pt --config {}/settings.yaml --output {}/out.pt"
WATCH = "watch {}/clip.mp4 --checkpoints {}/best.pt"
SHOW = "show_crop {}/clip.mp4 --output {}/out.png"
PREDICT = "predict {}/clip.mp4 --checkpoints {}/best.pt"
BOXES = "extract_boxes --config {}/settings.yaml"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        # outputs that cannot be written
        (f"{TEST} --scores {{}}/text.txt/out.npz", "text.txt/out.npz: cannot be written (Not a directory)"),
        (f"{TEST} --scores {{}}/best.pt", "a score file ends in .npz"),
        (f"{EXPORT} --output {{}}/text.txt", "text.txt: cannot be written (Not a directory)"),
        (f"{EXPORT} --output {{}}/{'x' * 300}", "File name too long"),
        (f"{FUSE} --output {{}}/text.txt", "text.txt: cannot be written (Not a directory)"),
        (f"{IMPORT} --output {{}}/folder.pt/x", "a checkpoint ends in .pt"),
        (f"{IMPORT} --output {{}}/out.safetensors", "a checkpoint ends in .pt"),
        (f"{IMPORT} --output {{}}/text.txt/out.pt", "text.txt/out.pt: cannot be written (Not a directory)"),
        (f"{SHOW} --output {{}}/folder", "is not a supported picture"),
        (f"{SHOW} --output {{}}/out.foo", "out.foo: is not a supported picture format; use .png"),
        (f"{SHOW} --output {{}}/text.txt/out.png", "cannot be written (Not a directory)"),
        (f"{SHOW} --video {{}}/folder", "folder: is a folder; give the name of a file"),
        (f"{SHOW} --video {{}}/clip.mp4", "would replace the video it is made from"),
        (f"{WATCH} --video {{}}/clip.mp4", "clip.mp4: would replace the video it is made from; choose another folder"),
        (f"{WATCH} {{}}/other.mp4 --video {{}}", "clip.mp4: would replace the video it is made from"),
        (f"{WATCH} --video {{}}/out.webm", "out.webm: is not a supported video format; use .mp4, "),
        (f"{WATCH} --video {{}}/text.txt/videos", "cannot be written (Not a directory)"),
        (f"{PREDICT} --output {{}}/out.foo", "out.foo: is not a supported picture"),
        (f"{PREDICT} --output {{}}/text.txt/pictures", "cannot be written (Not a directory)"),
        (f"{BOXES} --set data.cache={{}}/text.txt", "text.txt: cannot be written (Not a directory)"),
        ("extract_features --config {}/settings.yaml --streams mv --set data.cache={}/text.txt", "cannot be written"),
        ("compute_table --output {}/text.txt", "text.txt: cannot be written (Not a directory)"),
        ("prepare_data folder {}/videos --name x --lists {}/text.txt", "text.txt: cannot be written (Not a directory)"),
        ("prepare_data demo --output {}/text.txt --lists {}/lists", "text.txt: cannot be written (Not a directory)"),
        ("demo --output {}/text.txt", "text.txt: cannot be written (Not a directory)"),
        ("benchmark reading {}/clip.mp4 --json {}/folder", "folder: is a folder; give the name of a file"),
        # files that are something else, or not there
        (
            f"{TEST} --checkpoint {{}}/mv.npz",
            "mv.npz: is not a checkpoint but a file of arrays, such as the scores that",
        ),
        (
            f"{TEST} --checkpoint {{}}/settings.yaml",
            "settings.yaml: is not a checkpoint but a settings file",
        ),
        (f"{TEST} --checkpoint {{}}/folder", "folder: is a folder; give a file in it"),
        (f"{TEST} --checkpoint {{}}/empty.txt", "empty.txt: is damaged or not a safe PyTorch file"),
        (f"{TEST} --config {{}}/clip.mp4", "clip.mp4: is not text; give a YAML file"),
        (f"{PREDICT} --checkpoints {{}}/folder", "folder: holds no best.pt"),
        ("predict {}/folder --checkpoints {}/best.pt", "folder: holds no video"),
        ("predict {}/text.txt --checkpoints {}/best.pt", "text.txt: is not a readable video"),
        ("show_crop {}/folder", "folder: is a folder; give a video file"),
        ("show_crop {}/none.mp4", "none.mp4: no such file"),
        ("prepare_data transcode {}/none {}/transcoded", "none: no such file or folder; check the path"),
        ("fuse --output {}/out --scores mv={}/best.pt", "best.pt: is damaged or not a score file"),
        ("fuse --output {}/out --scores mv={}/folder", "folder: is a folder; give a score file"),
        ("fuse --output {}/out --scores fused={}/mv.npz", "fused: is the name of the fusion; name the file after its"),
        # options that do not fit
        (f"{TEST} --streams mv", "--streams: the checkpoint is of one stream"),
        (f"{TEST} --set area=0.4", "--set area=0.4: unknown key 'area'; did you mean 'mocrop.area_ratio'"),
        (f"{TEST} --set model.backbone=resnet18", "does not fit the network (Missing key(s) in state_dict:"),
        (f"{TEST} --set stream=iframe", "is a mv stream; it cannot be tested as iframe"),
        (f"{TEST} --set area_ratio", "--set area_ratio: expected key=value"),
        (f"{SHOW} --set area=0.4", "unknown key 'area'; did you mean 'area_ratio'"),
        (f"{SHOW} --set mocrop.area_ratio=0.4", "unknown key 'mocrop.area_ratio'; did you mean 'area_ratio'?"),
        (f"{SHOW} --checkpoint {{}}/best.pt", "the mv stream estimates no displacement"),
        (f"{FUSE} --setting ../x", "'../x' cannot name a run"),
        (f"{FUSE} --weights clip=1", "weight for 'clip', but the streams are mv"),
    ],
)
def test_wrong_inputs(folder: Path, command: str, says: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "out.png"}
    name, *arguments = command.format(*[folder] * command.count("{}")).split()
    message = tool(name, *arguments, ok=False)
    assert says in message
    assert len(message) < 600
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "out.png"}
    assert after == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": 3}, "'classes'"),
        ({"classes": []}, "'classes'"),
        ({"classes": [1, 2]}, "'classes'"),
        ({"config": None}, "'config'"),
        ({"config": {"train": "x"}}, r"'config\.train'"),
        ({"config": {"model": ["x"]}}, r"'config\.model'"),
        ({"rules": "x"}, "'rules'"),
        ({"format": torch.zeros(3)}, "'format'"),
        ({"format": 2}, "has format 2, this version reads 1"),
    ],
)
def test_checkpoints_with_parts_of_another_kind(
    folder: Path, tmp_path: Path, change: dict[str, object], says: str
) -> None:
    torch.save({**torch.load(folder / "best.pt", weights_only=True), **change}, tmp_path / "x.pt")
    for read in (load_checkpoint, load_stream):
        with pytest.raises(CheckpointError, match=rf"x\.pt: .*{says}") as caught:
            read(tmp_path / "x.pt")
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": 5}, "'classes'"),
        ({"model": {"backbone.w": torch.zeros(3).to_sparse()}}, "holds no state dict"),
        ({"model": {"backbone.w": torch.zeros(3, device="meta")}}, "holds no state dict"),
    ],
)
def test_weights_of_another_kind(folder: Path, tmp_path: Path, change: dict[str, object], says: str) -> None:
    torch.save({**torch.load(folder / "best.pt", weights_only=True), **change}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=rf"x\.pt: .*{says}"):
        read_weights(str(tmp_path / "x.pt"))


def test_top5_of_two_classes_is_not_told(folder: Path, tmp_path: Path) -> None:
    told = tool("test_stream", "--checkpoint", folder / "best.pt", "--scores", tmp_path / "s.npz")
    assert "top-1" in told
    assert "top-5" not in told
