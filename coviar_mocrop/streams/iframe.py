"""The I-frame stream: RGB pictures, normalised by the mean and standard deviation that the backbone expects."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from coviar_mocrop.bitstream import Kind
from coviar_mocrop.networks.stream_net import StreamNet
from coviar_mocrop.streams.base import register
from coviar_mocrop.streams.frames import FrameStream, per_channel


@register
class IFrameStream(FrameStream):
    """I-frames, or the sampled frames themselves (``input.frames=decoded``)."""

    name = "iframe"
    title = "I-frame"
    rank = 0
    fusion_weight = 2.0
    input_norm = False

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        """What is read from the bitstream."""
        return "frame" if self.config.input.frames == "decoded" else "iframe"

    @property
    def scaling(self) -> dict[str, Any]:
        """See :attr:`Stream.scaling`. Mean and standard deviation are those of the backbone's pretraining."""
        network = cast(StreamNet, self.network)
        return {"formula": "(RGB/255 - mean)/std", "mean": network.mean, "std": network.std}

    def normalise(self, pixels: Tensor) -> Tensor:
        """(RGB/255 - mean)/std."""
        network, values = cast(StreamNet, self.network), pixels.float().div_(255)
        return values.sub_(per_channel(network.mean, values)).div_(per_channel(network.std, values))
