"""Where the pixels of a clip change, whatever its camera and its codec do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float64]

SHAPE = (18, 32)
"""Grid, rows and columns."""
LAG = 3
"""A picture is compared with the one so many frames before."""
_LEVELS, _NOISE = 10.0, 4.0
"""A pixel changes by more than so many grey levels, and more than so many times the noise of its frame."""
_REACH = 16
"""The camera moves by no more than so many pixels in LAG frames."""


def changes(pictures: NDArray[np.uint8]) -> Grid:
    """Where pixels change, the camera's translation taken out.

    Args:
        pictures: uint8 [T, H, W, 3], T above ``LAG``.

    Returns:
        float64 [T - LAG, rows, columns] on the grid of ``SHAPE``: the share of each cell's pixels (means of 2 x 2) that
        differ from the picture ``LAG`` frames before.
    """
    count, height, width = len(pictures), pictures.shape[1] // 2, pictures.shape[2] // 2
    halved = pictures[:, : 2 * height, : 2 * width].reshape(count, height, 2, width, 2, 3)
    grey = halved.mean(axis=(2, 4, 5), dtype=np.float32)
    blurred = np.stack([_blur(_blur(picture).T).T for picture in grey])
    cells = np.arange(height)[:, None] * SHAPE[0] // height * SHAPE[1] + np.arange(width) * SHAPE[1] // width
    pixels = np.bincount(cells.ravel(), minlength=SHAPE[0] * SHAPE[1])
    shares = np.empty((count - LAG, *SHAPE))
    for number in range(count - LAG):
        down, across = camera_step(grey[number], grey[number + LAG])
        difference = np.abs(blurred[number + LAG] - np.roll(blurred[number], (down, across), (0, 1)))
        difference[: max(down, 0)] = difference[height + min(down, 0) :] = 0  # came from outside the frame
        difference[:, : max(across, 0)] = difference[:, width + min(across, 0) :] = 0
        changed = difference > max(_LEVELS, _NOISE * 1.4826 * float(np.median(difference)))
        inside = np.bincount(cells.ravel(), changed.ravel(), len(pixels))
        shares[number] = (inside / np.maximum(pixels, 1)).reshape(SHAPE)
    return shares


def camera_step(before: NDArray[np.float32], after: NDArray[np.float32]) -> tuple[int, int]:
    """Translation of most of a grey picture, whole pixels down and right, by phase correlation."""
    window = np.outer(np.hanning(before.shape[0]), np.hanning(before.shape[1]))
    first, second = (np.fft.rfft2((picture - picture.mean()) * window) for picture in (before, after))
    product = second * np.conj(first)
    peaks = np.fft.irfft2(product / (np.abs(product) + 1e-6), before.shape)
    steps_down, steps_across = (np.arange(-min(_REACH, side // 4), min(_REACH, side // 4) + 1) for side in before.shape)
    near = peaks[np.ix_(steps_down, steps_across)]
    row, column = divmod(int(near.argmax()), near.shape[1])
    return int(steps_down[row]), int(steps_across[column])


def _blur(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of three rows; the outermost row stands in for what is missing."""
    padded = np.concatenate([picture[:1], picture, picture[-1:]])
    mean: NDArray[np.float32] = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    return mean
