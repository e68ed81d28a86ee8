"""``estimate_box``: motion vectors in, one crop box out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.errors import ConfigError
from coviar_mocrop.mocrop.box import FULL_FRAME, CropBox
from coviar_mocrop.mocrop.density import MotionDensity, centre_prior
from coviar_mocrop.mocrop.search import best_rectangle, smallest_rectangle
from coviar_mocrop.mocrop.settings import MoCropSettings

Vectors = NDArray[np.void] | Iterable[NDArray[np.void]]


def estimate_box(vectors: Vectors, frame_size: tuple[int, int], settings: MoCropSettings | None = None) -> CropBox:
    """The clip-level box of MoCrop (arXiv 2509.18473).

    Args:
        vectors: one array (``MOTION_VECTOR_DTYPE``) per frame, or one array for all. Frames should come
            apart: the camera's motion is found frame by frame. An iterator is gone through once, in flat memory.
        frame_size: (height, width), pixels, that the vectors refer to.
        settings: defaults to ``MoCropSettings()``.

    Returns:
        A box inside the frame; the full frame where there is no usable motion.

    Raises:
        ConfigError: the frame has no area.
    """
    return _added(vectors, frame_size, settings).box()


class BoxEstimator(MotionDensity):
    """The box of a clip, or of what has come of it so far; frames are added one by one, in flat memory."""

    def box(self) -> CropBox:
        """See :func:`estimate_box`."""
        return box_of_density(self.grid(), self.settings, self.frame_size[1] / self.frame_size[0])


def density_of(
    vectors: Vectors, frame_size: tuple[int, int], settings: MoCropSettings | None = None
) -> NDArray[np.float64]:
    """The density grid that :func:`estimate_box` searches: float64 [rows, columns]; same arguments."""
    return _added(vectors, frame_size, settings).grid()


def _added(vectors: Vectors, frame_size: tuple[int, int], settings: MoCropSettings | None) -> BoxEstimator:
    height, width = frame_size
    if height < 1 or width < 1:
        raise ConfigError(f"frame_size is {frame_size}; give (height, width) in pixels")
    estimator = BoxEstimator(frame_size, settings or MoCropSettings())
    for frame in [vectors] if isinstance(vectors, np.ndarray) else vectors:
        estimator.add(frame)
    return estimator


def box_of_density(density: NDArray[np.float64], settings: MoCropSettings, aspect: float = 16 / 9) -> CropBox:
    """Search the grid; without any density, the full frame.

    Args:
        density: float64 [rows, columns], >= 0.
        settings: ``area_ratio`` or what ``adaptive`` needs.
        aspect: width of the frame by its height, for ``aspect_limit``.
    """
    if not density.any():
        return FULL_FRAME
    all_rows, all_columns = density.shape
    if settings.size == "adaptive":
        row, column, rows, columns = smallest_rectangle(
            density,
            settings.motion_share,
            settings.area_floor,
            settings.aspect_limit,
            cell_aspect=aspect * all_rows / all_columns,
            tie=settings.tie,
        )
        if rows * columns > settings.full_above * density.size:
            return FULL_FRAME
    else:
        weighed = density * centre_prior(density.shape, settings.centre_prior) if settings.centre_prior else density
        row, column, rows, columns = best_rectangle(
            weighed, settings.area_ratio, settings.area_tolerance, settings.objective, settings.tie
        )
    return CropBox(column / all_columns, row / all_rows, (column + columns) / all_columns, (row + rows) / all_rows)


def frames_to_read(gops: Iterable[tuple[int, int]], settings: MoCropSettings) -> list[int] | None:
    """The frames whose vectors the box is found from; None: all of them.

    Args:
        gops: (start, length) of each, frames.
        settings: ``sparse``, ``sparse_gops`` and ``sparse_frames``.
    """
    if not settings.sparse:
        return None
    known = list(gops)
    every = settings.sparse_gops if len(known) > settings.sparse_gops else 1
    chosen = known[every // 2 :: every]  # from the second, if every second: as near to the middle as can be
    # an I-frame has no vectors, so the first that has is the second
    return [start + at for start, length in chosen for at in range(1, min(settings.sparse_frames, length))] or None
