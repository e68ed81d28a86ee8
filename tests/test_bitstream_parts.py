"""Parts of videos cut by time, and videos from folders of pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import Picture, decode, read_packets, record, texture, wandering
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coviar_mocrop.bitstream import open_video, transcode
from coviar_mocrop.bitstream.decoding import StreamDecoding
from coviar_mocrop.bitstream.pictures import transcode_pictures
from coviar_mocrop.bitstream.transcode import frames_between
from coviar_mocrop.errors import VideoError

FRAMES = 75  # three seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds in containers with and without times of their own, with key frames every 30 frames and B-frames."""
    root = tmp_path_factory.mktemp("parts")
    pictures = wandering(FRAMES, 64, 48, 5)
    record(pictures, root / "web.mp4", gop=30, b_frames=3, refs=3)
    record(pictures, root / "open.mkv", gop=30, b_frames=3, open_gop=True)
    record(pictures, root / "vp9.webm", codec="libvpx-vp9", gop=30)
    record(pictures, root / "old.avi", codec="mpeg4", gop=30, b_frames=2, quality=10)
    record(pictures, root / "raw.m4v", codec="mpeg4", gop=30, quality=10)
    return root


@cache
def whole(path: Path) -> Sequence[Picture]:
    """All frames of a file that does not change."""
    return decode(path)


def likeness(one: Picture, other: Picture) -> float:
    """Peak signal-to-noise ratio, decibel."""
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


# -- which frames are in a part ----------------------------------------------------------------------------

seconds = st.one_of(st.none(), st.floats(-1, 12, allow_nan=False), st.integers(0, 300).map(lambda n: n / 30))


@given(
    st.lists(st.integers(1, 4000), max_size=40),
    st.sampled_from([Fraction(1, 30), Fraction(1001, 30000), Fraction(1, 12800), Fraction(1, 1000)]),
    seconds,
    seconds,
)
def test_frames_of_a_part_are_those_shown_in_it(
    steps: list[int], unit: Fraction, start: float | None, end: float | None
) -> None:
    times = np.cumsum([0, *steps])
    found = frames_between(times, unit, start, end)
    shown = [int(time) * unit for time in times]
    expected = [
        number
        for number, time in enumerate(shown)
        if (start is None or time >= Fraction(str(start))) and (end is None or time < Fraction(str(end)))
    ]
    assert list(found) == expected


@given(st.lists(st.floats(0, 10), min_size=1, max_size=6), st.integers(1, 200))
def test_parts_one_after_another_hold_each_frame_once(cuts: list[float], frames: int) -> None:
    times, unit = np.arange(frames) * 512, Fraction(1, 12800)
    edges = [None, *sorted(cuts), None]
    parts = [frames_between(times, unit, start, end) for start, end in pairwise(edges)]
    assert [number for part in parts for number in part] == list(range(frames))


# -- cutting -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["web.mp4", "open.mkv", "vp9.webm", "old.avi", "raw.m4v"])
@pytest.mark.parametrize(
    ("start", "end", "frames"),
    [
        (None, 1.0, range(25)),
        (1.0, 2.0, range(25, 50)),
        (1.21, 1.28, range(31, 32)),  # frame 31 is shown at 1.24 s
        (2.96, None, range(74, 75)),
        (0.5, 3.9, range(13, 75)),
    ],
)
def test_a_part_holds_its_frames_exactly(
    folder: Path, tmp_path: Path, name: str, start: float | None, end: float | None, frames: range
) -> None:
    told: list[tuple[int, int]] = []
    how: dict[str, Any] = {"size": None, "quality": 8, "progress": lambda *done: told.append(done)}
    done = transcode(folder / name, tmp_path / "part.mp4", start=start, end=end, **how)
    assert done == (len(frames), 0)
    assert told == [(number + 1, len(frames)) for number in range(len(frames))]
    part = decode(tmp_path / "part.mp4")
    assert len(part) == len(frames)
    for number, picture in zip(frames, part, strict=True):
        near = range(max(number - 3, 0), min(number + 4, FRAMES))
        others = {other: likeness(whole(folder / name)[other], picture) for other in near}
        assert max(others, key=lambda other: others[other]) == number
        assert others[number] > 30


def test_a_part_of_a_part_is_the_part(folder: Path, tmp_path: Path) -> None:
    """Cut twice, and again: the same packets."""
    how: dict[str, Any] = {"size": None, "start": 0.8, "end": 2.2}
    for name in ("one", "two"):
        transcode(folder / "web.mp4", tmp_path / f"{name}.mp4", **how)
    assert read_packets(tmp_path / "one.mp4") == read_packets(tmp_path / "two.mp4")


def test_only_the_needed_packets_are_decoded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = 0
    plain = StreamDecoding.decode

    def counting(self: StreamDecoding, packet: av.Packet | None, decoder: Any) -> Any:
        nonlocal decoded
        decoded += packet is not None
        return plain(self, packet, decoder)

    monkeypatch.setattr(StreamDecoding, "decode", counting)
    transcode(folder / "web.mp4", tmp_path / "part.mp4", size=None, start=1.24, end=1.4)  # 31 to 34, after key frame 30
    # finding the rotation takes a packet more
    assert 5 <= decoded <= 5 + 3 + 4


def test_times_count_from_the_first_frame(folder: Path, tmp_path: Path) -> None:
    """A recording whose first frame is shown at 100 s."""
    late = tmp_path / "late.mkv"
    with av.open(os.fspath(folder / "web.mp4")) as source, av.open(os.fspath(late), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                shift = int(100 / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                target.mux(packet)
    assert transcode(late, tmp_path / "part.mp4", size=None, start=1, end=2).num_frames == 25


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [
        (10.0, 20.0, r"lasts 3.0 s, so it does not hold the part from 10 s to 20 s; it is incomplete, or was cut"),
        (0.0, 4.5, r"does not hold the part from 0 s to 4.5 s"),
        (3.0, None, r"does not hold the part from 3 s; it is"),
        (2.0, 2.0, r"does not hold the part from 2 s to 2 s"),
        (float("nan"), 2.0, r"part from nan to 2.0: give seconds"),
        (0.0, float("inf"), r"give seconds"),
    ],
)
def test_a_part_that_is_not_there(folder: Path, tmp_path: Path, start: float, end: float | None, says: str) -> None:
    with pytest.raises(VideoError, match=says) as caught:
        transcode(folder / "web.mp4", tmp_path / "part.mp4", start=start, end=end)
    assert str(folder / "web.mp4") in str(caught.value) and "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_damage_is_counted_in_the_part_alone(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "damaged.mp4"
    with av.open(os.fspath(folder / "web.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        start, size = next((packet.pos, packet.size) for packet in packets if packet.is_keyframe and packet.pts > 0)
    data = bytearray((folder / "web.mp4").read_bytes())
    data[start + size // 2 : start + size] = bytes(size - size // 2)
    source.write_bytes(data)
    assert transcode(source, tmp_path / "all.mp4", size=None).damaged_frames > 0
    assert transcode(source, tmp_path / "part.mp4", size=None, end=1.0) == (25, 0)


# -- pictures ----------------------------------------------------------------------------------------------


def save(pictures: list[Picture], folder: Path, name: str = "{:05}.jpg") -> Path:
    folder.mkdir()
    for number, picture in enumerate(pictures, 1):
        Image.fromarray(picture).save(folder / name.format(number), quality=95)
    return folder


@pytest.mark.parametrize("name", ["{:05}.jpg", "{}.JPEG", "img_{:05}.jpg"])
def test_a_folder_of_pictures_becomes_a_video(tmp_path: Path, name: str) -> None:
    pictures = [texture(48, 64, seed, grain=16) for seed in range(13)]
    folder = save(pictures, tmp_path / "7", name)
    (folder / ".00000.jpg").write_text("hidden")
    (folder / "notes.txt").write_text("no picture")
    target = tmp_path / "out" / "7.mp4"
    assert transcode_pictures(folder, target, frame_rate=12, size=None, quality=8) == 13
    read = [np.asarray(Image.open(folder / name.format(number))) for number in range(1, 14)]
    assert all(likeness(one, other) > 30 for one, other in zip(read, decode(target), strict=True))
    with open_video(target) as video:
        assert (video.info.frame_rate, video.info.num_frames) == (12, 13)
        assert [gop.length for gop in video.gops] == [12, 1]
    before = target.read_bytes()
    transcode_pictures(folder, target, frame_rate=12, size=None, quality=8)
    assert target.read_bytes() == before


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "7: cannot be listed"),
        ("none", "7: holds no picture"),
        ("text", "00002.jpg: is not a readable picture"),
        ("empty", "00002.jpg: is not a readable picture"),
        ("cut", "00002.jpg: is not a readable picture"),
        ("gap", "7: picture 2 is missing; unpack the archive again"),
        ("size", "00002.jpg: is 32x24, the first picture 64x48; all must have one size"),
        ("large", "00001.jpg: is not a readable picture"),
    ],
)
def test_pictures_that_cannot_be_used(tmp_path: Path, kind: str, says: str) -> None:
    folder = tmp_path / "7"
    if kind == "none":
        folder.mkdir()
    elif kind != "missing":
        save([texture(48, 64, seed) for seed in range(3)], folder)
    second = folder / "00002.jpg"
    if kind in ("text", "empty"):
        second.write_text("no picture" if kind == "text" else "")
    elif kind == "cut":
        second.write_bytes(second.read_bytes()[:900])
    elif kind == "gap":
        second.unlink()
    elif kind == "size":
        Image.fromarray(texture(24, 32)).save(second)
    limit: dict[str, Any] = {"max_frame_pixels": 100} if kind == "large" else {}
    if kind == "large":  # beyond what a decoder may add
        Image.fromarray(np.zeros((1100, 1100, 3), np.uint8)).save(folder / "00001.jpg")
    with pytest.raises(VideoError, match=says) as caught:
        transcode_pictures(folder, tmp_path / "7.mp4", frame_rate=12, **limit)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "7.mp4").exists()
