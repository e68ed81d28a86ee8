"""One stream: a 2-D network over the segments of a clip, their logits averaged (TSN consensus)."""

from __future__ import annotations

from typing import Literal

from einops import rearrange
from torch import Tensor, nn

from coviar_mocrop.errors import CheckpointError, ModelError
from coviar_mocrop.models.backbones import Backbone, create_backbone
from coviar_mocrop.models.settings import ModelSettings

Representation = Literal["iframe", "mv", "residual"]
Stream = Literal["iframe", "mv", "residual", "clip", "zero_shot"]
"""A representation, the CLIP stream (frozen CLIP and motion network, trained head), or CLIP without any training."""
CHANNELS: dict[str, int] = {"iframe": 3, "mv": 2, "residual": 3}


class StreamNet(nn.Module):
    """Backbone over segments; motion and residual pass a BatchNorm over the input first (CoViAR's data_bn).

    Attributes:
        representation: ``iframe``, ``mv`` or ``residual``.
        in_channels: 3, 2 or 3.
        stem_names: first convolution, first BatchNorm and ``data_bn``, as names of submodules.
        classifier_name: the last layer, as name of a submodule.
    """

    def __init__(self, representation: Representation, backbone: Backbone) -> None:
        """Wrap ``backbone``, which takes the representation's channels."""
        super().__init__()
        self.representation = representation
        self.in_channels = CHANNELS[representation]
        has_data_bn = representation != "iframe"
        self.data_bn = nn.BatchNorm2d(self.in_channels) if has_data_bn else nn.Identity()
        self.backbone = backbone.net
        self.stem_names = tuple(f"backbone.{name}" for name in backbone.stem) + ("data_bn",) * has_data_bn
        self.classifier_name = f"backbone.{backbone.classifier}"

    def frame_logits(self, frames: Tensor) -> Tensor:
        """Logits [N, classes] of single frames [N, C, H, W]."""
        return self.backbone(self.data_bn(frames))

    def forward(self, clips: Tensor) -> Tensor:
        """Clip logits [N, classes]: the mean over segments (and crops) of clips [N, T, C, H, W]."""
        frames = rearrange(clips, "n t c h w -> (n t) c h w")
        logits = self.frame_logits(frames)
        return rearrange(logits, "(n t) k -> n t k", n=clips.shape[0]).mean(dim=1)


def create_stream(representation: Representation, num_classes: int, settings: ModelSettings | None = None) -> StreamNet:
    """Build a stream network.

    Args:
        representation: ``iframe`` (RGB), ``mv`` (accumulated motion, 2 channels) or ``residual`` (RGB).
        num_classes: outputs.
        settings: backbone, weights, dropout.

    Raises:
        ModelError: unknown representation or backbone.
        CheckpointError: a weights file cannot be used.
    """
    if representation not in CHANNELS:
        raise ModelError(f"representation {representation!r} is unknown; choose iframe, mv or residual")
    settings = settings or ModelSettings()
    backbone = create_backbone(
        settings.backbone, num_classes, CHANNELS[representation], settings.weights, settings.dropout
    )
    stream = StreamNet(representation, backbone)
    if backbone.input_norm:
        try:
            stream.data_bn.load_state_dict(backbone.input_norm, strict=True)
        except RuntimeError as error:
            raise CheckpointError(
                f"{settings.weights}: has a BatchNorm over the input that the {representation} stream has no place "
                "for; is it of another stream?"
            ) from error
    return stream
