"""Clips side by side, by stream: what a network is given, 8 bits a value, and what kept a clip from being read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from coviar_mocrop.clips.reader import ReadViews
from coviar_mocrop.errors import CoviarMocropError

FEATURES = "features"


class Frames(NamedTuple):
    """Frames of a batch of clips as they were read, 8 bits a value.

    Attributes:
        pixels: uint8 [N, W, T, C, H, W]: clips, windows, segments.
        mirrored: bool [N, W], or [N, 2 W] where every window is wanted plain and mirrored.
    """

    pixels: Tensor
    mirrored: Tensor


Inputs = Mapping[str, Frames | Tensor]
"""What a stream is given of a batch: frames by view, or float32 [N, dim] under ``FEATURES``."""


class Features(NamedTuple):
    """Clips as vectors, made by frozen networks.

    Attributes:
        rows: float32 [clips, dim], in the list's order; NaN where there is an error.
        errors: why a clip has none, by its number in the list.
        computed: how many were not in the cache.
        reading, networks: seconds that a clip takes to be read, and to be made into features.
    """

    rows: Tensor
    errors: dict[int, CoviarMocropError]
    computed: int
    reading: float = 0.0
    networks: float = 0.0


class Sample(NamedTuple):
    """One clip, by stream: what was read, or its features; or the error that kept it from being read."""

    number: int
    label: int
    inputs: dict[str, ReadViews | Tensor]
    errors: dict[str, CoviarMocropError]
    seconds: float


class StreamBatch(NamedTuple):
    """What one stream gets of a batch: the clips that could be read for it.

    Attributes:
        inputs: see ``Inputs``.
        labels: int64 [N].
        numbers: int64 [N], places in the list.
    """

    inputs: dict[str, Frames | Tensor]
    labels: Tensor
    numbers: Tensor

    def to(self, device: torch.device) -> StreamBatch:
        """Bring it to a device, without waiting for the copy."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> StreamBatch:
        """In memory that a GPU copies from without the processor, as the loader's batches are."""
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
        streams: by name.
        errors: of clips that could not be read for every stream, by number.
        seconds: reading time of all clips together, in their processes.
    """

    streams: dict[str, StreamBatch]
    errors: dict[int, CoviarMocropError]
    seconds: float

    def to(self, device: torch.device) -> Batch:
        """Bring it to a device, without waiting for the copy."""
        return self._replace(streams={name: part.to(device) for name, part in self.streams.items()})

    def record(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory of its tensors until ``stream``, which did not allocate it, is done with them."""
        for part in self.streams.values():
            for value in (*part.inputs.values(), part.labels):
                for tensor in (value,) if isinstance(value, Tensor) else value:
                    tensor.record_stream(stream)

    @property
    def size(self) -> int:
        """Clips that were asked for and are now dealt with, readable or not."""
        numbers = {number for part in self.streams.values() for number in part.numbers.tolist()}
        return len(numbers | self.errors.keys())


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack, for every stream, the clips that could be read for it."""
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
