"""The compute model: multiply-adds as the papers of this field count them.

A "GFLOP" there is 10^9 multiply-adds, and what counts is what fvcore counts: convolutions, linear layers
(those of attention included), explicit matrix products, normalisation and adaptive pooling. Activations and
element-wise sums do not count, and neither do the two products inside PyTorch's fused attention, which fvcore
cannot see (1 % of CLIP ViT-B/32; ``fused_attention=True`` adds them). So ResNet-152 with 101 classes comes to
11.6 at 224 and 8.5 at 192 pixels.

The correlation of MotionSqueeze counts by its definition, one multiply-add per channel, cell and place in the window,
whichever way it is computed; element-wise products, of which it can be made, would go unseen.

PyTorch's own counter does the counting; it leaves normalisation out, and of attention modules in evaluation mode
it sees nothing at all. Both are mended here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from coviar_mocrop.errors import ModelError
from coviar_mocrop.networks import motion_squeeze

# PyTorch's counter works in operations, two to a multiply-add
_PER_MULTIPLY_ADD = 2


def _normalisation(multiply_adds_per_element: int) -> Callable[..., int]:
    def count(shape: Sequence[int], *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return _PER_MULTIPLY_ADD * multiply_adds_per_element * prod(shape)

    return count


def _norm_table(norm_cost: int = 2) -> dict[Any, Callable[..., int]]:
    aten = torch.ops.aten
    # batch norm with fixed statistics is one scale and one shift; the others find mean and variance as well
    inference, training = _normalisation(norm_cost), _normalisation(5)
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
    """Multiply-adds of one forward pass in evaluation mode, in the field's convention (fvcore's).

    The module itself is neither run nor changed: a copy without memory is.

    Args:
        module: takes one float tensor.
        input_shape: with the batch dimension, such as ``(1, 3, 224, 224)``.
        norm_cost: of a batch norm with fixed statistics, per element: 2 as fvcore counts a scale and a shift, or 1,
            since both together are one multiply-add.
        fused_attention: add the two products inside fused attention (queries by keys, weights by values).

    Raises:
        ModelError: the module does not take such an input.
    """
    shadow = copy.deepcopy(module).to("meta").eval()
    counter = FlopCounterMode(display=False, custom_mapping=_norm_table(norm_cost))
    attention, correlation = _FusedAttention(), _Correlation()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            mock.patch.object(functional, "scaled_dot_product_attention", attention),
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
    products = counter.get_total_flops() // _PER_MULTIPLY_ADD + correlation.multiply_adds
    return products + fused_attention * attention.multiply_adds


class _FusedAttention:
    """Stands in for PyTorch's fused attention: counts its products, and gives a result of the right shape."""

    multiply_adds = 0

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows = prod(query.shape[:-1])
        self.multiply_adds += rows * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        return query.new_empty((*query.shape[:-1], value.shape[-1]))


class _Correlation:
    """Stands in for MotionSqueeze's correlation in the same way."""

    multiply_adds = 0

    def __call__(self, first: Tensor, second: Tensor, window: int, form: str | None = None) -> Tensor:
        count, channels, height, width = first.shape
        self.multiply_adds += count * channels * height * width * window**2
        return first.new_empty((count, height, width, window, window))


@dataclass(frozen=True)
class StreamCost:
    """Multiply-adds of one stream.

    Attributes:
        per_frame: one segment through the network; of a network over time, its share of the clip.
        frames_per_clip: segments times crops.
        once: what a clip costs however many segments it is looked at in (CLIP and the head of the CLIP stream).
    """

    per_frame: int
    frames_per_clip: int
    once: int = 0

    @property
    def gflops_per_frame(self) -> float:
        """In 10^9 multiply-adds."""
        return self.per_frame / 1e9

    @property
    def gflops_per_clip(self) -> float:
        """In 10^9 multiply-adds."""
        return (self.once + self.per_frame * self.frames_per_clip) / 1e9


def fused_cost(costs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(per frame, per clip) of several streams: late fusion runs them all, so costs add up.

    "Per frame" is one segment through every stream.
    """
    return sum(cost[0] for cost in costs), sum(cost[1] for cost in costs)
