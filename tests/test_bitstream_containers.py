"""Containers, raw streams, several streams in a file, codecs without vectors, and videos that are turned."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av.stream import Disposition
from clips import Recorder, decode, every_frame, may_refuse, record, sliding, turn_clockwise, wandering, warp

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.bitstream.mvextractor_reader import is_available
from coviar_mocrop.bitstream.stream import VideoStream
from coviar_mocrop.errors import NoMotionVectorsError, VideoError

BACKENDS = ["auto", "pyav", *(["mvextractor"] if is_available() else [])]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("raw.m4v", {"codec": "mpeg4"}),
        ("raw_b.m4v", {"codec": "mpeg4", "b_frames": 2}),
        ("raw.h264", {}),
        ("raw_b.h264", {"b_frames": 3, "refs": 3}),
        ("raw_open.h264", {"b_frames": 2, "open_gop": True}),
        ("h264.avi", {}),
        ("h264_b.avi", {"b_frames": 2}),
        ("mpeg4_b.avi", {"codec": "mpeg4", "b_frames": 2}),
        ("h264_b.mkv", {"b_frames": 3}),
        ("mpeg4_b.mkv", {"codec": "mpeg4", "b_frames": 1}),
        ("open_b.mp4", {"b_frames": 3, "open_gop": True}),
        ("mpeg4_b.mp4", {"codec": "mpeg4", "b_frames": 2}),
        ("h264_b.ts", {"b_frames": 2}),
        ("mpeg2_b.mpg", {"codec": "mpeg2video", "b_frames": 2}),
    ],
)
def test_same_frames_as_plain_decoding(tmp_path: Path, name: str, how: dict[str, Any]) -> None:
    path = record(wandering(26, 98, 66, 7, noise=4), tmp_path / name, gop=10, **how)
    pictures = decode(path)
    with open_video(path, anchor_every=1) as video:
        assert video.info.num_frames == len(pictures) == 26
        assert video.info.has_b_frames == ("b_frames" in how)
        np.testing.assert_array_equal(video.get_iframes_at(every_frame(video)), pictures)
        shuffled = np.random.default_rng(0).permutation(26)
        found = video.get_iframes_at(shuffled)
        np.testing.assert_array_equal(found, [pictures[frame] for frame in shuffled])


@pytest.mark.parametrize(("suffix", "how"), [(".m4v", {"codec": "mpeg4"}), (".h264", {"b_frames": 2})])
def test_raw_stream_named_mp4(tmp_path: Path, suffix: str, how: dict[str, Any]) -> None:
    """CoViAR's own files are of this kind."""
    raw = record(wandering(26, 98, 66, 7, noise=4), tmp_path / f"raw{suffix}", **how)
    path = raw.rename(tmp_path / "raw.mp4")
    with open_video(path) as video:
        assert video.info.num_frames == 26
        assert [gop.length for gop in video.gops if gop.start % 12 == 0] == [12, 12, 2]
        assert video.get_motion_at([9]).any()
        np.testing.assert_array_equal(video.get_iframes_at([15])[0], decode(path)[video.gop_at(15).start])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("best", [0, 1])
def test_best_of_several_video_streams_is_taken(tmp_path: Path, backend: Any, suffix: str, best: int) -> None:
    clips = [wandering(15, 64, 48, 5), wandering(15, 64, 48, 5)]
    clips[best] = wandering(15, 176, 144, 5, noise=8)
    path = tmp_path / f"two{suffix}"
    recorder = Recorder(path)
    streams = [recorder.add(pictures) for pictures in clips]
    for number, (stream, _) in enumerate(streams):
        stream.disposition = Disposition.default if number == best else Disposition(0)
    recorder.send(streams)
    pictures = decode(path)
    assert pictures[0].shape == (144, 176, 3)
    with may_refuse(backend, path), open_video(path, backend=backend) as video:
        assert (video.info.width, video.info.height, video.info.num_frames) == (176, 144, 15)
        np.testing.assert_array_equal(video.get_iframes_at([0, 12]), [pictures[0], pictures[12]])
        motion, residual = video.get_motion_at([11])[0], video.get_residuals_at([11])[0]
        np.testing.assert_array_equal(warp(pictures[0], motion) + residual, pictures[11])
        assert max(int(vectors["dst_x"].max()) for vectors in video.get_motion_vectors_at() if len(vectors)) > 64


@pytest.mark.parametrize("backend", ["auto", "pyav"])
@pytest.mark.parametrize(
    ("codec", "suffix", "b_frames"),
    [
        ("libx265", ".mp4", 0),
        ("libx265", ".mkv", 2),
        ("libvpx-vp9", ".webm", 0),
        ("mjpeg", ".avi", 0),
        ("ffv1", ".mkv", 0),
        ("huffyuv", ".avi", 0),
    ],
)
def test_codecs_without_vectors(tmp_path: Path, backend: Any, codec: str, suffix: str, b_frames: int) -> None:
    path = tmp_path / f"clip{suffix}"
    recorder = Recorder(path)
    stream, pictures = recorder.add(wandering(14, 96, 80, 5), codec=codec, b_frames=b_frames)
    stream.pix_fmt = {"mjpeg": "yuvj420p", "huffyuv": "yuv422p"}.get(codec, "yuv420p")
    recorder.send([(stream, pictures)])
    with open_video(path, backend=backend, anchor_every=1) as video:
        reads: list[Callable[[], Any]] = [
            lambda: video.get_motion_vectors_at([1]),
            lambda: video.get_motion_at([1]),
            lambda: video.get_residuals_at([1]),
            lambda: video.get({"iframe": [0], "mv": [0]}),
            lambda: video.visit([0], vectors=None),
            video.get_motion_vectors_at,
        ]
        for read in reads:
            with pytest.raises(NoMotionVectorsError) as error:
                read()
            assert str(path) in str(error.value)
            assert "\n" not in str(error.value)
        found = video.get({"iframe": every_frame(video), "mv": []})
        np.testing.assert_array_equal(found["iframe"], decode(path))


# -- rotation ----------------------------------------------------------------------------------------


def turned(field: np.ndarray, quarters: int) -> np.ndarray:
    """A field of (x, y) vectors, positions and vectors turned clockwise."""
    for _ in range(quarters):
        field = np.rot90(field, -1)
        field = np.stack([-field[..., 1], field[..., 0]], axis=-1)  # right becomes down, down becomes left
    return field


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_rotation_metadata_turns_everything(tmp_path: Path, backend: Any, quarters: int) -> None:
    coded = record(wandering(15, 96, 64, 5, noise=4), tmp_path / "coded.mp4")
    path = turn_clockwise(coded, tmp_path / "turned.mp4", quarters)
    with open_video(coded) as flat, open_video(path, backend=backend) as video:
        assert (video.info.width, video.info.height) == ((64, 96) if quarters % 2 else (96, 64))
        assert video.gops == flat.gops
        frames = every_frame(flat)
        kinds: dict[Any, list[int]] = {"iframe": frames, "residual": frames}
        for kind, array in flat.get(kinds).items():
            np.testing.assert_array_equal(video.get(kinds)[kind], [np.rot90(row, -quarters) for row in array])
        motion = flat.get_motion_at(frames)
        assert motion.any()
        np.testing.assert_array_equal(video.get_motion_at(frames), [turned(row, quarters) for row in motion])
        height, width = video.info.height, video.info.width
        for frame, vectors in enumerate(video.get_motion_vectors_at()):
            assert len(vectors) == len(flat.get_motion_vectors_at([frame])[0])
            if len(vectors):
                left, top = vectors["dst_x"] - vectors["w"] // 2, vectors["dst_y"] - vectors["h"] // 2
                assert min(left.min(), top.min()) >= 0
                assert left.max() < width
                assert top.max() < height


@pytest.mark.parametrize(
    ("matrix", "quarters"),
    [((-1, 0, 0, 1), 0), ((1, 0, 0, -1), 2), ((0, 1, 1, 0), 1), ((0, -1, -1, 0), 3), ((0, 1, -1, 0), 1)],
    ids=["left and right", "upside down", "both diagonals", "the other diagonal", "turned only"],
)
def test_mirrored_videos_are_upright(tmp_path: Path, matrix: tuple[int, ...], quarters: int) -> None:
    """Mirroring is left out: but for left and right, the pictures are those that a player shows."""
    coded = record(wandering(4, 96, 64, 5, noise=4), tmp_path / "coded.mp4")
    data = bytearray(coded.read_bytes())
    at = data.find(b"tkhd") + 44
    a, b, c, d = (65536 * number for number in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path = tmp_path / "mirrored.mp4"
    path.write_bytes(data)
    with open_video(coded) as flat, open_video(path) as video:
        np.testing.assert_array_equal(video.get_frames_at([2])[0], np.rot90(flat.get_frames_at([2])[0], -quarters))
    stream = VideoStream(path)
    next(iter(stream))
    assert stream.rotation == -quarters % 4
    stream.close()


def test_what_moves_right_moves_down_in_a_video_turned_clockwise(tmp_path: Path) -> None:
    coded = record(sliding(8, 112, 96, (3, 0)), tmp_path / "coded.mp4", quality=10)
    path = turn_clockwise(coded, tmp_path / "turned.mp4", 1)
    with open_video(path) as video:
        motion = video.get_motion_at([5])[0, 32:-32, 32:-32]
        assert np.median(motion, axis=(0, 1)).tolist() == [0, 15]
        (vectors,) = video.get_motion_vectors_at([1])
        moves = np.stack([vectors["dst_x"] - vectors["src_x"], vectors["dst_y"] - vectors["src_y"]])
        assert np.median(moves, axis=1).tolist() == [0, 3]
        by_field = np.stack([vectors["motion_x"], vectors["motion_y"]]) / vectors["motion_scale"]
        assert np.median(by_field, axis=1).tolist() == [0, -3]


# -- streams that change on the way --------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stream_that_changes_its_size(tmp_path: Path, backend: Any) -> None:
    parts = [
        record(wandering(12, *size, 5), tmp_path / f"{size[0]}.h264").read_bytes() for size in [(64, 48), (96, 80)]
    ]
    path = tmp_path / "joined.h264"
    path.write_bytes(b"".join(parts))
    with open_video(path, backend=backend) as video:
        assert video.get_residuals_at([5]).shape == (1, 48, 64, 3)
        for read in (video.get_iframes_at, video.get_residuals_at):
            with pytest.raises(VideoError) as error:
                read([15])
            assert str(path) in str(error.value)


def test_a_stream_that_appears_on_the_way(tmp_path: Path) -> None:
    path = record(wandering(26, 98, 66, 7, noise=4), tmp_path / "stray.ts", gop=10)
    data = bytearray(path.read_bytes())
    starts = [at for at in range(0, len(data), 188) if data[at + 1 : at + 3] == b"\x41\x00"]  # video begins a frame
    data[starts[-1] + 2] = 0x49
    path.write_bytes(data)
    try:
        with open_video(path) as video:
            assert video.info.num_frames == 25
    except VideoError as error:
        assert str(path) in str(error)
