"""Boxes of whole lists ahead of training: the same whoever computes them, none lost, none twice."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import yaml
from demo import demo_settings, make_small_demo

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.clips.boxes import boxes_of_list, extract_boxes
from coviar_mocrop.clips.cache import open_box_cache
from coviar_mocrop.clips.store import FileStore
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import read_classes, read_list
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.mocrop import CropBox, MoCropSettings, estimate_box
from coviar_mocrop.runtime import process_group
from coviar_mocrop.torchrun import torchrun_share

ROOT = Path(__file__).parents[1]
TOOL = str(ROOT / "tools/extract_boxes.py")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11 clips: neither 2 nor 3 divide that."""
    folder = tmp_path_factory.mktemp("demo")
    make_small_demo(folder, test_clips=4)
    lines = (folder / "lists/train_split1.txt").read_text().splitlines(keepends=True)
    (folder / "lists/train_split1.txt").write_text("".join(lines[:7]))
    return folder


def settings(demo: Path, cache: Path, **data: Any) -> dict[str, Any]:
    return demo_settings(demo, demo / "run", setting="efficiency", data={"cache": str(cache), **data})


def names_of(demo: Path) -> list[str]:
    """The clips of both lists."""
    classes = read_classes(demo / "lists/classes.txt")
    lists = [read_list(demo / f"lists/{part}_split1.txt", classes) for part in ("train", "test")]
    return [clip.path for videos in lists for clip in videos.clips]


def kept(demo: Path, cache: Path) -> dict[str, CropBox]:
    """The boxes in the cache, of both lists."""
    config = Config.model_validate(settings(demo, cache))
    boxes = open_box_cache(config.data, config.mocrop, FileStore(config.data))
    rows = {name: boxes.get(name) for name in names_of(demo)}
    return {name: CropBox(*row.tolist()) for name, row in rows.items() if row is not None}


def called(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, config: Path, *options: str
) -> tuple[int, str, str]:
    """Exit code, output and errors of the tool, in this process."""
    monkeypatch.setattr(sys, "argv", [TOOL, "--config", str(config), *options])
    code = 0
    try:
        run_path(TOOL, run_name="__main__")
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def expected(demo: Path) -> dict[str, CropBox]:
    """Each clip's box, computed without cache or command."""
    boxes: dict[str, CropBox] = {}
    for path in names_of(demo):
        with open_video(demo / "videos" / path) as video:
            vectors = video.get_motion_vectors_at()
            boxes[path] = estimate_box(vectors, (video.info.height, video.info.width), MoCropSettings())
    assert len(boxes) == 11
    return boxes


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_processes_gives_the_same_boxes(
    demo: Path, tmp_path: Path, expected: dict[str, CropBox], workers: int
) -> None:
    config = Config.model_validate(settings(demo, tmp_path, workers=workers))
    done = extract_boxes(config, progress=False)
    assert kept(demo, tmp_path) == expected == done.boxes
    assert (done.computed, done.errors) == (11, {})
    assert not done.failed.exists()
    assert extract_boxes(config, progress=False).computed == 0  # again: nothing is left to do


def test_training_finds_what_was_extracted(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate(settings(demo, tmp_path))
    extract_boxes(config, progress=False)
    monkeypatch.setattr("coviar_mocrop.clips.boxes.box_of", None)  # nothing may be computed any more
    assert boxes_of_list(names_of(demo), config.data, config.mocrop, progress=False).computed == 0


def test_the_streams_of_a_file_share_their_boxes(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = settings(demo, tmp_path / "cache")
    del values["stream"]
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**values, "streams": {"iframe": {}, "mv": {}, "clip": {}}}))
    assert called(capsys, monkeypatch, config)[:2] == (
        0,
        "11 clips: 11 boxes computed, 0 found in the cache, 0 clips without a box\n",
    )
    assert "0 boxes computed, 11 found" in called(capsys, monkeypatch, config, "--streams", "clip")[1]
    code, _, err = called(capsys, monkeypatch, config, "--set", "streams.mv.mocrop.area_ratio=0.5")
    assert code == 2
    assert "differ in mocrop" in err


def test_clips_without_a_box_are_named_counted_and_tried_again(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "videos"
    broken.mkdir()
    names = ["good.mp4", "text.mp4", "none.mp4"]
    some = next((demo / "videos").rglob("*.mp4"))
    (broken / "good.mp4").write_bytes(some.read_bytes())
    (broken / "text.mp4").write_text("no video")
    (tmp_path / "list.txt").write_text("".join(f"{name} a 0\n" for name in names))
    (tmp_path / "classes.txt").write_text("a\n")
    config = tmp_path / "config.yaml"
    data = {"root": str(broken), "test_list": str(tmp_path / "list.txt"), "classes": str(tmp_path / "classes.txt")}
    config.write_text(yaml.safe_dump(settings(demo, tmp_path / "cache", **data, train_list=None, val_list=None)))
    code, out, err = called(capsys, monkeypatch, config)
    assert code == 2
    assert out == "3 clips: 1 boxes computed, 0 found in the cache, 2 clips without a box\n"
    lines = [line for line in err.splitlines() if line and "crop boxes" not in line]
    assert [line.split(": ")[0] for line in lines] == [str(broken / name) for name in names[1:]] + ["error"]
    table = tmp_path / "cache/boxes/failed.csv"
    assert lines[-1].startswith(f"error: 2 of 3 clips have no box, see above and {table}")
    with open(table, newline="") as text:
        assert [row[0] for row in csv.reader(text)] == ["video", "text.mp4", "none.mp4"]
    code, out, _ = called(capsys, monkeypatch, config, "--set", "data.on_error=skip")
    assert (code, out) == (0, "3 clips: 0 boxes computed, 1 found in the cache, 2 clips without a box\n")
    (broken / "text.mp4").write_bytes(some.read_bytes())
    code, out, _ = called(capsys, monkeypatch, config, "--set", "data.on_error=skip")
    assert (code, out) == (0, "3 clips: 1 boxes computed, 1 found in the cache, 1 clips without a box\n")


@pytest.mark.slow
def test_killed_and_started_again(demo: Path, tmp_path: Path, expected: dict[str, CropBox]) -> None:
    """Killed once the first boxes are kept, wherever it is then; what is kept is whole, and the rest is done later."""
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings(demo, tmp_path / "cache")))
    code = (
        "import runpy, sys, coviar_mocrop.clips.rows as rows\n"
        "rows._SAVE_EVERY = 1\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, TOOL, "--config", str(config)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list((tmp_path / "cache").rglob("[0-9]*.npz")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = kept(demo, tmp_path / "cache")
    assert before
    done = extract_boxes(Config.model_validate(settings(demo, tmp_path / "cache")), progress=False)
    assert done.computed == 11 - len(before)
    assert kept(demo, tmp_path / "cache") == expected


def test_senseless_surroundings_are_refused(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert torchrun_share({}) == (0, 1)
    assert torchrun_share({"RANK": "1", "WORLD_SIZE": "3"}) == (1, 3)
    for rank, world in (("3", "3"), ("x", "2"), ("0", "0"), ("-1", "2")):
        with pytest.raises(ConfigError, match="start the processes with torchrun"):
            torchrun_share({"RANK": rank, "WORLD_SIZE": world})
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "abc")
        with pytest.raises(ConfigError, match="start the processes with torchrun"), process_group():
            pass
    with pytest.raises(ConfigError, match="none is set; name a video list"):
        extract_boxes(Config.model_validate(settings(demo, tmp_path, train_list=None, val_list=None, test_list=None)))
    (tmp_path / "list.txt").write_text("../x.mp4 nothing 0\n")
    (tmp_path / "classes.txt").write_text("nothing\n")
    data = {"test_list": str(tmp_path / "list.txt"), "classes": str(tmp_path / "classes.txt")}
    (error,) = extract_boxes(
        Config.model_validate(settings(demo, tmp_path, **data)), ["test"], progress=False
    ).errors.values()
    assert "leaves the data root" in str(error)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings(demo, tmp_path)))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = called(capsys, monkeypatch, config)
    assert (code, err) == (
        2,
        "error: does not run under torchrun; use data.workers for more processes, or --ray for a cluster\n",
    )
