"""Runs that are killed, interrupted, or lose a reading process: what is done is kept, and resuming is exact."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import weakref
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from demo import outcome, same, small_config, small_settings
from tool import TOOLS

import coviar_mocrop.training.trainer as trainer_module
from coviar_mocrop.checkpoint import load_checkpoint
from coviar_mocrop.cli import run
from coviar_mocrop.clips.loading import TrainingSampler
from coviar_mocrop.config import Config
from coviar_mocrop.errors import CoviarMocropError, DataError, Interrupted, VideoError
from coviar_mocrop.training.trainer import train_step

pytestmark = pytest.mark.usefixtures("no_figures")
PROJECT = TOOLS.parent
# a checkpoint after every step, so that kills hit the writing of one too
STEPWISE = {"batch_size": 2, "epochs": 2, "save_minutes": 0, "val_every": 1}


def run_config(demo: Path, output: Path, **changes: Any) -> Config:
    return small_config(demo, output, **{"train": STEPWISE, "input": {"full_size": 40}, **changes})


def train(config: Config, **options: Any) -> Path:
    return trainer_module.train({config.stream: config}, **options)[config.stream]


@pytest.fixture(scope="module")
def trained(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted."""
    return train(run_config(demo, tmp_path_factory.mktemp("run"))).parent


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_like_never_killed() -> None:
    """kill -9, five times: weights, optimizer and metrics are the same, bit for bit."""
    command = [sys.executable, str(PROJECT / "benchmarks/fuzz_training.py"), "--kills", "5", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert re.search(r"5 kills in \d+ runs.*bit for bit", done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_job_ends_it_after_the_step_with_all_saved(
    demo: Path, trained: Path, tmp_path: Path, number: signal.Signals
) -> None:
    output, config = tmp_path / "run", tmp_path / "c.yaml"
    # readers get the signal too, as they do from a terminal, and must not mind
    values = small_settings(demo, output, train=STEPWISE, input={"full_size": 40}, data={"workers": 1})
    config.write_text(json.dumps(values))
    process = subprocess.Popen(
        [sys.executable, str(TOOLS / "train_stream.py"), "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # under nohup it would be ignored
    )
    deadline = time.monotonic() + 120
    while not (output / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    found = re.search(r"stopped in epoch (\d+), after step (\d+): .*last\.pt.*--resume", errors)
    assert found, errors
    content = load_checkpoint(output / "last.pt")
    assert (content["epoch"], content["step"]) == (int(found[1]) - 1, int(found[2]))
    train(run_config(demo, output), resume=True)
    assert same(outcome(output), outcome(trained))


@pytest.mark.slow
def test_a_killed_reader_is_one_line_and_nothing_is_lost(
    demo: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []

    def kill_readers(*arguments: Any) -> None:
        steps.append(1)
        if len(steps) == 3:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            for child in children:
                if b"multiprocessing" not in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(int(child), signal.SIGKILL)
        train_step(*arguments)

    monkeypatch.setattr(trainer_module, "train_step", kill_readers)
    with pytest.raises(DataError, match=r"was killed.*data\.workers"):
        train(run_config(demo, tmp_path, train={**STEPWISE, "save_minutes": 60.0}, data={"workers": 1}))
    assert load_checkpoint(tmp_path / "last.pt")["step"] >= 3  # kept, though no save was due
    monkeypatch.undo()
    train(run_config(demo, tmp_path), resume=True)
    assert same(outcome(tmp_path), outcome(trained))


def test_a_full_disk_is_one_line_and_the_older_checkpoint_stays(demo: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:

        def stop(trainer: Any) -> None:
            raise Interrupted("enough")

        patch.setattr(trainer_module, "report_epoch", stop)
        with pytest.raises(Interrupted, match="enough"):
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
    videos = Path(shutil.copytree(demo / "videos", tmp_path / "videos"))
    (videos / "bad.mp4").write_bytes(b"this is not a video")
    (tmp_path / "l.txt").write_text(f"{lines}bad.mp4 {name} 0\n")
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        train(run_config(demo, tmp_path / "run", data={"root": str(videos), "train_list": str(tmp_path / "l.txt")}))
    content = load_checkpoint(tmp_path / "run/last.pt")
    assert "optimizer" in content
    bad = next(number for number, keys in enumerate(TrainingSampler(9, 2)) if 8 in [index for _, index, _ in keys])
    assert bad > 0
    assert (content["epoch"], content["step"]) == (0, bad)  # all steps before it are kept


READERS = """
import multiprocessing, os, signal, sys
from pathlib import Path
from tempfile import TemporaryDirectory
from demo import small_config
from coviar_mocrop.clips.lists import read_videos
from coviar_mocrop.clips.loading import create_testing_loader
from coviar_mocrop.streams.base import create_stream

demo, output = map(Path, sys.argv[1:])
config = small_config(demo, output, data={"workers": 1}, train={"test_batch_size": 1})
videos = read_videos(config.data, "test")
loader = create_testing_loader([create_stream(config, videos.classes, weights=False)], videos)
batches = iter(loader)
next(batches)
(reader,) = multiprocessing.active_children()
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
    os.kill(reader.pid, number)
assert sum(batch.size for batch in batches) == 7
os.kill(reader.pid, signal.SIGSTOP)  # as on a loaded machine: it answers no signal in time
print("read", flush=True)
raise RuntimeError("holds all variables")
"""


@pytest.mark.slow
def test_a_process_that_reads_outlives_signals_but_not_its_parent(demo: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", READERS, str(demo), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "errors.txt").open("w"),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "read\n", (tmp_path / "errors.txt").read_text()
        assert process.wait(timeout=120) == 1
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_removes_temporary_files(number: signal.Signals, tmp_path: Path) -> None:
    """As Ctrl-C does. Once the command has ended, the signal has its meaning of before."""

    def main() -> None:
        with TemporaryDirectory(dir=tmp_path):
            for _ in range(20):  # an exception in a garbage collection is lost
                os.kill(os.getpid(), number)
                time.sleep(0.5)

    before = signal.signal(number, signal.SIG_DFL)  # it may be ignored, as under nohup
    try:
        with pytest.raises(SystemExit, match="130"):
            run(main)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert not list(tmp_path.iterdir())


def test_an_error_frees_what_the_command_held() -> None:
    """Processes that read end with the iterator over what they read."""
    freed = []

    def main() -> None:
        held = Namespace()
        held.itself = held
        weakref.finalize(held, freed.append, True)
        raise DataError("a list is empty")

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 2 and freed == [True]
