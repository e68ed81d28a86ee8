"""Runs that are killed, interrupted, or lose a reading process: what is done is kept, and resuming is exact."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from demo import demo_settings, same, weights_of

from coviar_mocrop.checkpoint import load_checkpoint
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.demo import make_demo
from coviar_mocrop.errors import CheckpointError, CoviarMocropError, DataError, Interrupted, VideoError
from coviar_mocrop.training.trainer import train

TOOLS = Path(__file__).parent.parent / "tools"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder / "videos", folder / "lists", train_clips=8, test_clips=8, progress=False)
    return folder


def settings_of(demo: Path, output: Path, **changes: Any) -> dict[str, Any]:
    small: dict[str, dict[str, Any]] = {
        "input": {"full_size": 32, "segments": 1, "test_segments": 1},
        "model": {"backbone": "resnet18", "dropout": 0.2},
        # a checkpoint after every step, so that kills hit the writing of one too
        "train": {"epochs": 3, "batch_size": 2, "precision": "fp32", "save_minutes": 0, "mixup": 0.3, "threads": 1},
    }
    small["train"] |= changes.pop("train", {})
    return demo_settings(demo, output, **small, **changes)


def run_config(demo: Path, output: Path, **changes: Any) -> Config:
    return Config.model_validate(settings_of(demo, output, **changes))


@pytest.fixture(scope="module")
def trained(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run never stopped."""
    return train(run_config(demo, tmp_path_factory.mktemp("run"), train={"test_every": 1}))


def start(config: Path, *more: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(TOOLS / "train_stream.py"), "--config", str(config), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_killed_at_random_moments_it_ends_like_never_killed() -> None:
    """kill -9, five times: weights, optimizer and metrics are the same, bit for bit."""
    command = [sys.executable, str(TOOLS / "fuzz_training.py"), "--kills", "5", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert re.search(r"5 kills in \d+ runs.*bit for bit", done.stdout)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_job_ends_it_after_the_step_with_all_saved(
    demo: Path, trained: Path, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "run"
    config = tmp_path / "c.yaml"
    # readers get the signal too, as they do from a terminal, and must not mind
    values = settings_of(demo, output, train={"test_every": 1}, data={"workers": 1})
    config.write_text(json.dumps(values))
    process = start(config, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (output / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    found = re.search(r"stopped after epoch (\d+), step (\d+): .*last\.pt.*--resume", errors)
    assert found, errors
    content = load_checkpoint(output / "last.pt")
    assert (content["epoch"], content["step"]) == (int(found[1]), int(found[2]))
    train(run_config(demo, output, train={"test_every": 1}), resume=True)
    assert same(weights_of(output / "last.pt"), weights_of(trained.parent / "last.pt"))


def test_a_killed_reader_is_one_line_and_nothing_is_lost(
    demo: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import coviar_mocrop.training.trainer as module

    real, steps = module.train_step, []

    def kill_readers(*arguments: Any) -> None:
        steps.append(1)
        if len(steps) == 3:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            for child in children:
                if b"multiprocessing" not in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(int(child), signal.SIGKILL)
        real(*arguments)

    monkeypatch.setattr(module, "train_step", kill_readers)
    config = run_config(demo, tmp_path, train={"test_every": 1, "save_minutes": 60.0}, data={"workers": 1})
    with pytest.raises(DataError, match=r"was killed.*data\.workers"):
        train(config)
    assert load_checkpoint(tmp_path / "last.pt")["step"] >= 3  # kept, though no save was due
    monkeypatch.undo()
    train(run_config(demo, tmp_path, train={"test_every": 1}), resume=True)
    assert same(weights_of(tmp_path / "last.pt"), weights_of(trained.parent / "last.pt"))


def test_a_full_disk_is_one_line_and_the_older_checkpoint_stays(demo: Path, tmp_path: Path) -> None:
    import coviar_mocrop.training.trainer as module

    with pytest.MonkeyPatch.context() as patch:

        def stop(*_: Any) -> None:
            raise Interrupted("enough")

        patch.setattr(module, "_report", stop)
        with pytest.raises(Interrupted):
            train(run_config(demo, tmp_path))
    before = (tmp_path / "last.pt").read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limit[1]))  # no file may grow beyond this: a disk's end
    try:
        with pytest.raises(CoviarMocropError, match=r"last\.pt: cannot be written") as caught:
            train(run_config(demo, tmp_path), resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not list(tmp_path.glob(".last*"))


def test_a_bad_clip_in_mid_epoch_loses_no_step(demo: Path, tmp_path: Path) -> None:
    lines = (demo / "lists/train_split1.txt").read_text()
    name = lines.split()[1]
    (demo / "videos/bad.mp4").write_bytes(b"this is no video")
    (tmp_path / "l.txt").write_text(f"{lines}bad.mp4 {name} 0\n")
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        train(run_config(demo, tmp_path / "run", data={"train_list": str(tmp_path / "l.txt")}))
    content = load_checkpoint(tmp_path / "run/last.pt")
    assert "optimizer" in content
    from coviar_mocrop.clips.samplers import TrainingBatches

    batches = list(TrainingBatches(9, 2))
    bad = next(number for number, keys in enumerate(batches) if (0, 8) in keys)
    assert (content["epoch"], content["step"]) == (0, bad)  # all steps before it are kept


def test_a_checkpoint_of_another_optimizer_is_refused(demo: Path, trained: Path, tmp_path: Path) -> None:
    content = load_checkpoint(trained.parent / "last.pt")
    content["optimizer"] = {"state": {}, "param_groups": []}
    from coviar_mocrop.checkpoint import save_checkpoint

    save_checkpoint(tmp_path / "last.pt", content)
    with pytest.raises(CheckpointError, match="cannot be resumed from"):
        train(run_config(demo, tmp_path, train={"test_every": 1}), resume=True)
