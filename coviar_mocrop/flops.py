"""Multiply-adds of a network, counted as the papers of this field count them.

One GFLOP of this field is 10^9 multiply-adds. The count follows fvcore: convolutions, linear layers (those inside
attention included), explicit matrix products, normalisation and adaptive pooling count. Activations and element-wise
sums do not. The two matrix products inside PyTorch's fused attention do not count either, because fvcore cannot see
them. They are 1% of CLIP ViT-B/32, and ``fused_attention=True`` adds them. By this convention ResNet-152 with 101
classes costs 11.6 GFLOPs at 224 pixels and 8.5 GFLOPs at 192 pixels.

The correlation of MotionSqueeze is counted by its definition: one multiply-add per channel, cell and position in the
search window. It can be computed from element-wise products, which would not be counted.

The counting is done by PyTorch's own counter. That counter leaves out normalisation and sees nothing of attention
modules in evaluation mode. This module corrects both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from coviar_mocrop.errors import ModelError
from coviar_mocrop.networks import motion_squeeze

_PER_MULTIPLY_ADD = 2
"""Number of operations, as PyTorch's counter counts them, in one multiply-add."""


def _normalisation(multiply_adds_per_element: int) -> Callable[..., int]:
    def count(shape: Sequence[int], *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return _PER_MULTIPLY_ADD * multiply_adds_per_element * prod(shape)

    return count


_TRAINING_NORM = 5
"""Multiply-adds per element of a norm that computes mean and variance. With fixed ones it only scales and shifts."""


def _norm_table(norm_cost: int) -> dict[Any, Callable[..., int]]:
    aten = torch.ops.aten
    inference, training = _normalisation(norm_cost), _normalisation(_TRAINING_NORM)
    return {
        aten._native_batch_norm_legit_no_training: inference,
        aten.native_batch_norm: inference,
        aten.cudnn_batch_norm: inference,
        aten.miopen_batch_norm: inference,
        aten._native_batch_norm_legit: training,
        aten.native_layer_norm: training,
        aten.native_group_norm: training,
        aten._adaptive_avg_pool2d: _normalisation(1),
        aten.mean: _global_pooling,  # what adaptive pooling to 1 x 1 becomes
    }


def _global_pooling(
    shape: Sequence[int], dim: Sequence[int] | None = None, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    over_picture = len(shape) == 4 and dim is not None and sorted(d % 4 for d in dim) == [2, 3]
    return _PER_MULTIPLY_ADD * prod(shape) if over_picture else 0


def count_flops(
    module: nn.Module, input_shape: Sequence[int], *, fused_attention: bool = False, norm_cost: int = 2
) -> int:
    """Count the multiply-adds of one forward pass in evaluation mode, in the field's convention (fvcore's).

    The module itself is not changed. The forward pass runs on a copy whose tensors have shapes but no data.

    Args:
        module: a network whose forward pass takes one float tensor.
        input_shape: shape of that tensor with the batch dimension, such as ``(1, 3, 224, 224)``.
        fused_attention: whether to add the two products inside fused attention (queries by keys, weights by values).
        norm_cost: multiply-adds per element of a batch norm with fixed statistics. fvcore counts 2, a scale and a
            shift. Together they are one multiply-add, so 1 is what the hardware computes.

    Returns:
        The number of multiply-adds, which the papers of the field call FLOPs.

    Raises:
        ModelError: the module does not accept an input of this shape.
    """
    shadow = _without_data(module).eval()
    counter = FlopCounterMode(display=False, custom_mapping=_norm_table(norm_cost))
    attention, correlation, batch_norm = _FusedAttention(), _Correlation(), _BatchNorm(norm_cost)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            mock.patch.object(functional, "scaled_dot_product_attention", attention),
            mock.patch.object(functional, "batch_norm", batch_norm),
            mock.patch.object(motion_squeeze, "correlate", correlation),
            torch.no_grad(),
            counter,
        ):
            shadow(torch.empty(tuple(input_shape), device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{type(module).__name__}: does not take an input of shape {tuple(input_shape)}: {line}"
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    products = counter.get_total_flops() // _PER_MULTIPLY_ADD + correlation.multiply_adds + batch_norm.multiply_adds
    return products + fused_attention * attention.multiply_adds


def _without_data(module: nn.Module) -> nn.Module:
    """A copy of ``module`` whose parameters and buffers have shapes but no data, made without copying the data."""
    tensors = chain(module.parameters(), module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor.to("meta") for tensor in tensors})


class _BatchNorm:
    """Replaces PyTorch's batch norm, which takes long to find out that the output has the shape of the input."""

    multiply_adds = 0

    def __init__(self, cost: int) -> None:
        self.cost = cost

    def __call__(
        self,
        input: Tensor,
        mean: Tensor | None,
        var: Any,
        weight: Any = None,
        bias: Any = None,
        training: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        if mean is not None and input.shape[1] != len(mean):
            raise ValueError(f"batch norm of {len(mean)} channels got {input.shape[1]}")
        self.multiply_adds += input.numel() * (_TRAINING_NORM if training else self.cost)
        return input


class _FusedAttention:
    """Replaces PyTorch's fused attention: counts its products and returns a tensor of the right shape."""

    multiply_adds = 0

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows = prod(query.shape[:-1])
        self.multiply_adds += rows * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        return query.new_empty((*query.shape[:-1], value.shape[-1]))


class _Correlation:
    """Replaces MotionSqueeze's correlation: counts its products and returns a tensor of the right shape."""

    multiply_adds = 0

    def __call__(self, first: Tensor, second: Tensor, window: int, form: str | None = None) -> Tensor:
        count, channels, height, width = first.shape
        self.multiply_adds += count * channels * height * width * window**2
        return first.new_empty((count, height, width, window, window))


@dataclass(frozen=True)
class StreamCost:
    """Multiply-adds of one stream.

    Attributes:
        per_frame: multiply-adds of one segment. For a network with temporal modules, those of the clip divided by its
            number of segments.
        frames_per_clip: number of segments times number of crops.
        once: multiply-adds of a clip that do not depend on the number of segments (CLIP and the head of the CLIP
            stream).
    """

    per_frame: int
    frames_per_clip: int
    once: int = 0

    @property
    def gflops_per_frame(self) -> float:
        """10^9 multiply-adds of one segment."""
        return self.per_frame / 1e9

    @property
    def gflops_per_clip(self) -> float:
        """10^9 multiply-adds of a clip."""
        return (self.once + self.per_frame * self.frames_per_clip) / 1e9
