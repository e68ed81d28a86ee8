"""One process or many: what they have to tell each other, over PyTorch's process groups as torchrun starts them.

Without torchrun there is one process, and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from coviar_mocrop.errors import ConfigError

# others may wait while one computes the boxes of a data set; torchrun notices dead processes without it
_PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Group:
    """The processes of a run.

    Attributes:
        rank: number of this process, from 0.
        world: how many there are.
        local_rank: number of this process on its machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value, by rank. All processes must call it."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def table(self, row: Sequence[float]) -> torch.Tensor:
        """Everybody's row of numbers: float64 [world, len(row)]. All processes must call it."""
        mine = torch.tensor(row, dtype=torch.float64)
        if self.world == 1:
            return mine[None]
        rows = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(rows, mine)
        return torch.stack(rows)

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give all processes the first one's buffers (running statistics); all must call it."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


ALONE = Group()
"""The one process of a run without torchrun."""


@contextmanager
def process_group() -> Iterator[Group]:
    """Join the processes that torchrun started, by its environment variables; alone without them.

    Raises:
        ConfigError: the variables are incomplete or the others cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1 or dist.is_initialized():
        yield _current()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=_PATIENCE)
    except (ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"the processes cannot be joined ({line}); start them with torchrun") from error
    try:
        yield _current()
    finally:
        dist.destroy_process_group()


def _current() -> Group:
    if not dist.is_initialized():
        return ALONE
    return Group(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
