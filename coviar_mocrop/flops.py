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
from functools import partial
from math import prod
from threading import Lock
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
_PATCHING = Lock()
"""Held while functions of PyTorch are replaced."""


def _per_element(multiply_adds: int) -> Callable[..., int]:
    def count(shape: Sequence[int], *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return _PER_MULTIPLY_ADD * multiply_adds * prod(shape)

    return count


def _table(norm_cost: int) -> dict[Any, Callable[..., int]]:
    """What PyTorch's counter leaves out."""
    aten = torch.ops.aten
    fixed = _per_element(norm_cost)
    return {
        aten._native_batch_norm_legit_no_training: fixed,
        aten.cudnn_batch_norm: fixed,
        aten.miopen_batch_norm: fixed,
        aten.native_batch_norm: partial(_batch_norm, norm_cost),
        aten._native_batch_norm_legit: partial(_batch_norm, norm_cost),
        aten.native_layer_norm: _per_element(5),
        aten.native_group_norm: _per_element(5),
        aten._adaptive_avg_pool2d: _per_element(1),
        aten.mean: _global_pooling,  # what adaptive pooling to 1 x 1 becomes
    }


def _batch_norm(
    norm_cost: int, shape: Sequence[int], weight: Any, bias: Any, *statistics: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    """Fixed statistics scale and shift. Otherwise mean and variance are computed too, and 4 or 5 is fvcore's count."""
    training = next(value for value in statistics if isinstance(value, bool))  # behind running mean and variance
    return _PER_MULTIPLY_ADD * prod(shape) * (4 + (weight is not None) if training else norm_cost)


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
    counter = FlopCounterMode(display=False, custom_mapping=_table(norm_cost))
    with _PATCHING:
        batch_norm = _StandIn(functional.batch_norm, partial(_fixed_norm, norm_cost))
        attention = _StandIn(functional.scaled_dot_product_attention, _fused_attention)
        correlation = _StandIn(motion_squeeze.correlate, _correlation)
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            shadow = _without_data(module).eval()
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
    counted = (batch_norm, correlation, attention) if fused_attention else (batch_norm, correlation)
    return counter.get_total_flops() // _PER_MULTIPLY_ADD + sum(part.multiply_adds for part in counted)


def _without_data(module: nn.Module) -> nn.Module:
    """Copy a module, with parameters and buffers that have shapes but no data. The data are not copied on the way."""
    tensors: dict[int, Tensor] = {id(buffer): buffer.detach().to("meta") for buffer in module.buffers()}
    for parameter in module.parameters():
        tensors[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    return copy.deepcopy(module, tensors)


@dataclass
class _StandIn:
    """Replaces a function while multiply-adds are counted.

    Attributes:
        function: what it replaces. It is run for tensors with data, because other threads may compute meanwhile.
        count: takes the same arguments. Returns the number of multiply-adds and a tensor of the right shape; None if
            the function has to run.
        multiply_adds: what was counted.
    """

    function: Callable[..., Tensor]
    count: Callable[..., tuple[int, Tensor] | None]
    multiply_adds: int = 0

    def __call__(self, first: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        counted = self.count(first, *args, **kwargs) if first.is_meta else None
        if counted is None:
            return self.function(first, *args, **kwargs)
        self.multiply_adds += counted[0]
        return counted[1]


def _fixed_norm(
    norm_cost: int,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    *args: Any,
    **kwargs: Any,
) -> tuple[int, Tensor] | None:
    """Batch norms with fixed statistics, which PyTorch's counter sees, too, but takes long for."""
    if training or running_mean is None or running_mean.shape != input.shape[1:2]:
        return None
    return input.numel() * norm_cost, input


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[int, Tensor]:
    """The products inside fused attention, which PyTorch's counter does not see."""
    products = prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    return products, query.new_empty((*query.shape[:-1], value.shape[-1]))


def _correlation(first: Tensor, second: Tensor, window: int, form: str | None = None) -> tuple[int, Tensor]:
    """MotionSqueeze's correlation by its definition, whichever way it is computed."""
    count, channels, height, width = first.shape
    found = first.new_empty((count, height, width, window, window))
    return channels * found.numel(), found


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
