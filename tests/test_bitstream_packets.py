"""Long videos, whose packets are not kept in memory: the same results, read again from the file."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest
from clips import every_frame, record, wandering

from coviar_mocrop.bitstream import open_video, packets
from coviar_mocrop.errors import VideoError

STREAMS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264_b.mp4": {"b_frames": 2, "refs": 3},
    "h264_open_gop.mkv": {"b_frames": 3, "open_gop": True},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mpeg4_b.avi": {"codec": "mpeg4", "b_frames": 2},
    "mpeg2_b.ts": {"codec": "mpeg2video", "b_frames": 2},
    "mpeg4.m4v": {"codec": "mpeg4"},
    "h264.h264": {},
}


@pytest.fixture(params=STREAMS)
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Clips of 26 frames, a key frame about every 10."""
    return record(wandering(26, 98, 66, 7, noise=4), tmp_path / request.param, gop=10, **STREAMS[request.param])


def read_all(path: Path) -> str:
    """A hash over all that can be read, GOP by GOP in a mixed order, at once, and frame by frame."""
    found = hashlib.sha256()
    with open_video(path, anchor_every=4) as video:
        mixed = every_frame(video)
        random.Random(0).shuffle(mixed)
        for frame in mixed[:8]:
            found.update(video.get_residuals_at([frame]).tobytes())
        for array in video.get({"iframe": mixed, "mv": mixed, "residual": mixed}).values():
            found.update(array.tobytes())
        for vectors in video.get_motion_vectors_at():
            found.update(vectors.tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("limit", [0, 4000])
def test_reading_from_the_file_gives_the_same(stream: Path, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_all(stream)
    monkeypatch.setattr(packets, "KEEP_BYTES", limit)
    with open_video(stream) as video:
        assert video._pyav._packets._kept is None
    assert read_all(stream) == expected


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
def test_only_the_gop_asked_for_is_read_again(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "KEEP_BYTES", 0)
    codec = "libx264" if suffix in (".mp4", ".mkv") else "mpeg4" if suffix == ".avi" else "mpeg2video"
    path = record(wandering(200, 98, 66, 7, noise=4), tmp_path / f"clip{suffix}", codec=codec, gop=10)
    with open_video(path, anchor_every=None) as video:
        count = 0
        read = packets._times

        def counted(packet: Any) -> Any:
            nonlocal count
            count += 1
            return read(packet)

        monkeypatch.setattr(packets, "_times", counted)
        video.get_motion_vectors_at([173])
        assert 4 <= count <= 60


def test_a_file_that_changed_while_it_was_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "KEEP_BYTES", 0)
    path = record(wandering(60, 196, 132, 7, noise=60), tmp_path / "clip.mp4", gop=10)
    data = path.read_bytes()
    with open_video(path) as video:
        path.write_bytes(data[:100] + bytes(len(data) - 100))
        with pytest.raises(VideoError) as error:
            video.get_residuals_at(every_frame(video))
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".mp4", ".m4v"])
def test_a_long_video_that_was_closed(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "KEEP_BYTES", 0)
    codec = "mpeg4" if suffix == ".m4v" else "libx264"
    path = record(wandering(12, 98, 66, 7), tmp_path / f"clip{suffix}", codec=codec)
    video = open_video(path)
    video.get_iframes_at([0])
    video.close()
    with pytest.raises(VideoError, match="was closed"):
        video.get_iframes_at([0])
