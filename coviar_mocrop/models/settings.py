"""What a stream network is made of."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from coviar_mocrop.settings import Settings


class ModelSettings(Settings):
    """Settings of :func:`~coviar_mocrop.models.create_stream`."""

    backbone: str = Field(
        "resnet18",
        description="any torchvision classifier by name, such as resnet152, swin_b, efficientnet_b1",
    )
    weights: str | None = Field(
        None,
        description="null: from scratch; a torchvision weights name (DEFAULT, IMAGENET1K_V1, ...); or the path "
        "of a local file: torchvision's, ours, CoViAR's or MoCrop's, .pth or .safetensors (docs/weights.md)",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the classifier")
    temporal: Literal["none", "shift"] = Field(
        "none", description="shift: every residual block sees its neighbours in time (TSM); ResNets only"
    )
    motion_squeeze: bool = Field(
        False, description="learned motion between neighbouring frames, after the second stage; ResNets only"
    )
