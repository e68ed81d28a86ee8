"""The rectangle with the most density among all of about the right area."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coviar_mocrop.errors import ConfigError

Objective = Literal["sum", "sum_and_mean"]


def best_rectangle(
    density: ArrayLike,
    area_ratio: float = 0.75,
    tolerance: float = 0.1,
    objective: Objective = "sum",
) -> tuple[int, int, int, int]:
    """Search every rectangle of cells by an integral image (MoCrop, arXiv 2509.18473).

    Candidates are all rectangles whose cell count lies within ``tolerance`` (a share) of ``area_ratio`` times
    the number of cells; if no count does, those whose count comes nearest. On a tie the smallest height, then
    width, then row, then column wins; sums that differ by no more than rounding count as tied.

    Args:
        density: [rows, columns], finite, >= 0.
        area_ratio: share of the grid, in (0, 1].
        tolerance: in [0, 1).
        objective: ``sum`` of the density inside, or ``sum_and_mean``: 0.6 sum + 0.4 mean.

    Returns:
        (row, column, rows, columns): top left cell and size.

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
    integral = _integral(grid)
    sizes = _sizes(grid.shape, area_ratio, tolerance)
    slack = 1e-9 * float(np.abs(grid).sum())
    best: tuple[int, int, int, int] | None = None
    best_value = 0.0
    for height, width in sizes:
        sums = _window_sums(integral, height, width)
        values = sums if objective == "sum" else 0.6 * sums + 0.4 * sums / (height * width)
        # the first within rounding of this size's maximum
        position = int(np.argmax((values >= values.max() - slack).ravel()))
        value = float(values.max())
        if best is None or value > best_value + slack:
            row, column = divmod(position, values.shape[1])
            best, best_value = (row, column, height, width), value
    assert best is not None
    return best


def smallest_rectangle(
    density: NDArray[np.float64],
    share: float,
    area_floor: float = 0.0,
    aspect_limit: float = 100.0,
    cell_aspect: float = 1.0,
) -> tuple[int, int, int, int]:
    """The smallest rectangle of cells that holds a share of the density.

    Among rectangles of equal area the one with more density wins, then the smallest height, row and column.
    Where no rectangle within the aspect limit holds the share, it is the whole grid.

    Args:
        density: float64 [rows, columns], finite, >= 0, not all zero.
        share: in (0, 1].
        area_floor: smallest area, as a share of the grid.
        aspect_limit: longer by shorter side.
        cell_aspect: width of a cell by its height.

    Returns:
        (row, column, rows, columns): top left cell and size.
    """
    integral = _integral(density)
    all_rows, all_columns = density.shape
    needed = share * float(integral[-1, -1]) * (1 - 1e-9)
    best, best_key = (0, 0, all_rows, all_columns), (density.size, -float(integral[-1, -1]))
    width = all_columns
    for height in range(1, all_rows + 1):
        if _window_sums(integral, height, width).max() < needed:
            continue  # a higher one may do
        while width > 1 and _window_sums(integral, height, width - 1).max() >= needed:
            width -= 1  # the higher, the narrower
        narrowest = max(
            width,
            math.ceil(area_floor * density.size / height - 1e-9),
            math.ceil(height / (aspect_limit * cell_aspect) - 1e-9),
        )
        if narrowest > min(all_columns, height * aspect_limit / cell_aspect + 1e-9):
            continue
        sums = _window_sums(integral, height, narrowest)
        key = (height * narrowest, -float(sums.max()))
        if key < best_key:
            row, column = divmod(int(np.argmax(sums)), sums.shape[1])
            best, best_key = (row, column, height, narrowest), key
    return best


def _window_sums(integral: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Sums over all windows of a size: float64 [rows - height + 1, columns - width + 1]."""
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
