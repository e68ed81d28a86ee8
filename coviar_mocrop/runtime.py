"""Device and precision of networks, and the processes of a run.

Distributed functions use torch.distributed, with processes started by torchrun. Without torchrun there is one process,
and they are no-ops.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from coviar_mocrop.errors import ConfigError
from coviar_mocrop.messages import first_line
from coviar_mocrop.torchrun import torchrun_share
from coviar_mocrop.training.config import TrainConfig

_PACKAGES = ("coviar_mocrop", "torch", "torchvision", "av", "numpy", "motion-vector-extractor", "open_clip_torch")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """Device, precision and memory layout of networks.

    Attributes:
        device: the device.
        dtype: dtype of the computation; other than float32, by autocast.
        channels_last: whether networks are stored in channels-last memory format.
        compile: whether networks are compiled with torch.compile.
        frames_at_once: number of frames computed together in tests on a CPU; None: the whole batch.
    """

    device: torch.device
    dtype: torch.dtype
    channels_last: bool = True
    compile: bool = False
    frames_at_once: int | None = None

    def place(self, model: nn.Module) -> None:
        """Move ``model`` to the device and the memory format, in place, and compile it if ``compile`` is set."""
        model.to(self.device)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        if self.compile:
            model.compile()

    def halve_weights(self, model: nn.Module) -> None:
        """Convert the weights of convolutions and linear layers to ``dtype``, in place; for testing only.

        Autocast would convert them for every batch, with the same results. This also halves their memory. In float32,
        nothing is changed.
        """
        if self.dtype != torch.float32:
            for module in model.modules():
                if type(module) in (nn.Conv2d, nn.Linear):
                    module.to(self.dtype)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the autocast context for ``dtype``. In float32 it does nothing."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def __str__(self) -> str:
        return f"{self.device.type} {str(self.dtype).removeprefix('torch.')}"


def choose_runtime(settings: TrainConfig, local_rank: int = 0) -> Runtime:
    """Choose device and precision, and configure PyTorch: number of threads and deterministic algorithms.

    Args:
        settings: settings of training, which also hold for tests.
        local_rank: number of this process on its machine, from 0. It selects the GPU if the device is ``cuda``.

    Raises:
        ConfigError: there is no such device.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    name = settings.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank % max(torch.cuda.device_count(), 1)}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"train.device is {name!r}, which cannot be used here ({first_line(error)}); try cpu or auto"
        ) from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # makes cuBLAS deterministic
        torch.use_deterministic_algorithms(settings.deterministic)
        torch.backends.cudnn.benchmark = not settings.deterministic
    else:
        _keep_freed_memory()
    dtype = precision_of(settings, device)
    return Runtime(device, dtype, settings.channels_last, settings.compile, settings.frames_at_once)


def precision_of(settings: TrainConfig, device: torch.device) -> torch.dtype:
    """Return the dtype for ``train.precision`` on a device."""
    if settings.precision != "auto":
        return _DTYPES[settings.precision]
    return torch.bfloat16 if _computes_in_bf16(device) else torch.float32


def _keep_freed_memory() -> None:
    """Make glibc, if it is used, keep the freed memory of large tensors for the next ones.

    Otherwise the memory is returned to the system, which fills it with zeros again for every layer of every step. That
    takes 15% of the time of training a ResNet-18 on a CPU.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3  # names in malloc.h
        library = ctypes.CDLL(None)
        library.mallopt(mmap_threshold, 2**30)
        library.mallopt(trim_threshold, 2**31 - 1)


def _computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or platform.system() != "Linux":
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    # without these instructions bf16 is emulated and slower than fp32
    return "avx512_bf16" in flags or "amx_bf16" in flags


def describe_machine() -> dict[str, Any]:
    """Return time, command, versions, system and GPU as JSON values, for ``run.json``."""
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


_PATIENCE = timedelta(minutes=15)
"""Time that a process waits for the others before it gives up. No process takes longer between two exchanges."""


@dataclass(frozen=True)
class Group:
    """The processes of a run.

    Attributes:
        rank: number of this process, from 0.
        world: number of processes.
        local_rank: number of this process on its machine, from 0.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the main process (rank 0), which prints and writes files."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank. Collective: every process must call it."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def table(self, row: Sequence[float]) -> torch.Tensor:
        """Return the rows of all processes, float64 [world, len(row)]. Collective: every process must call it."""
        mine = torch.tensor(row, dtype=torch.float64)
        if self.world == 1:
            return mine[None]
        rows = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(rows, mine)
        return torch.stack(rows)

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy the main process's buffers (running statistics) to all processes, in place. Collective."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


ALONE = Group()
"""The group of a run without torchrun, which has one process."""


@contextmanager
def process_group() -> Iterator[Group]:
    """Connect to the other processes that torchrun started. Without torchrun, yield a group of one process.

    Raises:
        ConfigError: torchrun's environment variables are invalid or incomplete, or other processes cannot be reached.
    """
    if torchrun_share()[1] == 1 or dist.is_initialized():
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
