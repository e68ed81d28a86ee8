"""The residual stream: accumulated residuals, RGB (CoViAR, Wu et al., CVPR 2018, section 3)."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from coviar_mocrop.networks.stream_net import StreamNet
from coviar_mocrop.streams.base import register
from coviar_mocrop.streams.frames import FrameStream, per_channel


@register
class ResidualStream(FrameStream):
    """Accumulated residuals, RGB."""

    name = "residual"
    title = "residual"
    rank = 2
    kind = "residual"

    @property
    def scaling(self) -> dict[str, Any]:
        """See :attr:`Stream.scaling`. The standard deviation is that of the backbone's pretraining."""
        formula = "(clip(RGB + 128, 0, 255)/255 - 0.5)/std, RGB the signed residual"
        return {"formula": formula, "std": cast(StreamNet, self.network).std}

    def normalise(self, pixels: Tensor) -> Tensor:
        """(V/255 - 0.5)/std of the 8-bit residual V = clip(R + 128, 0, 255)."""
        values = pixels.float().div_(255).sub_(0.5)
        return values.div_(per_channel(cast(StreamNet, self.network).std, values))
