"""Turn frames, motion fields and motion vectors by quarter turns, as rotation metadata says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def rotate_picture(picture: NDArray[Any], turns: int) -> NDArray[Any]:
    """Turn [H, W, C] counter-clockwise by ``turns`` quarter turns."""
    return np.rot90(picture, turns) if turns else picture


def rotate_motion(motion: NDArray[np.int16], turns: int) -> NDArray[np.int16]:
    """Turn a field int16 [H, W, 2] of (x, y) vectors, positions and vectors alike."""
    turned = rotate_picture(motion, turns)
    for _ in range(turns):
        turned = np.stack([turned[..., 1], -turned[..., 0]], axis=-1)
    return turned


def rotate_vectors(vectors: NDArray[np.void], turns: int, width: int, height: int) -> NDArray[np.void]:
    """Turn motion vectors of a coded picture of ``width`` x ``height`` pixels."""
    for _ in range(turns if len(vectors) else 0):
        turned = np.zeros(len(vectors), vectors.dtype)  # not a copy, which leaves the padding between fields to chance
        for name in ("source", "flags", "motion_scale"):
            turned[name] = vectors[name]
        turned["w"], turned["h"] = vectors["h"], vectors["w"]
        for end in ("src", "dst"):
            turned[f"{end}_x"], turned[f"{end}_y"] = vectors[f"{end}_y"], width - vectors[f"{end}_x"]
        turned["motion_x"], turned["motion_y"] = vectors["motion_y"], -vectors["motion_x"]
        vectors, width, height = turned, height, width
    return vectors


def moved(vectors: NDArray[np.void], right: int, down: int) -> NDArray[np.void]:
    """Motion vectors in a picture whose origin lies elsewhere: positions change by ``right`` and ``down`` pixels."""
    placed = vectors.copy()
    for end in ("src", "dst"):
        placed[f"{end}_x"] += right
        placed[f"{end}_y"] += down
    return placed
