"""Which frames of a clip, and which windows of them, a stream sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coviar_mocrop.bitstream import Gop
from coviar_mocrop.clips import windows as windowing
from coviar_mocrop.clips.config import InputConfig
from coviar_mocrop.clips.sampling import middle_frames, motion_frames, random_frames, sampled_frames, strided_frames
from coviar_mocrop.mocrop import CropBox

# -- frames ----------------------------------------------------------------------------------------------


def test_middle_frames_by_hand() -> None:
    # round((n - 1) / S * (s + 0.5)), n = 101, S = 4; motion: n - 1 frames, then + 1
    assert middle_frames(101, 4, "iframe") == [12, 38, 62, 88]
    assert middle_frames(102, 4, "mv") == [13, 39, 63, 89]
    assert middle_frames(2, 3, "mv") == random_frames(2, 3, "mv", np.random.default_rng(0)) == [1, 1, 1]


@settings(derandomize=True)
@given(frames=st.integers(1, 300), segments=st.integers(1, 30), kind=st.sampled_from(["iframe", "mv", "residual"]))
def test_segments_stay_inside_and_in_order(frames: int, segments: int, kind: Any) -> None:
    generator = np.random.default_rng(frames)
    for drawn in (middle_frames(frames, segments, kind), random_frames(frames, segments, kind, generator)):
        assert len(drawn) == segments
        assert drawn == sorted(drawn)
        first = 1 if kind != "iframe" and frames > 1 else 0
        assert all(first <= frame < frames for frame in drawn)


@given(seed=st.integers(0, 50))
def test_random_frames_stay_in_their_segment(seed: int) -> None:
    drawn = random_frames(101, 4, "iframe", np.random.default_rng(seed))
    assert all(25 * s <= frame < 25 * (s + 1) for s, frame in enumerate(drawn))


@given(seed=st.integers(0, 50))
def test_strided_frames_keep_their_stride_where_the_clip_is_long_enough(seed: int) -> None:
    generator = np.random.default_rng(seed)
    assert strided_frames(48, 8, 3, "frame") == list(range(13, 35, 3))
    drawn = strided_frames(48, 8, 3, "frame", generator)
    assert np.diff(drawn).tolist() == [3] * 7
    assert 0 <= drawn[0] <= 26
    assert strided_frames(10, 4, 5, "frame", generator) == [0, 3, 6, 9]
    assert strided_frames(1, 3, 2, "frame", generator) == [0, 0, 0]
    assert strided_frames(5, 2, 9, "mv") == [1, 4]


def test_every_first_frame_that_leaves_room_is_drawn() -> None:
    draws = [strided_frames(7, 3, 2, "frame", np.random.default_rng(seed)) for seed in range(60)]
    assert {tuple(drawn) for drawn in draws} == {(0, 2, 4), (1, 3, 5), (2, 4, 6)}


def test_motion_on_an_iframe_is_that_of_the_frame_before() -> None:
    gops = [Gop(0, 12), Gop(12, 12), Gop(24, 5)]
    assert motion_frames(gops, [0, 1, 11, 12, 13, 24, 28]) == [0, 1, 11, 11, 13, 23, 28]
    assert motion_frames([Gop(0, 1)], [0]) == [0]


def test_settings_choose_the_frames() -> None:
    inputs = InputConfig(segments=2, test_segments=4)
    assert sampled_frames(101, inputs, "iframe") == middle_frames(101, 4, "iframe")
    drawn = sampled_frames(101, inputs, "mv", np.random.default_rng(5))
    assert drawn == random_frames(101, 2, "mv", np.random.default_rng(5))
    dense = InputConfig(segments=2, test_segments=4, stride=3)
    assert sampled_frames(101, dense, "frame") == strided_frames(101, 4, 3, "frame")
    drawn = sampled_frames(101, dense, "frame", np.random.default_rng(5))
    assert drawn == strided_frames(101, 2, 3, "frame", np.random.default_rng(5))


# -- windows ---------------------------------------------------------------------------------------------


@settings(derandomize=True)
@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    corner=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
    share=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    boxed=st.booleans(),
    seed=st.integers(0, 100),
)
def test_windows_stay_inside_the_box(
    size: tuple[int, int], corner: tuple[float, float], share: tuple[float, float], boxed: bool, seed: int
) -> None:
    (x0, y0), (w, h) = corner, share
    box = CropBox(x0, y0, min(x0 + w, 1.0), min(y0 + h, 1.0)) if boxed else None
    top, left, bottom, right = (box or CropBox(0, 0, 1, 1)).to_pixels(*size)
    scales = (1.0, 0.875, 0.75, 0.66)
    windows = [windowing.training_window(size, box, scales, True, np.random.default_rng(seed))]
    windows += windowing.testing_windows(size, box, 1) + windowing.testing_windows(size, box, 10)
    assert len(windows) == 12
    for window in windows:
        assert top <= window.top < window.bottom <= bottom
        assert left <= window.left < window.right <= right


def test_test_windows_are_coviars() -> None:
    assert windowing.testing_windows((256, 340), None, 1) == [windowing.Window(16, 58, 240, 282)]
    ten = windowing.testing_windows((256, 340), None, 10)
    assert ten[0] == windowing.Window(0, 0, 224, 224)
    assert ten[3] == windowing.Window(32, 116, 256, 340)
    assert [window.mirrored for window in ten] == [False] * 5 + [True] * 5
    box = CropBox(0.25, 0.0, 1.0, 0.5)
    assert windowing.testing_windows((256, 340), box, 1) == [windowing.Window(0, 85, 128, 340)]


def test_squares_without_a_box_and_the_whole_frame() -> None:
    box = CropBox(0.25, 0.0, 1.0, 0.5)
    assert windowing.middle_square((256, 340), None) == [windowing.Window(0, 42, 256, 298)]
    assert windowing.middle_square((256, 340), box) == [windowing.Window(0, 85, 128, 340)]
    assert windowing.whole_frame((256, 340), box) == [windowing.Window(0, 0, 256, 340)]


@pytest.mark.parametrize("flip", [False, True])
def test_training_windows_are_drawn_from_all_scales_places_and_flips(flip: bool) -> None:
    draws = [
        windowing.training_window((64, 96), None, (1.0, 0.5), flip, np.random.default_rng(seed)) for seed in range(200)
    ]
    sides = {(window.bottom - window.top, window.right - window.left) for window in draws}
    assert sides == {(64, 64), (32, 64), (64, 32), (32, 32)}
    assert {window.top for window in draws if window.bottom - window.top == 32} == {0, 8, 16, 24, 32}
    assert {window.mirrored for window in draws} == {False, flip}


def test_height_and_width_of_a_training_window_are_of_neighbouring_scales() -> None:
    scales = (1.0, 0.75, 0.5, 0.25)
    draws = [
        windowing.training_window((64, 96), None, scales, True, np.random.default_rng(seed)) for seed in range(200)
    ]
    found = {(scales.index((w.bottom - w.top) / 64), scales.index((w.right - w.left) / 64)) for w in draws}
    assert found == {(high, wide) for high in range(4) for wide in range(4) if abs(high - wide) <= 1}
