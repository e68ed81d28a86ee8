"""The network of a stream: a 2-D backbone on the frames of a clip, whose logits are averaged (TSN consensus)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from coviar_mocrop.checkpoint import is_file_name
from coviar_mocrop.errors import ModelError
from coviar_mocrop.networks.backbones import Backbone, create_backbone
from coviar_mocrop.networks.config import ModelConfig
from coviar_mocrop.networks.converted import load_weights, read_weights
from coviar_mocrop.networks.motion_squeeze import MotionSqueeze
from coviar_mocrop.networks.packaged import is_package, read_package
from coviar_mocrop.networks.temporal import clip_logits, early_features, require_resnet, stage_channels
from coviar_mocrop.networks.timm_backbones import PREFIX as TIMM
from coviar_mocrop.networks.timm_backbones import create_timm_backbone


class StreamNet(nn.Module):
    """A backbone on the frames of a clip, after an optional BatchNorm over the input (CoViAR's data_bn).

    Attributes:
        in_channels: number of channels of a frame.
        data_bn: BatchNorm over the input, or the identity.
        backbone: network from frames to logits.
        stem_names: names of the submodules at the input: first convolution, first BatchNorm and ``data_bn``, as far as
            they exist.
        classifier_name: name of the last layer's submodule.
        mean: mean of the RGB images that the backbone expects, one value per channel, 0 to 1.
        std: standard deviation of these images, one value per channel, 0 to 1.
        shift: whether residual blocks use the temporal shift (TSM).
        motion_squeeze: MotionSqueeze module after the second stage; None: there is none.
        frames_at_once: number of frames computed together in evaluation; None: all. On CPUs, as many frames as fit the
            cache are faster than a large batch. A network with temporal modules always computes whole clips.
    """

    frames_at_once: int | None = None

    def __init__(
        self,
        in_channels: int,
        backbone: Backbone,
        *,
        input_norm: bool,
        shift: bool = False,
        motion_squeeze: MotionSqueeze | None = None,
    ) -> None:
        """Wrap a backbone.

        Args:
            in_channels: number of channels of a frame, as ``backbone`` takes them.
            backbone: the backbone. With ``shift`` or ``motion_squeeze`` it must be a ResNet of torchvision.
            input_norm: whether to start with a BatchNorm over the input.
            shift: whether to use the temporal shift in residual blocks.
            motion_squeeze: module to add after the second stage.
        """
        super().__init__()
        self.in_channels = in_channels
        self.data_bn = nn.BatchNorm2d(in_channels) if input_norm else nn.Identity()
        self.backbone = backbone.net
        self.shift = shift
        self.motion_squeeze = motion_squeeze
        self.stem_names = tuple(f"backbone.{name}" for name in backbone.stem) + ("data_bn",) * input_norm
        self.classifier_name = f"backbone.{backbone.classifier}"
        self.mean, self.std = backbone.mean, backbone.std

    @property
    def temporal(self) -> bool:
        """Whether frames of a clip interact before their logits are averaged."""
        return self.shift or self.motion_squeeze is not None

    def frame_logits(self, frames: Tensor, length: int = 1) -> Tensor:
        """Compute logits [N, classes] of frames [N, C, H, W], of which each ``length`` in a row form a clip."""
        frames = self.data_bn(frames)
        if not self.temporal:
            return self.backbone(frames)
        net = cast(ResNet, self.backbone)
        return clip_logits(net, frames, length, shift=self.shift, motion_squeeze=self.motion_squeeze)

    def forward(self, clips: Tensor) -> Tensor:
        """Compute clip logits [N, classes], averaged over frames, of clips [N, T, C, H, W].

        Clips with several views (test crops) are [N, views, T, C, H, W]. Views are averaged too, and their frames do
        not interact. The average is at least float32, also of outputs in half precision.
        """
        outputs = self.frame_outputs(clips).flatten(1, 2)
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32)).mean(dim=1)

    def frame_outputs(self, clips: Tensor) -> Tensor:
        """Compute the backbone's output for each frame, [N, views, T, classes]; for the input see :meth:`forward`."""
        frames, length = clips.flatten(0, -4), clips.shape[-4]
        if self.training or self.frames_at_once is None:
            outputs = self.frame_logits(frames, length)
        else:
            whole = length if self.temporal else 1
            parts = frames.split(max(self.frames_at_once // whole, 1) * whole)
            outputs = torch.cat([self.frame_logits(part, length) for part in parts])
        return outputs.unflatten(0, (clips.shape[0], -1, length))

    def displacement(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the motion that MotionSqueeze estimates in clips [N, T, C, H, W].

        Returns:
            displacement [N, T - 1, 2, h, w], (x, y) in cells of the map after the second stage (8 pixels of the input);
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


def create_network(
    in_channels: int,
    num_classes: int,
    config: ModelConfig | None = None,
    *,
    input_norm: bool = False,
    size: int | None = None,
    load: bool = True,
) -> StreamNet:
    """Build the network of a stream.

    Args:
        in_channels: number of channels of a frame: 3 (RGB) or 2 (motion).
        num_classes: number of outputs.
        config: backbone, weights, dropout and temporal modules; None: the default settings.
        input_norm: whether to start with a BatchNorm over the input (CoViAR: motion and residual streams).
        size: side of a frame in pixels, for backbones with a fixed input size; None: the size that they were published
            with.
        load: whether to load the initial weights that ``config`` names. False if a checkpoint will be loaded.

    Raises:
        ModelError: the backbone is unknown, takes no input of this size, or cannot be run over time.
        CheckpointError: a weights file cannot be used.
    """
    config = config or ModelConfig()
    name, weights = config.backbone, config.weights
    published = None if is_package(weights) or is_file_name(weights) else weights
    if name.startswith(TIMM):
        backbone = create_timm_backbone(name, num_classes, in_channels, published, config.dropout, size, load=load)
    else:
        backbone = create_backbone(name, num_classes, in_channels, published if load else None, config.dropout)
    shift, squeeze = config.temporal == "shift", None
    if shift or config.motion_squeeze:
        net = require_resnet(backbone.net, name)
        squeeze = MotionSqueeze(stage_channels(net)) if config.motion_squeeze else None
    network = StreamNet(in_channels, backbone, input_norm=input_norm, shift=shift, motion_squeeze=squeeze)
    if load and weights is not None and published is None:
        found = read_package(weights, name) if is_package(weights) else read_weights(weights)
        load_weights(network, found, weights, network.stem_names[0], network.classifier_name)
    return network
