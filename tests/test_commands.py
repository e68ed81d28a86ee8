"""The commands from training to prediction, for one stream and for several."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from clips import record, wandering
from demo import BACKBONE, small_config, small_settings
from matplotlib.image import imread
from tool import TOOLS, run_tool, tool
from tqdm import tqdm

import coviar_mocrop.clips.store as store_module
import coviar_mocrop.inference.predictor as predictor_module
from coviar_mocrop.bitstream import open_video, transcode
from coviar_mocrop.checkpoint import load_checkpoint, save_checkpoint
from coviar_mocrop.cli import FrameBar, LinesAboveBars
from coviar_mocrop.commands import run_command
from coviar_mocrop.config import load_configs
from coviar_mocrop.datasets.demo import make_demo
from coviar_mocrop.errors import Interrupted
from coviar_mocrop.fusion_weights import tune_weights
from coviar_mocrop.inference.testing import load_stream, score_checkpoint, score_checkpoints
from coviar_mocrop.scores import load_scores
from coviar_mocrop.streams.base import create_stream

pytestmark = pytest.mark.usefixtures("no_figures")
STREAMS = ("iframe", "mv", "residual")


@pytest.fixture(scope="module")
def config(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A settings file of three streams."""
    values = small_settings(demo, Path("nowhere"), train={"epochs": 1})
    del values["stream"]
    path = tmp_path_factory.mktemp("config") / "demo.yaml"
    path.write_text(json.dumps({**values, "streams": dict.fromkeys(STREAMS)}))  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def runs(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three trained streams."""
    folder = tmp_path_factory.mktemp("runs")
    said = tool("train_stream", "--config", config, "--output", folder)
    for name in STREAMS:
        assert f"{folder}/{name}/best.pt" in said
        assert load_checkpoint(folder / name / "best.pt")["config"]["stream"] == name
    assert f"coviar fuse --checkpoints {folder}" in said
    assert f"--output {folder}/fused" in said
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many times each clip is opened, to be read or predicted."""
    counts: Counter[str] = Counter()
    for module in (store_module, predictor_module):

        def count(path: Any, *arguments: Any, real: Any = module.open_video, **options: Any) -> Any:
            counts[str(path)] += 1
            return real(path, *arguments, **options)

        monkeypatch.setattr(module, "open_video", count)
    return counts


def test_one_stream_goes_to_the_folder_itself(config: Path, tmp_path: Path, opened: Counter[str]) -> None:
    said = tool("train_stream", "--config", config, "--streams", "mv", "--output", tmp_path / "one")
    assert f"{tmp_path}/one/best.pt" in said
    assert {"best.pt", "last.pt", "settings.yaml"} <= {path.name for path in (tmp_path / "one").iterdir()}
    assert set(opened.values()) == {1}


def test_streams_trained_one_after_the_other_are_fused_together(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = ["--config", config, "--set", f"output={run}", "model.backbone=squeezenet1_1", "--streams"]
    (run / "iframe_other").mkdir(parents=True)
    (run / "iframe_other/best.pt").touch()  # not named like a stream, so the folder's name does not stand for it
    first, second = tool("train_stream", *train, "iframe"), tool("train_stream", *train, "mv")
    assert f"next: coviar fuse --checkpoints {run}/iframe/best.pt --output {run}/fused\n" in first
    assert f"next: coviar fuse --checkpoints {run} --output {run}/fused\n" in second


def test_training_reads_a_clip_once_for_all_streams(config: Path, tmp_path: Path, opened: Counter[str]) -> None:
    tool("train_stream", "--config", config, "--output", tmp_path / "runs", "--set", "train.epochs=2")
    assert len(opened) == 8
    assert set(opened.values()) == {2}


def test_resume_overwrite_and_dry_run(config: Path, tmp_path: Path) -> None:
    train = ("train_stream", "--config", config, "--streams", "iframe", "mv", "--output", tmp_path / "runs")
    dry = tool(*train, "--dry-run")
    assert "iframe: input 4 x 1 x 1 x 3 x 32 x 32" in dry
    assert "mv: input 4 x 1 x 1 x 2 x 32 x 32" in dry
    assert not (tmp_path / "runs").exists()
    tool(*train)
    assert "iframe: already holds a run" in tool(*train, ok=False)
    before = [(tmp_path / "runs" / name / "last.pt").read_bytes() for name in ("iframe", "mv")]
    tool(*train, "--resume")
    assert [(tmp_path / "runs" / name / "last.pt").read_bytes() for name in ("iframe", "mv")] == before
    tool(*train, "--overwrite", "--set", "streams.mv.train.epochs=2")
    epochs = [load_checkpoint(tmp_path / "runs" / name / "last.pt")["epoch"] for name in ("iframe", "mv")]
    assert epochs == [1, 2]


def test_an_older_file_of_one_run(demo: Path, tmp_path: Path) -> None:
    path = tmp_path / "mv.yaml"
    path.write_text(json.dumps(small_settings(demo, tmp_path / "run", train={"epochs": 1})))
    assert f"{tmp_path}/run/best.pt" in tool("train_stream", "--config", path)


def test_fusion_weights_are_tuned_on_the_validation_list(runs: Path, demo: Path, tmp_path: Path) -> None:
    command = ["fuse", "--checkpoints", runs, "--tune", "--output", tmp_path]
    refused = tool(*command, ok=False)  # here the two lists are the same
    assert "8 clips are in the validation list and in the test list" in refused
    assert "there is no validation list (data.val_list)" in tool(*command, "--set", "data.val_list=null", ok=False)
    assert "give one of them" in tool(*command, "--weights", "2", "1", "1", ok=False)
    said = tool(*command, "--set", f"data.val_list={demo}/lists/train_split1.txt")
    assert "held out, 8 clips: top-1 iframe" in said and "points)" in said
    tuned = tune_weights({name: load_scores(tmp_path / f"scores/{name}_baseline_val.npz") for name in STREAMS})
    assert load_scores(tmp_path / "scores/fused_baseline.npz").settings["weights"] == pytest.approx(tuned.weights)
    (runs / "fusion.json").unlink()


@pytest.mark.parametrize("setting", [pytest.param("baseline", marks=pytest.mark.slow), "attention"])
def test_fused_from_checkpoints_or_from_score_files(
    runs: Path, tmp_path: Path, opened: Counter[str], setting: str
) -> None:
    chosen = ("--set", f"setting={setting}")
    said = tool("fuse", "--checkpoints", runs, *chosen, "--output", tmp_path / "together")
    assert "| **fused** |" in said
    assert len(opened) == 8
    assert set(opened.values()) == {1}  # once for all streams
    files = []
    for name in STREAMS:
        files.append(f"{name}={tmp_path}/{name}.npz")
        best = runs / name / "best.pt"
        said = tool("test_stream", "--checkpoint", best, "--scores", tmp_path / f"{name}.npz", *chosen)
        assert f"{name}, {setting}: top-1" in said
        one = load_scores(tmp_path / f"{name}.npz")
        together = load_scores(tmp_path / "together/scores" / f"{name}_{setting}.npz")
        assert one.names.tolist() == together.names.tolist()
        np.testing.assert_array_equal(one.labels, together.labels)
        np.testing.assert_allclose(one.scores, together.scores, atol=1e-5)
        np.testing.assert_array_equal(one.scores.argmax(axis=1), together.scores.argmax(axis=1))
        times = ("ms_read", "ms_network")
        facts = [{key: value for key, value in s.settings.items() if key not in times} for s in (one, together)]
        assert facts[0] == facts[1]
        assert facts[0]["checkpoint"] == str(best)
    tool("fuse", "--scores", *files, "--output", tmp_path / "one_by_one")
    results = [json.loads((tmp_path / way / "results.json").read_text()) for way in ("together", "one_by_one")]
    assert results[0].keys() == results[1].keys()
    for first, second in zip(*(result["settings"][setting]["streams"].values() for result in results), strict=True):
        assert (first["top1"], first["gflops_per_clip"]) == (second["top1"], second["gflops_per_clip"])
    first, second = (result["settings"][setting]["fused"] for result in results)
    assert (first["top1"], first["gflops_per_clip"]) == (second["top1"], second["gflops_per_clip"])
    written = [{path.name for path in (tmp_path / way).rglob("*.*")} for way in ("together", "one_by_one")]
    assert {name for name in written[1] if "tfevents" not in name} <= written[0]


def test_results_of_settings_gather_in_one_file(runs: Path, tmp_path: Path) -> None:
    for setting in ("baseline", "efficiency"):
        tool("fuse", "--checkpoints", runs, "--set", f"setting={setting}", "--output", tmp_path)
    assert set(json.loads((tmp_path / "results.json").read_text())["settings"]) == {"baseline", "efficiency"}


def test_prediction_with_a_folder_of_runs(demo: Path, runs: Path, tmp_path: Path, opened: Counter[str]) -> None:
    video = next((demo / "videos").rglob("*.mp4"))
    answer = json.loads(tool("predict", video, "--checkpoints", runs, "--json"))
    assert set(answer["streams"]) == set(STREAMS)
    assert sum(opened.values()) == 1
    stream = load_stream(runs / "mv/best.pt")
    assert answer["class"] in stream.classes
    said = tool("predict", video, "--checkpoints", runs / "mv", "--output", tmp_path / "p.png")
    assert f"alone: mv: {answer['streams']['mv']}" in said
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_checkpoints_of_earlier_versions_score_the_same(demo: Path, runs: Path, tmp_path: Path) -> None:
    """Made as they were made before streams had files of their own: names of weights, and all settings."""
    torch.manual_seed(0)
    network = torchvision.models.shufflenet_v2_x0_5()
    network.conv1[0] = torch.nn.Conv2d(2, 24, 3, 2, 1, bias=False)
    network.fc = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Linear(1024, 8))
    model = {f"backbone.{key}": value for key, value in network.state_dict().items()}
    model |= {f"data_bn.{key}": value for key, value in torch.nn.BatchNorm2d(2).state_dict().items()}
    settings = json.loads((Path(__file__).parent / "checkpoint_config.json").read_text())
    small = small_settings(demo, tmp_path)
    settings["data"] |= small["data"]
    settings["input"] |= small["input"]
    settings["model"] |= {**small["model"], "backbone": "shufflenet_v2_x0_5"}
    settings["train"]["precision"] = "fp32"
    classes = (demo / "lists/classes.txt").read_text().split()
    content = {"model": model, "classes": classes, "config": settings, "epoch": 1, "step": 0, "history": []}
    save_checkpoint(tmp_path / "old.pt", content)
    scores = score_checkpoint(tmp_path / "old.pt")
    now = small_config(demo, tmp_path, model={"backbone": "shufflenet_v2_x0_5"})
    assert create_stream(now, classes, weights=False).network.state_dict().keys() == model.keys()
    save_checkpoint(tmp_path / "new.pt", {**content, "config": now.model_dump(mode="json")})
    np.testing.assert_array_equal(scores.scores, score_checkpoint(tmp_path / "new.pt").scores)
    assert len(scores.names) == 8


def test_errors_of_commands_are_one_line(config: Path, runs: Path, tmp_path: Path) -> None:
    assert "none.yaml" in tool("train_stream", "--config", tmp_path / "none.yaml", ok=False)
    assert "epocs" in tool("train_stream", "--config", config, "--set", "train.epocs=1", ok=False)
    assert "no run 'mw'; did you mean 'mv'" in tool("train_stream", "--config", config, "--streams", "mw", ok=False)
    (tmp_path / "broken.pt").write_bytes((runs / "mv/best.pt").read_bytes()[:1000])
    broken = ("test_stream", "--checkpoint", tmp_path / "broken.pt", "--scores", "x.npz")
    assert "broken.pt" in tool(*broken, ok=False)
    fuse = ("fuse", "--output", tmp_path / "fused")
    assert "none.npz" in tool(*fuse, "--scores", f"mv={tmp_path}/none.npz", ok=False)
    assert "expected STREAM=" in tool(*fuse, "--scores", "x.npz", ok=False)
    assert "holds no best.pt" in tool(*fuse, "--checkpoints", tmp_path, ok=False)
    twice = (runs / "mv/best.pt", runs / "mv/last.pt")
    assert "is a second mv stream" in tool(*fuse, "--checkpoints", *twice, ok=False)
    assert not (tmp_path / "fused").exists()


@pytest.mark.parametrize("name", sorted(path.stem for path in TOOLS.glob("*.py")))
def test_help_shows_examples(name: str) -> None:
    said = tool(name, "--help")
    assert said.startswith(f"usage: python {TOOLS / name}.py")
    assert re.search(r"examples:\n( +#.*\n)* +coviar \w+", said)


def test_streams_trained_on_other_lists_are_tested_together(runs: Path, tmp_path: Path) -> None:
    """Only the list that is read has to be the same."""
    for part, value in (("train", "elsewhere.txt"), ("val", None), ("test", "elsewhere.txt")):
        content = load_checkpoint(runs / "mv/best.pt")
        content["config"]["data"][f"{part}_list"] = value
        save_checkpoint(tmp_path / f"{part}.pt", content)
        both = ("--checkpoints", tmp_path / f"{part}.pt", runs / "residual/best.pt", "--output", tmp_path / part)
        told = tool("fuse", *both, ok=part != "test")
        assert ("**fused**" if part != "test" else "differ in data.test_list") in told


def test_going_on_and_replacing_exclude_each_other(config: Path, tmp_path: Path) -> None:
    refused = tool("train_stream", "--config", config, "--resume", "--overwrite", "--output", tmp_path, ok=False)
    assert refused.strip() == "error: --resume and --overwrite: continue the run, or replace it; give one of the two"


def test_classes_of_another_order_are_told(runs: Path, tmp_path: Path) -> None:
    best = runs / "mv/best.pt"
    content = load_checkpoint(best)
    first, second, *others = content["classes"]
    save_checkpoint(tmp_path / "mv.pt", {**content, "classes": [second, first, *others]})
    refused = tool("test_stream", "--checkpoint", tmp_path / "mv.pt", "--scores", tmp_path / "s.npz", ok=False)
    assert f"(label 0 is '{second}' against '{first}')" in refused


@pytest.mark.parametrize(
    "again", [None, *(pytest.param(options, marks=pytest.mark.slow) for options in (["--overwrite"], ["--resume"]))]
)
@pytest.mark.usefixtures("small_clips")
def test_the_demo_from_clips_to_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: list[str] | None
) -> None:
    """In small; once more it is refused, starts anew, or goes on."""
    small = ["input.full_size=32", "input.reduced_size=24", f"model.backbone={BACKBONE}", "train.epochs=1"]

    def few(root: Path, lists: Path, **settings: Any) -> Any:
        return make_demo(root, lists, train_clips=8, test_clips=8, progress=False, **settings)

    def tiny(path: Any, streams: Any, overrides: list[str]) -> Any:
        return load_configs(path, streams, [*overrides, *small, "data.workers=0"])

    monkeypatch.setattr("coviar_mocrop.datasets.demo.make_demo", few)
    monkeypatch.setattr("coviar_mocrop.config.load_configs", tiny)
    monkeypatch.chdir(tmp_path)
    told = tool("demo", "--output", "run")
    assert "iframe epoch 1/1" in told
    assert imread(tmp_path / "run/crop.png").std() > 0.1
    rows = [line.split(" | ") for line in told.splitlines() if "**fused**" in line]
    assert [row[0] for row in rows] == ["| baseline", "| efficiency", "| attention"]
    if again is not None:
        assert "run/iframe: already holds a run" in tool("demo", "--output", "run", ok=False)
        told = tool("demo", "--output", "run", *again)
        assert ("iframe epoch 1/1" in told) is (again == ["--overwrite"])
        fused = [line.split(" | ") for line in told.splitlines() if "**fused**" in line]
        assert [row[2] for row in fused] == [row[2] for row in rows]


@pytest.mark.parametrize(
    ("stopped_by", "where"),
    [
        (Interrupted("stopped in epoch 1, after step 2: everything is in last.pt"), "stopped in epoch 1, after step 2"),
        (KeyboardInterrupt(), "stopped"),
    ],
)
def test_an_interrupted_demo_names_the_command_that_goes_on(
    stopped_by: BaseException, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any, **options: Any) -> None:
        raise stopped_by

    monkeypatch.setattr("coviar_mocrop.datasets.demo.make_demo", lambda *_, **__: None)
    monkeypatch.setattr("coviar_mocrop.commands.demo._show_a_clip", lambda *_: None)
    monkeypatch.setattr("coviar_mocrop.training.trainer.train", stop)
    monkeypatch.chdir(tmp_path)
    done = run_tool("demo", "--seed", "1", "--output", "a run", check=False)
    assert (done.returncode, done.stderr) == (
        130,
        f"{where}; continue with coviar demo --seed 1 --output 'a run' --resume\n",
    )


@pytest.mark.usefixtures("small_clips")
def test_the_demo_replaces_no_other_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tool("prepare_data", "demo", "--train-clips", 8, "--test-clips", 8)
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*.*"))
    assert "data_lists/demo: already holds other lists" in tool("demo", ok=False)
    shutil.rmtree("data_lists")
    before = [(path, written) for path, written in before if path.exists()]
    assert "data/demo: holds the clips of another demo" in tool("demo", ok=False)
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*.*")) == before
    assert "argument --seed" in run_tool("demo", "--seed", "-1", check=False).stderr
    assert "leave it out with --real" in tool("demo", "--real", tmp_path, "--clip", ok=False)


def test_options_are_written_out() -> None:
    """An abbreviation would be another word to what looks for the option, such as the systemd unit."""
    for words in (("demo", "--over"), ("watch", "a.mp4", "--checkpoints", "a.pt", "--system")):
        done = run_tool(*words, check=False)
        assert (done.returncode, "unrecognized arguments: --" in done.stderr) == (2, True)
    done = run_tool("prepare_data", "demo", "--over", check=False)
    assert (done.returncode, "unrecognized arguments: --over" in done.stderr) == (2, True)


def test_the_demo_on_few_videos_names_the_lists_that_there_are(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def run(name: str, words: list[str], program: str) -> None:
        ran.append([name, *words])
        if name == "prepare":
            run_command(name, words, program)

    monkeypatch.setattr("coviar_mocrop.commands.demo.run_command", run)
    monkeypatch.chdir(tmp_path)
    for number, clip in enumerate(sorted((demo / "videos").rglob("*.mp4"))[:4]):
        Path("few", "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, Path("few", "ab"[number % 2], f"{number}.mp4"))
    tool("demo", "--real", "few", "--seed", "3")
    prepare, train, fuse = ran
    assert prepare[prepare.index("--seed") + 1] == "3"
    assert "data.val_list=null" in train
    assert "data.train_list=data_lists/few/train_split1.txt" in train
    assert fuse[0] == "fuse"


@pytest.mark.slow
def test_the_demo_on_a_folder_of_videos(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs the commands for one's own videos, and goes on with a run only when it is told to."""
    monkeypatch.chdir(tmp_path)
    videos = tmp_path / "some videos"
    for number, clip in enumerate(sorted((demo / "videos").rglob("*.mp4"))):
        (videos / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, videos / "ab"[number % 2] / f"{number}.mp4")
    said = tool("demo", "--real", videos)
    assert [line.split()[2] for line in said.splitlines() if line.startswith("+ ")] == ["prepare", "train", "fuse"]
    assert (tmp_path / "runs/some_videos/fused/results.json").exists()
    again = run_tool("demo", "--real", videos, check=False)
    assert again.returncode == 2
    assert "runs/some_videos/iframe: already holds a run" in again.stderr
    last = tmp_path / "runs/some_videos/iframe/last.pt"
    written = last.stat().st_mtime_ns
    tool("demo", "--real", videos, "--resume")
    assert last.stat().st_mtime_ns == written


@pytest.mark.parametrize(("part", "title"), [("val", "validate"), ("test", "test")])
def test_the_bar_says_which_list_is_read(runs: Path, monkeypatch: pytest.MonkeyPatch, part: Any, title: str) -> None:
    titles = []

    def bar(**options: Any) -> Any:
        titles.append(options["desc"])
        return tqdm(**options)

    monkeypatch.setattr("coviar_mocrop.inference.testing.tqdm", bar)
    score_checkpoints([runs / "mv"], part=part)
    assert titles == [f"{title} mv"]


def test_messages_stand_on_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    with tqdm(total=2, desc="epoch 1/2", file=sys.stderr) as bar:
        bar.refresh()
        LinesAboveBars().emit(logging.makeLogRecord({"msg": "skipped a.mp4"}))
    assert "skipped a.mp4" in re.split(r"[\r\n]", capsys.readouterr().err)


def test_a_long_video_has_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells of every frame; of a short video nothing is shown."""
    with FrameBar("hour.mp4") as bar:
        bar(1, 100)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("tqdm.tqdm", lambda **options: tqdm(**{**options, "delay": 0, "mininterval": 0}))
    with FrameBar("hour.mp4") as bar:
        for done in (1, 50, 100, 1, 30):  # transcoded, then read
            bar(done, 100)
    told = capsys.readouterr().err
    assert "hour.mp4:  50%" in told and "30/100" in told and told.count("100/100") == 1


def test_progress_is_of_every_frame(tmp_path: Path) -> None:
    path = record(wandering(30, 96, 64, 5), tmp_path / "clip.mp4")
    told: list[tuple[int, int]] = []
    transcode(path, tmp_path / "canonical.mp4", size=None, progress=lambda done, total: told.append((done, total)))
    assert told == [(number, 30) for number in range(1, 31)]
    told.clear()
    with open_video(path) as video:
        video.progress = lambda done, total: told.append((done, total))
        video.get_motion_vectors_at()
    assert told == [(number, 30) for number in range(1, 31)]
