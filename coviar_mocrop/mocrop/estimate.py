"""``estimate_box``: motion vectors in, one crop box out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.errors import ConfigError
from coviar_mocrop.mocrop.box import FULL_FRAME, CropBox
from coviar_mocrop.mocrop.density import motion_density
from coviar_mocrop.mocrop.search import best_rectangle
from coviar_mocrop.mocrop.settings import MoCropSettings

Vectors = NDArray[np.void] | Sequence[NDArray[np.void]]


def estimate_box(vectors: Vectors, frame_size: tuple[int, int], settings: MoCropSettings | None = None) -> CropBox:
    """The clip-level box of MoCrop (arXiv 2509.18473).

    Args:
        vectors: one array (``MOTION_VECTOR_DTYPE``) per frame, or one array for all. Frames should come
            apart: the camera's motion is found frame by frame.
        frame_size: (height, width), pixels, that the vectors refer to.
        settings: defaults to ``MoCropSettings()``.

    Returns:
        A box inside the frame; the full frame where there is no usable motion.

    Raises:
        ConfigError: the frame has no area.
    """
    settings = settings or MoCropSettings()
    return box_of_density(density_of(vectors, frame_size, settings), settings)


def density_of(
    vectors: Vectors, frame_size: tuple[int, int], settings: MoCropSettings | None = None
) -> NDArray[np.float64]:
    """The density grid that :func:`estimate_box` searches: float64 [rows, columns]; same arguments."""
    height, width = frame_size
    if height < 1 or width < 1:
        raise ConfigError(f"frame_size is {frame_size}; give (height, width) in pixels")
    frames = [vectors] if isinstance(vectors, np.ndarray) else list(vectors)
    return motion_density(frames, frame_size, settings or MoCropSettings())


def box_of_density(density: NDArray[np.float64], settings: MoCropSettings) -> CropBox:
    """Search the grid; without any density, the full frame."""
    if not density.any():
        return FULL_FRAME
    row, column, rows, columns = best_rectangle(
        density, settings.area_ratio, settings.area_tolerance, settings.objective
    )
    all_rows, all_columns = density.shape
    return CropBox(column / all_columns, row / all_rows, (column + columns) / all_columns, (row + rows) / all_rows)
