"""What torchrun tells the processes that it starts, in their environment. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping

from coviar_mocrop.errors import ConfigError


def torchrun_share(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return the rank of this process, from 0, and the number of processes; (0, 1) without torchrun.

    Raises:
        ConfigError: the environment variables are invalid.
    """
    rank, world = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ConfigError(f"RANK={rank} and WORLD_SIZE={world} are invalid; start the processes with torchrun")
    return int(rank), int(world)


def is_main_process() -> bool:
    """Whether this is the main process, which prints: the first of those that torchrun starts, or the only one."""
    return os.environ.get("RANK", "0") == "0"
