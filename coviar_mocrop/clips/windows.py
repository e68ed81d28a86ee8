"""Which windows of the frame the networks see: random ones in training, fixed ones in testing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coviar_mocrop.mocrop import FULL_FRAME, CropBox

TEST_SHARE = 0.875
"""Side of a test crop of the uncropped frame: 224 of 256 pixels (CoViAR)."""


class Window(NamedTuple):
    """A crop of the frame in pixels, and whether it is mirrored."""

    top: int
    left: int
    bottom: int
    right: int
    mirrored: bool = False


def training_window(
    frame_size: tuple[int, int],
    box: CropBox | None,
    scales: tuple[float, ...],
    flip: bool,
    generator: np.random.Generator,
) -> Window:
    """A random multi-scale crop (TSN): height and width drawn from ``scales``, at one of 13 fixed places.

    Without a box the sides are shares of the shorter side of the frame; with one, of the box's own sides.
    """
    top, left, bottom, right = (box or FULL_FRAME).to_pixels(*frame_size)
    height, width = bottom - top, right - left
    base_h, base_w = (height, width) if box else (min(height, width),) * 2
    first = int(generator.integers(len(scales)))
    near = [i for i in range(len(scales)) if abs(i - first) <= 1]  # neighbours only: mild changes of shape
    second = near[int(generator.integers(len(near)))]
    crop_h, crop_w = max(round(base_h * scales[first]), 1), max(round(base_w * scales[second]), 1)
    down, across = _PLACES[int(generator.integers(len(_PLACES)))]
    y, x = top + round((height - crop_h) * down), left + round((width - crop_w) * across)
    return Window(y, x, y + crop_h, x + crop_w, flip and bool(generator.integers(2)))


_PLACES = (
    *((y, x) for y in (0.0, 0.5, 1.0) for x in (0.0, 0.5, 1.0)),
    *((y, x) for y in (0.25, 0.75) for x in (0.25, 0.75)),
)


def whole_frame(frame_size: tuple[int, int], box: CropBox | None = None) -> list[Window]:
    """All of the frame."""
    return [Window(0, 0, *frame_size)]


def middle_square(frame_size: tuple[int, int], box: CropBox | None = None) -> list[Window]:
    """The box, or without one the largest square in the middle of the frame (CLIP's way)."""
    if box is not None:
        return [Window(*box.to_pixels(*frame_size))]
    height, width = frame_size
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return [Window(top, left, top + side, left + side)]


def testing_windows(frame_size: tuple[int, int], box: CropBox | None, crops: int) -> list[Window]:
    """The windows of testing.

    Without a box, squares of 224/256 of the shorter side, as CoViAR's; with one, one crop is the box itself and
    ten are 224/256 of its sides. Ten crops are the four corners and the middle, then the same mirrored.
    """
    top, left, bottom, right = (box or FULL_FRAME).to_pixels(*frame_size)
    height, width = bottom - top, right - left
    if box and crops == 1:
        return [Window(top, left, bottom, right)]
    base_h, base_w = (height, width) if box else (min(height, width),) * 2
    crop_h, crop_w = max(round(base_h * TEST_SHARE), 1), max(round(base_w * TEST_SHARE), 1)
    spots = [(0.5, 0.5)] if crops == 1 else [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5)]
    windows = []
    for down, across in spots:
        y, x = top + round((height - crop_h) * down), left + round((width - crop_w) * across)
        windows.append(Window(y, x, y + crop_h, x + crop_w))
    if crops == 10:
        windows += [window._replace(mirrored=True) for window in windows]
    return windows
