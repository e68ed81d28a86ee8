"""Training, resuming, checkpoints, and the tools as a user meets them."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demo import demo_settings, same, weights_of

from coviar_mocrop.checkpoint import load_checkpoint, save_checkpoint
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.demo import make_demo
from coviar_mocrop.errors import CheckpointError, ConfigError, CoviarMocropError, DataError
from coviar_mocrop.flops import count_flops
from coviar_mocrop.inference.testing import load_stream, score_checkpoint
from coviar_mocrop.scores import load_scores
from coviar_mocrop.training.trainer import train

TOOLS = Path(__file__).parent.parent / "tools"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder / "videos", folder / "lists", train_clips=8, test_clips=8, progress=False)
    return folder


def settings_of(demo: Path, output: Path, **changes: Any) -> dict[str, Any]:
    small = {
        "input": {"full_size": 48, "reduced_size": 32, "segments": 1, "test_segments": 2},
        "model": {"backbone": "resnet18", "dropout": 0.2},
        "train": {"epochs": 3, "batch_size": 4, "precision": "fp32", "schedule": "cosine"},
    }
    for section in small.keys() & changes.keys():
        small[section] |= changes[section]
    return demo_settings(demo, output, **{**changes, **small})


def run_config(demo: Path, output: Path, **changes: Any) -> Config:
    return Config.model_validate(settings_of(demo, output, **changes))


@pytest.fixture(scope="module")
def trained(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run never stopped."""
    return train(run_config(demo, tmp_path_factory.mktemp("run")))


def test_a_run_leaves_everything_behind(trained: Path) -> None:
    folder = trained.parent
    assert {"best.pt", "last.pt", "settings.yaml", "metrics.jsonl"} <= {path.name for path in folder.iterdir()}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert {"loss", "top1", "lr", "clips_per_second", "waiting_for_data"} <= lines[0].keys()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder)).Reload()
    assert {"train/loss", "train/top1", "train/lr", "train/waiting_for_data"} <= set(board.Tags()["scalars"])
    assert len(board.Tags()["images"]) == 4


def test_stopped_and_resumed_ends_like_never_stopped(
    demo: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import coviar_mocrop.training.trainer as module

    def stop(metrics: dict[str, float], *_: Any) -> None:
        if metrics["epoch"] == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_report", stop)
    with pytest.raises(KeyboardInterrupt):
        train(run_config(demo, tmp_path))
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 2
    monkeypatch.undo()
    best = train(run_config(demo, tmp_path), resume=True)
    assert same(weights_of(best), weights_of(trained))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_same_seed_same_bits_other_seed_other_bits(demo: Path, trained: Path, tmp_path: Path) -> None:
    again = train(run_config(demo, tmp_path / "a", data={"workers": 2}))
    assert same(weights_of(again), weights_of(trained))
    other = train(run_config(demo, tmp_path / "b", seed=1))
    assert not same(weights_of(other), weights_of(trained))


def test_a_run_is_not_replaced_by_accident(demo: Path, trained: Path) -> None:
    before = {path.name: path.read_bytes() for path in trained.parent.iterdir()}
    with pytest.raises(ConfigError, match=r"already holds a run.*--resume.*--overwrite"):
        train(run_config(demo, trained.parent, seed=5))
    assert {path.name: path.read_bytes() for path in trained.parent.iterdir()} == before


def test_resuming_with_other_settings_is_refused(demo: Path, trained: Path) -> None:
    with pytest.raises(CheckpointError, match=r"other settings \(train\.lr\)"):
        train(run_config(demo, trained.parent, train={"lr": 0.5}), resume=True)


def test_the_best_epoch_is_kept(demo: Path, tmp_path: Path) -> None:
    best = train(run_config(demo, tmp_path, train={"test_every": 1}))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert load_checkpoint(best)["epoch"] == 1 + int(np.argmax([line["test_top1"] for line in lines]))


def test_training_learns(demo: Path, tmp_path: Path) -> None:
    train(run_config(demo, tmp_path, train={"epochs": 20, "lr": 3e-3}, model={"dropout": 0.0}))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]


def test_scores_are_the_models_and_say_what_made_them(trained: Path, tmp_path: Path) -> None:
    scores = score_checkpoint(trained, ["setting=efficiency", "input.test_crops=10"])
    facts = scores.settings
    assert (facts["stream"], facts["setting"], facts["size"], facts["segments"]) == ("mv", "efficiency", 32, 2)
    assert facts["gflops_per_clip"] == pytest.approx(20 * facts["gflops_per_frame"])
    stream = load_stream(trained)
    assert facts["gflops_per_frame"] == count_flops(stream.model, (1, 1, 2, 32, 32)) / 1e9
    from coviar_mocrop.clips.loading import open_clips

    plain = score_checkpoint(trained)
    dataset, _ = open_clips(stream.config, "test")
    for index in (0, 5):
        frames = dataset[0, index].frames
        assert frames is not None
        with torch.inference_mode():
            expected = stream.model(frames[None])[0].numpy()
        np.testing.assert_allclose(plain.scores[index], expected, atol=1e-4)
        assert plain.names[index] == dataset.videos.clips[index].path
    again = score_checkpoint(trained, ["data.workers=2"])
    np.testing.assert_array_equal(plain.scores, again.scores)


def test_checkpoints_are_refused_with_reason(trained: Path, tmp_path: Path) -> None:
    whole = trained.read_bytes()
    cases: dict[str, bytes] = {"empty": b"", "text": b"hello", "half": whole[: len(whole) // 2]}
    for name, content in cases.items():
        (tmp_path / f"{name}.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name}.pt") as caught:
            load_checkpoint(tmp_path / f"{name}.pt")
        assert "\n" not in str(caught.value)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    (tmp_path / "flipped.pt").write_bytes(flipped)
    with pytest.raises(CheckpointError, match="checksum differs"):
        load_checkpoint(tmp_path / "flipped.pt")
    with pytest.raises(CheckpointError, match="no such file; make a checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of"):
        load_checkpoint(tmp_path / "foreign.pt")
    content = load_checkpoint(trained)
    content["config"]["model"]["backbone"] = "resnet50"
    save_checkpoint(tmp_path / "wrong.pt", content)
    with pytest.raises(CheckpointError, match="does not fit the network"):
        load_stream(tmp_path / "wrong.pt")


def test_a_missing_root_is_told_before_anything_is_written(demo: Path, tmp_path: Path) -> None:
    config = run_config(demo, tmp_path / "run", data={"root": str(tmp_path / "nope")})
    with pytest.raises(DataError, match=r"nope: is no folder; set data\.root"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_a_first_clip_that_fails_leaves_no_run_in_the_way(demo: Path, tmp_path: Path) -> None:
    name = (demo / "lists/classes.txt").read_text().split()[0]
    (tmp_path / "l.txt").write_text(f"missing.mp4 {name} 0\n")
    with pytest.raises(CoviarMocropError, match=r"missing\.mp4"):
        train(run_config(demo, tmp_path / "run", data={"train_list": str(tmp_path / "l.txt")}))
    assert not (tmp_path / "run/last.pt").exists()


def test_resuming_where_there_is_no_run_says_so(demo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        train(run_config(demo, tmp_path / "none", train={"epochs": 1}), resume=True)
        assert "holds no run to go on with" in caplog.text
        train(run_config(demo, tmp_path / "none", train={"epochs": 1}), resume=True)
        assert "all 1 epochs are done already" in caplog.text


def test_a_stream_cannot_be_tested_as_another(trained: Path) -> None:
    with pytest.raises(CheckpointError, match="is a mv stream; it cannot be tested as iframe"):
        load_stream(trained, ["stream=iframe"])


class Malicious:
    """Pickles into a call."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_malicious_checkpoint_runs_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    torch.save({"format": 1, "model": Malicious(trace)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Malicious(trace)))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(CheckpointError, match="safe"):
            load_checkpoint(tmp_path / name)
    assert not trace.exists()


def test_other_classes_are_refused(demo: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("a\nb\n")
    (tmp_path / "l.txt").write_text("x.mp4 a 0\n")
    with pytest.raises(CheckpointError, match="8 against 2"):
        score_checkpoint(trained, [f"data.classes={tmp_path}/c.txt", f"data.test_list={tmp_path}/l.txt"])


def test_no_clip_left_is_an_error(demo: Path, tmp_path: Path) -> None:
    name = (demo / "lists/classes.txt").read_text().split()[0]
    (tmp_path / "l.txt").write_text(f"missing.mp4 {name} 0\n")
    for setting in ("baseline", "attention"):
        data = {"train_list": str(tmp_path / "l.txt"), "on_error": "skip"}
        with pytest.raises(DataError, match="none of"):
            train(run_config(demo, tmp_path / setting, setting=setting, data=data))


def test_a_read_only_output_is_one_error(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CoviarMocropError, match="file"):
        train(run_config(demo, tmp_path / "file" / "run"))


# -- the tools -------------------------------------------------------------------------------------------


def tool(name: str, *arguments: object, ok: bool = True) -> str:
    """Run a tool; gives what it printed, or its only line of error."""
    command = [sys.executable, str(TOOLS / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    if ok:
        assert done.returncode == 0, done.stderr
        return done.stdout
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]


def test_the_way_from_training_to_fusion_by_the_tools(demo: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps(settings_of(demo, tmp_path / "run", train={"epochs": 1})))  # JSON is YAML
    best = tmp_path / "run" / "best.pt"
    assert str(best) in tool("train_stream", "--config", config)
    for setting in ("baseline", "attention"):
        out = tool("test_stream", "--checkpoint", best, "--scores", tmp_path / "mv.npz", "--set", f"setting={setting}")
        assert f"mv, {setting}" in out
        out = tool("fuse", "--scores", f"mv={tmp_path}/mv.npz", "--output", tmp_path / "fused")
        assert "| **fused** |" in out
    results = json.loads((tmp_path / "fused" / "results.json").read_text())
    assert set(results["settings"]) == {"baseline", "attention"}
    assert load_scores(tmp_path / "mv.npz").settings["setting"] == "attention"

    assert "epocs" in tool("train_stream", "--config", config, "--set", "train.epocs=1", ok=False)
    (tmp_path / "broken.pt").write_bytes(best.read_bytes()[:1000])
    broken = tool("test_stream", "--checkpoint", tmp_path / "broken.pt", "--scores", "x.npz", ok=False)
    assert "broken.pt" in broken


def test_errors_of_tools_are_one_line(tmp_path: Path) -> None:
    assert "none.yaml" in tool("train_stream", "--config", tmp_path / "none.yaml", ok=False)
    assert "none.npz" in tool("fuse", "--scores", f"mv={tmp_path}/none.npz", "--output", tmp_path, ok=False)
    assert "expected STREAM=" in tool("fuse", "--scores", "x.npz", "--output", tmp_path, ok=False)


@pytest.mark.parametrize("name", sorted(path.stem for path in TOOLS.glob("*.py")))
def test_help_shows_examples(name: str) -> None:
    assert f"python tools/{name}.py" in tool(name, "--help")
