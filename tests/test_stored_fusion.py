"""Learned weights go with the run: fuse.py stores them, and predictions use them while the checkpoints are the same."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demo import small_config
from tool import run_tool, tool

from coviar_mocrop.checkpoint import load_checkpoint, save_checkpoint
from coviar_mocrop.errors import CheckpointError, ScoreError
from coviar_mocrop.fusion_weights import tune_weights
from coviar_mocrop.inference.predictor import Predictor
from coviar_mocrop.scores import load_scores
from coviar_mocrop.streams.base import create_stream

pytestmark = pytest.mark.usefixtures("no_figures")
STREAMS = ("iframe", "mv", "residual")


def write_run(demo: Path, folder: Path, streams: tuple[str, ...] = STREAMS, **data: Any) -> Path:
    """A run with untrained streams, whose validation list is not its test list."""
    torch.manual_seed(0)
    lists = {"val_list": str(demo / "lists/train_split1.txt"), **data}
    classes = (demo / "lists/classes.txt").read_text().split()
    for name in streams:
        config = small_config(demo, folder / name, stream=name, data=lists)
        network = create_stream(config, classes, weights=False).network
        content = {"model": network.state_dict(), "config": config.model_dump(mode="json"), "classes": classes}
        save_checkpoint(folder / name / "best.pt", content)
    return folder


@pytest.fixture(scope="module")
def fused(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run, and what fuse.py said of it."""
    run = write_run(demo, tmp_path_factory.mktemp("run"))
    shutil.copytree(run / "mv", run / "mv_before")
    return run, tool("fuse", "--checkpoints", run, "--output", run / "fused")


@pytest.fixture
def run(fused: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the run, with its weights."""
    return Path(shutil.copytree(fused[0], tmp_path / "run"))


@pytest.fixture
def video(demo: Path) -> Path:
    return next((demo / "videos").rglob("*.mp4"))


def test_weights_are_learned_by_default_and_stored(fused: tuple[Path, str]) -> None:
    folder, said = fused
    validation = {name: load_scores(folder / f"fused/scores/{name}_baseline_val.npz") for name in STREAMS}
    learned = tune_weights(validation)
    (entry,) = json.loads((folder / "fusion.json").read_text())["settings"].values()
    assert (entry["weights"], entry["temperature"]) == (learned.weights, learned.temperature)
    assert (entry["clips"], entry["after"], entry["alone"]) == (8, learned.after, learned.alone)
    assert entry["checkpoints"].keys() == set(STREAMS)
    results = json.loads((folder / "fused/results.json").read_text())["settings"]["baseline"]["fused"]
    assert results["weights"] == learned.weights
    assert results["weights_from"] == "learned on 8 held-out clips"
    assert f"left out: {folder}/mv_before; to fuse other runs, give their best.pt" in said
    assert "held out, 8 clips: top-1 iframe" in said
    assert "(learned on 8 held-out clips); shares iframe" in said
    assert f"wrote {folder}/fusion.json, which coviar predict uses" in said


def test_predictions_use_the_stored_weights(run: Path, video: Path) -> None:
    (entry,) = json.loads((run / "fusion.json").read_text())["settings"].values()
    for checkpoints in ([run], [run / name / "best.pt" for name in ("mv", "iframe", "residual")]):
        predictor = Predictor(checkpoints)
        assert predictor.weights == entry["weights"]
        assert predictor.weights_from == "learned on 8 held-out clips"
        scores = predictor(video).scores
        expected = sum(entry["weights"][name] * scores[name].astype(float) for name in STREAMS) / entry["temperature"]
        np.testing.assert_allclose(scores["fused"], expected, rtol=1e-4, atol=1e-5)
    row = json.loads(tool("predict", video, "--checkpoints", run, "--json"))
    assert (row["weights"], row["weights_from"]) == (entry["weights"], "learned on 8 held-out clips")
    assert "(learned on 8 held-out clips)" in tool("predict", video, "--checkpoints", run)
    assert tool("predict", video, video, "--checkpoints", run).startswith("weights: iframe=")


def test_one_path_needs_no_list_and_a_video_may_be_an_open_file(fused: tuple[Path, str], video: Path) -> None:
    expected = Predictor([fused[0]])(video)
    content = io.BytesIO(video.read_bytes())
    with video.open("rb") as file:
        for run in (fused[0], str(fused[0])):
            for source, name in ((video, str(video)), (file, str(video)), (content, "<open file>")):
                prediction = Predictor(run)(source)
                assert prediction.path == name
                assert prediction.scores["fused"].tobytes() == expected.scores["fused"].tobytes()
    prediction = Predictor(fused[0], transcode=True)(content)
    assert prediction.path == "<open file>" and prediction.scores.keys() == expected.scores.keys()
    with pytest.raises(CheckpointError, match=f"{video.parent}: holds no best.pt"):
        Predictor(video.parent)


@pytest.mark.parametrize(
    ("options", "weights", "found"),
    [
        (["coviar"], {"iframe": 2.0, "mv": 1.0, "residual": 1.0}, "default"),
        (["mv=3"], {"iframe": 2.0, "mv": 3.0, "residual": 1.0}, "given"),
    ],
)
def test_weights_that_are_given_win(
    run: Path, video: Path, tmp_path: Path, options: list[str], weights: dict[str, float], found: str
) -> None:
    row = json.loads(tool("predict", video, "--checkpoints", run, "--json", "--weights", *options))
    assert (row["weights"], row["weights_from"]) == (weights, found)
    before = (run / "fusion.json").read_bytes()
    tool("fuse", "--checkpoints", run, "--output", tmp_path / "out", "--weights", *options)
    (entry,) = json.loads((tmp_path / "out/results.json").read_text())["settings"].values()
    assert (entry["fused"]["weights"], entry["fused"]["weights_from"]) == (weights, found)
    assert not list((tmp_path / "out/scores").glob("*_val.npz"))
    assert (run / "fusion.json").read_bytes() == before
    assert "coviar" in tool("predict", video, "--checkpoints", run, "--weights", "coviarr", ok=False)


def test_weights_of_other_streams_are_not_used(
    run: Path, video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def said(checkpoints: Path | list[Path], *overrides: str) -> str:
        caplog.clear()
        predictor = Predictor(checkpoints if isinstance(checkpoints, list) else [checkpoints], overrides)
        assert predictor.weights_from == "default"
        assert predictor.weights.get("iframe", 2.0) == 2.0
        return "".join(record.getMessage() for record in caplog.records)

    assert "its fusion weights are not of the setting efficiency; the default ones" in said(run, "setting=efficiency")
    pair = [run / name / "best.pt" for name in ("mv", "residual")]
    assert "are of other streams (iframe, mv, residual)" in said(pair)
    shutil.copytree(run / "mv", tmp_path / "elsewhere/mv")
    assert said([run / "iframe/best.pt", tmp_path / "elsewhere/mv/best.pt", run / "residual/best.pt"]) == ""
    content = load_checkpoint(run / "mv/best.pt")
    model = {name: value + 1 if value.is_floating_point() else value for name, value in content["model"].items()}
    save_checkpoint(run / "mv/best.pt", {**content, "model": model})
    assert "older than the checkpoints (mv trained again since)" in said(run)
    (run / "fusion.json").write_text("{")
    with pytest.raises(ScoreError, match=r"fusion\.json: does not hold fusion weights; remove it"):
        Predictor([run])
    (run / "fusion.json").unlink()
    assert said(run) == ""


def test_each_setting_has_its_weights(run: Path, tmp_path: Path) -> None:
    tool("fuse", "--checkpoints", run, "--output", tmp_path / "out", "--set", "setting=efficiency", "--tune")
    settings = json.loads((run / "fusion.json").read_text())["settings"]
    assert settings.keys() == {"baseline", "efficiency"}
    found = Predictor([run], ["setting=efficiency"])
    assert found.weights == settings["efficiency"]["weights"] != settings["baseline"]["weights"]
    tool("fuse", "--checkpoints", run, "--output", tmp_path / "out", "--scale", "softmax")
    assert json.loads((run / "fusion.json").read_text())["settings"] == settings  # predictions fuse logits


@pytest.mark.parametrize(
    ("data", "says", "an_error"),
    [
        ({"val_list": None}, "there is no validation list (data.val_list)", True),
        pytest.param({"val_list": "none.txt"}, "none.txt: is not a file (data.val_list)", True, marks=pytest.mark.slow),
        ("test", "8 clips are in the validation list and in the test list", True),
        pytest.param("one", "the validation clips are of one class only", False, marks=pytest.mark.slow),
    ],
)
def test_without_a_list_to_learn_on_the_weights_are_coviars(
    demo: Path, tmp_path: Path, data: Any, says: str, an_error: bool
) -> None:
    if data == "test":
        data = {"val_list": str(demo / "lists/test_split1.txt")}
    elif data == "one":
        data = {"val_list": str(tmp_path / "one.txt")}
        (tmp_path / "one.txt").write_text((demo / "lists/train_split1.txt").read_text().splitlines()[0])
    run = write_run(demo, tmp_path / "run", ("iframe", "mv"), **data)
    command = ["fuse", "--checkpoints", run, "--output", tmp_path / "out"]
    said = tool(*command)
    assert f"weights: the default ones, because {says}" in said
    assert "baseline: weights iframe=2 mv=1 (default); shares iframe" in said
    assert not (run / "fusion.json").exists()
    assert says in tool(*command, "--tune", ok=not an_error)


def test_weights_are_learned_without_a_test_list(demo: Path, tmp_path: Path) -> None:
    run = write_run(demo, tmp_path / "run", ("iframe", "mv"), test_list=None)
    said = tool("fuse", "--checkpoints", run, "--output", tmp_path / "out", "--tune")
    assert "held out, 8 clips: top-1" in said and "there is no test list (data.test_list)" in said
    assert (run / "fusion.json").exists()


def test_runs_that_do_not_share_a_folder_keep_nothing(demo: Path, tmp_path: Path) -> None:
    for name in ("iframe", "mv"):
        write_run(demo, tmp_path / f"of_{name}", (name,))
    files = [tmp_path / f"of_{name}" / name / "best.pt" for name in ("iframe", "mv")]
    said = tool("fuse", "--checkpoints", *files, "--output", tmp_path / "out")
    assert "learned on 8 held-out clips" in said
    assert not list(tmp_path.rglob("fusion.json"))
    done = run_tool("fuse", "--checkpoints", files[0], "--output", tmp_path / "one")
    assert "weights: the default ones, because there is only one stream" in done.stdout
