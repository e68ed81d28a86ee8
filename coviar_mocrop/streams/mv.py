"""The motion stream: accumulated motion, two channels (CoViAR, Wu et al., CVPR 2018, section 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coviar_mocrop.streams.base import register
from coviar_mocrop.streams.frames import FrameStream


@register
class MotionStream(FrameStream):
    """Accumulated motion (x, y) since the I-frame."""

    name = "mv"
    title = "motion"
    rank = 1
    kind = "mv"

    @property
    def scaling(self) -> dict[str, Any]:
        """See :attr:`Stream.scaling`."""
        formula = "clip(127.5/bound * (x, y) + 128, 0, 255)/255 - 0.5, motion in pixels since the I-frame"
        return {"formula": formula, "bound": 20.0}

    def normalise(self, pixels: Tensor) -> Tensor:
        """See :func:`normalise_motion`."""
        return normalise_motion(pixels)

    def mirror(self, pixels: Tensor) -> Tensor:
        """See :func:`mirror_motion`."""
        return mirror_motion(pixels)


def normalise_motion(pixels: Tensor) -> Tensor:
    """V/255 - 0.5 of the 8-bit motion V = clip(D * 127.5 / 20 + 128, 0, 255), uint8 [..., 2, H, W]."""
    return pixels.float().div_(255).sub_(0.5)


def mirror_motion(pixels: Tensor) -> Tensor:
    """Flip 8-bit motion, uint8 [..., 2, H, W], left to right, and negate x. Zero is 128; the ends 0 and 255 swap."""
    flipped = pixels.flip(-1)
    x = flipped[..., 0, :, :]
    negated = (256 - x.int()).clamp_(max=255).masked_fill_(x == 255, 0)
    flipped[..., 0, :, :] = negated.to(torch.uint8)
    return flipped
