"""Estimate camera motion from the motion vectors of each frame, and subtract it.

Translation is a weighted median. Zoom and rotation about the middle of the frame are fitted by iteratively reweighted
least squares (Cauchy weights). The fit is used only if it explains clearly more of the frame than translation does. All
frames are processed together.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Camera = Literal["none", "translation", "similarity"]
Floats = NDArray[np.float32]

_STEP = 0.25
"""Resolution of the median, pixels, for frames of up to 480 rows. Codecs store vectors in quarter pixels."""
_BINS = 128
"""Number of steps of the median in each direction."""
_UNCOVERED = 0.25
"""Weight of a pixel without a vector in the median. A pixel with a vector weighs 1."""
_ROWS, _COLUMNS = 6, 8
"""Zoom and rotation are fitted to the mean vectors of this grid of cells."""
_ITERATIONS = 5
_TOLERANCE = 1.0
"""A cell agrees with a model if its mean vector differs by less than this, pixels, for frames of up to 480 rows."""
_SETTLED = 0.9
"""If at least this share of the covered area agrees with translation, nothing is fitted."""
_AGREEING = 0.5
_GAINED = 0.1
"""A fit is used if more than the share AGREEING of the area agrees with it, and GAINED more than with translation."""


def remove_camera(
    camera: Camera,
    place: tuple[Floats, Floats],
    motion: tuple[Floats, Floats],
    area: Floats,
    group: NDArray[np.int64],
    groups: int,
    frame_size: tuple[int, int],
) -> tuple[Floats, Floats]:
    """Compute the motion of blocks relative to the scene.

    Area without vectors counts as static, with a small weight. Decoders export no vectors for intra blocks, which say
    nothing about motion, but static vectors may also have been removed. A group holds the vectors of one frame that
    point to the past, or those that point to the future. Groups 2k and 2k + 1 belong to the same frame.

    Args:
        camera: the camera motion to subtract; ``none``: the motion is returned as it is.
        place: x and y of the block centres, float32 [N], pixels.
        motion: x and y, float32 [N], pixels.
        area: float32 [N], pixels.
        group: int64 [N], below ``groups``.
        groups: an even number.
        frame_size: (height, width), pixels.

    Returns:
        x and y of the motion without camera motion, float32 [N], pixels.
    """
    if camera == "none" or not len(area):
        return motion
    height, width = frame_size
    covered = np.bincount(group, area, groups)
    per_frame = covered.reshape(-1, 2).sum(axis=1, keepdims=True)
    uncovered = _UNCOVERED * np.maximum(height * width - per_frame, 0.0)
    still = (covered.reshape(-1, 2) * uncovered / np.maximum(per_frame, 1.0)).ravel()
    step = _STEP * max(1.0, height / 480)
    used = np.flatnonzero(covered)  # without B-frames, half of the groups are empty
    packed = np.zeros(groups, np.int64)
    packed[used] = np.arange(len(used))
    shift = [np.zeros(groups, np.float32) for _ in motion]
    for values, found in zip(motion, shift, strict=True):
        found[used] = _medians(values, area, packed[group], still[used], step)
    if camera == "similarity":
        fitted = _fit_similarity(place, motion, area, group, shift, frame_size)
        if fitted is not None:
            scale, turn, shift_x, shift_y = (values.astype(np.float32)[group] for values in fitted)
            x, y = place[0] - np.float32(width / 2), place[1] - np.float32(height / 2)
            return motion[0] - (scale * x - turn * y + shift_x), motion[1] - (turn * x + scale * y + shift_y)
    return motion[0] - shift[0][group], motion[1] - shift[1][group]


def _medians(
    values: Floats, area: Floats, group: NDArray[np.int64], still: NDArray[np.float64], step: float
) -> NDArray[np.float64]:
    """Weighted median of each group by histogram: float64 [groups]. No group is empty; ``still`` is the weight of 0."""
    bins = 2 * _BINS + 1
    code = np.clip(np.rint(values / np.float32(step)), -_BINS, _BINS).astype(np.int64) + (group * bins + _BINS)
    histogram: Any = np.bincount(code, area, len(still) * bins).reshape(-1, bins)
    histogram[:, _BINS] += still
    reached = np.cumsum(histogram, axis=1)
    found = (reached >= reached[:, -1:] / 2).argmax(axis=1)
    middles: NDArray[np.float64] = (found - _BINS) * step
    return middles


def _fit_similarity(
    place: tuple[Floats, Floats],
    motion: tuple[Floats, Floats],
    area: Floats,
    group: NDArray[np.int64],
    shift: list[Floats],
    frame_size: tuple[int, int],
) -> tuple[NDArray[np.float64], ...] | None:
    """Fit zoom and rotation: scale - 1, turn, shift x and shift y, float64 [groups] each; None if no fit is used.

    A group whose fit is not used gets its translation.
    """
    height, width = frame_size
    groups, cells = len(shift[0]), _ROWS * _COLUMNS
    row = np.minimum((place[1] * (_ROWS / height)).astype(np.int64), _ROWS - 1)
    column = np.minimum((place[0] * (_COLUMNS / width)).astype(np.int64), _COLUMNS - 1)
    code = (group * _ROWS + row) * _COLUMNS + column
    weight = np.bincount(code, area, groups * cells).reshape(groups, cells)
    filled = np.maximum(weight, 1.0)
    mean_x, mean_y = (
        np.bincount(code, area * values, groups * cells).reshape(groups, cells) / filled for values in motion
    )
    tolerance = _TOLERANCE * max(1.0, height / 480)
    total = np.maximum(weight.sum(axis=1), 1e-9)
    moved = np.hypot(mean_x - shift[0][:, None], mean_y - shift[1][:, None])
    agreeing = (weight * (moved < tolerance)).sum(axis=1) / total
    doubtful = np.flatnonzero((agreeing < _SETTLED) & ((weight > 0).sum(axis=1) >= cells // 4))
    if not len(doubtful):
        return None
    weight, mean_x, mean_y = weight[doubtful], mean_x[doubtful], mean_y[doubtful]
    x = np.tile((np.arange(_COLUMNS) + 0.5) * (width / _COLUMNS) - width / 2, _ROWS)
    y = np.repeat((np.arange(_ROWS) + 0.5) * (height / _ROWS) - height / 2, _COLUMNS)
    basis = np.stack([np.ones(cells), x, y, x * x + y * y], axis=1)
    error = moved[doubtful]
    for _ in range(_ITERATIONS):
        trust = weight / (1.0 + (error / tolerance) ** 2)
        ones, sum_x, sum_y, squares = (trust @ basis).T + 1e-9
        along_x, along_y = trust * mean_x, trust * mean_y
        sum_mx, sum_my = along_x.sum(axis=1), along_y.sum(axis=1)
        spread = np.maximum(squares - (sum_x**2 + sum_y**2) / ones, 1e-9)
        scale = (along_x @ x + along_y @ y - (sum_x * sum_mx + sum_y * sum_my) / ones) / spread
        turn = (along_y @ x - along_x @ y - (sum_x * sum_my - sum_y * sum_mx) / ones) / spread
        shift_x = (sum_mx - scale * sum_x + turn * sum_y) / ones
        shift_y = (sum_my - turn * sum_x - scale * sum_y) / ones
        error = np.hypot(
            mean_x - (scale[:, None] * x - turn[:, None] * y + shift_x[:, None]),
            mean_y - (turn[:, None] * x + scale[:, None] * y + shift_y[:, None]),
        )
    share = (weight * (error < tolerance)).sum(axis=1) / total[doubtful]
    trusted = (share > _AGREEING) & (share > agreeing[doubtful] + _GAINED)
    chosen = doubtful[trusted]
    if not len(chosen):
        return None
    fitted = (np.zeros(groups), np.zeros(groups), shift[0].astype(np.float64), shift[1].astype(np.float64))
    for whole, part in zip(fitted, (scale, turn, shift_x, shift_y), strict=True):
        whole[chosen] = part[trusted]
    return fitted
