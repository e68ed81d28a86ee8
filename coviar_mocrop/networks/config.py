"""Settings of the networks."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from coviar_mocrop.base_config import BaseConfig


class ModelConfig(BaseConfig):
    """Settings of a stream's network: backbone, weights and what it computes across frames."""

    backbone: str = Field(
        "resnet18",
        description="Name of a torchvision classifier, such as resnet152, swin_b or efficientnet_b1. timm/NAME: any "
        "network of timm, such as timm/tf_efficientnet_lite0.",
    )
    weights: str | None = Field(
        None,
        description="Initial weights. null: random initialisation. A name such as DEFAULT, IMAGENET1K_V1 or "
        "a1_in1k: weights published by torchvision or timm. A path: a local .pth or .safetensors file of torchvision, "
        "timm, CoViAR, MoCrop or this project. package:efficientnet-lite0: weights of an installed package "
        "(docs/howto/weights.md).",
    )
    freeze: bool | Literal["few"] = Field(
        False,
        description="Freeze the network at its initial weights. true: only a linear classifier is fitted on its "
        "features (their mean and standard deviation over the segments), which takes seconds. false: all weights are "
        "trained. few: true if the training list has fewer than 500 clips and there are initial weights, else false.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout probability before the classifier.")
    temporal: Literal["none", "shift"] = Field(
        "none",
        description="Interaction between the frames of a clip. none: frames are independent. shift: temporal shift in "
        "every residual block (TSM), ResNets only.",
    )
    motion_squeeze: bool = Field(
        False,
        description="Add a MotionSqueeze module after the second residual stage. It estimates motion between "
        "neighbouring frames. ResNets only.",
    )


class CLIPConfig(BaseConfig):
    """Settings of the CLIP streams: the frozen networks, and the head that is trained on their features."""

    model: str | dict[str, Any] = Field(
        "ViT-B-32", description="CLIP architecture: a name known to open_clip, or a description in open_clip's format."
    )
    pretrained: str | None = Field(
        "openai",
        description="CLIP weights: an open_clip tag, the path of a local file, or null for random weights drawn from "
        "the seed.",
    )
    frames: int = Field(
        1,
        ge=1,
        description="Number of I-frames per clip. 1: the middle one (MoCLIP-Lite). More: their features are averaged.",
    )
    crop: bool = Field(
        True,
        description="Crop CLIP's input to the MoCrop box if the setting uses one. false: always use the centre square.",
    )
    motion: str | None = Field(
        None,
        description="Checkpoint of the motion-vector stream whose frozen network provides the motion feature. Its "
        "backbone must be model.backbone.",
    )
    parts: Literal["both", "image", "motion"] = Field(
        "both",
        description="Features that the head uses. A single one with hidden=0 is a linear probe of that feature.",
    )
    hidden: int = Field(512, ge=0, description="Width of the head's hidden layer (0: no hidden layer).")
    dropout: float = Field(0.5, ge=0, lt=1, description="Dropout probability after the head's hidden layer.")
    standardise: bool = Field(
        True,
        description="Standardise each feature with its mean and standard deviation over the training list. Both are "
        "constants of the trained head.",
    )
    prompts: str | None = Field(
        None,
        description="YAML file of prompt templates and class names for zero-shot classification (null: built-in "
        "templates and the class names of the list).",
    )
