"""Videos from open files: the same as from their paths, and as hard to break."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from clips import every_frame, record, wandering

from coviar_mocrop.bitstream import open_video, packets, transcode
from coviar_mocrop.errors import VideoError

STREAMS: dict[str, dict[str, Any]] = {
    "h264_b.mp4": {"b_frames": 3, "refs": 3},
    "h264.mkv": {},
    "mpeg4_b.avi": {"codec": "mpeg4", "b_frames": 2},
    "mpeg4.m4v": {"codec": "mpeg4"},
    "h264_b.h264": {"b_frames": 2},
}


def contents(source: Any) -> list[Any]:
    with open_video(source, anchor_every=4) as video:
        frames = every_frame(video)[::-1]
        arrays = video.get({"iframe": frames, "mv": frames, "residual": frames})
        found: list[Any] = [video.info, video.gops, *(array.tobytes() for array in arrays.values())]
        return found + [vectors.tobytes() for vectors in video.get_motion_vectors_at()]


@pytest.mark.parametrize("limit", [packets.KEEP_BYTES, 0])
@pytest.mark.parametrize("name", STREAMS)
def test_the_same_as_from_the_path(tmp_path: Path, name: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = record(wandering(26, 98, 66, 7, noise=4), tmp_path / name, gop=10, **STREAMS[name])
    expected = contents(path)
    monkeypatch.setattr(packets, "KEEP_BYTES", limit)
    memory = io.BytesIO(path.read_bytes())
    memory.seek(100)  # it is read from its start, wherever it is
    for _ in range(2):
        assert contents(memory) == expected
    with path.open("rb") as file:
        assert contents(file) == expected


def test_a_file_object_need_not_say_that_it_can_seek(tmp_path: Path) -> None:
    """As tempfile.SpooledTemporaryFile of Python 3.10."""
    path = record(wandering(6, 64, 48, 3), tmp_path / "clip.mp4")
    memory = io.BytesIO(path.read_bytes())
    bare: Any = SimpleNamespace(read=memory.read, seek=memory.seek, tell=memory.tell)
    assert contents(bare) == contents(path)


def test_no_index_is_kept_of_what_may_change(tmp_path: Path) -> None:
    path = record(wandering(6, 64, 48, 3), tmp_path / "clip.mp4")
    with path.open("rb") as file, open_video(file, index_cache=tmp_path / "cache") as video:
        assert video.path == str(path)
        assert video.info.num_frames == 6
    assert not (tmp_path / "cache").exists()


def test_transcoding_an_open_file(tmp_path: Path) -> None:
    path = record(wandering(6, 64, 48, 3), tmp_path / "clip.mp4", b_frames=2)
    assert transcode(io.BytesIO(path.read_bytes()), tmp_path / "memory.mp4").num_frames == 6
    transcode(path, tmp_path / "path.mp4")
    assert (tmp_path / "memory.mp4").read_bytes() == (tmp_path / "path.mp4").read_bytes()


@pytest.mark.parametrize("data", [b"", b"no video" * 100])
def test_what_holds_no_video(data: bytes) -> None:
    with pytest.raises(VideoError, match=r"^<open file>: is not a readable video"):
        open_video(io.BytesIO(data))


def test_what_is_no_file(tmp_path: Path) -> None:
    path = record(wandering(6, 64, 48, 3), tmp_path / "clip.mp4")
    with pytest.raises(TypeError, match="bytes is not a video"):
        open_video(path.read_bytes())  # type: ignore[arg-type]
    with pytest.raises(VideoError, match=rf"^{path}: mvextractor cannot read an open file"), path.open("rb") as file:
        open_video(file, backend="mvextractor")
    closed = io.BytesIO()
    closed.close()
    with pytest.raises(VideoError, match=r"^<open file>: "):
        open_video(closed)


class Failing(io.BytesIO):
    """Reads well for a while."""

    left = 10**9

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise OSError(5, "the disk is gone")
        return super().read(size)


@pytest.mark.parametrize("reads", [0, 4, 8, 12])
def test_a_file_that_fails_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: int) -> None:
    path = record(wandering(26, 160, 120, 7, noise=60), tmp_path / "clip.mp4", gop=5, quality=5)
    assert path.stat().st_size > 14 * 32768  # FFmpeg reads that much at a time
    monkeypatch.setattr(packets, "KEEP_BYTES", 0)
    with open_video(path) as video:
        expected = video.get_residuals_at(every_frame(video)).tobytes()
    source = Failing(path.read_bytes())
    source.left = reads
    with pytest.raises(VideoError, match=r"^<open file>: "):
        contents(source)
    source.left = 10**9
    with open_video(source) as video:
        source.left = reads
        with pytest.raises(VideoError, match=r"^<open file>: "):
            video.get_residuals_at(every_frame(video))
        source.left = 10**9
    with open_video(source) as video:
        assert video.get_residuals_at(every_frame(video)).tobytes() == expected
