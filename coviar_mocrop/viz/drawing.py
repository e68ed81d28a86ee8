"""Draw motion, blocks and boxes as pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import hsv_to_rgb, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from coviar_mocrop.mocrop import CropBox

BOX_COLOUR = "#ffb000"
MOTION_BOUND = 20.0
"""Accumulated motion, in pixels, at the ends of the 8-bit range (CoViAR)."""
_DIMMED = 0.4
"""Brightness outside the box."""
_TINT = 0.55
"""Share of the colour in a tinted block."""


def flow_colours(motion: NDArray[Any], bound: float = MOTION_BOUND) -> NDArray[np.uint8]:
    """Show motion as colour: hue is the direction, saturation the length. White means no motion.

    Args:
        motion: [..., 2], (x, y) in pixels.
        bound: length of motion at full saturation, pixels.

    Returns:
        uint8 [..., 3] RGB.
    """
    x, y = motion[..., 0].astype(np.float64), motion[..., 1].astype(np.float64)
    hue = (np.arctan2(y, x) / (2 * np.pi)) % 1.0
    saturation = np.clip(np.hypot(x, y) / bound, 0, 1)
    colours = hsv_to_rgb(np.stack([hue, saturation, np.ones_like(hue)], axis=-1))
    return (255 * colours).round().astype(np.uint8)


def visible(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert what a stream sees to RGB. Two channels are 8-bit motion. Three channels are returned unchanged.

    Args:
        pixels: uint8 [..., C]. Motion is rint(clip(D * 127.5 / 20 + 128, 0, 255)), with D in pixels, (x, y).

    Returns:
        uint8 [..., 3] RGB.
    """
    if pixels.shape[-1] != 2:
        return pixels
    return flow_colours((pixels.astype(np.float64) - 128) * (MOTION_BOUND / 127.5))


def block_motion(vectors: NDArray[np.void]) -> NDArray[np.float64]:
    """Return the motion of each block, in the direction of time also for vectors that point to a future frame.

    Args:
        vectors: ``MOTION_VECTOR_DTYPE`` [N].

    Returns:
        float64 [N, 2], (x, y), pixels.
    """
    scale = np.maximum(vectors["motion_scale"], 1) * np.where(vectors["source"] > 0, 1.0, -1.0)
    return np.stack([vectors["motion_x"] / scale, vectors["motion_y"] / scale], axis=-1)


def tint_blocks(picture: NDArray[np.uint8], vectors: NDArray[np.void]) -> NDArray[np.uint8]:
    """Return a copy of the picture, uint8 [H, W, 3], with blocks that move over half a pixel tinted by direction."""
    motion = block_motion(vectors)
    moving = np.flatnonzero(np.hypot(*motion.T) > 0.5)
    tinted = picture.copy()
    for vector, colour in zip(vectors[moving], flow_colours(motion[moving], bound=4.0), strict=True):
        x, y, block_w, block_h = (int(vector[name]) for name in ("dst_x", "dst_y", "w", "h"))
        top, left = y - block_h // 2, x - block_w // 2
        block = tinted[max(top, 0) : max(top + block_h, 0), max(left, 0) : max(left + block_w, 0)]
        block[:] = (1 - _TINT) * block + _TINT * colour
    return tinted


def draw_box(picture: NDArray[np.uint8], box: CropBox) -> NDArray[np.uint8]:
    """Return a copy of the picture, uint8 [H, W, 3], with the box outlined and everything outside it darkened."""
    top, left, bottom, right = box.to_pixels(*picture.shape[:2])
    line = max(round(picture.shape[0] / 100), 1)
    drawn = (picture * _DIMMED).astype(np.uint8)
    drawn[top:bottom, left:right] = np.rint(255 * np.array(to_rgb(BOX_COLOUR)))
    inside = slice(top + line, bottom - line), slice(left + line, right - line)
    drawn[inside] = picture[inside]
    return drawn


def plain_text(figure: Figure) -> Figure:
    """Let a figure show names of videos and classes as they are. To matplotlib, a $ in them begins a formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    return figure
