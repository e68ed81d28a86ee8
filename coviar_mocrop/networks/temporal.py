"""Run a torchvision ResNet on clips, with the temporal shift in its blocks and MotionSqueeze after its second stage.

The ResNet itself, its weights and their names, are not changed. The functions here run its layers, and know the number
of frames per clip.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from coviar_mocrop.errors import ModelError
from coviar_mocrop.networks.motion_squeeze import MotionSqueeze
from coviar_mocrop.networks.temporal_shift import temporal_shift


def require_resnet(net: nn.Module, name: str) -> ResNet:
    """Check that a network is a ResNet of torchvision, and return it.

    Raises:
        ModelError: it is another network.
    """
    if not isinstance(net, ResNet):
        raise ModelError(
            f"backbone {name!r}: model.temporal and model.motion_squeeze need a ResNet of torchvision; choose "
            "resnet18, resnet34, resnet50, resnet101, resnet152 or a relative"
        )
    return net


def stage_channels(net: ResNet) -> int:
    """Return the number of channels after the second stage, where MotionSqueeze is added."""
    block = net.layer2[-1]
    last = block.conv3 if isinstance(block, Bottleneck) else block.conv2
    return int(last.out_channels)


def early_features(net: ResNet, frames: Tensor, length: int, *, shift: bool) -> Tensor:
    """Compute features after the second stage, [N, C', H/8, W/8], of frames [N, C, H, W] in clips of ``length``."""
    features = net.maxpool(net.relu(net.bn1(net.conv1(frames))))
    return _stages((net.layer1, net.layer2), features, length, shift=shift)


def clip_logits(
    net: ResNet, frames: Tensor, length: int, *, shift: bool, motion_squeeze: MotionSqueeze | None
) -> Tensor:
    """Compute logits [N, classes] of frames [N, C, H, W] that interact within clips of ``length`` frames."""
    features = early_features(net, frames, length, shift=shift)
    if motion_squeeze is not None:
        features = motion_squeeze(features, length)
    features = _stages((net.layer3, net.layer4), features, length, shift=shift)
    return net.fc(net.avgpool(features).flatten(1))


def _stages(stages: tuple[nn.Module, ...], features: Tensor, length: int, *, shift: bool) -> Tensor:
    for stage in stages:
        for block in stage.children():
            features = _shifted(block, features, length) if shift else block(features)
    return features


def _shifted(block: nn.Module, features: Tensor, length: int) -> Tensor:
    """Run a residual block with shifted features in the residual branch only, so that none are lost (TSM, sec. 4)."""
    assert isinstance(block, (BasicBlock, Bottleneck))
    out = block.bn1(block.conv1(temporal_shift(features, length)))
    out = block.bn2(block.conv2(block.relu(out)))
    if isinstance(block, Bottleneck):
        out = block.bn3(block.conv3(block.relu(out)))
    shortcut = features if block.downsample is None else block.downsample(features)
    return block.relu(out + shortcut)
