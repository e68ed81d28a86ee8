"""One stream: a 2-D network over the segments of a clip, their logits averaged (TSN consensus)."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from coviar_mocrop.errors import CheckpointError, ModelError
from coviar_mocrop.networks.backbones import Backbone, create_backbone
from coviar_mocrop.networks.config import ModelConfig
from coviar_mocrop.networks.motion_squeeze import MotionSqueeze
from coviar_mocrop.networks.temporal import clip_logits, early_features, require_resnet, stage_channels

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
        shift: whether residual blocks see their neighbours in time.
        motion_squeeze: the module after the second stage, or None.
        frames_at_once: in evaluation, frames that are computed together (None: all); what fits a processor's cache is
            faster than a large batch. A network over time takes all frames of a clip together.
    """

    frames_at_once: int | None = None

    def __init__(
        self,
        representation: Representation,
        backbone: Backbone,
        *,
        shift: bool = False,
        motion_squeeze: MotionSqueeze | None = None,
    ) -> None:
        """Wrap ``backbone``, which takes the representation's channels; a ResNet for what knows of time."""
        super().__init__()
        self.representation = representation
        self.in_channels = CHANNELS[representation]
        has_data_bn = representation != "iframe"
        self.data_bn = nn.BatchNorm2d(self.in_channels) if has_data_bn else nn.Identity()
        self.backbone = backbone.net
        self.shift = shift
        self.motion_squeeze = motion_squeeze
        self.stem_names = tuple(f"backbone.{name}" for name in backbone.stem) + ("data_bn",) * has_data_bn
        self.classifier_name = f"backbone.{backbone.classifier}"

    @property
    def temporal(self) -> bool:
        """Whether the frames of a clip see one another before their logits are averaged."""
        return self.shift or self.motion_squeeze is not None

    def frame_logits(self, frames: Tensor, length: int = 1) -> Tensor:
        """Logits [N, classes] of frames [N, C, H, W], ``length`` to a clip."""
        frames = self.data_bn(frames)
        if not self.temporal:
            return self.backbone(frames)
        net = cast(ResNet, self.backbone)
        return clip_logits(net, frames, length, shift=self.shift, motion_squeeze=self.motion_squeeze)

    def forward(self, clips: Tensor) -> Tensor:
        """Clip logits [N, classes]: the mean over segments of clips [N, T, C, H, W].

        Views of a clip (test crops) stand between: [N, views, T, C, H, W]. They are averaged as well, and no frame
        sees one of another view.
        """
        frames, length = clips.flatten(0, -4), clips.shape[-4]
        if self.training or self.frames_at_once is None:
            logits = self.frame_logits(frames, length)
        else:
            whole = length if self.temporal else 1
            parts = frames.split(max(self.frames_at_once // whole, 1) * whole)
            logits = torch.cat([self.frame_logits(part, length) for part in parts])
        return logits.unflatten(0, (clips.shape[0], -1)).mean(dim=1)

    def displacement(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """The motion that MotionSqueeze finds in clips [N, T, C, H, W].

        Returns:
            displacement [N, T - 1, 2, h, w], (x, y), cells of the map after the second stage (8 pixels of the input),
            and confidence [N, T - 1, 1, h, w], 0 to 1.

        Raises:
            ModelError: the network has no MotionSqueeze.
        """
        if self.motion_squeeze is None:
            raise ModelError("the network estimates no displacement; train one with model.motion_squeeze=true")
        length = clips.shape[1]
        net = cast(ResNet, self.backbone)
        features = early_features(net, self.data_bn(clips.flatten(0, 1)), length, shift=self.shift)
        displacement, confidence = self.motion_squeeze.estimate(features, length)
        return displacement.unflatten(0, (-1, length - 1)), confidence.unflatten(0, (-1, length - 1))


def create_stream(representation: Representation, num_classes: int, settings: ModelConfig | None = None) -> StreamNet:
    """Build a stream network.

    Args:
        representation: ``iframe`` (RGB), ``mv`` (accumulated motion, 2 channels) or ``residual`` (RGB).
        num_classes: outputs.
        settings: backbone, weights, dropout, what knows of time.

    Raises:
        ModelError: unknown representation or backbone, or one that cannot be run over time.
        CheckpointError: a weights file cannot be used.
    """
    if representation not in CHANNELS:
        raise ModelError(f"representation {representation!r} is unknown; choose iframe, mv or residual")
    settings = settings or ModelConfig()
    backbone = create_backbone(
        settings.backbone, num_classes, CHANNELS[representation], settings.weights, settings.dropout
    )
    shift, squeeze = settings.temporal == "shift", None
    if shift or settings.motion_squeeze:
        net = require_resnet(backbone.net, settings.backbone)
        squeeze = MotionSqueeze(stage_channels(net)) if settings.motion_squeeze else None
    stream = StreamNet(representation, backbone, shift=shift, motion_squeeze=squeeze)
    if backbone.input_norm:
        try:
            stream.data_bn.load_state_dict(backbone.input_norm, strict=True)
        except RuntimeError as error:
            raise CheckpointError(
                f"{settings.weights}: has a BatchNorm over the input that the {representation} stream has no place "
                "for; is it of another stream?"
            ) from error
    return stream
