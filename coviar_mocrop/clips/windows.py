"""From raw I-frames, motion and residuals to network inputs: crop, flip, scale, resize.

Scaling is CoViAR's. Cropping comes first and scaling second, so only pixels that are used are touched; the
horizontal flip comes before scaling, because it negates x-motion, whose scale has its zero at 128.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from coviar_mocrop.bitstream import Kind
from coviar_mocrop.mocrop import FULL_FRAME, CropBox

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MOTION_BOUND = 20.0
"""Accumulated motion of this many pixels is scaled to the end of the range (CoViAR)."""
TEST_SHARE = 0.875
"""Side of a test crop of the uncropped frame: 224 of 256 pixels (CoViAR)."""


class Window(NamedTuple):
    """A crop of the frame in pixels, and whether it is mirrored."""

    top: int
    left: int
    bottom: int
    right: int
    mirrored: bool = False


def scale(kind: Kind, raw: NDArray[Any]) -> Tensor:
    """Scale raw values for the network (CoViAR's formulas).

    Args:
        kind: what ``raw`` is.
        raw: [T, H, W, C]: uint8 I-frames or frames, int16 motion (x, y) in pixels, or int16 residuals.

    Returns:
        float32 [T, C, H, W]. I-frames: ImageNet mean and std; motion: clip(D 127.5/20 + 128, 0, 255)/255 - 0.5;
        residuals: (clip(R + 128, 0, 255)/255 - 0.5)/std.
    """
    values = torch.from_numpy(np.ascontiguousarray(raw)).permute(0, 3, 1, 2).float()
    if kind == "mv":
        return values.mul_(127.5 / MOTION_BOUND).add_(128).clamp_(0, 255).div_(255).sub_(0.5)
    std = torch.tensor(IMAGENET_STD).view(3, 1, 1)
    if kind == "residual":
        return values.add_(128).clamp_(0, 255).div_(255).sub_(0.5).div_(std)
    return values.div_(255).sub_(torch.tensor(IMAGENET_MEAN).view(3, 1, 1)).div_(std)


def cut(kind: Kind, raw: NDArray[Any], window: Window, size: int) -> Tensor:
    """Crop, flip, scale and resize.

    Args:
        kind: what ``raw`` is.
        raw: [T, H, W, C].
        window: the crop, in pixels of ``raw``.
        size: side of the square result; the window is stretched to it.

    Returns:
        float32 [T, C, size, size].
    """
    crop = raw[:, window.top : window.bottom, window.left : window.right]
    if window.mirrored:
        crop = crop[:, :, ::-1]
        if kind == "mv":
            crop = crop * np.array([-1, 1], dtype=np.int16)
    scaled = scale(kind, crop)
    if scaled.shape[-2:] == (size, size):
        return scaled
    return F.interpolate(scaled, (size, size), mode="bilinear", align_corners=False, antialias=True)


def cut_views(kind: Kind, raw: NDArray[Any], order: Sequence[int], windows: Sequence[Window], size: int) -> Tensor:
    """Every window of a clip, its frames in ``order`` (rows of ``raw``, repeats allowed); see :func:`cut`.

    Returns:
        float32 [T, C, size, size], or [windows, T, C, size, size] where there is more than one.
    """
    views = [cut(kind, raw, window, size)[list(order)] for window in windows]
    return views[0] if len(views) == 1 else torch.stack(views)


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
