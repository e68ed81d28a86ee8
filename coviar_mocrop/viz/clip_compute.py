"""What the CLIP stream costs: CLIP and head once a clip, the motion network on every segment (MoCLIP-Lite)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from coviar_mocrop.flops import StreamCost, count_flops
from coviar_mocrop.networks.config import CLIPConfig, ModelConfig
from coviar_mocrop.networks.fusion_head import ClipNet, MotionEncoder
from coviar_mocrop.networks.stream_net import create_stream

PUBLISHED_GFLOPS, PUBLISHED_MILLIONS = 16.9, 0.97
SEGMENTS = (8, 16, 25, 32)
"""32 is MoCLIP-Lite's."""
_FEATURE = 512


def clip_stream_cost(classes: int = 101, size: int = 224) -> dict[str, Any]:
    """Count MoCLIP-Lite: CLIP ViT-B/32 on one frame, EfficientNet-B0 on motion segments, the head.

    The paper does not say how it counts. Counted as fvcore does, a batch norm is two multiply-adds an element, a
    scale and a shift; as one, which is what hardware does and what its printed total agrees with, the second
    convention here. Both are shown.

    Args:
        classes: outputs.
        size: input side of the motion network, pixels.

    Returns:
        ``trainable``: weights of the head; ``conventions``, by title: ``clip``, ``segment``, ``head`` (GFLOPs) and
        ``totals`` (GFLOPs a clip, by number of segments).
    """
    with torch.device("meta"):
        # torchvision's ViT-B/32 lacks one layer norm of CLIP's picture tower: 0.2 MFLOPs; its outputs are 512 here
        tower = create_stream("iframe", _FEATURE, ModelConfig(backbone="vit_b_32")).eval()
        motion = MotionEncoder(create_stream("mv", classes, ModelConfig(backbone="efficientnet_b0")))
        net = ClipNet(CLIPConfig(), classes, _FEATURE, motion).eval()
    conventions = {}
    for title, norm in (("batch norm as two multiply-adds (fvcore's)", 2), ("batch norm as one multiply-add", 1)):
        clip = count_flops(tower, (1, 1, 3, 224, 224), norm_cost=norm)
        segment = count_flops(motion, (1, 1, 2, size, size), norm_cost=norm)
        head = count_flops(net, (1, net.image_dim + net.motion_dim))
        totals = {count: StreamCost(segment, count, clip + head).gflops_per_clip for count in SEGMENTS}
        conventions[title] = {"clip": clip / 1e9, "segment": segment / 1e9, "head": head / 1e9, "totals": totals}
    trainable = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    return {"trainable": trainable, "conventions": conventions}


def clip_stream_rows(cost: dict[str, Any]) -> list[Sequence[str]]:
    """The cost as rows of text cells, the head of the table first."""
    heads = [f"{count} segments" for count in SEGMENTS]
    rows: list[Sequence[str]] = [
        ["CLIP stream (MoCLIP-Lite), GFLOPs", "CLIP, once", "head, once", "a segment", *heads, "published"]
    ]
    for title, parts in cost["conventions"].items():
        totals = [f"{parts['totals'][count]:.2f}" for count in SEGMENTS]
        figures = [f"{parts['clip']:.3f}", f"{parts['head']:.4f}", f"{parts['segment']:.4f}"]
        rows.append([title, *figures, *totals, f"{PUBLISHED_GFLOPS} (32)"])
    trainable = f"{cost['trainable']} ({PUBLISHED_MILLIONS} M published)"
    rows.append(["trainable weights: the head's", "-", trainable, *["-"] * (len(SEGMENTS) + 2)])
    return rows
