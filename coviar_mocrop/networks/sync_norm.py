"""BatchNorm over the clips of all processes together.

PyTorch has this for GPUs; on the CPU the same is computed here, so that a run on two processes can be checked
against a run on one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _Sum(torch.autograd.Function):
    """Sum over processes; the gradient of a sum is the sum of the gradients."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class SyncBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose statistics, in training, are those of the batches of all processes."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [N, C, H, W]; all processes must call it together in training."""
        if not self.training or not (dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        dims = (0, 2, 3)
        count = torch.tensor([values.numel() / values.shape[1]], dtype=values.dtype, device=values.device)
        sums = _Sum.apply(torch.cat([values.sum(dims), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = values - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum(dims)) / total
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean.detach(), share)
            self.running_var.lerp_(variance.detach() * total / (total - 1).clamp(min=1), share)
        normal = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        if self.affine:
            normal = normal * self.weight[:, None, None] + self.bias[:, None, None]
        return normal.to(input.dtype)


def synchronise_norms(model: nn.Module, device: str) -> None:
    """Replace every ``BatchNorm2d`` of ``model`` in place; names and values of weights stay."""
    if device != "cpu":
        for name, child in model.named_children():
            setattr(model, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d  # same attributes, same weights, another forward
