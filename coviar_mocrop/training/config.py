"""Settings of training and of the device that trains and tests."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from coviar_mocrop.base_config import BaseConfig


class RateFactors(BaseConfig):
    """Factors on the learning rate by part of the network (CoViAR: classifier 1, stem 0.1, rest 0.01)."""

    classifier: float = Field(1.0, ge=0, description="Factor for the last layer and for MotionSqueeze.")
    stem: float = Field(
        1.0, ge=0, description="Factor for the first convolution, the first BatchNorm and the BatchNorm of the input."
    )
    rest: float = Field(1.0, ge=0, description="Factor for all other layers.")


class TrainConfig(BaseConfig):
    """Optimizer, schedule, evaluation during training, and the device."""

    epochs: int = Field(10, ge=1, description="Number of epochs.")
    batch_size: int = Field(
        16,
        ge=1,
        le=65536,
        description="Largest number of clips per step, summed over all processes. The clips of an epoch are divided "
        "evenly over its steps.",
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="Number of micro-batches per step (gradient accumulation). More micro-batches need less memory.",
    )
    test_batch_size: int = Field(8, ge=1, le=4096, description="Number of clips per batch in tests and validations.")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="Optimizer.")
    lr: float = Field(1e-3, gt=0, description="Learning rate. See rate_factors for parts of the network.")
    eps: float = Field(1e-8, gt=0, description="Epsilon of Adam and AdamW (CoViAR: 1e-3).")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum (SGD only).")
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay; not applied to biases and normalisation layers.")
    rate_factors: RateFactors = Field(RateFactors(), description="Factors on the learning rate by part of the network.")
    schedule: Literal["step", "cosine", "constant"] = Field("cosine", description="Learning rate schedule.")
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="Epochs at which the learning rate is multiplied by 0.1 (schedule step only)."
    )
    warmup_epochs: int = Field(
        0, ge=0, description="Number of epochs at the start over which the learning rate rises linearly."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing of the cross-entropy loss.")
    mixup: float = Field(
        0.0, ge=0, description="Alpha of mixup (Zhang et al., ICLR 2018), which blends pairs of clips (0: no mixup)."
    )
    grad_clip: float | None = Field(None, gt=0, description="Maximum gradient norm (null: no clipping).")
    val_every: int = Field(
        1,
        ge=0,
        description="Number of epochs between validations. The best epoch on data.val_list becomes best.pt (0, or no "
        "such list: no validation, the last epoch becomes best.pt).",
    )
    patience: int = Field(
        0,
        ge=0,
        description="Stop after this many epochs without a better top-1 on the validation list (0: never).",
    )
    save_minutes: float = Field(
        10.0,
        ge=0,
        description="Minutes between checkpoints to resume from (0: after every step). The first epoch and the end "
        "of a run are always saved.",
    )
    sync_bn: bool = Field(False, description="Compute BatchNorm statistics across all processes.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Precision of the computation. auto: bf16 if the hardware supports it, else fp32."
    )
    channels_last: bool = Field(
        True, description="Store images in channels-last memory format, in which convolutions are fastest."
    )
    frames_at_once: int | None = Field(
        8,
        ge=1,
        description="Number of frames computed together in tests on a CPU (null: the whole batch). Few frames fit the "
        "CPU's cache and are faster.",
    )
    deterministic: bool = Field(
        True,
        description="On GPUs, use only deterministic algorithms, which give the same bits every time. false: let cuDNN "
        "choose the fastest algorithms by trying them. Results on CPUs are always the same bits.",
    )
    compile: bool = Field(
        False,
        description="Compile the network with torch.compile. Takes a minute or more at the start and makes steps on "
        "GPUs faster.",
    )
    device: str = Field("auto", description="Device, such as cpu, cuda or cuda:1. auto: cuda if available, else cpu.")
    threads: int | None = Field(
        None, ge=1, le=1024, description="Number of CPU threads for computation (null: PyTorch decides)."
    )
