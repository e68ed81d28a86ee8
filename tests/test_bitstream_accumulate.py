"""Accumulated motion against a slow statement of its formula, and against motion that is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import Pixel, decode_vectors, every_frame, record, sliding, texture, wandering
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from coviar_mocrop.bitstream import MOTION_VECTOR_DTYPE, kernels, open_video
from coviar_mocrop.bitstream.accumulate import Accumulator
from coviar_mocrop.bitstream.transcode import encode

Step = tuple[bool, NDArray[np.void]]
"""Of one frame: whether it is a B-frame, and its vectors."""

COMPILED = kernels.compiled()
WAYS = {"numpy": kernels.IN_NUMPY, **({"compiled": COMPILED} if COMPILED else {})}


def one_step(vectors: NDArray[np.void], height: int, width: int) -> dict[Pixel, Pixel]:
    """B_t: pixels (x, y) that moved -> their source pixels in the reference frame."""
    moved = {}
    for vector in vectors:
        dx, dy = int(vector["src_x"]) - int(vector["dst_x"]), int(vector["src_y"]) - int(vector["dst_y"])
        if vector["source"] > 0 or (dx, dy) == (0, 0):
            continue
        left, top = int(vector["dst_x"]) - int(vector["w"]) // 2, int(vector["dst_y"]) - int(vector["h"]) // 2
        for y in range(top, top + int(vector["h"])):
            for x in range(left, left + int(vector["w"])):
                if 0 <= x < width and 0 <= y < height and 0 <= x + dx < width and 0 <= y + dy < height:
                    moved[x, y] = x + dx, y + dy
    return moved


def slow_motion(steps: Sequence[Step], height: int, width: int, accumulate: bool = True) -> list[NDArray[np.int64]]:
    """D_t of every frame of a GOP, the formula word for word, one pixel after the other.

    A_0 = identity; A_t(p) = A_r(B_t(p)); D_t(p) = p - A_t(p). Frame r is the last before t that is no B-frame,
    without B-frames t - 1. Pixels without B_t keep their own accumulated source.
    """
    pixels = [(x, y) for y in range(height) for x in range(width)]
    identity = {pixel: pixel for pixel in pixels}
    reference = identity
    found = [np.zeros((height, width, 2), np.int64)]
    for is_b, vectors in steps[1:]:
        moved = one_step(vectors, height, width)
        sources = {pixel: reference[moved.get(pixel, pixel)] for pixel in pixels}
        motion = [(x - sources[x, y][0], y - sources[x, y][1]) for x, y in pixels]
        found.append(np.array(motion).reshape(height, width, 2))
        if accumulate and not is_b:
            reference = sources
    return found


def in_the_way_of(way: str, height: int, width: int, *, accumulate: bool = True) -> Accumulator:
    """An accumulator that computes compiled or in numpy."""
    accumulator = Accumulator(height, width, accumulate=accumulate)
    accumulator._kernels = WAYS[way]
    return accumulator


def blocks(rng: np.random.Generator, height: int, width: int, reach: int) -> NDArray[np.void]:
    """Random vectors of blocks that do not overlap, some of them over the frame's edge."""
    rows = []
    for cell_y in range(-8, height, 16):
        for cell_x in range(-8, width, 16):
            w, h = (int(side) for side in rng.integers(4, 17, 2))
            x = cell_x + int(rng.integers(0, 17 - w)) + w // 2
            y = cell_y + int(rng.integers(0, 17 - h)) + h // 2
            dx, dy = (int(step) for step in rng.integers(-reach, reach + 1, 2))
            source = 1 if rng.random() < 0.1 else -1
            still = rng.random() < 0.2
            rows.append((source, w, h, x if still else x + dx, y if still else y + dy, x, y, 0, dx * 4, dy * 4, 4))
    chosen = rng.permutation(len(rows))[: int(rng.integers(0, len(rows) + 1))]
    return np.array([rows[row] for row in chosen], dtype=MOTION_VECTOR_DTYPE)


def vector(block: tuple[int, int, int, int], move: Pixel, source: int = -1) -> NDArray[np.void]:
    """One vector: the ``block`` (left, top, width, height) comes from ``move`` pixels away."""
    (left, top, w, h), (dx, dy) = block, move
    x, y = left + w // 2, top + h // 2
    row = (source, w, h, x + dx, y + dy, x, y, 0, dx * 4, dy * 4, 4)
    return np.array([row], dtype=MOTION_VECTOR_DTYPE)


def joined(*parts: NDArray[np.void]) -> NDArray[np.void]:
    """Vectors one after the other; numpy alone would leave out the padding."""
    return np.concatenate(parts).astype(MOTION_VECTOR_DTYPE)


@pytest.mark.parametrize("way", WAYS)
@settings(derandomize=True)
@given(
    height=st.integers(4, 60),
    width=st.integers(4, 60),
    b_frames=st.lists(st.booleans(), min_size=1, max_size=5),
    reach=st.sampled_from([2, 5, 12, 60]),
    overlap=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    accumulate=st.booleans(),
)
def test_synthetic_vectors(
    way: str, height: int, width: int, b_frames: list[bool], reach: int, overlap: bool, seed: int, accumulate: bool
) -> None:
    rng = np.random.default_rng(seed)
    steps = [(is_b, blocks(rng, height, width, reach)) for is_b in [False, *b_frames]]
    if overlap:
        steps = [(is_b, joined(vectors, blocks(rng, height, width, reach))) for is_b, vectors in steps]
    accumulator = in_the_way_of(way, height, width, accumulate=accumulate)
    first = texture(height, width, seed % 100)
    side_by_side = first.reshape(height, -1)
    top, left = int(rng.integers(height)), int(rng.integers(width))
    window = (top, left, int(rng.integers(top, height + 1)), int(rng.integers(left, width + 1)))
    inside = np.s_[window[0] : window[2], window[1] : window[3]]
    for (is_b, vectors), expected in zip(steps[1:], slow_motion(steps, height, width, accumulate)[1:], strict=True):
        accumulator.step(vectors, is_b=is_b)
        motion = accumulator.motion()
        assert motion.dtype == np.int16
        np.testing.assert_array_equal(motion, expected)
        np.testing.assert_array_equal(accumulator.motion(window), expected[inside])
        coded = np.rint(np.clip(expected * 127.5 / 20 + 128, 0, 255))
        np.testing.assert_array_equal(accumulator.motion8(), coded)
        np.testing.assert_array_equal(accumulator.motion8(window), coded[inside])
        rows, columns = np.indices((height, width))
        residual = 255 - first - first[rows - expected[..., 1], columns - expected[..., 0]].astype(int)
        np.testing.assert_array_equal(accumulator.residual(255 - side_by_side, side_by_side), residual)
        np.testing.assert_array_equal(accumulator.residual(255 - side_by_side, side_by_side, window), residual[inside])
        coded = np.clip(residual + 128, 0, 255)
        np.testing.assert_array_equal(accumulator.residual8(255 - side_by_side, side_by_side), coded)
        np.testing.assert_array_equal(accumulator.residual8(255 - side_by_side, side_by_side, window), coded[inside])
    accumulator.restart()
    assert not accumulator.motion().any()
    assert (accumulator.motion8() == 128).all()


@pytest.mark.parametrize("way", WAYS)
def test_where_blocks_overlap_the_later_one_counts(way: str) -> None:
    accumulator = in_the_way_of(way, 16, 16)
    still = vector((6, 6, 4, 4), (0, 0))  # does not move, so it does not count
    accumulator.step(joined(vector((0, 0, 8, 8), (1, 2)), vector((4, 4, 8, 8), (-2, 3)), still))
    motion = accumulator.motion()
    assert (motion[:4, :8] == (-1, -2)).all()
    assert (motion[4:12, 4:12] == (2, -3)).all()


@pytest.mark.parametrize(
    ("block", "move", "moved"),
    [
        ((8, 8, 8, 4), (3, -2), (8, 8, 16, 12)),  # x and y are not swapped, w and h neither
        ((0, 0, 16, 16), (-3, 0), (3, 0, 16, 16)),  # source left of the frame: only what comes from inside moves
        ((0, 0, 16, 16), (0, -5), (0, 5, 16, 16)),
        ((24, 8, 8, 16), (4, 2), (24, 8, 28, 22)),  # source past the right and the lower edge
        ((24, 8, 8, 16), (32, 0), None),  # source wholly outside
        ((0, 0, 32, 24), (-31, -23), (31, 23, 32, 24)),  # the one pixel left
        ((28, 20, 8, 8), (-2, -2), (28, 20, 32, 24)),  # block over the lower right corner
        ((-4, -4, 8, 8), (1, 1), (0, 0, 4, 4)),  # block over the upper left corner
        ((-8, -8, 8, 8), (9, 9), None),  # block wholly outside
        ((8, 8, 8, 8), (0, 0), None),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_frame_edge(
    way: str, block: tuple[int, int, int, int], move: Pixel, moved: tuple[int, int, int, int] | None
) -> None:
    accumulator = in_the_way_of(way, 24, 32)
    accumulator.step(vector(block, move))
    expected = np.zeros((24, 32, 2), np.int16)
    if moved:
        expected[moved[1] : moved[3], moved[0] : moved[2]] = (-move[0], -move[1])
    np.testing.assert_array_equal(accumulator.motion(), expected)


def test_pixels_without_motion_keep_their_accumulated_source() -> None:
    accumulator = Accumulator(16, 16)
    accumulator.step(vector((0, 0, 8, 8), (4, 4)))
    before = accumulator.motion()
    accumulator.step(vector((8, 8, 8, 8), (-8, -8)))  # fetches what the first step moved
    after = accumulator.motion()
    np.testing.assert_array_equal(after[:8, :8], before[:8, :8])
    assert (after[8:, 8:] == [8 - 4, 8 - 4]).all()


def test_vectors_into_the_future_are_not_followed() -> None:
    accumulator = Accumulator(16, 16)
    accumulator.step(vector((0, 0, 8, 8), (4, 4), source=1), is_b=True)
    assert not accumulator.motion().any()


def test_nothing_refers_to_a_b_frame() -> None:
    accumulator = Accumulator(16, 16)
    accumulator.step(vector((0, 0, 8, 8), (4, 4)), is_b=True)
    assert accumulator.motion().any()
    accumulator.step(np.empty(0, MOTION_VECTOR_DTYPE))
    assert not accumulator.motion().any()


@pytest.mark.parametrize(
    ("codec", "how"),
    [
        ("libx264", {}),
        ("libx264", {"refs": 3}),
        ("mpeg4", {}),
        ("libx264", {"b_frames": 1}),
        ("libx264", {"b_frames": 3, "refs": 3, "open_gop": True}),
        ("mpeg4", {"b_frames": 2}),
    ],
)
@pytest.mark.parametrize("anchor_every", [12, 5])
def test_clips(tmp_path: Path, codec: str, how: dict[str, Any], anchor_every: int) -> None:
    path = record(wandering(16, 66, 50, 8, noise=3), tmp_path / "clip.mkv", codec=codec, gop=9, **how)
    steps = decode_vectors(path)
    if codec == "mpeg4" and how:
        steps = steps[:-1]  # plain decoding never gives the last anchor's vectors of such streams
    with open_video(path, anchor_every=anchor_every) as video:
        assert sum(is_b for is_b, _ in steps) > 4 or not video.info.has_b_frames
        motion = video.get_motion_at(every_frame(video))
        moved = 0
        for gop in video.gops:
            of_gop = steps[gop.start : gop.start + gop.length]
            for pos, expected in enumerate(slow_motion(of_gop, 50, 66)):
                np.testing.assert_array_equal(motion[gop.start + pos], expected, err_msg=f"{gop}, position {pos}")
                moved += bool(expected.any())
        assert moved > (1 if codec == "mpeg4" and how else 8)  # FFmpeg's vectors of MPEG-4 B-frames are all zero
        for frame, (_, vectors) in enumerate(steps):
            (found,) = video.get_motion_vectors_at([frame])
            assert found.dtype == MOTION_VECTOR_DTYPE
            assert len(found) == len(vectors)
            for name in ("source", "w", "h", "src_x", "src_y", "dst_x", "dst_y", "motion_x", "motion_y"):
                assert not len(found) or (found[name] == vectors[name]).all()


@pytest.mark.parametrize("step", [(3, 0), (0, 3), (-4, 2), (2, -5)])
@pytest.mark.parametrize(
    ("codec", "b_frames"), [("h264", 0), ("mpeg4", 0), ("h264", 2), ("mpeg4", 2)], ids=lambda value: str(value)
)
def test_known_translation(tmp_path: Path, step: Pixel, codec: Any, b_frames: int) -> None:
    """What moves right and down by (dx, dy) a frame has moved by t times that after t frames."""
    path = tmp_path / "sliding.mp4"
    pictures = sliding(10, 112, 96, step)
    if b_frames:
        name = "libx264" if codec == "h264" else codec
        record(pictures, path, codec=name, gop=10, b_frames=b_frames, quality=10)
    else:
        encode(pictures, path, codec=codec, gop=10, quality=1)
    with open_video(path) as video:
        assert video.info.has_b_frames == bool(b_frames)
        assert video.gops == [(0, 10)]
        motion = video.get_motion_at(range(10))
    for pos in range(10):
        if b_frames and pos % (b_frames + 1):
            continue  # a B-frame may be predicted from the future alone
        interior = motion[pos, 32:-32, 32:-32]
        assert np.median(interior, axis=(0, 1)).tolist() == [pos * step[0], pos * step[1]], f"position {pos}"
