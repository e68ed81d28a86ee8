"""Turning vectors and motion fields goes with turning the picture."""

from __future__ import annotations

import numpy as np
from clips import texture, warp
from hypothesis import given, settings
from hypothesis import strategies as st

from coviar_mocrop.bitstream import MOTION_VECTOR_DTYPE
from coviar_mocrop.bitstream.accumulate import Accumulator
from coviar_mocrop.bitstream.rotate import rotate_motion, rotate_picture, rotate_vectors
from coviar_mocrop.bitstream.types import no_vectors

sizes = st.integers(2, 4).map(lambda blocks: blocks * 8)


def random_vectors(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """One vector for each block of 8x8 pixels; blocks of even size, as codecs have them."""
    rows = []
    for y in range(4, height, 8):
        for x in range(4, width, 8):
            dx, dy = (int(step) for step in rng.integers(-9, 10, 2))
            rows.append((-1, 8, int(rng.choice([4, 8])), x + dx, y + dy, x, y, 0, dx * 4, dy * 4, 4))
    return np.array(rows, dtype=MOTION_VECTOR_DTYPE)


@settings(derandomize=True)
@given(height=sizes, width=sizes, turns=st.integers(0, 3), seed=st.integers(0, 10_000))
def test_turned_vectors_give_turned_motion(height: int, width: int, turns: int, seed: int) -> None:
    vectors = random_vectors(np.random.default_rng(seed), height, width)
    coded = Accumulator(height, width)
    coded.step(vectors)
    shown = Accumulator(*((width, height) if turns % 2 else (height, width)))
    before = vectors.copy()
    turned = rotate_vectors(vectors, turns, width, height)
    assert (vectors == before).all()
    shown.step(turned)
    np.testing.assert_array_equal(shown.motion(), rotate_motion(coded.motion(), turns))
    for axis in "xy":
        moves = turned[f"src_{axis}"] - turned[f"dst_{axis}"]
        np.testing.assert_array_equal(moves * 4, turned[f"motion_{axis}"])
    assert turned.dtype == MOTION_VECTOR_DTYPE


@settings(derandomize=True)
@given(height=sizes, width=sizes, turns=st.integers(0, 3), seed=st.integers(0, 10_000))
def test_turned_motion_warps_the_turned_picture(height: int, width: int, turns: int, seed: int) -> None:
    picture = texture(height, width, seed)
    accumulator = Accumulator(height, width)
    accumulator.step(random_vectors(np.random.default_rng(seed), height, width))
    motion = accumulator.motion()
    turned = rotate_motion(motion, turns)
    assert turned.dtype == np.int16
    expected = np.rot90(warp(picture, motion), turns)
    np.testing.assert_array_equal(warp(np.rot90(picture, turns), turned), expected)
    np.testing.assert_array_equal(rotate_picture(picture, turns), np.rot90(picture, turns))


def test_one_quarter_turn_counter_clockwise() -> None:
    """The upper right corner becomes the upper left one; what came from the right comes from above."""
    rows = [(-1, 16, 8, 96, 4, 92, 4, 0, 16, 0, 4)]
    turned = rotate_vectors(np.array(rows, dtype=MOTION_VECTOR_DTYPE), 1, 100, 60)
    assert turned.tolist() == [(-1, 8, 16, 4, 4, 4, 8, 0, 0, -16, 4)]
    motion = np.zeros((60, 100, 2), np.int16)
    motion[4, 92] = (-4, 1)
    turned_motion = rotate_motion(motion, 1)
    assert turned_motion.shape == (100, 60, 2)
    assert turned_motion[7, 4].tolist() == [1, 4]


def test_no_vectors() -> None:
    assert len(rotate_vectors(no_vectors(), 3, 100, 60)) == 0


def test_turned_vectors_are_the_same_bytes_every_time() -> None:
    """The padding between the fields included."""
    vectors = np.zeros(200, MOTION_VECTOR_DTYPE)
    vectors[:] = np.resize(random_vectors(np.random.default_rng(0), 64, 64), 200)
    fields = np.zeros(MOTION_VECTOR_DTYPE.itemsize, bool)
    for dtype, offset in ((field[0], field[1]) for field in MOTION_VECTOR_DTYPE.fields.values()):  # type: ignore[union-attr]
        fields[offset : offset + dtype.itemsize] = True
    for turns in (1, 2, 3):
        np.full(8000, 255, np.uint8)  # what memory that is used again may hold
        turned = rotate_vectors(vectors, turns, 100, 60)
        assert not turned.view(np.uint8).reshape(200, -1)[:, ~fields].any()
