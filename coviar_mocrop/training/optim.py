"""Optimizer and schedule: CoViAR's recipe and what from-scratch training wants, as settings."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from coviar_mocrop.base_config import BaseConfig
from coviar_mocrop.networks.fusion_head import ClipNet
from coviar_mocrop.networks.stream_net import StreamNet


class RateFactors(BaseConfig):
    """Learning rate factors by part of the network (CoViAR: 1, 0.1 for motion and residual, 0.01)."""

    classifier: float = Field(1.0, ge=0, description="last layer, and MotionSqueeze")
    stem: float = Field(1.0, ge=0, description="first convolution, first BatchNorm, data_bn")
    rest: float = Field(1.0, ge=0, description="everything between")


class TrainConfig(BaseConfig):
    """How a stream is trained."""

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(16, ge=1, description="clips per step, over all processes together")
    accumulate: int = Field(1, ge=1, description="compute a step's batch in so many parts, to need less memory")
    test_batch_size: int = Field(8, ge=1, description="clips per step in testing")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam")
    lr: float = Field(1e-3, gt=0, description="of the classifier; other parts by their factors")
    eps: float = Field(1e-8, gt=0, description="of Adam (CoViAR: 1e-3)")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(1e-4, ge=0, description="none on biases and normalisation")
    rate_factors: RateFactors = RateFactors()
    schedule: Literal["step", "cosine", "constant"] = Field("cosine")
    steps: tuple[int, ...] = Field((), description="epochs at which 'step' multiplies the rate by 0.1")
    warmup_epochs: int = Field(0, ge=0, description="the rate rises linearly over these first")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    mixup: float = Field(
        0.0, ge=0, description="alpha of mixup (Zhang et al., ICLR 2018): clips are blended in pairs (0: not)"
    )
    grad_clip: float | None = Field(None, gt=0, description="largest gradient norm")
    test_every: int = Field(0, ge=0, description="test every so many epochs and keep the best (0: keep the last)")
    patience: int = Field(
        0, ge=0, description="end after so many epochs without a better test top-1 (0: never); needs test_every"
    )
    save_minutes: float = Field(
        10.0, ge=0, description="save within an epoch too, every so many minutes (0: after every step)"
    )
    sync_bn: bool = Field(False, description="BatchNorm statistics over the clips of all processes together")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 where the hardware computes in it, else fp32"
    )
    channels_last: bool = Field(True, description="memory layout in which convolutions are fastest")
    frames_at_once: int | None = Field(
        8,
        ge=1,
        description="in testing on a CPU, frames computed together: what fits its cache is faster than a batch (null: "
        "all)",
    )
    compile: bool = Field(False, description="torch.compile: a minute or more at the start, faster steps on GPUs")
    device: str = Field("auto", description="auto: cuda where there is one, else cpu")
    threads: int | None = Field(None, ge=1, description="compute threads (null: PyTorch's choice)")

    @model_validator(mode="after")
    def _patience_needs_tests(self) -> TrainConfig:
        if self.patience and not self.test_every:
            raise ValueError("patience counts tests, so it needs test_every (such as 1)")
        return self


def parameter_groups(model: StreamNet | ClipNet, settings: TrainConfig) -> list[dict[str, Any]]:
    """Parameters by rate factor, biases and normalisation without weight decay (CoViAR, section 5)."""
    factors = settings.rate_factors
    norm_weights = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm))
    }
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:  # frozen networks
            continue
        if name.startswith((f"{model.classifier_name}.", "motion_squeeze.")):  # neither comes with weights
            factor = factors.classifier
        elif any(name.startswith(f"{stem}.") for stem in model.stem_names):
            factor = factors.stem
        else:
            factor = factors.rest
        decays = not (name.endswith(".bias") or name in norm_weights)
        groups.setdefault((factor, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.lr * factor,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (factor, decays), parameters in groups.items()
    ]


def create_optimizer(model: StreamNet | ClipNet, settings: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer over :func:`parameter_groups`."""
    groups = parameter_groups(model, settings)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.lr, eps=settings.eps)


def create_schedule(
    optimizer: torch.optim.Optimizer, settings: TrainConfig, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule, stepped once per batch."""
    total = settings.epochs * steps_per_epoch
    warmup = min(settings.warmup_epochs * steps_per_epoch, total - 1)
    main: torch.optim.lr_scheduler.LRScheduler
    if settings.schedule == "step":
        milestones = [max(epoch * steps_per_epoch - warmup, 1) for epoch in settings.steps]
        main = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    elif settings.schedule == "cosine":
        main = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(total - warmup, 1))
    else:
        main = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    if not warmup:
        return main
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (warmup + 1), total_iters=warmup)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, main], [warmup])


def mix(
    frames: Tensor, labels: Tensor, classes: int, alpha: float, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al., ICLR 2018, section 2): blend each clip with another of its batch.

    Args:
        frames: [N, ...].
        labels: int64 [N].
        classes: number of classes K.
        alpha: of the Beta distribution that the share is drawn from.
        generator: decides share and partners.

    Returns:
        Blended frames and the blended one-hot targets [N, K].
    """
    share = float(generator.beta(alpha, alpha))
    partner = torch.from_numpy(generator.permutation(len(labels))).to(labels.device)
    targets = torch.nn.functional.one_hot(labels, classes).to(torch.float32)
    return torch.lerp(frames[partner], frames, share), torch.lerp(targets[partner], targets, share)
