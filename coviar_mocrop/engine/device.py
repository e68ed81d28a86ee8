"""Where and how precisely to compute."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from coviar_mocrop.errors import ConfigError
from coviar_mocrop.recipe import TrainSettings


@dataclass(frozen=True)
class Compute:
    """A device and a precision."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision where it is wanted."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def __str__(self) -> str:
        return f"{self.device.type} {str(self.dtype).removeprefix('torch.')}"


def choose_compute(settings: TrainSettings) -> Compute:
    """Resolve ``auto`` and set the number of threads.

    Raises:
        ConfigError: there is no such device.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    name = settings.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        line = str(error).splitlines()[0]
        raise ConfigError(f"train.device is {name!r}, which cannot be used here ({line}); try cpu or auto") from error
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if _computes_in_bf16(device) else "fp32"
    return Compute(device, torch.bfloat16 if precision == "bf16" else torch.float32)


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
