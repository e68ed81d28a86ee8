"""BatchNorm over the clips of all processes together, on CPUs.

PyTorch has this for GPUs. On the CPU the same is computed here, so that a run on two processes can be checked against
a run on one.
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
        if not self.training:
            return super().forward(input)
        dims = (0, 2, 3)
        count = torch.tensor([input.numel() / input.shape[1]], dtype=input.dtype)
        sums = _Sum.apply(torch.cat([input.sum(dims), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = input - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum(dims)) / total
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(variance.detach() * total / (total - 1), self.momentum)
        normal = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        return normal * self.weight[:, None, None] + self.bias[:, None, None]


def convert_batch_norms(network: nn.Module, device: torch.device) -> None:
    """Takes the place of :func:`coviar_mocrop.training.setup.convert_batch_norms`."""
    assert device.type == "cpu"
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d  # same attributes, same weights, another forward
