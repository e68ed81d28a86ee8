"""A Ray cluster of two nodes on this machine: the bytes of local processes, though processes of it are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_stream import clip_config, motion_config
from demo import demo_settings

from coviar_mocrop.bitstream.transcode import encode
from coviar_mocrop.clips.boxes import extract_boxes
from coviar_mocrop.clips.lists import read_videos
from coviar_mocrop.clips.loading import open_clips
from coviar_mocrop.clips.packing import pack_shards
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.canonical import Canonical
from coviar_mocrop.datasets.folder import prepare_folder
from coviar_mocrop.datasets.handling import Handling
from coviar_mocrop.datasets.transcoding import transcode_files
from coviar_mocrop.errors import CoviarMocropError, VideoError
from coviar_mocrop.parallel import run_map
from coviar_mocrop.streams.base import create_stream
from coviar_mocrop.training.trainer import train

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one processor each; their processes find this module."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        nodes = Cluster(initialize_head=True, head_node_args=node)
        try:
            nodes.add_node(num_cpus=1, object_store_memory=80 * 2**20)
            yield nodes
        finally:
            nodes.shutdown()


@pytest.fixture
def workers(cluster: Any) -> Any:
    """Gives the processes of the cluster that work now."""
    raylets = {info.process.pid for node in cluster.list_all_nodes() for info in node.all_processes["raylet"]}

    def find() -> list[int]:
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                if parent in raylets and (stat.parent / "cmdline").read_bytes().startswith(b"ray::_do"):
                    found.append(int(stat.parent.name))
            except OSError:  # it has ended
                continue
        return found

    return find


@dataclass(frozen=True)
class Die:
    """Squares numbers. ``always`` kills the process whenever it comes, ``once`` the first time."""

    folder: Path
    always: int
    once: int

    def __call__(self, number: int) -> int:
        if number == 6:
            raise VideoError("6: is broken")
        with (self.folder / f"{number}").open("a") as file:
            file.write("x")
        if number == self.always or (number == self.once and (self.folder / f"{number}").read_text() == "x"):
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number


def test_what_kills_its_process_is_named_and_all_else_is_done(cluster: Any, tmp_path: Path) -> None:
    def outcomes(**how: Any) -> dict[int, tuple[type, str]]:
        found = run_map(Die(tmp_path / str(len(how)), always=3, once=5), range(300), progress=False, **how)
        return {number: (type(outcome), str(outcome)) for number, outcome in found}

    for folder in ("0", "1"):
        (tmp_path / folder).mkdir()
    there = outcomes(ray=cluster.address)
    assert there == outcomes()
    assert there[3][0] is VideoError and there[3][1].startswith("3: the process that worked on it died 3 times")
    assert there[5] == (int, "25")
    assert there[6] == (VideoError, "6: is broken")
    assert not ray.is_initialized()
    tries = {int(path.name): len(path.read_text()) for path in (tmp_path / "1").iterdir()}
    assert tries[3] == 3


def bytes_below(folder: Path) -> dict[str, bytes]:
    """What was written there. A killed process leaves a hidden file, which nobody reads."""
    files = (path for path in folder.rglob("[!.]*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Sixteen noisy clips of two classes, each of which takes about a second to transcode, and one that is none."""
    pictures = np.random.default_rng(0).integers(0, 255, (120, 240, 320, 3), dtype=np.uint8)
    encode(pictures, tmp_path / "clip.mp4", quality=40)
    data = (tmp_path / "clip.mp4").read_bytes()
    for number in range(16):
        path = tmp_path / "videos" / "ab"[number % 2] / f"{number:02}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data + b"\0\0\0\x0cfree" + number.to_bytes(4, "big"))
    (tmp_path / "videos/a/text.mp4").write_text("no video")
    return tmp_path / "videos"


def test_a_killed_worker_in_the_middle_changes_no_byte(
    cluster: Any, workers: Any, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths, too, mean what they mean here."""
    monkeypatch.chdir(tmp_path)
    killed: list[int] = []

    def kill() -> None:
        while len(list((tmp_path / "there").rglob("[0-9]*.mp4"))) < 3:
            time.sleep(0.01)
        while not killed:
            killed.extend(workers()[:1])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    failed = {}
    for folder, address in (("there", cluster.address), ("here", None)):
        handling = Handling(ray=address, on_error="skip", progress=False)
        canonical = Canonical(Path(folder), size=(64, 48))
        prepared = prepare_folder("videos", Path(f"{folder}_lists"), canonical=canonical, handling=handling)
        failed[folder] = prepared.left_out
    killer.join()
    assert killed
    made = bytes_below(tmp_path / "there")
    assert made == bytes_below(tmp_path / "here")
    assert sum(name.endswith(".mp4") for name in made) == 16
    assert failed["there"] == failed["here"] and list(failed["here"]) == ["a/text.mp4"]
    assert bytes_below(tmp_path / "there_lists") == bytes_below(tmp_path / "here_lists")


def test_boxes_are_the_same_bits(cluster: Any, demo: Path, tmp_path: Path) -> None:
    found = {}
    for where, address in (("there", cluster.address), ("here", None)):
        values = demo_settings(demo, tmp_path, setting="efficiency", data={"cache": str(tmp_path / where)})
        found[where] = extract_boxes(Config.model_validate(values), ray=address, progress=False)
    assert found["there"][:3] == found["here"][:3]
    assert found["here"].computed == len(found["here"].boxes) == 16


def test_shards_are_the_same_bytes(cluster: Any, demo: Path, tmp_path: Path) -> None:
    for where, address in (("there", cluster.address), ("here", None)):
        values = demo_settings(demo, tmp_path, setting="efficiency", data={"cache": str(tmp_path / "cache")})
        config = Config.model_validate(values)
        packed = pack_shards(config, tmp_path / where, clips_per_shard=3, ray=address, progress=False)
        assert (packed.clips, len(packed.shards), packed.left_out) == (16, 6, 0)
    assert bytes_below(tmp_path / "there") == bytes_below(tmp_path / "here")


def test_features_are_the_same_bits_and_so_is_what_cannot_be_read(cluster: Any, demo: Path, tmp_path: Path) -> None:
    """The networks are sent, and with them what the clips are cropped by."""
    pytest.importorskip("open_clip")
    motion = train({"mv": motion_config(demo, tmp_path / "motion")})["mv"]
    (tmp_path / "l.txt").write_text((demo / "lists/train_split1.txt").read_text() + "none.mp4 rows_left_right 0\n")
    found = {}
    for where, address in (("there", cluster.address), ("here", None)):
        data = {"cache": str(tmp_path / where), "train_list": str(tmp_path / "l.txt"), "on_error": "skip"}
        config = clip_config(demo, tmp_path, motion, setting="attention", data=data)
        videos = read_videos(config.data, "train")
        clips, skipped = open_clips([create_stream(config, videos.classes, weights=True)], videos, ray=address)
        found[where] = clips.features["clip"], skipped.reasons
    (there, missing), (here, missing_here) = found["there"], found["here"]
    assert there.computed == here.computed == 8
    assert torch.equal(there.rows.nan_to_num(7), here.rows.nan_to_num(7))
    assert missing == missing_here and list(missing) == ["none.mp4"]


def test_ctrl_c_ends_the_tasks_and_removes_their_files(cluster: Any, videos: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "coviar_mocrop", "prepare", "transcode", str(videos), str(tmp_path / "out")),
            *("--ray", cluster.address),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells ignore it for what runs behind them
    )
    try:
        while process.poll() is None and not list((tmp_path / "out").rglob("[!.]*.mp4")):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert errors.rstrip().endswith("stopped") and "Traceback" not in errors
    names = [path.name for path in (tmp_path / "out").rglob("*.mp4")]
    assert names and len(names) < 16 and not any(name.startswith(".") for name in names)


def test_a_folder_that_a_machine_does_not_see_is_one_line(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    monkeypatch.setattr(os, "getcwd", lambda: str(tmp_path / "elsewhere"))
    with pytest.raises(CoviarMocropError, match=r"a machine of the cluster cannot be used \(.*elsewhere: No such"):
        list(run_map(len, ["a"], ray=cluster.address, progress=False))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_no_cluster_is_one_line(address: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coviar_mocrop.parallel.ray_cluster._CONNECTING", 8.0)
    with pytest.raises(CoviarMocropError, match=f"--ray {address}: no Ray cluster answers") as caught:
        transcode_files([videos], tmp_path / "out", handling=Handling(ray=address, progress=False))
    assert "\n" not in str(caught.value)
