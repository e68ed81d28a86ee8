"""Estimate the crop box of a clip from its motion vectors."""

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
    """Estimate the crop box of a clip from its motion vectors (MoCrop, arXiv 2509.18473).

    The default settings are our own. The presets ``paper_v1`` and ``paper_v2`` follow the two published versions.

    Args:
        vectors: one array of motion vectors (``MOTION_VECTOR_DTYPE``) per frame, as
            :meth:`~coviar_mocrop.bitstream.Video.get_motion_vectors_at` returns them. A single array is taken for a
            single frame; camera motion is estimated for each frame, so keep frames apart. An iterator is read once, and
            memory does not grow with its length.
        frame_size: (height, width) of the frames, pixels.
        settings: None: ``MoCropSettings()``.

    Returns:
        A box inside the frame. It is the full frame if there is no usable motion.

    Raises:
        ConfigError: a side of ``frame_size`` is less than 1 pixel.
    """
    return _added(vectors, frame_size, settings).box()


class BoxEstimator(MotionDensity):
    """Estimates the box of a clip from frames that are added one by one. Memory does not grow with their number."""

    def box(self) -> CropBox:
        """The box of the frames added so far; see :func:`estimate_box`."""
        return box_of_density(self.grid(), self.settings, self.frame_size[1] / self.frame_size[0])


def density_of(
    vectors: Vectors, frame_size: tuple[int, int], settings: MoCropSettings | None = None
) -> NDArray[np.float64]:
    """Compute the density grid that :func:`estimate_box` searches, before the ``centre_prior`` is applied.

    Arguments and errors are those of :func:`estimate_box`.

    Returns:
        float64 [rows, columns], >= 0.
    """
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
    """Find the box in a density grid. It is the full frame if the grid is all zero.

    Args:
        density: float64 [rows, columns], >= 0.
        settings: how the grid is searched.
        aspect: width of the frame divided by its height, for ``aspect_limit``.
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
    """The frames from whose vectors the box is estimated; None: all of them.

    Args:
        gops: (start, length) of each GOP, in frames.
        settings: ``sparse``, ``sparse_gops`` and ``sparse_frames``.
    """
    if not settings.sparse:
        return None
    known = list(gops)
    every = settings.sparse_gops if len(known) > settings.sparse_gops else 1
    chosen = known[every // 2 :: every]  # the middle one of every ``every`` GOPs
    # I-frames have no vectors
    return [start + at for start, length in chosen for at in range(1, min(settings.sparse_frames, length))] or None
