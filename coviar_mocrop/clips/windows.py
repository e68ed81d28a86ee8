"""The windows of the frame that networks see: random ones in training, fixed ones in testing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coviar_mocrop.mocrop import FULL_FRAME, CropBox

TEST_SHARE = 0.875
"""Side of a test crop, relative to the side of what it is cropped from: 224 of 256 pixels (CoViAR)."""


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
    """A random multi-scale crop (TSN): height and width are drawn from ``scales``, the position from 13 fixed ones.

    Without a box, the scales are relative to the shorter side of the frame. With a box, they are relative to its sides.

    Args:
        frame_size: (height, width), pixels.
        box: the box of the clip; None: the frame is not cropped to a box.
        scales: sides of the crop, in (0, 1].
        flip: whether the window is mirrored with probability 1/2.
        generator: draws sizes, position and mirroring.
    """
    top, left, bottom, right = (box or FULL_FRAME).to_pixels(*frame_size)
    height, width = bottom - top, right - left
    base_h, base_w = (height, width) if box else (min(height, width),) * 2
    first = int(generator.integers(len(scales)))
    near = [i for i in range(len(scales)) if abs(i - first) <= 1]  # neighbouring scales only: mild changes of shape
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
    """The whole frame, as the only window."""
    return [Window(0, 0, *frame_size)]


def middle_square(frame_size: tuple[int, int], box: CropBox | None = None) -> list[Window]:
    """The box or, without one, the largest square in the middle of the frame (as in CLIP)."""
    if box is not None:
        return [Window(*box.to_pixels(*frame_size))]
    height, width = frame_size
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return [Window(top, left, top + side, left + side)]


def testing_windows(frame_size: tuple[int, int], box: CropBox | None, crops: int) -> list[Window]:
    """The windows of testing.

    Without a box, they are squares of 224/256 of the shorter side of the frame (CoViAR). With a box, a single crop is
    the box itself, and ten crops have 224/256 of its sides. Ten crops are the four corners and the middle, and the same
    five mirrored.

    Args:
        frame_size: (height, width), pixels.
        box: the box of the clip; None: the frame is not cropped to a box.
        crops: 1 or 10.
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
