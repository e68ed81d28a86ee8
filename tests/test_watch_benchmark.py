"""benchmark.py watch: the made camera, its endless stream, and what is measured on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tool import tool

from benchmarks import watch
from coviar_mocrop.bitstream.stream import VideoStream
from coviar_mocrop.clips.time_windows import WindowCutter
from coviar_mocrop.mocrop.density import GATE, motion_level

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return watch.make_camera(tmp_path_factory.mktemp("camera") / "camera.ts", 192, 128)


def test_two_windows_of_a_period_move(camera: Path) -> None:
    stream = VideoStream(camera)
    cutter = WindowCutter(stream, 2.0, 1.0)
    windows = [window for frame in stream for window in cutter.add(frame)]
    levels = {window.start: motion_level(window.raw_vectors(), window.frames[0].size) for window in windows}
    moving = {start for start in levels if round(start) % watch.PERIOD in (0, watch.PERIOD - 1)}
    assert len(levels) == 30 and len(moving) == 7
    still = max(level for start, level in levels.items() if start not in moving)  # noise moves blocks of small pictures
    assert min(levels[start] for start in moving) > max(still, GATE)


def test_the_stream_goes_on_and_on(camera: Path, tmp_path: Path) -> None:
    """Three times the camera's picture is one video, three times as long, with the same frames."""
    path = tmp_path / "long.ts"
    path.write_bytes(b"".join(watch.packets(camera, 3)))
    once, often = list(VideoStream(camera)), list(VideoStream(path))
    assert len(often) == 3 * len(once)
    assert not any(frame.broken or frame.missing or frame.is_damaged for frame in often)
    assert often[-1].time == pytest.approx(3 * watch.LENGTH - 1 / watch.RATE, abs=1e-3)
    for number in (0, 7, 60):
        for loop in range(3):
            assert (often[number + loop * len(once)].rgb() == once[number].rgb()).all()


def test_what_is_measured(camera: Path, tmp_path: Path) -> None:
    checkpoints = watch.make_checkpoints(tmp_path, 32)
    found = watch.measure_reading(camera, checkpoints, 1)
    assert len(found) == 6 and min(found.values()) > 0
    seconds = watch.measure_cameras(camera, checkpoints, 1)
    assert 7 / 31 <= seconds["moving"] <= 1
    assert len(seconds["seconds"]) == 5 and min(seconds["seconds"].values()) > 0
    assert seconds["compute"].startswith("cpu ")
    assert "bare decoding" in watch._reading_table(found) and "OpenCV" in watch._camera_table(seconds)


def test_damage_strikes_all_frames_of_a_gop() -> None:
    whole = bytes(300)
    hits = [number for number, data in enumerate(watch.damaged(iter([whole] * 100_000))) if data != whole]
    assert len(hits) == pytest.approx(100, abs=30) and min(hits) > watch.RATE
    assert len({number % (2 * watch.RATE) for number in hits}) > 30
    assert list(watch.damaged(iter([whole] * 2000))) == list(watch.damaged(iter([whole] * 2000)))


def test_memory_and_a_day(camera: Path, tmp_path: Path) -> None:
    rows = watch.measure_memory(camera, watch.make_checkpoints(tmp_path, 32), [0.5])
    assert [(row["source"], row["networks"][:4]) for row in rows] == [
        ("file", "ONNX"),
        ("file", "PyTo"),
        ("pipe", "ONNX"),
        ("pipe", "PyTo"),
    ]
    assert all(row["windows"] == 31 and row["MB peak"] > 100 for row in rows)
    (tmp_path / "day").mkdir()
    found = watch.measure_day(tmp_path / "day", 8000)
    assert found["frames"] == 8000 and found["with damage"] > 0
    assert found["windows"] == pytest.approx(319, abs=3)


@pytest.mark.parametrize(("part", "option"), [("gate", "--footage"), ("memory", "--minutes"), ("day", "--day")])
def test_a_part_that_needs_an_option_says_so(part: str, option: str) -> None:
    assert f"--only {part} needs {option}" in tool("benchmark", "watch", "--only", "latency", part, ok=False)
