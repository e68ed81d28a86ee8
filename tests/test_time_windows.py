"""Windows of time: which frames each holds, by a plain definition; and that they read like clips."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from clips import record, skip_start, turn_clockwise, wandering
from hypothesis import given
from hypothesis import strategies as st
from live import between_key_frames, feed

from coviar_mocrop import load_clip, open_video
from coviar_mocrop.bitstream.stream import VideoStream
from coviar_mocrop.bitstream.stream_clock import StreamClock
from coviar_mocrop.clips.reader import View, read_views
from coviar_mocrop.clips.sampling import middle_frames, motion_frames
from coviar_mocrop.clips.time_windows import TimeWindow, WindowCutter
from coviar_mocrop.clips.windows import testing_windows as windows_of_testing
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.mocrop import MoCropSettings

KINDS: Any = ("iframe", "frame", "mv", "residual")


def windows_of(source: Any, length: float = 1.0, stride: float = 0.5, **how: Any) -> list[TimeWindow]:
    """All windows of a source."""
    stream = VideoStream(source, **how)
    try:
        cutter = WindowCutter(stream, length, stride)
        windows = [window for frame in stream for window in cutter.add(frame)]
        return [*windows, *cutter.finish()]
    finally:
        stream.close()


def contents(window: TimeWindow, numbers: Any = None) -> dict[Any, Any]:
    """All that can be read of a window."""
    numbers = range(window.info.num_frames) if numbers is None else numbers
    return window.get(dict.fromkeys(KINDS, numbers))


def as_load_clip(window: TimeWindow, size: int = 32) -> dict[str, Any]:
    """What load_clip(box="mocrop") would give if the window were a file."""
    views = {}
    for stream in ("iframe", "mv", "residual"):
        frames = middle_frames(window.info.num_frames, 3, stream)
        frames = frames if stream == "iframe" else motion_frames(window.gops, frames)
        views[stream] = View(stream, frames, lambda shape, crop: windows_of_testing(shape, crop, 1), size)
    return {name: pixels[0] for name, pixels in read_views(window, views, MoCropSettings()).pixels.items()}


# -- which frames --------------------------------------------------------------------------------------


def frames_at(times: list[float], gop: int, broken: frozenset[int] = frozenset()) -> list[Any]:
    """Frames without pictures, at times in seconds."""
    frames, since_key = [], 0
    for number, at in enumerate(times):
        since_key = 0 if number in broken or since_key == gop else since_key
        frame = SimpleNamespace(
            **dict.fromkeys(("is_b", "is_damaged", "is_intra"), False),
            time=at,
            missing=0,
            broken="jump" if number in broken else "",
            starts_gop=since_key == 0,
            arrived=0.0,
            step=0.04,
            shortest_step=0.04,
            size=(48, 64),
            number=number,
        )
        since_key += 1
        frames.append(frame)
    return frames


def cut(frames: list[Any], length: float, stride: float, *, is_live: bool = False) -> list[TimeWindow]:
    """The windows of frames that were made up."""
    stream: Any = SimpleNamespace(
        start=frames[0].time,
        is_live=is_live,
        has_vectors=True,
        rotation=0,
        codec="h264",
        frame_rate=25.0,
        path="made up",
    )
    cutter = WindowCutter(stream, length, stride)
    windows = []
    for frame in frames:
        windows += cutter.add(frame)
        assert len(cutter._kept) <= length / 0.01 + 30  # nothing is kept that no window needs any more
    return [*windows, *cutter.finish()]


def numbers_by_definition(frames: list[Any], length: float, stride: float) -> list[list[int]]:
    """Window k of a part without a break: the frames in [start + k stride, + length), if it holds one that is new."""
    parts: list[list[Any]] = []
    for frame in frames:
        if frame.broken or not parts:
            parts.append([])
        parts[-1].append(frame)
    found = []
    for part in parts:
        latest = -1
        for k in range(int((part[-1].time - part[0].time) / stride) + 2):
            start = part[0].time + k * stride
            held = [frame.number for frame in part if start - 1e-6 <= frame.time < start + length - 1e-6]
            if held and held[-1] > latest:
                found.append(held)
                latest = held[-1]
    return found


hundredths = st.integers(1, 30)


@given(
    steps=st.lists(st.one_of(st.just(4), hundredths, st.integers(30, 400)), max_size=80),
    breaks=st.frozensets(st.integers(1, 80), max_size=3),
    stride=st.integers(5, 100),
    more=st.integers(0, 100),
    gop=st.integers(1, 15),
)
def test_windows_are_what_they_are_defined_to_be(
    steps: list[int], breaks: frozenset[int], stride: int, more: int, gop: int
) -> None:
    times = [total / 100 for total in np.cumsum([0, *steps]).tolist()]
    frames = frames_at(times, gop, breaks)
    length, every = (stride + more) / 100, stride / 100
    windows = cut(frames, length, every)
    assert [[frame.number for frame in w.frames] for w in windows] == numbers_by_definition(frames, length, every)
    for window in windows:
        assert window.start - 1e-6 <= window.frames[0].time <= window.frames[-1].time < window.end - 1e-9
        assert window.gops[0].start <= 0 < window.gops[0].start + window.gops[0].length
        assert window._frames[0].starts_gop
        assert sum(gop.length for gop in window.gops) == len(window._frames)


@given(
    steps=st.lists(st.one_of(st.just(0.04), st.floats(0.001, 0.08)), min_size=1, max_size=80),
    stride=st.integers(5, 50),
    more=st.integers(0, 50),
)
def test_live_windows_lose_no_frame_though_they_close_early(steps: list[float], stride: int, more: int) -> None:
    frames = frames_at(np.cumsum([0, *steps]).tolist(), 12)
    windows = cut(frames, (stride + more) / 100, stride / 100, is_live=True)
    assert {frame.number for window in windows for frame in window.frames} == set(range(len(frames)))


def test_a_live_window_is_complete_with_its_last_frame() -> None:
    frames = frames_at([number / 25 for number in range(51)], 12)
    for is_live, expected in ((True, 50), (False, 51)):
        stream: Any = SimpleNamespace(start=0.0, is_live=is_live, has_vectors=True, rotation=0, codec="h264")
        stream.frame_rate, stream.path = 25.0, "made up"
        cutter = WindowCutter(stream, 2.0, 1.0)
        taken = 0
        for frame in frames:
            taken += 1
            if list(cutter.add(frame)):
                break
        assert taken == expected


def test_gaps_of_a_year_cost_nothing() -> None:
    frames = frames_at([0.0, 0.04, 3e7, 3e7 + 0.04, 9e8], 12)
    windows = cut(frames, 2.0, 0.001)
    assert [window.info.num_frames for window in windows if window.frames[-1].number == 1] == [2]
    assert {frame.number for window in windows for frame in window.frames} == set(range(5))
    assert len(windows) < 100


@pytest.mark.parametrize(("length", "stride"), [(1, 2), (1, 0), (0, 0), (-1, -1), (float("nan"), 1), (float("inf"), 1)])
def test_lengths_that_are_refused(length: float, stride: float) -> None:
    stream: Any = SimpleNamespace(start=0.0)
    with pytest.raises(ConfigError, match="give a stride above 0 s, and no longer than the window"):
        WindowCutter(stream, length, stride)


def test_frames_that_are_missing_are_counted_in_the_window_they_miss() -> None:
    """Of 25 frames a second those from 0.8 up to 1.2 s do not come."""
    frames = frames_at([n / 25 for n in range(50) if not 20 <= n < 30], 12)
    frames[20].missing = 10
    assert [w.missing_frames for w in cut(frames, 1.0, 1.0)] == [5, 5]
    assert [w.missing_frames for w in cut(frames, 1.0, 0.5)] == [5, 10, 5]


# -- the clock -----------------------------------------------------------------------------------------


def clocked(stamps: list[float | None], *, is_live: bool = False) -> list[tuple[float, int, str]]:
    """Times in seconds, frames missing, breaks."""
    clock, found = StreamClock(5.0, 25.0, is_live=is_live), []
    for number, stamp in enumerate(stamps):
        clock.advance(stamp, number / 25)
        found.append((round(clock.time, 6), clock.missing, clock.broken))
    return found


def test_the_clock_follows_time_stamps() -> None:
    assert [at for at, *_ in clocked([7.0, 7.04, 7.08, 7.12])] == [5.0, 5.04, 5.08, 5.12]
    assert [at for at, *_ in clocked([None, None, 9.0, 9.04, None, 9.12])] == [5.0, 5.04, 5.08, 5.12, 5.16, 5.20]


def test_the_clock_sees_what_is_missing() -> None:
    found = clocked([n / 25 for n in range(40) if n not in (20, 21, 30)])
    assert {number: missing for number, (_, missing, _) in enumerate(found) if missing} == {20: 2, 28: 1}
    slow = clocked([n * 1.0 for n in range(40)])  # the frame rate is not what was announced
    assert all(missing == 0 for _, missing, _ in slow[5:])


@pytest.mark.parametrize("jump", [-100.0, 3600.0, -1e6, 1e9])
def test_the_clock_survives_jumps(jump: float) -> None:
    found = clocked([n / 25 + (jump if n >= 20 else 0.0) for n in range(60)], is_live=True)
    assert [at for at, *_ in found] == [round(5 + n / 25, 6) for n in range(60)]
    assert [number for number, (_, _, broken) in enumerate(found) if broken] == [20]
    assert found[20][2] == f"the clock of the source jumps by {jump:+.1f} s"


@pytest.mark.parametrize("is_live", [False, True])
@pytest.mark.parametrize("jump", [-37.5, -0.6, 37.5, 2**33 / 90000, -1e6])
def test_damaged_time_stamps_do_not_move_the_clock(jump: float, is_live: bool) -> None:
    """Stamps that lie behind, or more than 10 s ahead, if they are single."""
    found = clocked([n / 25 + (jump if n % 40 == 20 else 0.0) for n in range(400)], is_live=is_live)
    assert [at for at, *_ in found] == pytest.approx([5 + n / 25 for n in range(400)])
    assert not any(missing for _, missing, _ in found)
    assert {number % 40 for number, (_, _, broken) in enumerate(found) if broken} <= {20}


@pytest.mark.parametrize("jump", [-37.5, -(2**30) / 90000, -1e6])
def test_a_damaged_time_stamp_before_missing_frames_moves_nothing(jump: float) -> None:
    stamps = [n / 25 + (jump if n % 40 == 20 else 0.0) for n in range(400) if n % 40 not in (21, 22)]
    times = [at for at, *_ in clocked(stamps, is_live=True)]
    assert times == pytest.approx([5 + n / 25 for n in range(400) if n % 40 not in (21, 22)])


@pytest.mark.parametrize(
    "stamps",
    [[0.0] * 200, [n % 2 * 0.04 for n in range(200)], [-n / 25 for n in range(200)], [n * 1e-6 for n in range(200)]],
    ids=["equal", "to and fro", "backwards", "too close"],
)
def test_time_stamps_that_make_no_sense_are_replaced_by_counting(stamps: list[float]) -> None:
    for is_live in (False, True):
        found = clocked(list(stamps), is_live=is_live)
        times = [at for at, *_ in found]
        assert all(later > earlier for earlier, later in itertools.pairwise(times))
        assert times[-1] - times[100] == pytest.approx(99 / 25)
        breaks = [broken for *_, broken in found if broken]
        assert 1 <= len(breaks) <= 3
        assert breaks[-1] == "its time stamps are invalid; frames are counted instead"


def test_time_stamps_that_jitter_are_believed() -> None:
    stamps = [n / 25 + (0.05 if n in (10, 30, 50) else 0.0) for n in range(100)]
    found = clocked(list(stamps), is_live=True)
    assert not any(broken for *_, broken in found)
    assert found[-1][0] == pytest.approx(5 + 99 / 25)


@given(st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9)), min_size=1, max_size=100), st.booleans())
def test_the_clock_always_goes_on(stamps: list[float | None], is_live: bool) -> None:
    times = [at for at, *_ in clocked(stamps, is_live=is_live)]
    assert all(later > earlier for earlier, later in itertools.pairwise(times))


@pytest.mark.parametrize(("jump", "lost"), [(-2.0, 3.0), (-5.0, 6.0), (-0.6, 1.0)])
def test_a_jump_back_and_a_gap_are_both_seen(jump: float, lost: float) -> None:
    """The frame after the jump fits the clock before it, but for the gap."""
    stamps = [n / 25 for n in range(20)]
    stamps += [stamps[-1] + 0.04 + jump]
    stamps += [stamps[-1] + 0.04 + lost + n / 25 for n in range(20)]
    clock, arrived = StreamClock(0.0, 25.0, is_live=True), 0.0
    for number, stamp in enumerate(stamps):
        arrived += 0.04 + (lost if number == 21 else 0.0)
        clock.advance(stamp, arrived)
    assert clock.time == pytest.approx(arrived - 0.04)


# -- reading them --------------------------------------------------------------------------------------

FILES: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "b.mp4": {"b_frames": 2, "refs": 2},
    "open.mp4": {"b_frames": 2, "open_gop": True},
    "long.mkv": {"gop": 40},
    "intra.mp4": {"gop": 1},
    "mpeg4.m4v": {"codec": "mpeg4"},
    "mpeg4_b.avi": {"codec": "mpeg4", "b_frames": 2},
    "mpeg2_b.mpg": {"codec": "mpeg2video", "b_frames": 2},
    "raw.h264": {},
    "raw_b.h264": {"b_frames": 2},
    "stream.ts": {"b_frames": 1},
    "wmv2.asf": {"codec": "wmv2"},
}


@pytest.mark.parametrize("name", FILES)
def test_windows_read_as_the_file_does(tmp_path: Path, name: str) -> None:
    path = record(wandering(62, 66, 50, 5, noise=3), tmp_path / name, **{"gop": 10, **FILES[name]})
    windows = windows_of(path)
    with open_video(path) as video:
        assert len(windows) == 4
        for number, window in enumerate(windows):
            first = [0, 13, 25, 38][number]
            assert window.start == number / 2
            frames = range(first, first + window.info.num_frames)
            expected = video.get(dict.fromkeys(KINDS, frames))
            for kind, array in contents(window).items():
                np.testing.assert_array_equal(array, expected[kind], err_msg=f"{kind} of window {number}")
            for mine, other in zip(window.get_motion_vectors_at(), video.get_motion_vectors_at(frames), strict=True):
                assert mine.tobytes() == other.tobytes()
            assert (window.damaged_frames, window.missing_frames) == (0, 0)
            assert window.info.codec == video.info.codec
        assert first + window.info.num_frames == video.info.num_frames == 62
        assert any(window.info.has_b_frames for window in windows) == video.info.has_b_frames


@pytest.mark.parametrize("how", [{}, {"b_frames": 2}, {"codec": "mpeg4"}], ids=["h264", "b_frames", "mpeg4"])
def test_windows_between_key_frames_equal_clips(tmp_path: Path, how: dict[str, Any]) -> None:
    """To the bit what load_clip gives of a file that holds the same packets."""
    path = record(wandering(100, 66, 50, 5, noise=3), tmp_path / "long.mkv", gop=25, **how)
    windows = windows_of(path, 2.0, 1.0)
    assert [(w.start, w.info.num_frames) for w in windows] == [(0.0, 50), (1.0, 50), (2.0, 50)]
    for number, window in enumerate(windows):
        piece = between_key_frames(path, number, number + 2, tmp_path / f"{number}.mkv")
        expected = load_clip(piece, size=32, box="mocrop")
        for stream, pixels in as_load_clip(window).items():
            np.testing.assert_array_equal(pixels, expected[stream], err_msg=f"{stream} of window {number}")


@pytest.mark.parametrize("suffix", [".ts", ".h264", ".mkv"])
def test_a_pipe_gives_what_the_file_gives(tmp_path: Path, suffix: str) -> None:
    path = record(wandering(60, 66, 50, 5, noise=3), tmp_path / f"clip{suffix}", gop=10)
    expected = [contents(window) for window in windows_of(path)]
    for attempt in range(2):
        pipe = tmp_path / f"pipe{attempt}"
        writer = feed(pipe, path.read_bytes(), piece=777)
        found = [contents(window) for window in windows_of(pipe)]
        writer.join()
        assert len(found) == len(expected)
        for mine, other in zip(found, expected, strict=True):
            for kind, array in other.items():
                np.testing.assert_array_equal(mine[kind], array)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_rotated_videos(tmp_path: Path, quarters: int) -> None:
    plain = record(wandering(30, 66, 50, 5), tmp_path / "plain.mp4", gop=10)
    path = turn_clockwise(plain, tmp_path / "turned.mp4", quarters)
    (first, *_) = windows_of(path)
    with open_video(path) as video:
        assert (first.info.width, first.info.height) == (video.info.width, video.info.height)
        assert first.info.rotation == video.info.rotation != 0
        for kind, array in contents(first).items():
            np.testing.assert_array_equal(array, video.get({kind: range(25)})[kind])


def test_odd_sizes_and_one_frame(tmp_path: Path) -> None:
    path = record(wandering(1, 65, 49, 5), tmp_path / "one.mp4")
    (window,) = windows_of(path)
    assert (window.info.num_frames, window.info.width, window.info.height) == (1, 65, 49)
    assert not window.has_vectors  # an I-frame alone tells nothing of motion
    assert contents(window)["mv"].shape == (1, 49, 65, 2)
    assert as_load_clip(window)["mv"].shape == (3, 2, 32, 32)


def encode(path: Path, pictures: Any, times: Sequence[int], options: str = "bframes=0", **how: Any) -> Path:
    """H.264 with time stamps of one's own, in hundredths of a second."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=25, options={"x264-params": f"threads=1:keyint=10:{options}"})
        stream.height, stream.width, stream.pix_fmt = (*pictures[0].shape[:2], "yuv420p")
        stream.time_base = stream.codec_context.time_base = Fraction(1, 100)
        for picture, at in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 100)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("options", ["bframes=0", "bframes=2:b-adapt=0"])
def test_variable_frame_rate(tmp_path: Path, options: str) -> None:
    steps = np.random.default_rng(0).choice([1, 3, 4, 7, 20], 79)
    times = np.cumsum([0, *steps]).tolist()
    path = encode(tmp_path / "vfr.mkv", wandering(80, 66, 50, 5), times, options)
    frames = frames_at([at / 100 for at in times], 10)
    windows = windows_of(path, 1.0, 0.4)
    expected = numbers_by_definition(frames, 1.0, 0.4)
    assert [window.info.num_frames for window in windows] == [len(numbers) for numbers in expected]
    with open_video(path) as video:
        for window, numbers in zip(windows, expected, strict=True):
            for kind, array in contents(window).items():
                np.testing.assert_array_equal(array, video.get({kind: numbers})[kind])
    assert all(window.damaged_frames == 0 for window in windows)


@pytest.mark.parametrize("options", ["bframes=0:interlaced=1", "bframes=2:b-adapt=0:interlaced=1:tff=1"])
def test_interlaced(tmp_path: Path, options: str) -> None:
    path = encode(tmp_path / "clip.ts", wandering(50, 66, 64, 5), range(0, 200, 4), options)
    windows = windows_of(path, 1.0, 1.0)
    with open_video(path) as video:
        assert [window.info.num_frames for window in windows] == [25, 25]
        for number, window in enumerate(windows):
            for kind, array in contents(window).items():
                np.testing.assert_array_equal(array, video.get({kind: range(25 * number, 25 * number + 25)})[kind])


def test_frames_that_an_edit_list_hides(tmp_path: Path) -> None:
    path = skip_start(record(wandering(40, 66, 50, 5), tmp_path / "a.mp4", gop=20), tmp_path / "b.mp4", 4)
    windows = windows_of(path, 1.0, 1.0)
    with open_video(path) as video:
        assert sum(window.info.num_frames for window in windows) == video.info.num_frames == 36
        np.testing.assert_array_equal(contents(windows[0])["mv"], video.get_motion_at(range(25)))
    assert windows[0].damaged_frames == 0
