"""What a stream network is made of."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from coviar_mocrop.base_config import BaseConfig


class ModelConfig(BaseConfig):
    """Settings of :func:`~coviar_mocrop.networks.stream_net.create_stream`."""

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


class CLIPConfig(BaseConfig):
    """The frozen parts of the CLIP stream (MoCLIP-Lite), and the head that joins them."""

    model: str | dict[str, Any] = Field(
        "ViT-B-32", description="an architecture by open_clip's name, or a description of one in open_clip's form"
    )
    pretrained: str | None = Field(
        "openai",
        description="open_clip's tag of published weights, the path of a local weights file, or null: random ones, "
        "from the seed",
    )
    frames: int = Field(1, ge=1, description="I-frames a clip; 1: the middle one (MoCLIP-Lite), more: their mean")
    crop: bool = Field(
        True, description="where the setting crops, CLIP sees the clip's box; false: always the middle of the frame"
    )
    motion: str | None = Field(
        None, description="checkpoint of the motion stream whose network is frozen here; its backbone is model.backbone"
    )
    parts: Literal["both", "image", "motion"] = Field(
        "both", description="what the head gets to see; one part alone and hidden 0 is that part's linear probe"
    )
    hidden: int = Field(512, ge=0, description="width of the head's hidden layer (0: a single linear layer)")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout in the head, behind its hidden layer")
    standardise: bool = Field(
        True,
        description="bring each feature to mean 0 and deviation 1 over the training list; fixed, so the first layer "
        "could absorb it",
    )
    prompts: str | None = Field(
        None, description="zero-shot: YAML file of prompt templates and class names (null: ours and plain class names)"
    )
