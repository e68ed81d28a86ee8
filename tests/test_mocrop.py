"""MoCrop: the search against brute force, the density against known motion, boxes always valid."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from coviar_mocrop.bitstream import MOTION_VECTOR_DTYPE
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.mocrop import (
    FULL_FRAME,
    CropBox,
    MoCropSettings,
    best_rectangle,
    density_of,
    estimate_box,
    frames_to_read,
)
from coviar_mocrop.mocrop.camera import remove_camera
from coviar_mocrop.mocrop.coherence import coherence
from coviar_mocrop.mocrop.estimate import box_of_density
from coviar_mocrop.mocrop.search import smallest_rectangle

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


@settings(max_examples=4 * settings.default.max_examples, derandomize=True)
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


def brute_force_central(density: NDArray[Any], allowed: list[tuple[int, int, int, int]], values: list[float]) -> Any:
    """Of the rectangles (y, x, h, w) whose value ties for the best: points nearest the centroid, by direct summing."""
    rows, columns = density.shape
    middles = [((y + 0.5) / rows, (x + 0.5) / columns) for y, x in product(range(rows), range(columns))]
    total = density.sum()
    centre = np.average(middles, axis=0, weights=density.ravel()) if total else np.array([0.5, 0.5])
    best, least = None, np.inf
    for (y, x, h, w), value in zip(allowed, values, strict=True):
        if value < max(values) - 1e-9 * total:
            continue
        # mean over each cell's points: that of its middle, and the twelfth of its side squared each way
        down = [((y + i + 0.5) / rows - centre[0]) ** 2 + 1 / (12 * rows**2) for i in range(h)]
        across = [((x + i + 0.5) / columns - centre[1]) ** 2 + 1 / (12 * columns**2) for i in range(w)]
        spread = (np.mean(down) + np.mean(across)) / (h / rows * w / columns)
        if spread < least - 1e-9:
            best, least = (y, x, h, w), spread
    return best


@settings(max_examples=4 * settings.default.max_examples, derandomize=True)
@given(
    density=st.tuples(st.integers(1, 7), st.integers(1, 9)).flatmap(
        lambda shape: arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.0, 0.0, 1.0, 3.0]))
    ),
    ratio=st.sampled_from([0.25, 0.4, 0.5, 0.75, 1.0]),
    tolerance=st.sampled_from([0.0, 0.1, 0.3]),
    objective=st.sampled_from(["sum", "sum_and_mean"]),
)
def test_central_ties_equal_brute_force(
    density: NDArray[np.float64], ratio: float, tolerance: float, objective: Any
) -> None:
    rows, columns = density.shape
    target = ratio * rows * columns
    nearest = min(abs(h * w - target) for h in range(1, rows + 1) for w in range(1, columns + 1))
    allowed, values = [], []
    for h, w in product(range(1, rows + 1), range(1, columns + 1)):
        if abs(h * w - target) > max(tolerance * target, nearest) * (1 + 1e-12):
            continue
        for y, x in product(range(rows - h + 1), range(columns - w + 1)):
            inside = density[y : y + h, x : x + w]
            allowed.append((y, x, h, w))
            values.append(inside.sum() if objective == "sum" else 0.6 * inside.sum() + 0.4 * inside.mean())
    found = best_rectangle(density, ratio, tolerance, objective, tie="central")
    assert found == brute_force_central(density, allowed, values)
    # a tie is all that it decides
    y, x, h, w = best_rectangle(density, ratio, tolerance, objective)
    assert values[allowed.index(found)] == pytest.approx(values[allowed.index((y, x, h, w))])


def test_small_motion_is_in_the_middle_of_its_box() -> None:
    density = np.zeros((18, 32))
    density[8:10, 20:22] = 1  # its middle: row 9, column 21
    assert best_rectangle(density, 0.4) == (3, 0, 7, 30)  # the flattest, at the left
    row, column, rows, columns = best_rectangle(density, 0.4, tie="central")
    assert abs(row + rows / 2 - 9) <= 0.5
    assert abs(column + columns / 2 - 21) <= 0.5
    assert rows / 18 == pytest.approx(columns / 32, rel=0.1)
    for preset, tie in (("default", "central"), ("paper_v1", "published"), ("paper_v2", "published")):
        assert MoCropSettings(preset=preset).tie == tie  # type: ignore[arg-type]
    # an adaptive box at its floor
    frames = [vectors_of((200, 136, 6, 0), (216, 136, 6, 0))] * 5
    box = estimate_box(frames, (240, 320), MoCropSettings(size="adaptive", area_floor=0.3))
    assert (box.x0 + box.x1) / 2 == pytest.approx(208 / 320, abs=0.03)
    assert (box.y0 + box.y1) / 2 == pytest.approx(136 / 240, abs=0.05)


def test_search_refuses_what_is_out_of_range() -> None:
    for arguments in [(np.zeros((0, 3)),), (np.full((2, 2), np.nan),), (-np.ones((2, 2)),), (np.ones((2, 2)), 0.0)]:
        with pytest.raises(ConfigError):
            best_rectangle(*arguments)
    with pytest.raises(ConfigError, match="published or central"):
        best_rectangle(np.ones((2, 2)), tie="middle")  # type: ignore[arg-type]


@pytest.mark.parametrize("preset", PRESETS)
def test_box_holds_what_moves_and_keeps_x_and_y_apart(preset: Any) -> None:
    # a wide frame, motion low on the left: swapping x and y, or top and bottom, would miss it
    frames = [vectors_of(*((x, y, 6, 0) for x in (24, 40, 56) for y in (180, 196, 212))) for _ in range(5)]
    # all vectors kept: v2's strongest 1% of 45 equal ones would be a single one
    box = estimate_box(frames, (240, 320), MoCropSettings(preset=preset, area_ratio=0.25, keep_strongest=1.0))
    assert box.x0 <= 24 / 320
    assert box.x1 >= 56 / 320
    assert box.y0 <= 180 / 240
    assert box.y1 >= 212 / 240
    assert box.area == pytest.approx(0.25, rel=0.11)


# the grid as the vectors fill it, nothing spread, smoothed or cut off
BARE: dict[str, Any] = {"rows": 9, "columns": 16, "smoothing": 0, "saturation": None, "spread_blocks": False}


def test_camera_motion_is_taken_out() -> None:
    places = [(x, y) for x in range(8, 320, 16) for y in range(8, 240, 16)]
    panning = vectors_of(*((x, y, 9 if x > 200 and y > 150 else 5, 0) for x, y in places))
    still = MoCropSettings(**BARE, area_ratio=0.25, camera="none", weight="count")
    moving = MoCropSettings(**BARE, area_ratio=0.25)
    density = density_of([panning], (240, 320), moving)
    rows, columns = np.nonzero(density)
    assert rows.min() >= 5  # nothing is left but the corner
    assert columns.min() >= 9
    assert estimate_box([panning], (240, 320), moving).x1 == 1.0
    assert np.count_nonzero(density_of([panning], (240, 320), still)) == density.size


@pytest.mark.parametrize(("height", "speed"), [(240, 31), (480, 31), (1080, 70)])
def test_fast_pans_are_taken_out(height: int, speed: int) -> None:
    places = [(x, y) for x in range(8, 320, 16) for y in range(8, height, 16)]
    pan = vectors_of(*((x, y, -speed, 0) for x, y in places))
    assert not density_of([pan], (height, 320), MoCropSettings(camera="translation")).any()


@pytest.mark.parametrize(("columns", "is_camera"), [(5, True), (3, False)])
def test_area_without_vectors_weighs_a_quarter_against_the_camera(columns: int, is_camera: bool) -> None:
    """So motion of 5 of 20 columns outweighs the other 15, and motion of 3 does not outweigh 17."""
    places = [(x, y) for x in range(8, 16 * columns, 16) for y in range(8, 240, 16)]
    chosen = MoCropSettings(**BARE, camera="translation")
    density = density_of([vectors_of(*((x, y, 6, 0) for x, y in places))], (240, 320), chosen)
    assert density.any() == (not is_camera)


def zooming(zoom: float, turn: float, *, size: tuple[int, int] = (240, 320)) -> NDArray[np.void]:
    """A zoom and a turn about the middle, and a patch at the lower right that moves by itself."""
    blocks = []
    for x in range(8, size[1], 16):
        for y in range(8, size[0], 16):
            u, v = x - size[1] / 2, y - size[0] / 2
            own = 8 if 200 < x < 260 and 140 < y < 200 else 0
            blocks.append((x, y, zoom * u - turn * v + own, turn * u + zoom * v))
    return vectors_of(*blocks)


@pytest.mark.parametrize(("zoom", "turn"), [(0.03, 0.0), (-0.03, 0.0), (0.0, 0.03), (0.02, -0.02)])
def test_zoom_and_rotation_are_taken_out(zoom: float, turn: float) -> None:
    frames = [zooming(zoom, turn)] * 3
    rows, columns = np.nonzero(density_of(frames, (240, 320), MoCropSettings(**BARE)))
    assert 140 / 240 * 9 - 1 <= rows.min() <= rows.max() <= 200 / 240 * 9
    assert 200 / 320 * 16 - 1 <= columns.min() <= columns.max() <= 260 / 320 * 16
    translated = density_of(frames, (240, 320), MoCropSettings(**BARE, camera="translation"))
    assert np.count_nonzero(translated) > 3 * len(rows)


def test_a_fit_that_explains_nothing_is_not_trusted() -> None:
    generator = np.random.default_rng(0)
    blocks = [(x, y, *generator.uniform(-9, 9, 2)) for x in range(8, 320, 16) for y in range(8, 240, 16)]
    frames = [vectors_of(*blocks)]
    both = [
        density_of(frames, (240, 320), MoCropSettings(**BARE, camera=camera))  # type: ignore[arg-type]
        for camera in ("similarity", "translation")
    ]
    np.testing.assert_array_equal(*both)


def left_of_a_zoom(zoom: float, wild: dict[int, float], corners: float = 1.0) -> float:
    """Fastest motion, pixels, that is left of a zoom of 6 x 8 cells of 40 pixels. ``wild``: area of the cells that move
    anyhow, by number; ``corners``: area of the four outermost. The others have the area 1."""
    y, x = (values.ravel().astype(np.float32) for values in np.mgrid[20:240:40, 20:320:40])
    motion_x, motion_y = zoom * (x - 160), zoom * (y - 120)
    area = np.ones(48, np.float32)
    area[[0, 7, 40, 47]] = corners
    for number, (cell, weight) in enumerate(wild.items()):
        motion_x[cell], motion_y[cell], area[cell] = 30 * np.cos(2.4 * number), 30 * np.sin(2.4 * number), weight
    group = np.zeros(48, np.int64)
    left = remove_camera("similarity", (x, y), (motion_x, motion_y), 1600 * area, group, 2, (240, 320))
    return float(np.delete(np.hypot(*left), list(wild)).max())


def test_a_fit_needs_more_than_half_of_the_area() -> None:
    cells = np.random.default_rng(0).permutation(48).tolist()
    assert left_of_a_zoom(0.05, dict.fromkeys(cells[:23], 1.0)) < 0.1
    assert left_of_a_zoom(0.05, dict.fromkeys(cells[:24], 1.0)) > 5


@pytest.mark.parametrize(
    ("gained", "wild", "is_used"), [(0.12, 0.0, True), (0.09, 0.0, False), (0.12, 0.05, True), (0.08, 0.05, False)]
)
def test_a_fit_needs_a_tenth_of_the_area_more_than_translation(gained: float, wild: float, is_used: bool) -> None:
    """The corners move by more than a pixel. If they are less than a tenth, translation is good enough."""
    moving = {19: 43 * wild / (1 - wild - gained)} if wild else {}
    others = 44 - len(moving) + sum(moving.values())
    left = left_of_a_zoom(1 / 165, moving, corners=others * gained / (1 - gained) / 4)
    assert left < 0.05 if is_used else left > 1


def test_cells_within_a_pixel_agree() -> None:
    """The corners move by 1.04 and by 0.98 pixels."""
    assert left_of_a_zoom(1 / 165, {}, corners=5) < 0.05
    assert left_of_a_zoom(1 / 175, {}, corners=5) > 0.9


def test_pan_of_b_frames_whose_directions_share_the_frame() -> None:
    """Half the blocks look back, half ahead: neither half may take the other for standing still."""
    blocks = [(x, y) for x in range(8, 320, 16) for y in range(8, 240, 16)]
    past = vectors_of(*((x, y, 6, 0) for x, y in blocks if (x // 16 + y // 16) % 3))
    future = vectors_of(*((x, y, -6, 0) for x, y in blocks if not (x // 16 + y // 16) % 3), source=1)
    assert not density_of([np.concatenate([past, future])], (240, 320)).any()


def test_blocks_spread_over_the_cells_they_cover() -> None:
    one = vectors_of((160, 120, 6, 0))  # its middle is where four cells meet
    grid = {"rows": 4, "columns": 4, "smoothing": 0, "saturation": None, "weight": "area"}
    spread = density_of([one], (240, 320), MoCropSettings(**grid))  # type: ignore[arg-type]
    assert spread[1:3, 1:3].tolist() == [[64, 64], [64, 64]]
    single = density_of([one], (240, 320), MoCropSettings(**grid, spread_blocks=False))  # type: ignore[arg-type]
    assert np.count_nonzero(single) == 1


def test_tickers_are_left_out_and_people_are_not() -> None:
    ticker = [(x, 224, 5, 0) for x in range(8, 320, 16)]
    frames = []
    for number in range(12):
        person = [(x, y, 4 * (-1) ** number, 3) for x in (56, 72) for y in (72, 88, 104)]
        frames.append(vectors_of(*ticker, *person))
    kept = density_of(frames, (240, 320), MoCropSettings(**BARE))
    assert not kept[8].any()
    assert kept[2:5].any()
    assert density_of(frames, (240, 320), MoCropSettings(**BARE, drop_tickers=False))[8].all()
    # blocks at its upper edge hold half of it: sideways as well, but not steadily
    edges = [[(x, 200, 5 if (x // 16 + at) % 2 else 1, 0) for x in range(8, 320, 16)] for at in range(12)]
    unsteady = [np.concatenate([frame, vectors_of(*edge)]) for frame, edge in zip(frames, edges, strict=True)]
    kept = density_of(unsteady, (240, 320), MoCropSettings(**BARE))
    assert not kept[7:].any()
    assert kept[2:5].any()
    alone = density_of([vectors_of(*edge) for edge in edges], (240, 320), MoCropSettings(**BARE, camera="none"))
    assert alone[7].any()
    # all rows running is a scene that runs, not a ticker
    blocks = [(x, y, 5, 0) for x in range(8, 320, 16) for y in range(8, 240, 16)]
    assert density_of([vectors_of(*blocks)] * 12, (240, 320), MoCropSettings(**BARE, camera="none")).all()


def test_a_spot_that_never_rests_does_not_outweigh_the_rest() -> None:
    spot = [(24, 24, 40, 0)]
    frames = [vectors_of(*spot)] * 60
    frames += [vectors_of(*((x, y, 6, 0) for x in range(200, 300, 16) for y in range(120, 220, 16)))] * 6
    box = estimate_box(frames, (240, 320), MoCropSettings(area_ratio=0.25))
    assert box.x0 <= 200 / 320
    assert box.x1 >= 290 / 320


def test_a_cell_counts_no_more_than_a_share_of_the_strongest_tenth() -> None:
    spots = [vectors_of((8, 8, 6, 0), *((x, 232, 6, 0) for x in range(8, 144, 16)))] + [vectors_of((8, 8, 6, 0))] * 10
    how: Any = {"rows": 10, "columns": 20, "smoothing": 0, "spread_blocks": False, "camera": "none", "weight": "count"}
    # 20 of 200 cells: one of 11, nine of 1 and ten of 0
    assert density_of(spots, (240, 320), MoCropSettings(**how, saturation=4.0)).max() == pytest.approx(4.0)
    assert density_of(spots, (240, 320), MoCropSettings(**how, saturation=0.5)).sum() == pytest.approx(10 * 0.5)


def test_vectors_longer_than_four_frames_are_damage() -> None:
    for length, used in ((1280, 2), (1281, 1)):
        vectors = vectors_of((40, 40, 8, 0), (200, 200, 0, length))
        chosen = MoCropSettings(**BARE, camera="none", weight="count")
        assert density_of([vectors], (240, 320), chosen).sum() == used


def test_many_vectors_are_thinned_out_the_same_way_every_time() -> None:
    places = [(x, y) for x in range(4, 320, 8) for y in range(4, 240, 8)]
    frame = vectors_of(*((x, y, 12 if 80 < x < 140 and 60 < y < 130 else 3, 0) for x, y in places), size=8)
    whole, thinned = (MoCropSettings(area_ratio=0.25, max_vectors=most) for most in (None, 4000))
    box = estimate_box([frame] * 20, (240, 320), thinned)
    assert box == estimate_box([frame.copy() for _ in range(20)], (240, 320), thinned)
    assert box.iou(estimate_box([frame] * 20, (240, 320), whole)) > 0.8
    pan = vectors_of(*((x, y, 6, 0) for x, y in places), size=8)
    few = MoCropSettings(max_vectors=4000, camera="translation")
    assert not density_of([pan] * 20, (240, 320), few).any()  # what was left out is not area without vectors


def test_few_moving_blocks_are_not_taken_for_the_camera() -> None:
    # only moving blocks have vectors; what has none stands still
    few = vectors_of((100, 100, 7, 0), (116, 100, 7, 0))
    assert density_of([few], (240, 320)).any()


def test_static_vectors_are_dropped_and_nothing_left_is_the_full_frame() -> None:
    noise = vectors_of(*((x, 100, 0.25, 0) for x in range(8, 320, 16)))
    assert estimate_box([noise], (240, 320)) == FULL_FRAME
    assert estimate_box([], (240, 320)) == FULL_FRAME
    assert estimate_box(np.empty(0, MOTION_VECTOR_DTYPE), (240, 320)) == FULL_FRAME
    # other readers give an empty array of no particular kind for an I-frame
    moving = vectors_of((40, 40, 8, 0))
    assert estimate_box([np.empty(0), moving], (240, 320)) == estimate_box([moving], (240, 320))


def test_what_a_vector_adds_to_its_cell() -> None:
    frames = [vectors_of((40, 40, 8, 0)), vectors_of((280, 200, 2, 0), size=8)]

    def cells(**chosen: Any) -> list[float]:
        density = density_of(frames, (240, 320), MoCropSettings(**BARE, **chosen))
        return sorted(density[density > 0].tolist())

    assert cells(weight="count") == [1, 1]
    assert cells(weight="magnitude") == [2, 8]
    assert cells(weight="area") == [64, 256]
    assert cells(weight="area_magnitude") == [128, 2048]
    # half speed is 3 pixels: 4 / (4 + 9) and 64 / (64 + 9) of the area
    assert cells(weight="area_speed") == pytest.approx([64 * 4 / 13, 256 * 64 / 73])
    assert cells(weight="speed") == pytest.approx([4 / 13, 64 / 73])
    counted = density_of(frames, (240, 320), MoCropSettings(preset="paper_v1"))
    assert sorted(counted[counted > 0].tolist()) == [1, 1]


@settings(derandomize=True)
@given(
    blocks=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 159), st.integers(0, 89), st.integers(-9, 9), st.integers(1, 9)),
        max_size=12,
    )
)
@example([(0, 10, 10, 6, 2), (0, 20, 20, -3, -1)])  # of areas 1 and 2: they cancel
def test_coherence_is_the_share_of_motion_nearby_that_goes_one_way(blocks: list[tuple[int, ...]]) -> None:
    """Against a sum over all pairs; in 160 x 90 a part of the frame is 40 x 30 pixels."""
    blocks.sort()
    frame, x, y, dx, dy = (np.array([block[at] for block in blocks], np.int64) for at in range(5))
    area = np.arange(1, len(blocks) + 1, dtype=np.float32)
    floats = [values.astype(np.float32) for values in (x, y, dx, dy)]
    found = coherence(frame, (floats[0], floats[1]), (floats[2], floats[3]), area, (90, 160))
    for number in range(len(blocks)):
        near = (frame == frame[number]) & (x // 40 == x[number] // 40) & (y // 30 == y[number] // 30)
        one_way = np.hypot((area * dx)[near].sum(), (area * dy)[near].sum())
        expected = one_way / (area * np.hypot(dx, dy))[near].sum()
        assert found[number] == pytest.approx(max(expected, 0.1), abs=1e-5)


def test_noise_does_not_outweigh_an_object() -> None:
    """A part of the frame trembles in all directions, as an encoder's vectors on noise do; a small thing moves."""
    generator = np.random.default_rng(0)
    frames = []
    for _ in range(12):
        noise = [(x, y, *generator.uniform(-9, 9, 2)) for x in range(8, 112, 16) for y in range(8, 240, 16)]
        object_ = [(x, y, 6, 2) for x in (248, 264, 280) for y in (120, 136, 152)]
        frames.append(vectors_of(*noise, *object_))
    ratios = []
    for power in (0.0, 1.0):
        chosen = MoCropSettings(**BARE, weight="area", camera="none", coherence=power)
        density = density_of(frames, (240, 320), chosen)
        ratios.append(density[:, 12:15].sum() / density[:, :6].sum())
    assert ratios[1] > 2.5 * ratios[0]
    assert MoCropSettings(preset="paper_v1").coherence == MoCropSettings(preset="paper_v2").coherence == 0


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
    size_mode=st.sampled_from(["fixed", "adaptive"]),
)
def test_any_vectors_give_a_valid_box(
    rows: list[dict[str, int]], size: tuple[int, int], preset: Any, ratio: float, size_mode: Any
) -> None:
    vectors = np.zeros(len(rows), dtype=MOTION_VECTOR_DTYPE)
    for vector, row in zip(vectors, rows, strict=True):
        for name, value in row.items():
            vector[name] = value
    box = estimate_box([vectors], size, MoCropSettings(preset=preset, area_ratio=ratio, size=size_mode))
    assert 0 <= box.x0 < box.x1 <= 1
    assert 0 <= box.y0 < box.y1 <= 1
    top, left, bottom, right = box.to_pixels(*size)
    assert 0 <= top < bottom <= size[0]
    assert 0 <= left < right <= size[1]


def test_presets_and_overrides() -> None:
    assert (MoCropSettings().rows, MoCropSettings().columns) == (18, 32)
    v1 = MoCropSettings(preset="paper_v1", area_ratio=0.4)
    assert (v1.rows, v1.columns, v1.camera, v1.area_ratio) == (6, 8, "none", 0.4)
    v2 = MoCropSettings(preset="paper_v2", rows=12)
    assert (v2.rows, v2.columns, v2.objective, v2.keep_strongest) == (12, 16, "sum_and_mean", 0.01)
    with pytest.raises(ConfigError, match=r"'area_ratio' is 1.5; .*less than or equal to 1"):
        MoCropSettings(area_ratio=1.5)
    with pytest.raises(ConfigError, match="did you mean 'area_ratio'"):
        MoCropSettings(area_ration=0.5)  # type: ignore[call-arg]


def test_settings_from_a_command_line() -> None:
    given = MoCropSettings.from_items(["preset=paper_v2", "rows=12", "saturation=null", "sparse=true"])
    assert (given.preset, given.rows, given.columns, given.saturation, given.sparse) == ("paper_v2", 12, 16, None, True)
    with pytest.raises(ConfigError, match="key=value"):
        MoCropSettings.from_items(["rows"])


@settings(derandomize=True)
@given(
    density=st.tuples(st.integers(1, 6), st.integers(1, 7)).flatmap(
        lambda shape: arrays(np.float64, shape, elements=st.integers(0, 4).map(float))
    ),
    share=st.sampled_from([0.3, 0.5, 0.9, 1.0]),
    floor=st.sampled_from([0.0, 0.2]),
    aspect=st.sampled_from([1.0, 2.0, 100.0]),
    cell_aspect=st.sampled_from([0.5, 1.0, 16 / 9]),
)
def test_smallest_rectangle_equals_brute_force(
    density: NDArray[np.float64], share: float, floor: float, aspect: float, cell_aspect: float
) -> None:
    if not density.any():
        density = density + 1
    rows, columns = density.shape
    best: tuple[float, ...] = (rows * columns, -density.sum(), rows, 0, 0, columns)
    for h, w in product(range(1, rows + 1), range(1, columns + 1)):
        sides = w * cell_aspect / h
        if h * w < floor * rows * columns - 1e-9 or max(sides, 1 / sides) > aspect * (1 + 1e-9):
            continue
        for y, x in product(range(rows - h + 1), range(columns - w + 1)):
            held = density[y : y + h, x : x + w].sum()
            if held >= share * density.sum() * (1 - 1e-9):
                best = min(best, (h * w, -held, h, y, x, w))
    found = smallest_rectangle(density, share, floor, aspect, cell_aspect)
    y, x, h, w = found
    assert (h * w, density[y : y + h, x : x + w].sum()) == (best[0], -best[1])
    y, x, h, w = smallest_rectangle(density, share, floor, aspect, cell_aspect, tie="central")
    assert (h * w, density[y : y + h, x : x + w].sum()) == (best[0], -best[1])


def test_rounding_makes_no_adaptive_box_larger() -> None:
    for cells in range(2, 17):
        for held in range(1, cells + 1):
            assert smallest_rectangle(np.full((1, cells), 0.1), held / cells)[3] == held
    assert smallest_rectangle(np.eye(1, 25), 1.0, area_floor=0.28)[3] == 7  # 0.28 * 25 is a little more
    box = box_of_density(np.repeat([[1.0], [1.0], [1.0], [0.0]], 4, axis=1), MoCropSettings(size="adaptive"))
    assert box == CropBox(0, 0, 1, 0.75)  # not above full_above


def test_adaptive_box_holds_two_objects_far_apart_and_little_else() -> None:
    settings = MoCropSettings(size="adaptive")
    left, right = ([(x, y, 6, 2) for x in xs for y in (104, 120, 136)] for xs in ((72, 88), (232, 248)))
    both = estimate_box([vectors_of(*left, *right)] * 5, (240, 320), settings)
    assert both.x0 <= 64 / 320
    assert both.x1 >= 256 / 320
    assert both.area < 0.5
    one = estimate_box([vectors_of(*left)] * 5, (240, 320), settings)
    assert one.x1 < 0.6
    assert settings.area_floor <= one.area < both.area


def test_adaptive_box_is_the_full_frame_where_motion_is_everywhere() -> None:
    generator = np.random.default_rng(0)
    scattered = vectors_of(
        *((x, y, *generator.uniform(-9, 9, 2)) for x in range(8, 320, 16) for y in range(8, 240, 16))
    )
    settings = MoCropSettings(size="adaptive")
    assert estimate_box([scattered], (240, 320), settings) == FULL_FRAME
    assert estimate_box([], (240, 320), settings) == FULL_FRAME
    corners = vectors_of(*((x, y, 6, 2) for x in (8, 312) for y in (8, 232)))
    assert estimate_box([corners], (240, 320), settings) == FULL_FRAME


def test_frames_to_read() -> None:
    gops = [(0, 12), (12, 3), (15, 1), (16, 4)]
    assert frames_to_read(gops, MoCropSettings()) is None
    assert frames_to_read(gops, MoCropSettings(sparse=True)) == [13, 14, 17, 18, 19]
    each = MoCropSettings(sparse=True, sparse_gops=1, sparse_frames=3)
    assert frames_to_read(gops, each) == [1, 2, 13, 14, 17, 18]
    assert frames_to_read(gops[:1], MoCropSettings(sparse=True, sparse_frames=3)) == [1, 2]  # there is no other
    assert frames_to_read([(0, 1)], MoCropSettings(sparse=True)) is None  # nothing to leave out


def test_box_pixels_and_overlap() -> None:
    box = CropBox(0.25, 0.5, 0.75, 1.0)
    assert box.to_pixels(200, 400) == (100, 100, 200, 300)
    assert box.area == 0.25
    assert box.iou(box) == 1.0
    assert box.iou(CropBox(0.5, 0.5, 1.0, 1.0)) == pytest.approx(1 / 3)
    assert box.iou(CropBox(0.8, 0.0, 1.0, 0.2)) == 0.0
    assert CropBox(0.999, 0.0, 1.0, 0.001).to_pixels(10, 10) == (0, 9, 1, 10)
    assert CropBox(0.26, 0.14, 0.74, 0.88).to_pixels(10, 10) == (1, 3, 9, 7)  # rounded
