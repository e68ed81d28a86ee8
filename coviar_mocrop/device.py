"""Where and how precisely to compute."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from coviar_mocrop.errors import ConfigError
from coviar_mocrop.messages import first_line
from coviar_mocrop.training.config import TrainConfig

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """Where and how precisely networks run."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool = True
    compile: bool = False
    frames_at_once: int | None = None

    def place(self, model: nn.Module) -> None:
        """Bring ``model`` to the device and into the layout, in place; compile it where that is wanted."""
        model.to(self.device)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        if self.compile:
            model.compile()

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision where it is wanted."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def __str__(self) -> str:
        return f"{self.device.type} {str(self.dtype).removeprefix('torch.')}"


def choose_runtime(settings: TrainConfig, local_rank: int = 0) -> Runtime:
    """Resolve ``auto`` and set the number of threads; of several GPUs take the one of this process.

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
        torch.backends.cudnn.deterministic = True  # same seed, same bits
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if _computes_in_bf16(device) else "fp32"
    return Runtime(device, _DTYPES[precision], settings.channels_last, settings.compile, settings.frames_at_once)


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
