"""The density of long videos, summed part by part, and the level of motion that the gate looks at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from coviar_mocrop.bitstream import MOTION_VECTOR_DTYPE
from coviar_mocrop.mocrop import BoxEstimator, MoCropSettings, density_of, estimate_box
from coviar_mocrop.mocrop.density import GATE, centre_prior, motion_level

SIZE = (240, 320)


def field(speed: Any, *, y: tuple[int, int] = (0, 240), x: tuple[int, int] = (0, 320)) -> NDArray[np.void]:
    """Blocks of 16 pixels all over the frame; those inside y and x move by ``speed`` pixels, (across, down)."""
    rows, columns = np.mgrid[8:240:16, 8:320:16].reshape(2, -1)
    vectors = np.zeros(len(rows), MOTION_VECTOR_DTYPE)
    vectors["source"], vectors["w"], vectors["h"], vectors["motion_scale"] = -1, 16, 16, 4
    vectors["dst_x"], vectors["dst_y"] = columns, rows
    inside = (rows >= y[0]) & (rows < y[1]) & (columns >= x[0]) & (columns < x[1])
    vectors["motion_x"], vectors["motion_y"] = (np.where(inside, 4 * np.asarray(part), 0) for part in speed)
    return vectors


@pytest.mark.parametrize("preset", ["default", "paper_v1", "paper_v2"])
def test_parts_are_summed(preset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of equal frames are worth so many times one of them; never more than one part waits."""
    frame = field((5, 3), y=(80, 160), x=(100, 200))
    settings = MoCropSettings(preset=preset, sampling="exact")
    expected = estimate_box([frame] * 3, SIZE, settings)
    one = density_of([frame], SIZE, settings)
    assert one.any()
    monkeypatch.setattr("coviar_mocrop.mocrop.density.AT_ONCE", len(frame))
    np.testing.assert_allclose(density_of(iter([frame] * 3), SIZE, settings), 3 * one, rtol=1e-12)
    estimator = BoxEstimator(SIZE, settings)
    for _ in range(3):
        estimator.add(frame)
        assert not estimator._waiting
    assert estimator.box() == expected


def test_importance_refers_to_the_strongest_vector_of_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever order they come: a slow part, then a fast one elsewhere."""
    slow, fast = field((2, 0), y=(0, 80), x=(0, 80)), field((20, 0), y=(160, 240), x=(240, 320))
    settings = MoCropSettings(preset="paper_v1", importance_power=4, sampling="exact", camera="none")
    whole = density_of([slow, fast], SIZE, settings)
    assert 0 < whole[0, 0] < whole[-1, -1]
    monkeypatch.setattr("coviar_mocrop.mocrop.density.AT_ONCE", 1)
    for order in ([slow, fast], [fast, slow]):
        np.testing.assert_allclose(density_of(order, SIZE, settings), whole, rtol=1e-12)


def test_a_ticker_is_found_across_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text that runs at the bottom, while something else moves above."""
    frame = field((-4, 0), y=(224, 240))
    frame[:40]["motion_y"] = 24
    settings = MoCropSettings(smoothing=0)
    whole = density_of([frame] * 6, SIZE, settings)
    assert whole.any() and not whole[-1].any()
    assert density_of([frame] * 6, SIZE, MoCropSettings(smoothing=0, drop_tickers=False))[-1].any()
    monkeypatch.setattr("coviar_mocrop.mocrop.density.AT_ONCE", 2 * len(frame))
    assert not density_of([frame] * 6, SIZE, settings)[-1].any()


def test_thinning_hides_no_ticker() -> None:
    """A fifth of the vectors fills a fifth of what it covers."""
    ticker = [field((-4, 0), y=(224, 240))] * 20
    settings = MoCropSettings(smoothing=0, rows=15, columns=20, max_vectors=20 * 300 // 5)
    assert not density_of(ticker, SIZE, settings).any()


def test_parts_that_are_thinned_differently_count_by_their_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four frames, of whose vectors half are taken, and two, of which all are."""
    first, second = field((5, 3), y=(80, 160), x=(32, 128)), field((5, 3), y=(80, 160), x=(192, 288))
    monkeypatch.setattr("coviar_mocrop.mocrop.density.AT_ONCE", 4 * len(first))
    settings = MoCropSettings(max_vectors=2 * len(first), smoothing=0, saturation=None)
    density = density_of([first] * 4 + [second] * 2, SIZE, settings)
    assert density[:, :16].sum() / density[:, 16:].sum() == pytest.approx(2, rel=0.1)


def test_the_centre_prior_falls_towards_the_edges() -> None:
    """It is exp(-strength / 2 d^2), d being 1 at the middle of an edge; here cells are 2/3 apart."""
    side = np.exp(-0.5 * 3 * (2 / 3) ** 2)
    np.testing.assert_allclose(centre_prior((3, 3), 3.0), np.outer([side, 1, side], [side, 1, side]))


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        ({"speeds": [(0.75, 0)]}, {"speeds": [(0.5, 0)]}),  # sideways
        ({"speeds": [(4, 0.75)]}, {"speeds": [(4, 1.25)]}),  # hardly up or down
        ({"speeds": [(2.25, 0), (5.75, 0)]}, {"speeds": [(1.75, 0), (6.25, 0)]}),  # steadily
        ({"speeds": [(4, 0)] * 2 + [(0, 0)] * 3}, {"speeds": [(4, 0)] + [(0, 0)] * 3}),  # much of the time
        ({"columns": 8}, {"columns": 7}),  # over much of the width
        ({"rows": 3}, {"rows": 4}),  # in few rows
    ],
)
def test_what_a_ticker_is(within: dict[str, Any], beyond: dict[str, Any]) -> None:
    """Just within and just beyond each limit: a cell is a block, of 15 rows and 20 columns."""

    def is_ticker(speeds: Any = ((4, 0),), columns: int = 20, rows: int = 1) -> bool:
        frames = [field(speed, y=(240 - 16 * rows, 240), x=(0, 16 * columns)) for speed in speeds] * 6
        how: Any = {"rows": 15, "columns": 20, "static_threshold": 0.25, "smoothing": 0}
        dropped, kept = (density_of(frames, SIZE, MoCropSettings(**how, drop_tickers=d))[-1] for d in (True, False))
        assert kept.any()
        return not dropped.any()

    assert is_ticker(**within)
    assert not is_ticker(**beyond)


def test_the_level_of_motion() -> None:
    """Nothing and a moving camera: 0. Something small that moves all the time: above the gate; less where slower."""
    assert motion_level([], SIZE) == motion_level([field((0, 0))] * 9, SIZE) == 0
    assert motion_level([field((6, 2))] * 9, SIZE) < GATE
    small = {"y": (96, 128), "x": (144, 176)}
    fast, slow = (motion_level([field(speed, **small)] * 9, SIZE) for speed in ((8, 0), (1, 0)))
    assert 1 >= fast > slow > GATE
    assert motion_level([field((8, 0), **small)] * 3, SIZE) == pytest.approx(fast)
    noise = np.random.default_rng(0)
    noisy = [field(noise.normal(0, 1.0, (2, 300))) for _ in range(9)]
    assert motion_level(noisy, SIZE) < fast / 5
