"""What the camera does, taken out of the vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def median_motion(motion: NDArray[np.float64], areas: NDArray[np.float64], frame_area: int) -> NDArray[np.float64]:
    """The camera's translation: the median vector, every block weighed by its area.

    What no vector covers (intra and skipped blocks carry none, or a zero one) counts as not moving.

    Args:
        motion: float64 [N, 2], (x, y), pixels.
        areas: float64 [N], pixels.
        frame_area: pixels of the frame.

    Returns:
        float64 [2], pixels.
    """
    return np.array([_weighted_median(motion[:, axis], areas, frame_area) for axis in (0, 1)])


def _weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64], total: float) -> float:
    uncovered = max(total - float(weights.sum()), 0.0)
    values, weights = np.append(values, 0.0), np.append(weights, uncovered)
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])
