"""MoCrop: the search against brute force, the density against known motion, boxes always valid."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pydantic import ValidationError

from coviar_mocrop.bitstream import MOTION_VECTOR_DTYPE
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.mocrop import FULL_FRAME, CropBox, MoCropSettings, best_rectangle, density_of, estimate_box

PRESETS = ("default", "paper_v1", "paper_v2")


def vectors_of(*blocks: tuple[float, float, float, float], size: int = 16, source: int = -1) -> NDArray[np.void]:
    """Motion vectors from (x, y, motion x, motion y): centre of the block and where its content came from."""
    rows = np.zeros(len(blocks), dtype=MOTION_VECTOR_DTYPE)
    for row, (x, y, dx, dy) in zip(rows, blocks, strict=True):
        row["source"], row["w"], row["h"] = source, size, size
        row["dst_x"], row["dst_y"], row["src_x"], row["src_y"] = x, y, x + dx, y + dy
        row["motion_x"], row["motion_y"], row["motion_scale"] = round(4 * dx), round(4 * dy), 4
    return rows


def brute_force(density: NDArray[Any], ratio: float, tolerance: float, objective: str) -> tuple[int, int, int, int]:
    """Every rectangle in the order that decides ties: height, width, row, column."""
    rows, columns = density.shape
    target = ratio * rows * columns
    nearest = min(abs(h * w - target) for h in range(1, rows + 1) for w in range(1, columns + 1))
    best, best_value = (0, 0, 0, 0), -1.0
    for h, w in product(range(1, rows + 1), range(1, columns + 1)):
        if abs(h * w - target) > max(tolerance * target, nearest) * (1 + 1e-12):
            continue
        for y, x in product(range(rows - h + 1), range(columns - w + 1)):
            inside = density[y : y + h, x : x + w]
            value = inside.sum() if objective == "sum" else 0.6 * inside.sum() + 0.4 * inside.mean()
            if value > best_value + 1e-9 * density.sum():
                best, best_value = (y, x, h, w), value
    return best


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    density=st.tuples(st.integers(1, 7), st.integers(1, 9)).flatmap(
        lambda shape: arrays(np.float64, shape, elements=st.integers(0, 4).map(float))
    ),
    ratio=st.sampled_from([0.25, 0.4, 0.5, 0.75, 1.0]),
    tolerance=st.sampled_from([0.0, 0.1, 0.3]),
    objective=st.sampled_from(["sum", "sum_and_mean"]),
)
def test_search_equals_brute_force_ties_included(
    density: NDArray[np.float64], ratio: float, tolerance: float, objective: Any
) -> None:
    assert best_rectangle(density, ratio, tolerance, objective) == brute_force(density, ratio, tolerance, objective)


def test_search_refuses_what_is_out_of_range() -> None:
    for arguments in [(np.zeros((0, 3)),), (np.full((2, 2), np.nan),), (-np.ones((2, 2)),), (np.ones((2, 2)), 0.0)]:
        with pytest.raises(ConfigError):
            best_rectangle(*arguments)


@pytest.mark.parametrize("preset", PRESETS)
def test_box_holds_what_moves_and_keeps_x_and_y_apart(preset: Any) -> None:
    # a wide frame, motion low on the left: swapping x and y, or top and bottom, would miss it
    frames = [vectors_of(*((x, y, 6, 0) for x in (24, 40, 56) for y in (180, 196, 212))) for _ in range(5)]
    # all vectors kept: v2's strongest 1 % of 45 equal ones would be a single one
    box = estimate_box(frames, (240, 320), MoCropSettings(preset=preset, area_ratio=0.25, keep_strongest=1.0))
    assert box.x0 <= 24 / 320
    assert box.x1 >= 56 / 320
    assert box.y0 <= 180 / 240
    assert box.y1 >= 212 / 240
    assert box.area == pytest.approx(0.25, rel=0.11)


def test_camera_motion_is_taken_out() -> None:
    places = [(x, y) for x in range(8, 320, 16) for y in range(8, 240, 16)]
    panning = vectors_of(*((x, y, 9 if x > 200 and y > 150 else 5, 0) for x, y in places))
    still = MoCropSettings(area_ratio=0.25, camera="none", weight="count")
    moving = MoCropSettings(area_ratio=0.25)
    density = density_of([panning], (240, 320), moving)
    rows, columns = np.nonzero(density)
    assert rows.min() >= 5  # nothing is left but the corner
    assert columns.min() >= 9
    assert estimate_box([panning], (240, 320), moving).x1 == 1.0
    assert np.count_nonzero(density_of([panning], (240, 320), still)) == density.size


def test_few_moving_blocks_are_not_taken_for_the_camera() -> None:
    # only moving blocks have vectors; what has none stands still
    few = vectors_of((100, 100, 7, 0), (116, 100, 7, 0))
    assert density_of([few], (240, 320)).any()


def test_static_vectors_are_dropped_and_nothing_left_is_the_full_frame() -> None:
    noise = vectors_of(*((x, 100, 0.25, 0) for x in range(8, 320, 16)))
    assert estimate_box([noise], (240, 320)) == FULL_FRAME
    assert estimate_box([], (240, 320)) == FULL_FRAME
    assert estimate_box(np.empty(0, MOTION_VECTOR_DTYPE), (240, 320)) == FULL_FRAME


def test_large_blocks_and_long_vectors_weigh_more_by_default_but_not_in_v1() -> None:
    large, small = vectors_of((40, 40, 8, 0)), vectors_of((280, 200, 2, 0), size=8)
    density = density_of([large, small], (240, 320))
    assert density.max() == pytest.approx(16 * 16 * 8)
    assert sorted(density[density > 0].tolist()) == pytest.approx([8 * 8 * 2, 16 * 16 * 8])
    counted = density_of([large, small], (240, 320), MoCropSettings(preset="paper_v1"))
    assert sorted(counted[counted > 0].tolist()) == [1, 1]


def test_future_vectors_count_as_the_opposite_motion() -> None:
    # a pan seen through both directions of a B-frame must cancel, not split
    past = vectors_of(*((x, y, 4, 0) for x in range(8, 320, 16) for y in range(8, 240, 32)))
    future = vectors_of(*((x, y, -4, 0) for x in range(8, 320, 16) for y in range(24, 240, 32)), source=1)
    assert not density_of([np.concatenate([past, future])], (240, 320)).any()


def test_monte_carlo_is_seeded_and_its_expectation_is_the_exact_histogram() -> None:
    blocks = vectors_of(*((x, y, 1 + x / 50, 0) for x in range(8, 320, 16) for y in range(8, 240, 16)))
    common: dict[str, Any] = {"preset": "paper_v1", "importance_power": 2.0}
    exact = density_of([blocks], (240, 320), MoCropSettings(**common))
    drawn = {"sampling": "monte_carlo", "sample_share": 1.0}
    runs = [density_of([blocks], (240, 320), MoCropSettings(**common, **drawn, seed=seed)) for seed in range(200)]
    again = density_of([blocks], (240, 320), MoCropSettings(**common, **drawn, seed=0))
    np.testing.assert_array_equal(runs[0], again)
    assert not np.array_equal(runs[0], runs[1])
    mean = np.mean(runs, axis=0)
    np.testing.assert_allclose(mean / mean.sum(), exact / exact.sum(), atol=0.004)


def test_v2_keeps_the_strongest() -> None:
    weak = [(x, 40, 2, 0) for x in range(8, 320, 3)]
    strong = [(300, 220, 30, 0)]
    density = density_of([vectors_of(*weak, *strong)], (240, 320), MoCropSettings(preset="paper_v2"))
    assert np.count_nonzero(density) == 1
    assert density[8, 15] > 0


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "source": st.sampled_from([-1, 1, 0]),
                "w": st.integers(0, 255),
                "h": st.integers(0, 255),
                "dst_x": st.integers(-32768, 32767),
                "dst_y": st.integers(-32768, 32767),
                "motion_x": st.integers(-(2**31), 2**31 - 1),
                "motion_y": st.integers(-(2**31), 2**31 - 1),
                "motion_scale": st.integers(0, 65535),
            }
        ),
        max_size=20,
    ),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    preset=st.sampled_from(PRESETS),
    ratio=st.floats(0.01, 1),
)
def test_any_vectors_give_a_valid_box(
    rows: list[dict[str, int]], size: tuple[int, int], preset: Any, ratio: float
) -> None:
    vectors = np.zeros(len(rows), dtype=MOTION_VECTOR_DTYPE)
    for vector, row in zip(vectors, rows, strict=True):
        for name, value in row.items():
            vector[name] = value
    box = estimate_box([vectors], size, MoCropSettings(preset=preset, area_ratio=ratio))
    assert 0 <= box.x0 < box.x1 <= 1
    assert 0 <= box.y0 < box.y1 <= 1
    top, left, bottom, right = box.to_pixels(*size)
    assert 0 <= top < bottom <= size[0]
    assert 0 <= left < right <= size[1]


def test_presets_and_overrides() -> None:
    assert (MoCropSettings().rows, MoCropSettings().columns) == (9, 16)
    v1 = MoCropSettings(preset="paper_v1", area_ratio=0.4)
    assert (v1.rows, v1.columns, v1.camera, v1.area_ratio) == (6, 8, "none", 0.4)
    v2 = MoCropSettings(preset="paper_v2", rows=12)
    assert (v2.rows, v2.columns, v2.objective, v2.keep_strongest) == (12, 16, "sum_and_mean", 0.01)
    with pytest.raises(ValidationError, match="area_ratio"):
        MoCropSettings(area_ratio=1.5)


def test_box_pixels_and_overlap() -> None:
    box = CropBox(0.25, 0.5, 0.75, 1.0)
    assert box.to_pixels(200, 400) == (100, 100, 200, 300)
    assert box.area == 0.25
    assert box.iou(box) == 1.0
    assert box.iou(CropBox(0.5, 0.5, 1.0, 1.0)) == pytest.approx(1 / 3)
    assert box.iou(CropBox(0.8, 0.0, 1.0, 0.2)) == 0.0
    assert CropBox(0.999, 0.0, 1.0, 0.001).to_pixels(10, 10) == (0, 9, 1, 10)
