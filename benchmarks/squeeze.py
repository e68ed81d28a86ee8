"""Time and peak memory of MotionSqueeze's correlation, forward and backward, both forms, on maps of several sizes."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from tqdm import tqdm

from coviar_mocrop.errors import ConfigError
from coviar_mocrop.networks.motion_squeeze import CorrelationForm, cheaper_form, correlate, soft_argmax
from coviar_mocrop.viz.tables import markdown_table

SIDES = (14, 28, 56)
FORMS: tuple[CorrelationForm, ...] = ("pairs", "window")
_RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Makes glibc return freed tensors to the system at once; slow, so time is measured without it."""


class Case(NamedTuple):
    """A form on a square map of ``side`` cells, in one clip."""

    form: CorrelationForm
    side: int
    channels: int
    window: int
    frames: int


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options of ``benchmark.py squeeze``."""
    sides = " ".join(map(str, SIDES))
    command.add_argument("--sides", nargs="+", type=int, default=SIDES, help=f"sides of the maps, cells ({sides})")
    command.add_argument("--channels", type=int, default=64, help="channels that are compared (%(default)s)")
    command.add_argument("--window", type=int, default=15, help="side of the window, cells (%(default)s)")
    command.add_argument("--frames", type=int, default=8, help="frames of the clip (%(default)s)")
    command.add_argument("--repeats", type=int, default=7, help="passes; the fastest counts (%(default)s)")
    command.add_argument("--device", default="cpu", help="%(default)s, cuda, ...")
    command.add_argument("--threads", type=int, default=1, help="threads of a CPU (%(default)s)")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure, print a table."""
    options = ("sides", "channels", "window", "frames", "repeats", "device", "threads")
    report = run_cases(**{name: getattr(given, name) for name in options})
    print(markdown(report))
    return report


def seconds_of(case: Case, repeats: int, device: str, threads: int) -> float:
    """The fastest of ``repeats`` passes, after one that does not count; other load only ever slows one down."""
    torch.set_num_threads(threads)
    features = _features(case, device)
    seconds = []
    for _ in range(repeats + 1):
        features.grad = None
        start = time.perf_counter()
        _once(features, case.form, case.window)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def mebibytes_of(case: Case, device: str) -> float:
    """Peak of one pass above what stood before.

    On a CPU it is the peak of the process (Linux), which follows the tensors only if the allocator gives back at
    once what is freed: see ``_RETURN_MEMORY``.
    """
    torch.set_num_threads(1)
    features = _features(case, device)
    _once(features[:, :, :4, :4], case.form, case.window)  # libraries load here
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _once(features, case.form, case.window)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    _once(features, case.form, case.window)
    return (_status("VmHWM") - before) / 2**10


def run_cases(
    sides: Sequence[int] = SIDES,
    *,
    channels: int = 64,
    window: int = 15,
    frames: int = 8,
    repeats: int = 7,
    device: str = "cpu",
    threads: int = 1,
) -> dict[str, Any]:
    """Correlation and soft-argmax of one clip, forward and backward: both forms on square maps of every size.

    Args:
        sides: of the maps, cells.
        channels: that are compared.
        window: side of the window, cells.
        frames: of the clip.
        repeats: passes, of which the fastest counts.
        device: ``cpu``, ``cuda``, ...
        threads: of a CPU.

    Returns:
        ``machine``, ``threads``, ``torch``, and ``cases``: ``form``, ``side``, ``channels``, ``window``, ``frames``,
        ``milliseconds``, ``mebibytes`` (peak above what stood before) and ``default``, true for the form that
        :func:`~coviar_mocrop.networks.motion_squeeze.correlate` takes by itself.

    Raises:
        ConfigError: a number is out of range, or a case does not run (no memory, no such device).
    """
    for name, value, least in (
        *(("side", side, 1) for side in sides),
        ("channels", channels, 1),
        ("frames", frames, 2),
        ("repeats", repeats, 1),
        ("threads", threads, 1),
    ):
        if value < least:
            raise ConfigError(f"{name} is {value}; give {least} or more")
    if window < 1 or window % 2 == 0:
        raise ConfigError(f"window is {window}; give an odd number")
    rows = []
    for side in tqdm(sides, "correlation", unit="map", leave=False):
        for form in FORMS:
            case = Case(form, side, channels, window, frames)
            spent = _elsewhere({"case": case._asdict(), "repeats": repeats, "device": device, "threads": threads})
            held = _elsewhere({"case": case._asdict(), "device": device}, _RETURN_MEMORY)
            rows.append(
                {
                    **case._asdict(),
                    "milliseconds": 1e3 * spent,
                    "mebibytes": held,
                    "default": form == cheaper_form(side, side, window),
                }
            )
    machine = torch.cuda.get_device_name() if device.startswith("cuda") else f"{platform.machine()} CPU"
    return {"machine": machine, "threads": threads, "torch": torch.__version__, "cases": rows}


def markdown(report: dict[str, Any]) -> str:
    """Format the cases as a Markdown table."""
    rows = [
        (
            f"{row['side']} x {row['side']}",
            f"**{row['form']}**" if row["default"] else row["form"],
            f"{row['milliseconds']:.1f}",
            f"{row['mebibytes']:.0f}",
        )
        for row in report["cases"]
    ]
    first = report["cases"][0]
    return (
        f"{markdown_table([('map', 'form', 'ms', 'MiB'), *rows], 'llr')}\n\n"
        f"Forward and backward of one clip: {first['frames']} frames, {first['channels']} channels, window "
        f"{first['window']}; {report['machine']}, {report['threads']} thread(s); bold: the default."
    )


def _features(case: Case, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn((case.frames, case.channels, case.side, case.side), generator=generator)
    features = F.normalize(features, dim=1).contiguous(memory_format=torch.channels_last)
    return features.to(device).requires_grad_()


def _once(features: torch.Tensor, form: CorrelationForm, window: int) -> None:
    similarity = correlate(features[:-1], features[1:], window, form)
    displacement, confidence = soft_argmax(similarity.relu())
    (displacement.square().sum() + confidence.sum()).backward()


def _status(key: str) -> int:
    """KiB, from what Linux says about this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _elsewhere(wanted: dict[str, Any], environment: dict[str, str] | None = None) -> float:
    """Time or memory of a case, in a process of its own: what one holds must not help or hinder the next."""
    command = [sys.executable, "-m", "benchmarks.squeeze", json.dumps(wanted)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it was stopped"])[-1]
        case = wanted["case"]
        raise ConfigError(f"{case['form']} on {case['side']} x {case['side']} cells does not run here: {reason}")
    return float(done.stdout)


def _measured(wanted: dict[str, Any]) -> float:
    """Seconds, if there is a number of repeats, else MiB."""
    options = {name: value for name, value in wanted.items() if name != "case"}
    case = Case(**wanted["case"])
    return seconds_of(case, **options) if "repeats" in options else mebibytes_of(case, **options)


if __name__ == "__main__":
    print(_measured(json.loads(sys.argv[1])))
