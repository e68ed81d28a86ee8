"""The I-frame stream: RGB pictures, normalised by ImageNet's mean and standard deviation."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from coviar_mocrop.bitstream import Kind
from coviar_mocrop.streams.base import register
from coviar_mocrop.streams.frames import IMAGENET_MEAN, IMAGENET_STD, FrameStream, per_channel


@register
class IFrameStream(FrameStream):
    """I-frames, or the sampled frames themselves (``input.frames=decoded``)."""

    name = "iframe"
    title = "I-frame"
    rank = 0
    fusion_weight = 2.0
    input_norm = False
    scaling: ClassVar[dict[str, Any] | None] = {
        "formula": "(RGB/255 - mean)/std",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        """What is read from the bitstream."""
        return "frame" if self.config.input.frames == "decoded" else "iframe"

    def normalise(self, pixels: Tensor) -> Tensor:
        """(RGB/255 - mean)/std."""
        values = pixels.float().div_(255)
        return values.sub_(per_channel(IMAGENET_MEAN, values)).div_(per_channel(IMAGENET_STD, values))
