"""I-frame, accumulated motion and residual together give every decoded frame back, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import Picture, decode, every_frame, read_packets, record, remux, skip_start, wandering, warp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.bitstream.transcode import encode


def assert_round_trip(path: Path, anchor_every: int | None, pictures: list[Picture] | None = None) -> None:
    """Every frame is its GOP's first one, warped, plus the residual; ``pictures``: as decoded by other means."""
    pictures = decode(path) if pictures is None else pictures
    with open_video(path, anchor_every=anchor_every) as video:
        assert video.info.num_frames == len(pictures)
        frames = every_frame(video)
        read = video.get({"iframe": frames, "mv": frames, "residual": frames})
        for frame, (first, motion, residual) in enumerate(zip(*read.values(), strict=True)):
            start = video.gop_at(frame).start
            np.testing.assert_array_equal(first, pictures[start])
            rebuilt = warp(pictures[start], motion) + residual
            np.testing.assert_array_equal(rebuilt, pictures[frame], err_msg=f"frame {frame}, GOP from {start}")
            if frame == start:
                assert not motion.any()
                assert not residual.any()


@settings(derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    codec=st.sampled_from(["libx264", "mpeg4"]),
    suffix=st.sampled_from([".mp4", ".mkv", ".avi", "raw"]),
    width=st.integers(16, 100),
    height=st.integers(16, 80),
    count=st.integers(10, 24),
    gop=st.integers(1, 24),
    b_frames=st.integers(0, 3),
    refs=st.integers(1, 4),
    open_gop=st.booleans(),
    motion=st.integers(0, 20),
    noise=st.integers(0, 6),
    seed=st.integers(0, 1000),
    anchor_every=st.one_of(st.none(), st.integers(1, 13)),
)
def test_any_clip_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    codec: str,
    suffix: str,
    width: int,
    height: int,
    count: int,
    motion: int,
    noise: int,
    seed: int,
    anchor_every: int | None,
    **how: Any,
) -> None:
    if suffix == "raw":
        suffix = ".h264" if codec == "libx264" else ".m4v"
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    record(wandering(count, width, height, motion, seed=seed, noise=noise), path, codec=codec, **how)
    pictures = decode(path)
    assert len(pictures) == count
    assert_round_trip(path, anchor_every, pictures)


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
@pytest.mark.parametrize("anchor_every", [1, 5, 12, None])
def test_canonical_clip(tmp_path: Path, codec: Any, anchor_every: int | None) -> None:
    path = tmp_path / "canonical.mp4"
    encode(wandering(26, 98, 70, 6, noise=3), path, codec=codec, gop=12)
    assert_round_trip(path, anchor_every)


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
def test_without_accumulation_each_step_is_against_the_frame_before(tmp_path: Path, codec: Any) -> None:
    path = tmp_path / "steps.mp4"
    encode(wandering(16, 98, 70, 6, noise=3), path, codec=codec, gop=8)
    pictures = decode(path)
    with open_video(path, anchor_every=5) as video:
        frames = every_frame(video)
        motion = video.get_motion_at(frames, accumulate=False)
        residual = video.get_residuals_at(frames, accumulate=False)
        accumulated = video.get_motion_at(frames)
        moved = 0
        for frame in frames:
            pos = frame - video.gop_at(frame).start
            if pos == 0:
                assert not motion[frame].any()
                assert not residual[frame].any()
                continue
            np.testing.assert_array_equal(warp(pictures[frame - 1], motion[frame]) + residual[frame], pictures[frame])
            assert pos > 1 or (motion[frame] == accumulated[frame]).all()
            moved += pos > 1 and bool((motion[frame] != accumulated[frame]).any())
    assert moved, "the clip does not tell one step from many"


def test_without_accumulation_b_frames_are_against_what_they_refer_to(tmp_path: Path) -> None:
    path = record(wandering(13, 98, 70, 6, noise=3), tmp_path / "steps.mp4", gop=13, b_frames=2)
    pictures = decode(path)
    with open_video(path, anchor_every=None) as video:
        frames = every_frame(video)
        motion = video.get_motion_at(frames, accumulate=False)
        residual = video.get_residuals_at(frames, accumulate=False)
    for pos in range(1, 12):
        before = (pos - 1) // 3 * 3  # IBBPBBP...: the last I- or P-frame before
        np.testing.assert_array_equal(warp(pictures[before], motion[pos]) + residual[pos], pictures[pos])
    assert motion[4].any()


@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("name", ["short.mp4", "short.m4v", "short.h264", "short.avi"])
def test_shortest_clips(tmp_path: Path, name: str, pictures: int) -> None:
    path = tmp_path / name
    encode(wandering(pictures, 64, 48, 6), path, codec="mpeg4" if name.endswith("m4v") else "h264")
    assert_round_trip(path, 12)
    with open_video(path) as video:
        assert video.gops == [(0, pictures)]


def test_smallest_picture(tmp_path: Path) -> None:
    path = record(wandering(14, 16, 16, 4), tmp_path / "small.mp4")
    assert_round_trip(path, 12)
    assert_round_trip(path, 3)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("hidden", [3, 12])
def test_frames_hidden_by_an_edit_list_are_left_out(tmp_path: Path, codec: str, b_frames: int, hidden: int) -> None:
    whole = record(wandering(26, 64, 48, 6), tmp_path / "whole.mp4", codec=codec, gop=10, b_frames=b_frames)
    path = skip_start(whole, tmp_path / "cut.mp4", hidden)
    assert len(decode(path)) == 26 - hidden
    assert_round_trip(path, None)
    assert_round_trip(path, 4)


@pytest.mark.parametrize("codec", ["mpeg1video", "mpeg2video", "flv", "msmpeg4", "wmv1"])
def test_other_codecs_with_vectors(tmp_path: Path, codec: str) -> None:
    suffix = {"mpeg1video": ".mpg", "mpeg2video": ".ts", "flv": ".flv"}.get(codec, ".avi")
    path = record(wandering(16, 96, 64, 6), tmp_path / f"clip{suffix}", codec=codec, gop=8)
    assert_round_trip(path, None)
    with open_video(path, backend="pyav") as video:
        moving = [frame for frame, vectors in enumerate(video.get_motion_vectors_at()) if len(vectors)]
        assert moving == [frame for frame in range(16) if frame % 8]


def packed(path: Path) -> tuple[Path, list[Picture]]:
    """An AVI with packed B-frames, as DivX wrote them: P and B in one packet, then a placeholder.

    Returns:
        The file, and its frames as decoded from the same stream before it was packed.
    """
    plain = record(wandering(13, 98, 66, 7, noise=4), path.with_suffix(".m4v"), codec="mpeg4", gop=10, b_frames=1)
    mark = b"\0\0\1\xb2"  # user data, in the headers of each key frame, tell the decoder
    first, *rest = [data.replace(mark, mark + b"DivX503b1393p" + mark) for data in read_packets(plain)]
    packets = [first]
    for anchor, b_frame in zip(rest[::2], rest[1::2], strict=True):
        packets += [anchor + b_frame, b"\0\0\1\xb6\x51\x40\x7f"]
    return remux(packets, plain, path), decode(plain)


@pytest.mark.parametrize("anchor_every", [1, 12, None])
def test_packed_b_frames(tmp_path: Path, anchor_every: int | None) -> None:
    path, pictures = packed(tmp_path / "packed.avi")
    np.testing.assert_array_equal(decode(path), pictures)
    assert_round_trip(path, anchor_every, pictures)
