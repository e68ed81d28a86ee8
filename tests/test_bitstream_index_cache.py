"""The index on disk: the same results, without going through the file; whatever is wrong with it counts as absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import every_frame, record, turn_clockwise, wandering
from numpy.typing import NDArray

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.bitstream.packets import PacketStore
from coviar_mocrop.errors import VideoError

STREAMS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264_b.mkv": {"b_frames": 3, "open_gop": True, "refs": 3},
    "mpeg4_b.avi": {"codec": "mpeg4", "b_frames": 2},
    "mpeg2_b.ts": {"codec": "mpeg2video", "b_frames": 2},
    "mpeg4.m4v": {"codec": "mpeg4"},
    "h264.h264": {},
}


WRONG: dict[str, tuple[str, Any]] = {
    "order backwards": ("packets", lambda rows: with_row(rows, 6, rows[6].max() - rows[6])),
    "order with repeats": ("packets", lambda rows: with_row(rows, 6, rows[6] // 2)),
    "order with a gap": ("packets", lambda rows: with_row(rows, 6, rows[6] * 2)),
    "frames that are not there": ("packets", lambda rows: with_row(rows, 6, rows[6] + 20)),
    "no frame": ("packets", lambda rows: with_row(rows, 6, -1)),
    "no key frame": ("packets", lambda rows: with_row(rows, 7, 0)),
    "key of numbers": ("packets", lambda rows: with_row(rows, 2, 2)),
    "negative flags": ("packets", lambda rows: with_row(rows, 4, -1)),
    "large checksums": ("packets", lambda rows: with_row(rows, 5, 1 << 32)),
    "negative checksums": ("packets", lambda rows: with_row(rows, 5, -1)),
    "without checksums": ("packets", lambda rows: np.delete(rows, 5, axis=0)),
    "one row": ("packets", lambda rows: rows[0]),
    "text": ("packets", lambda rows: rows.astype(str)),
    "fractions": ("packets", lambda rows: rows + 0.5),
    "five turns": ("rotation", lambda _: np.int64(5)),
    "a turn backwards": ("rotation", lambda _: np.int64(-1)),
    "turns of text": ("rotation", lambda _: np.array("1")),
    "two rotations": ("rotation", lambda _: np.zeros(2, np.int64)),
}
"""Arrays of an index, and what makes them wrong."""


def with_row(rows: NDArray[np.int64], number: int, values: Any) -> NDArray[np.int64]:
    """Packed packets with other values in one row."""
    changed = rows.copy()
    changed[number] = values
    return changed


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """26 frames, a key frame every 10."""
    return record(wandering(26, 98, 66, 7, noise=4), tmp_path / "clip.mp4", gop=10)


def contents(path: Path, **how: Any) -> list[Any]:
    """All that can be told of a video."""
    with open_video(path, anchor_every=4, **how) as video:
        frames = every_frame(video)[::-1]
        found: list[Any] = [video.info, video.gops]
        found += [array.tobytes() for array in video.get({"iframe": frames, "mv": frames, "residual": frames}).values()]
        return [*found, *(vectors.tobytes() for vectors in video.get_motion_vectors_at())]


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose packets were gone through."""
    paths: list[str] = []
    scan = PacketStore._scan

    def noted(store: PacketStore, *how: Any) -> Any:
        paths.append(store.path)
        return scan(store, *how)

    monkeypatch.setattr(PacketStore, "_scan", noted)
    return paths


@pytest.mark.parametrize("name", STREAMS)
def test_the_same_with_and_without(tmp_path: Path, name: str, scans: list[str]) -> None:
    path = record(wandering(26, 98, 66, 7, noise=4), tmp_path / name, gop=10, **STREAMS[name])
    cache = tmp_path / "cache"
    expected = contents(path)
    assert contents(path, index_cache=cache) == expected
    assert len(scans) == 2
    assert contents(path, index_cache=cache) == expected
    assert len(scans) == 2
    assert len([kept for kept in cache.rglob("*") if kept.is_file()]) == 1


def test_rotation_is_kept(tmp_path: Path, clip: Path, scans: list[str]) -> None:
    turned = turn_clockwise(clip, tmp_path / "turned.mp4", 1)
    expected = contents(turned)
    assert expected[0].rotation == 3
    found = [contents(turned, index_cache=str(tmp_path / "cache")) for _ in range(2)]
    assert found == [expected, expected]
    assert len(scans) == 2


def test_a_video_that_is_replaced_is_indexed_anew(tmp_path: Path, clip: Path) -> None:
    contents(clip, index_cache=tmp_path / "cache")
    record(wandering(30, 82, 50, 5), clip, gop=7)
    assert contents(clip, index_cache=tmp_path / "cache") == contents(clip)


def test_a_video_that_changed_behind_its_back_is_an_error(tmp_path: Path, clip: Path) -> None:
    contents(clip, index_cache=tmp_path / "cache")
    before = clip.stat()
    data = bytearray(clip.read_bytes())
    with open_video(clip) as video:
        packet = bytes(next(video._pyav._packets.read([12])))
    data[data.index(packet) + len(packet) // 2] ^= 255
    clip.write_bytes(data)
    os.utime(clip, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(VideoError, match="has changed since") as error:
        contents(clip, index_cache=tmp_path / "cache")
    assert str(error.value).startswith(f"{clip}: ")


@pytest.mark.parametrize("damage", ["cut", "empty", "no npz", "bytes", "pickle", "folder", *WRONG])
def test_damaged_indices_count_as_absent(tmp_path: Path, clip: Path, damage: str, scans: list[str]) -> None:
    cache = tmp_path / "cache"
    expected = contents(clip, index_cache=cache)
    (kept,) = cache.rglob("*.npz")
    data = kept.read_bytes()
    columns = dict(np.load(kept))
    if damage == "cut":
        kept.write_bytes(data[: len(data) // 2])
    elif damage == "empty":
        kept.write_bytes(b"")
    elif damage == "no npz":
        kept.write_text("no index")
    elif damage == "bytes":
        changed = bytearray(data)
        for at in range(50, len(data), 97):
            changed[at] ^= 85
        kept.write_bytes(changed)
    elif damage == "pickle":
        np.savez(kept, **{**columns, "packets": np.array([{}], dtype=object)})
    elif damage in WRONG:
        name, change = WRONG[damage]
        np.savez(kept, **{**columns, name: change(columns[name])})
    elif damage == "folder":
        kept.unlink()
        kept.mkdir()
    assert contents(clip, index_cache=cache) == expected
    assert len(scans) == 2


def test_an_index_in_memory(clip: Path, scans: list[str]) -> None:
    expected = contents(clip)
    with open_video(clip, index_cache=b"") as video:
        packed = video.packed_index()
    assert contents(clip, index_cache=packed) == expected
    assert len(scans) == 2
    with open_video(clip) as video, pytest.raises(VideoError, match=r'without checksums.*; give index_cache=b""'):
        video.packed_index()


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert contents(clip, index_cache=tmp_path / "cache") == contents(clip)


def test_what_is_no_video_leaves_no_index(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_text("no video\n" * 50)
    for _ in range(2):
        with pytest.raises(VideoError, match="not a readable video"):
            open_video(path, index_cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
