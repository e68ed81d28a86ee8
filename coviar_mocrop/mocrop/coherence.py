"""Coherence: whether neighbouring blocks move in the same direction.

Vectors of noise, flicker or a flat wall point anywhere. Their lengths look like motion, but their directions cancel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROWS, _COLUMNS = 3, 4
"""Parts of a frame. The neighbours of a block are those in the same part. Smaller parts hold too few blocks."""
_LEAST = 0.1
"""Smallest coherence. It is above 0 because two people who move apart have opposite directions, too."""


def coherence(
    frame: NDArray[np.int64],
    place: tuple[NDArray[np.float32], NDArray[np.float32]],
    motion: tuple[NDArray[np.float32], NDArray[np.float32]],
    area: NDArray[np.float32],
    frame_size: tuple[int, int],
) -> NDArray[np.float64]:
    """Measure for each block how much of the motion around it, in its own frame, has one direction.

    It is the length of the sum of the neighbours' vectors divided by the sum of their lengths, both weighted by area.
    The block itself is one of its neighbours. The result is 1 if all vectors have one direction. It is small if
    directions are random, but never less than 0.1.

    Args:
        frame: number of the frame of each block, int64 [N], ascending.
        place: x and y of the block centres, float32 [N], pixels, inside the frame.
        motion: x and y relative to the scene, float32 [N], pixels.
        area: float32 [N], pixels.
        frame_size: (height, width), pixels.

    Returns:
        float64 [N] in [0.1, 1].
    """
    if not len(frame):
        return np.empty(0)
    height, width = frame_size
    used = np.cumsum(np.diff(frame, prepend=frame[0]) > 0)  # frames without blocks take no memory
    row = np.clip((place[1] * (_ROWS / height)).astype(np.int64), 0, _ROWS - 1)
    column = np.clip((place[0] * (_COLUMNS / width)).astype(np.int64), 0, _COLUMNS - 1)
    part = (used * _ROWS + row) * _COLUMNS + column
    weights = (area * motion[0], area * motion[1], area * np.hypot(*motion))
    along_x, along_y, length = (np.bincount(part, weight)[part] for weight in weights)
    share: NDArray[np.float64] = np.clip(np.hypot(along_x, along_y) / np.maximum(length, 1e-9), _LEAST, 1.0)
    return share
