"""Optimizer, learning rate schedule and mixup."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from coviar_mocrop.training.config import TrainConfig


def parameter_groups(network: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Group parameters by learning rate, as CoViAR's training code does, and by weight decay.

    Parameters of one dimension (biases, scales of normalisation layers) get no weight decay. Frozen ones are left out.

    Args:
        network: may name its last layer in ``classifier_name`` and its first layers in ``stem_names`` (names of
            submodules). The last layer and MotionSqueeze get ``config.rate_factors.classifier``, the first layers
            ``stem``, all others ``rest``.
        config: learning rate, rate factors and weight decay.

    Returns:
        Parameter groups for PyTorch's optimizers. The ``name`` of a group lists its parts of the network.
    """
    factors = config.rate_factors
    classifier = (f"{getattr(network, 'classifier_name', '')}.", "motion_squeeze.")  # never pretrained
    stem = tuple(f"{name}." for name in getattr(network, "stem_names", ()))
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    parts: dict[float, dict[str, None]] = {}  # which parts have a factor
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith(classifier):
            part = "classifier"
        elif name.startswith(stem):
            part = "stem"
        else:
            part = "rest"
        factor = getattr(factors, part)
        parts.setdefault(factor, {})[part] = None
        decays = parameter.ndim > 1
        groups.setdefault((factor, decays), []).append(parameter)
    return [
        {
            "name": "+".join(parts[factor]),
            "params": parameters,
            "lr": config.lr * factor,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (factor, decays), parameters in groups.items()
    ]


def create_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Create the optimizer of ``network`` with its :func:`parameter_groups`."""
    groups = parameter_groups(network, config)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    adam = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return adam(groups, lr=config.lr, eps=config.eps, fused=True)


def create_schedule(
    optimizer: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Create the learning rate schedule. Call its ``step`` once per optimizer step.

    Only ``cosine`` depends on the number of epochs. A run with another schedule can be continued for more epochs.

    Args:
        optimizer: the optimizer.
        config: schedule, epochs, steps and warm-up.
        steps_per_epoch: number of optimizer steps per epoch.
    """
    # if no clip of the first step can be read, the schedule steps before the optimizer does
    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
    total, warmup = config.epochs * steps_per_epoch, config.warmup_epochs * steps_per_epoch
    main: torch.optim.lr_scheduler.LRScheduler
    if config.schedule == "step":
        milestones = [max(epoch * steps_per_epoch - warmup, 0) for epoch in config.steps]
        main = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    elif config.schedule == "cosine":
        warmup = min(warmup, total - 1)
        main = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - warmup)
    else:
        main = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    if not warmup:
        return main
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (warmup + 1), total_iters=warmup)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, main], [warmup])


def mixup(
    inputs: Tensor, labels: Tensor, num_classes: int, alpha: float, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Blend each clip with another clip of its batch (mixup, Zhang et al., ICLR 2018, section 2).

    Args:
        inputs: float [N, ...], the network's input.
        labels: int64 [N].
        num_classes: number of classes K.
        alpha: parameter of the Beta(alpha, alpha) distribution of the blending weight, above 0.
        generator: draws one blending weight for the batch, and the pairs.

    Returns:
        Blended inputs [N, ...] and blended one-hot targets, float32 [N, K].
    """
    weight = float(generator.beta(alpha, alpha))
    partner = torch.from_numpy(generator.permutation(len(labels))).to(labels.device)
    targets = torch.nn.functional.one_hot(labels, num_classes).to(torch.float32)
    return torch.lerp(inputs[partner], inputs, weight), torch.lerp(targets[partner], targets, weight)
