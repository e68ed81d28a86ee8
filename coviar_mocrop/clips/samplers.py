"""Which clips a process reads, in which order.

Seed, epoch and step alone decide what belongs to a step, not the number of workers or processes, nor an interruption.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from coviar_mocrop.clips.dataset import Key


class TrainingSampler(Sampler[list[Key]]):
    """The share of one process in every step's batch, cut into ``parts`` where gradients are accumulated.

    The clips of an epoch are shuffled by seed and epoch; step k takes clips k * batch_size onwards, and these are
    dealt out to processes and parts like cards. So the clips of a step are the same however many share them.

    Attributes:
        epoch: set before each pass.
        first_step: steps of the epoch to leave out, because they were done before an interruption.
        streams: names of those to read for; None: all.
    """

    def __init__(
        self, size: int, batch_size: int, *, seed: int = 0, parts: int = 1, rank: int = 0, world: int = 1
    ) -> None:
        """``size`` clips, ``batch_size`` of them a step over all processes and parts together."""
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.parts, self.rank, self.world = parts, rank, world
        self.epoch = 0
        self.first_step = 0
        self.streams: tuple[str, ...] | None = None

    @property
    def steps(self) -> int:
        """Steps in a whole epoch."""
        return -(-self.size // self.batch_size)

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.parts

    def __iter__(self) -> Iterator[list[Key]]:
        """``parts`` lists for every step, in turn; at the end of an epoch some may be empty."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        epoch, hands = self.epoch, self.parts * self.world
        for step in range(self.first_step, self.steps):
            clips = order[step * self.batch_size : (step + 1) * self.batch_size]
            for part in range(self.parts):
                yield [(epoch, int(index), self.streams) for index in clips[part * self.world + self.rank :: hands]]


class TestingSampler(Sampler[list[Key]]):
    """All clips in the list's order; of its batches every ``world``-th is this process's.

    Whole batches are dealt out, because what a clip is computed together with may change the last bit of its scores.

    Attributes:
        streams: names of those to read for; None: all.
    """

    __test__ = False  # no test case, whatever its name makes pytest think

    def __init__(self, size: int, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        """``size`` clips in batches of ``batch_size``."""
        self.size, self.batch_size, self.rank, self.world = size, batch_size, rank, world
        self.streams: tuple[str, ...] | None = None

    def _starts(self) -> range:
        return range(self.rank * self.batch_size, self.size, self.world * self.batch_size)

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[list[Key]]:
        for start in self._starts():
            yield [(0, index, self.streams) for index in range(start, min(start + self.batch_size, self.size))]
