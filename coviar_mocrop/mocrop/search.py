"""The rectangle with the most density among all of about the right area."""

from __future__ import annotations

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
        sums = (
            integral[height:, width:]
            - integral[:-height, width:]
            - integral[height:, :-width]
            + integral[:-height, :-width]
        )
        values = sums if objective == "sum" else 0.6 * sums + 0.4 * sums / (height * width)
        # the first within rounding of this size's maximum
        position = int(np.argmax((values >= values.max() - slack).ravel()))
        value = float(values.max())
        if best is None or value > best_value + slack:
            row, column = divmod(position, values.shape[1])
            best, best_value = (row, column, height, width), value
    assert best is not None
    return best


def _integral(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    integral = np.zeros((grid.shape[0] + 1, grid.shape[1] + 1))
    integral[1:, 1:] = grid.cumsum(axis=0).cumsum(axis=1)
    return integral


def _sizes(shape: tuple[Any, ...], area_ratio: float, tolerance: float) -> list[tuple[int, int]]:
    rows, columns = shape
    target = area_ratio * rows * columns
    sizes = [(height, width) for height in range(1, rows + 1) for width in range(1, columns + 1)]
    misses = [abs(height * width - target) for height, width in sizes]
    allowed = max(tolerance * target, min(misses)) * (1 + 1e-12)
    return [size for size, miss in zip(sizes, misses, strict=True) if miss <= allowed]
