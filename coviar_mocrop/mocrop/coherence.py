"""Do neighbouring blocks move alike? What moves does, noise does not.

An encoder that meets noise, flicker or a flat wall points its vectors anywhere. Their lengths look like motion, their
directions cancel out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROWS, _COLUMNS = 3, 4
"""Parts of a frame; a block's neighbours are those in the same part. Smaller ones hold too few blocks to tell."""
_LEAST = 0.1
"""Two people who part move against each other, too."""


def coherence(
    frame: NDArray[np.int64],
    place: tuple[NDArray[np.float32], NDArray[np.float32]],
    motion: tuple[NDArray[np.float32], NDArray[np.float32]],
    area: NDArray[np.float32],
    frame_size: tuple[int, int],
) -> NDArray[np.float64]:
    """How much of the motion around each block, in its own frame, is in one direction.

    It is the length of the sum of the neighbours' motion (the block's own included) by the sum of their lengths, each
    weighted by area: 1 where all go one way, little where directions are random; never less than 0.1.

    Args:
        frame: number of the frame of each block, int64 [N], ascending.
        place: x and y of the block centres, float32 [N], pixels, inside the frame.
        motion: x and y against the scene, float32 [N], pixels.
        area: float32 [N], pixels.
        frame_size: (height, width), pixels.

    Returns:
        float64 [N] in [0.1, 1].
    """
    if not len(frame):
        return np.empty(0)
    height, width = frame_size
    used = np.cumsum(np.diff(frame, prepend=frame[0]) > 0)  # of a long clip, frames without any block take no room
    row = np.clip((place[1] * (_ROWS / height)).astype(np.int64), 0, _ROWS - 1)
    column = np.clip((place[0] * (_COLUMNS / width)).astype(np.int64), 0, _COLUMNS - 1)
    part = (used * _ROWS + row) * _COLUMNS + column
    weights = (area * motion[0], area * motion[1], area * np.hypot(*motion))
    along_x, along_y, length = (np.bincount(part, weight)[part] for weight in weights)
    share: NDArray[np.float64] = np.clip(np.hypot(along_x, along_y) / np.maximum(length, 1e-9), _LEAST, 1.0)
    return share
