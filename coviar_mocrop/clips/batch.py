"""Batches of clips, by stream: 8-bit inputs of the networks, and the errors of clips that could not be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from coviar_mocrop.clips.reader import ReadViews
from coviar_mocrop.errors import CoviarMocropError

FEATURES = "features"


class Frames(NamedTuple):
    """Frames of a batch of clips as they were read, 8 bits per value.

    Attributes:
        pixels: uint8 [N, V, T, C, H, W]: N clips, V windows, T segments.
        mirrored: bool [N, V], or [N, 2 V] if every window is wanted plain and mirrored.
    """

    pixels: Tensor
    mirrored: Tensor


Inputs = Mapping[str, Frames | Tensor]
"""The part of a batch for one stream: frames by view, or float32 [N, dim] under ``FEATURES``."""


class Features(NamedTuple):
    """Features of clips, computed by frozen networks.

    Attributes:
        rows: float32 [clips, dim], in the order of the list; NaN for clips with an error.
        errors: why a clip has no features, by its number in the list.
        computed: number of clips that were not in the cache.
    """

    rows: Tensor
    errors: dict[int, CoviarMocropError]
    computed: int


class Sample(NamedTuple):
    """One clip, by stream: what was read of it or its features, or the error because of which it could not be read."""

    number: int
    label: int
    inputs: dict[str, ReadViews | Tensor]
    errors: dict[str, CoviarMocropError]
    seconds: float


class StreamBatch(NamedTuple):
    """The part of a batch for one stream: the clips that could be read for it.

    Attributes:
        inputs: see ``Inputs``.
        labels: int64 [N].
        numbers: int64 [N], positions in the list.
    """

    inputs: dict[str, Frames | Tensor]
    labels: Tensor
    numbers: Tensor

    def to(self, device: torch.device) -> StreamBatch:
        """Copy to a device, without waiting for the copy to end."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> StreamBatch:
        """Copy to pinned memory, from which a GPU copies without the CPU. Batches of the loader are pinned, too."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> StreamBatch:
        inputs = {
            name: change(value) if isinstance(value, Tensor) else Frames(*map(change, value))
            for name, value in self.inputs.items()
        }
        return StreamBatch(inputs, change(self.labels), self.numbers)


class Batch(NamedTuple):
    """Clips that were read together.

    Attributes:
        streams: the parts of the batch by name of the stream.
        errors: errors of clips that could not be read for at least one stream, by number.
        seconds: reading time of all clips together, summed over the processes that read them.
    """

    streams: dict[str, StreamBatch]
    errors: dict[int, CoviarMocropError]
    seconds: float

    def to(self, device: torch.device) -> Batch:
        """Copy to a device, without waiting for the copy to end."""
        return self._replace(streams={name: part.to(device) for name, part in self.streams.items()})

    def record(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory of the tensors until ``stream``, which did not allocate it, has used them."""
        for part in self.streams.values():
            for value in (*part.inputs.values(), part.labels):
                for tensor in (value,) if isinstance(value, Tensor) else value:
                    tensor.record_stream(stream)

    @property
    def size(self) -> int:
        """Number of clips of the batch, readable or not."""
        numbers = {number for part in self.streams.values() for number in part.numbers.tolist()}
        return len(numbers | self.errors.keys())


def collate(samples: Sequence[Sample]) -> Batch:
    """Make a batch: for each stream, stack the clips that could be read for it."""
    names = dict.fromkeys(name for sample in samples for name in (*sample.inputs, *sample.errors))
    errors = {sample.number: error for sample in samples for error in sample.errors.values()}
    return Batch(
        {name: _stack(name, [sample for sample in samples if name in sample.inputs]) for name in names},
        errors,
        sum(sample.seconds for sample in samples),
    )


def _stack(name: str, samples: Sequence[Sample]) -> StreamBatch:
    labels = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
    numbers = torch.tensor([sample.number for sample in samples], dtype=torch.int64)
    read = [sample.inputs[name] for sample in samples]
    rows = [item for item in read if isinstance(item, Tensor)]
    if rows:
        return StreamBatch({FEATURES: torch.stack(rows)}, labels, numbers)
    views = [item for item in read if isinstance(item, ReadViews)]
    inputs: dict[str, Frames | Tensor] = {
        view: Frames(
            torch.stack([torch.from_numpy(item.pixels[view]) for item in views]),
            torch.stack([torch.from_numpy(item.mirrored(view)) for item in views]),
        )
        for view in (views[0].pixels if views else ())
    }
    return StreamBatch(inputs, labels, numbers)
