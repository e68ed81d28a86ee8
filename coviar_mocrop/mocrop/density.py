"""From motion vectors to a density grid: merge, denoise, sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.mocrop.camera import median_motion
from coviar_mocrop.mocrop.settings import MoCropSettings


def motion_density(
    frames: Sequence[NDArray[np.void]], frame_size: tuple[int, int], settings: MoCropSettings
) -> NDArray[np.float64]:
    """How much moves in each cell of the grid, over all frames of a clip.

    Args:
        frames: one array of motion vectors (``MOTION_VECTOR_DTYPE``) per frame.
        frame_size: (height, width), pixels.
        settings: see :class:`MoCropSettings`.

    Returns:
        float64 [rows, columns], >= 0; all zero where nothing usable moves.
    """
    height, width = frame_size
    places, motions, areas = [], [], []
    for vectors in frames:
        place, motion, area = _geometry(vectors, frame_size)
        if settings.camera == "translation" and len(motion):
            motion = motion - median_motion(motion, area, height * width)
        places.append(place)
        motions.append(motion)
        areas.append(area)
    grid = np.zeros((settings.rows, settings.columns))
    place, motion, area = (np.concatenate(parts) if parts else np.empty(0) for parts in (places, motions, areas))
    if not len(motion):
        return grid
    magnitude = np.hypot(motion[:, 0], motion[:, 1])
    kept = _denoise(magnitude, settings)
    if not len(kept):
        return grid
    row = np.clip((place[kept, 1] * settings.rows / height).astype(np.int64), 0, settings.rows - 1)
    column = np.clip((place[kept, 0] * settings.columns / width).astype(np.int64), 0, settings.columns - 1)
    weight = np.ones(len(kept))
    if settings.weight in ("magnitude", "area_magnitude"):
        weight = weight * magnitude[kept]
    if settings.weight in ("area", "area_magnitude"):
        weight = weight * area[kept]
    # scaled by the maximum first: a power of large magnitudes must not overflow
    weight = weight * (magnitude[kept] / magnitude[kept].max()) ** settings.importance_power
    if settings.sampling == "monte_carlo":
        drawn = max(round(len(kept) * settings.sample_share), 1)
        generator = np.random.default_rng(settings.seed)
        weight = generator.multinomial(drawn, weight / weight.sum()).astype(np.float64)
    np.add.at(grid, (row, column), weight)
    return grid


def _geometry(
    vectors: NDArray[np.void], frame_size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Block centres [N, 2] and motion [N, 2] as (x, y), and areas [N]; what is not usable left out."""
    height, width = frame_size
    place = np.stack([vectors["dst_x"], vectors["dst_y"]], axis=-1).astype(np.float64)
    # the exact sub-pixel vector; src - dst is rounded to whole pixels
    scale = vectors["motion_scale"].astype(np.float64)
    motion = np.stack([vectors["motion_x"], vectors["motion_y"]], axis=-1) / np.maximum(scale, 1)[:, None]
    area = vectors["w"].astype(np.float64) * vectors["h"]
    usable = (
        np.isfinite(motion).all(axis=1)
        & (scale > 0)
        & (area > 0)
        & (place >= 0).all(axis=1)
        & (place[:, 0] <= width)
        & (place[:, 1] <= height)
        & (np.abs(motion) <= 4 * max(height, width)).all(axis=1)  # longer is damage, not motion
    )
    # a vector into the future tells of the opposite motion
    motion = np.where(vectors["source"][:, None] > 0, -motion, motion)
    return place[usable], motion[usable], area[usable]


def _denoise(magnitude: NDArray[np.float64], settings: MoCropSettings) -> NDArray[np.int64]:
    """Indices of the vectors that are kept: not static, and among the strongest."""
    kept = np.flatnonzero(magnitude > settings.static_threshold)
    if settings.keep_strongest < 1 and len(kept):
        number = max(round(len(magnitude) * settings.keep_strongest), 1)
        strongest = np.argsort(-magnitude[kept], kind="stable")[:number]
        kept = kept[np.sort(strongest)]
    return kept
