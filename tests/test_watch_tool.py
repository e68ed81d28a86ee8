"""``coviar watch``: what it prints and writes, how it ends, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import record, wandering
from matplotlib.image import imread
from small_streams import write_streams
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tool import TOOLS, run_tool, tool
from web import serving

from coviar_mocrop import Predictor
from coviar_mocrop.bitstream import open_video
from coviar_mocrop.bitstream.stream import VideoStream
from coviar_mocrop.clips.time_windows import WindowCutter
from coviar_mocrop.commands import run_command
from coviar_mocrop.errors import CoviarMocropError
from coviar_mocrop.inference.prediction import WindowPrediction
from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.viz.live_table import LiveTable, line_of
from coviar_mocrop.viz.watch_outputs import WatchOutputs
from coviar_mocrop.viz.window_table import CsvWriter

CLASSES = ("run", "sit", "walk")


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_streams(tmp_path_factory.mktemp("streams"), CLASSES)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3.6 s; in the second half nothing moves."""
    moving = wandering(45, 96, 64, 5, seed=3)
    return record([*moving, *[moving[-1]] * 45], tmp_path_factory.mktemp("clips") / "yard.mp4")


def windows(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines()]


def test_a_line_a_window(clip: Path, streams: list[Path]) -> None:
    done = run_tool("watch", clip, "--checkpoints", *streams)
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert re.match(r" 0:00\.0 to 0:02\.0 +█+ +\d+\.\d% (run|sit|walk)$", lines[0])
    assert "idle" in lines[-1]
    assert "3 windows in 3.6 s of video: 1 idle, 0 with damaged frames, 0 dropped" in done.stderr


def test_key_frames_alone_are_for_the_iframe_stream_alone(clip: Path, streams: list[Path]) -> None:
    said = tool("watch", clip, "--checkpoints", *streams, "--key-frames", ok=False)
    assert "give the I-frame stream alone, with setting=baseline" in said
    assert "setting=baseline" in tool("watch", clip, "--checkpoints", streams[0], "--key-frames", ok=False)
    alone = ["--checkpoints", streams[0], "--set", "setting=baseline", "--json"]
    seen = windows(tool("watch", clip, *alone, "--key-frames"))
    assert [(window["start"], window["frames"]) for window in seen] == [(0.0, 5), (1.0, 4), (2.0, 3)]
    assert not any(window["idle"] or window["missing_frames"] for window in seen)


def test_json_lines_are_what_over_time_gives(clip: Path, streams: list[Path]) -> None:
    done = run_tool("watch", clip, "--checkpoints", *streams, "--json", "--gate", "0", "--stride", "0.5")
    printed = windows(done.stdout)
    assert [(line["start"], line["end"]) for line in printed] == [(0, 2), (0.5, 2.5), (1, 3), (1.5, 3.5), (2, 3.6)]
    assert [line["frames"] for line in printed] == [50, 50, 50, 50, 40]
    for line, window in zip(printed, Predictor(streams).over_time(str(clip), stride=0.5), strict=True):
        assert line == window.as_json()
        assert line["source"] == str(clip)
        assert line["class"] == line["top"][0]["class"]
        assert line["streams"].keys() == {"iframe", "mv", "residual"}
        assert not line["idle"] and len(line["box"]) == 4


def test_everything_that_can_be_written(clip: Path, streams: list[Path], tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("seen.csv", "time.png", "seen.mp4", "board")}
    options = ("--csv", files["seen.csv"], "--timeline", files["time.png"], "--video", files["seen.mp4"])
    files["board"].mkdir()
    (files["board"] / "best.pt").write_text("a checkpoint")
    done = run_tool(
        "watch", clip, "--checkpoints", *streams, *options, "--tensorboard", files["board"], "--events", "--json"
    )
    assert all(f"wrote {path}" in done.stderr for path in files.values())
    assert (files["board"] / "best.pt").exists()  # what is in the folder stays
    printed = windows(done.stdout)
    seen = [line for line in printed if "event" not in line]
    rows = list(csv.DictReader(files["seen.csv"].open()))
    assert [float(row["start"]) for row in rows] == [line["start"] for line in seen]
    assert imread(files["time.png"]).std() > 0.05
    with open_video(files["seen.mp4"]) as video:
        assert video.info.num_frames == 90
    board = EventAccumulator(str(files["board"])).Reload()
    tags = board.Tags()["scalars"]
    assert {tag.rpartition("/")[2] for tag in tags} == {"motion", "latency", *(f"p({name})" for name in CLASSES)}
    assert [event.step for event in board.Scalars(tags[0])] == [2000, 3000, 3600]
    # a class with a probability of 0.5 or more begins and ends
    peaks = {
        name: max([w["probability"] for line in seen for w in line["top"] if w["class"] == name]) for name in CLASSES
    }
    begun = {line["class"] for line in printed if line.get("event") == "began"}
    assert begun == {name for name, peak in peaks.items() if peak >= 0.5}
    assert begun == {line["class"] for line in printed if line.get("event") == "ended"}


def test_outputs_are_finished_when_nobody_reads_stdout_any_more(
    clip: Path, streams: list[Path], tmp_path: Path
) -> None:
    """As in ``coviar watch ... | head -2``, while an event is under way, whose end cannot be printed."""

    class Head(io.StringIO):
        def write(self, text: str) -> int:
            if self.getvalue().count("\n") == 2:
                raise BrokenPipeError
            return super().write(text)

    files = [tmp_path / "time.png", tmp_path / "seen.mp4"]
    words = [str(clip), "--checkpoints", *map(str, streams), "--json", "--events", "--threshold", "0.33"]
    words += ["--timeline", str(files[0]), "--video", str(files[1]), "--release", "0.1", "--gate", "0"]
    with redirect_stdout(Head()) as out, pytest.raises(SystemExit) as ended:
        run_command("watch", words, "coviar watch")
    assert ended.value.code == 1
    assert [line.get("event") for line in windows(out.getvalue())] == [None, "began"]
    assert all(file.stat().st_size for file in files)


def test_a_file_that_cannot_be_written_keeps_no_other_from_being_finished(clip: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.mp4" for name in ("a", "b")}
    pictures = {name: tmp_path / f"{name}.png" for name in ("a", "b")}
    outputs = WatchOutputs(CLASSES, timelines=pictures, videos=files, frames=False)
    video = VideoStream(clip)
    cutter = WindowCutter(video, 1.0, 1.0)
    window = next(window for frame in video for window in cutter.add(frame))
    for name in files:
        outputs.add(prediction(name), window)
    video.close()
    for blocked in (pictures["a"], files["a"]):
        blocked.mkdir()
    with pytest.raises(CoviarMocropError, match=r"a\.\w+: cannot be written"):
        outputs.close()
    assert outputs.written == [pictures["b"], files["b"]]
    assert all(path.stat().st_size for path in outputs.written)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk_is_one_line_of_error(tmp_path: Path) -> None:
    table = CsvWriter(tmp_path / "seen.csv", CLASSES)
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), table._file.fileno())
    for step in (lambda: table.add(prediction("a")), table.close):
        with pytest.raises(CoviarMocropError, match=r"seen\.csv: cannot be written \(No space left on device\)"):
            step()


def test_several_sources(clip: Path, streams: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "street.mp4"
    other.write_bytes(clip.read_bytes())
    done = run_tool("watch", clip, other, "--checkpoints", *streams, "--timeline", tmp_path / "times", "--no-frames")
    assert sorted(path.name for path in (tmp_path / "times").iterdir()) == ["street.png", "yard.png"]
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert {line.split()[0] for line in lines} == {str(clip), str(other)}
    said = tool("watch", clip, other, "--checkpoints", *streams, "--video", tmp_path / "one.mp4", ok=False)
    assert said.endswith("one.mp4: names one file for 2 inputs; give a folder")


def test_cameras_of_one_recorder_have_outputs_of_their_own(clip: Path, streams: list[Path], tmp_path: Path) -> None:
    """Their addresses differ only in a key, which is not shown."""
    pictures = tmp_path / "times"
    with serving(clip.parent) as server:
        addresses = [f"{server.address}/yard.mp4?key={key}" for key in ("one", "two")]
        options = ("--timeline", pictures, "--no-frames", "--once", "--json")
        done = run_tool("watch", *addresses, "--checkpoints", *streams, *options)
    shown = f"{server.address}/yard.mp4?key=***"
    sources = [line["source"] for line in windows(done.stdout)]
    assert {name: sources.count(name) for name in sources} == {shown: 3, f"{shown} (2)": 3}
    assert sorted(path.name for path in pictures.iterdir()) == ["yard.png", "yard_2.png"]


def test_one_of_several_cannot_be_read(clip: Path, streams: list[Path], tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video\n" * 100)
    done = run_tool("watch", text, clip, "--checkpoints", *streams, "--json")
    assert len(windows(done.stdout)) == 3
    assert f"{text}: is not a readable video" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("none.mp4",), "none.mp4: no such file"),
        (("ftp://host/a.mp4",), "ftp"),
        (("CLIP", "--stride", "3"), "windows of 2 s every 3 s"),
        (("CLIP", "--gate", "2"), "the gate is 2"),
        (("CLIP", "--events", "wlak"), "walk"),
        (("CLIP", "--events", "--threshold", "0.2"), "release <= threshold"),
        (("CLIP", "--set", "data.anchor_every=null"), "data.anchor_every=12"),
        (("CLIP", "--timeline", "time.txt"), "time.txt"),
        (("CLIP", "--csv", f"{__file__}/seen.csv"), "seen.csv"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: tuple[str, ...], says: str, clip: Path, streams: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [clip if word == "CLIP" else word for word in arguments]
    assert says in tool("watch", *given, "--checkpoints", *streams, ok=False)


def test_a_source_that_is_not_there_is_one_line(streams: list[Path], tmp_path: Path) -> None:
    done = run_tool("watch", tmp_path / "none.mp4", "--checkpoints", *streams, check=False)
    assert done.stderr.splitlines() == [f"error: {tmp_path / 'none.mp4'}: no such file; check the path"]


def test_events_of_unknown_classes_are_refused_before_networks_are_loaded(
    clip: Path, streams: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("networks are loaded")

    monkeypatch.setattr("coviar_mocrop.inference.predictor.Predictor", load)
    assert "'wlak' is unknown" in tool("watch", clip, "--checkpoints", *streams, "--events", "wlak", ok=False)


def test_the_systemd_unit_runs_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "100%"
    folder.mkdir()
    monkeypatch.chdir(folder)
    address = "rtsp://user:pass%20word@camera/live"
    unit = tool("watch", address, "--checkpoints", "runs/my run", "--csv", '$seen\\it\'s "so".csv', "--systemd")
    assert "Description=Action recognition on rtsp://user:***@camera/live" in unit
    command = re.search(r"ExecStart=(.*)", unit)
    assert command is not None
    assert command[1] == (
        f'{sys.executable} -m coviar_mocrop watch rtsp://user:pass%%20word@camera/live --checkpoints "runs/my run" '
        """--csv "$$seen\\\\it's \\"so\\".csv\""""
    )
    assert f"WorkingDirectory={tmp_path}/100%%\n" in unit


@pytest.mark.slow  # a process of its own
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_writes_what_was_seen(clip: Path, streams: list[Path], tmp_path: Path, kind: signal.Signals) -> None:
    pipe, files = tmp_path / "camera", {name: tmp_path / name for name in ("seen.csv", "time.png", "seen.mp4")}
    os.mkfifo(pipe)
    record(wandering(150, 96, 64, 5), tmp_path / "clip.ts")
    command = [sys.executable, TOOLS / "watch.py", pipe, "--checkpoints", *streams, "--csv", files["seen.csv"]]
    command += ["--timeline", files["time.png"], "--video", files["seen.mp4"]]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with open(pipe, "wb") as out:
        out.write((tmp_path / "clip.ts").read_bytes())
        out.flush()
        assert process.stdout is not None
        assert "0:00.0 to 0:02.0" in process.stdout.readline()
        process.stdout.readline()
        time.sleep(0.5)
        process.send_signal(kind)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert all(f"wrote {path}" in said for path in files.values())
    assert len(files["seen.csv"].read_text().splitlines()) >= 3
    with open_video(files["seen.mp4"]) as video:
        assert video.info.num_frames >= 75
    assert "Traceback" not in said


def prediction(source: str, **how: Any) -> WindowPrediction:
    facts: dict[str, Any] = {"scores": {"fused": np.array([2.0, 0, 0], np.float32)}, "box": CropBox(0, 0, 1, 1)}
    facts |= {"damaged_frames": 0, "start": 1.0, "end": 3.0, "motion": 0.1, "idle": False, "missing_frames": 0, **how}
    return WindowPrediction(path=source, classes=CLASSES, milliseconds={}, seen={}, iframes=[], frames=50, **facts)


def test_what_is_wrong_with_a_window_is_said() -> None:
    line = line_of(prediction("a", damaged_frames=3, missing_frames=2, dropped=1, latency=0.25, wall_time=1e9))
    assert line.endswith("run  0.25 s late  (3 damaged frames, 2 missing frames, 1 dropped window)")
    assert line_of(prediction("a", idle=True, scores={})).split()[-1] == "idle"


def test_a_line_of_the_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    names = [f"rtsp://10.0.0.{number}:554/a/long/name" for number in (1, 2)]
    out = io.StringIO()
    table = LiveTable(names, out, update=True)
    table.add(prediction(names[0]))
    lines = [re.sub(r"\x1b\[\d*[FJK]", "", line) for line in out.getvalue().splitlines()]
    assert [len(line) <= 49 for line in lines] == [True, True]
    assert lines[0].startswith(names[0])


def test_a_table_is_written_over() -> None:
    out = io.StringIO()
    table = LiveTable(["a", "camera b"], out, update=True)
    table.add(prediction("a"))
    table.add(prediction("camera b", idle=True, scores={}))
    table.say("a: the source ended")
    # what a terminal shows in the end
    screen: list[str] = []
    row = 0
    for part in re.split(r"(\x1b\[\d*[FJK]|\n)", out.getvalue()):
        if part == "\n":
            row += 1
        elif part.endswith("F") and part.startswith("\x1b"):
            row -= int(part[2:-1])
        elif part == "\x1b[J":
            del screen[row:]
        elif part == "\x1b[2K":
            screen[row : row + 1] = [""]
        elif part:
            screen[row : row + 1] = [part]
    assert [line[:9] for line in screen] == ["a: the so", "a        ", "camera b "]
    assert "run" in screen[1] and "idle" in screen[2]
