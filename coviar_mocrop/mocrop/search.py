"""Search a density grid for the rectangle of a given area that holds most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coviar_mocrop.errors import ConfigError

Objective = Literal["sum", "sum_and_mean"]
Tie = Literal["published", "central"]

_Rectangle = tuple[int, int, int, int]
_ROUNDING = 1e-9
"""Relative error that rounding may cause in a sum over cells."""


def best_rectangle(
    density: ArrayLike,
    area_ratio: float = 0.75,
    tolerance: float = 0.1,
    objective: Objective = "sum",
    tie: Tie = "published",
) -> _Rectangle:
    """Find the rectangle of a given area that holds most of the density (MoCrop, arXiv 2509.18473).

    The search is exhaustive and uses an integral image. Candidates are all rectangles whose number of cells deviates
    from ``area_ratio`` times the number of all cells by at most the share ``tolerance``. If there are none, those that
    deviate least are searched. Values that differ only by rounding are ties.

    Args:
        density: [rows, columns], finite, >= 0.
        area_ratio: share of the grid, in (0, 1].
        tolerance: largest relative deviation from ``area_ratio``, in [0, 1).
        objective: what is maximised. ``sum``: the density inside (v1 of the paper). ``sum_and_mean``: 0.6 times the sum
            plus 0.4 times the mean of the density inside (v2).
        tie: choice between ties. ``published``: the first one by height, then width, row and column, all ascending.
            ``central``: the one whose mean squared distance from the density's centroid, divided by its area, is
            smallest. This is d^2 / (h w) + (h / w + w / h) / 12, for height h, width w and the distance d of its centre
            from the centroid, as fractions of the grid. What is still tied is chosen as by ``published``.

    Returns:
        (row, column, rows, columns): the top left cell, and the size in cells.

    Raises:
        ConfigError: an argument is out of range.
    """
    grid = np.asarray(density, dtype=np.float64)
    if grid.ndim != 2 or not grid.size or not np.isfinite(grid).all() or (grid < 0).any():
        raise ConfigError("density: must be a finite, non-negative grid [rows, columns]")
    if not 0 < area_ratio <= 1:
        raise ConfigError(f"area_ratio is {area_ratio}; give a share in (0, 1]")
    if not 0 <= tolerance < 1:
        raise ConfigError(f"tolerance is {tolerance}; give a share in [0, 1)")
    if objective not in ("sum", "sum_and_mean"):
        raise ConfigError(f"objective is {objective!r}; choose sum or sum_and_mean")
    if tie not in ("published", "central"):
        raise ConfigError(f"tie is {tie!r}; choose published or central")
    return _search(grid, _sizes(grid.shape, area_ratio, tolerance), objective, tie)


def smallest_rectangle(
    density: NDArray[np.float64],
    share: float,
    area_floor: float = 0.0,
    aspect_limit: float = 100.0,
    cell_aspect: float = 1.0,
    tie: Tie = "published",
) -> _Rectangle:
    """Find the smallest rectangle of cells that holds a share of the density.

    Among rectangles of equal area, the one with more density is chosen, then ``tie`` decides. If no rectangle within
    the aspect limit holds the share, the result is the whole grid.

    Args:
        density: float64 [rows, columns], finite, >= 0, not all zero.
        share: in (0, 1].
        area_floor: smallest area, as a share of the grid.
        aspect_limit: largest ratio of the longer side to the shorter side.
        cell_aspect: width of a cell divided by its height.
        tie: see :func:`best_rectangle`.

    Returns:
        (row, column, rows, columns): the top left cell, and the size in cells.
    """
    integral = _integral(density)
    all_rows, all_columns = density.shape
    needed = share * float(integral[-1, -1]) * (1 - _ROUNDING)
    sizes = [(all_rows, all_columns)]
    width = all_columns
    for height in range(1, all_rows + 1):
        if _window_sums(integral, height, width).max() < needed:
            continue  # a higher rectangle may hold the share
        while width > 1 and _window_sums(integral, height, width - 1).max() >= needed:
            width -= 1  # higher rectangles need no more than this width
        narrowest = max(
            width,
            math.ceil(area_floor * density.size / height - 1e-9),
            math.ceil(height / (aspect_limit * cell_aspect) - 1e-9),
        )
        if narrowest > min(all_columns, height * aspect_limit / cell_aspect + 1e-9):
            continue
        area, smallest = height * narrowest, sizes[0][0] * sizes[0][1]
        if area < smallest:
            sizes = []
        if area <= smallest:
            sizes.append((height, narrowest))
    return _search(density, sizes, "sum", tie)


def _search(grid: NDArray[np.float64], sizes: Sequence[tuple[int, int]], objective: Objective, tie: Tie) -> _Rectangle:
    """The best of all rectangles of some sizes (height, width), given in the published order."""
    integral = _integral(grid)
    slack = _ROUNDING * float(np.abs(grid).sum())
    best: _Rectangle = (0, 0, *sizes[0])
    best_value = -math.inf
    tied = []
    for height, width in sizes:
        values = _window_sums(integral, height, width)
        if objective == "sum_and_mean":
            values = 0.6 * values + 0.4 * values / (height * width)
        value = float(values.max())
        if value > best_value + slack:
            # the first within rounding of this size's maximum
            row, column = divmod(int(np.argmax((values >= value - slack).ravel())), values.shape[1])
            best, best_value = (row, column, height, width), value
        if tie == "central" and value >= best_value - slack:
            tied.append((value, height, width, values))
    if tie == "published":
        return best
    most = max(value for value, *_ in tied)
    centre = _centroid(grid)
    least = math.inf
    for value, height, width, values in tied:
        if value < most - slack:
            continue
        rows, columns = np.nonzero(values >= most - slack)
        spread = _spread(rows, columns, height, width, grid.shape, centre)
        at = int(np.argmax(spread <= spread.min() + _ROUNDING))
        if spread[at] < least - _ROUNDING:
            best, least = (int(rows[at]), int(columns[at]), height, width), float(spread[at])
    return best


def _centroid(grid: NDArray[np.float64]) -> tuple[float, float]:
    """Row and column of the centroid, in fractions of the grid. It is the middle if the grid is all zero."""
    total = float(grid.sum())
    if not total:
        return 0.5, 0.5
    down, across = ((np.arange(cells) + 0.5) / cells for cells in grid.shape)
    return float(grid.sum(axis=1) @ down) / total, float(grid.sum(axis=0) @ across) / total


def _spread(
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    height: int,
    width: int,
    shape: tuple[int, ...],
    centre: tuple[float, float],
) -> NDArray[np.float64]:
    """Mean squared distance of rectangles' points from ``centre``, divided by their area; in fractions of the grid."""
    tall, wide = height / shape[0], width / shape[1]
    down = (row + height / 2) / shape[0] - centre[0]
    across = (column + width / 2) / shape[1] - centre[1]
    spread: NDArray[np.float64] = (down**2 + across**2) / (tall * wide) + (tall / wide + wide / tall) / 12
    return spread


def _window_sums(integral: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Sums over all rectangles of a size: float64 [rows - height + 1, columns - width + 1]."""
    return (
        integral[height:, width:]
        - integral[:-height, width:]
        - integral[height:, :-width]
        + integral[:-height, :-width]
    )


def _integral(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    integral = np.zeros((grid.shape[0] + 1, grid.shape[1] + 1))
    integral[1:, 1:] = grid.cumsum(axis=0).cumsum(axis=1)
    return integral


@lru_cache(maxsize=64)
def _sizes(shape: tuple[Any, ...], area_ratio: float, tolerance: float) -> list[tuple[int, int]]:
    rows, columns = shape
    target = area_ratio * rows * columns
    sizes = [(height, width) for height in range(1, rows + 1) for width in range(1, columns + 1)]
    misses = [abs(height * width - target) for height, width in sizes]
    allowed = max(tolerance * target, min(misses)) * (1 + 1e-12)
    return [size for size, miss in zip(sizes, misses, strict=True) if miss <= allowed]
