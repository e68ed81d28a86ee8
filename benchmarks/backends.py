"""Time of a network by what computes it: PyTorch in fp32 and bf16, ONNX Runtime in fp32 and int8.

One clip of frames with 8 bits a value, scaling included. The ways take turns in one run, and the fastest pass of each
counts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.watch import make_checkpoints
from coviar_mocrop.card import INPUT, OUTPUT
from coviar_mocrop.checkpoint import load_checkpoint
from coviar_mocrop.config import build_config
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.inference.exported_stream import ExportedStream, Traced
from coviar_mocrop.inference.int8 import quantise
from coviar_mocrop.inference.onnx_backend import open_session
from coviar_mocrop.runtime import Runtime
from coviar_mocrop.streams.base import create_stream
from coviar_mocrop.streams.frames import FrameStream
from coviar_mocrop.viz.tables import markdown_table


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = command.add_argument
    add("--backbone", default="resnet18", help="network (%(default)s)")
    add("--frames", type=int, default=8, metavar="N", help="frames of the clip (%(default)s)")
    add("--size", type=int, default=192, metavar="PIXELS", help="side of a frame (%(default)s)")
    add("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="processor cores (%(default)s)")
    add("--repeats", type=int, default=15, metavar="N", help="passes of each way (%(default)s)")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure, print a table."""
    if min(given.frames, given.size, given.threads, given.repeats) < 1:
        raise ConfigError("--frames, --size, --threads and --repeats take 1 or more")
    torch.set_num_threads(given.threads)
    clip = np.random.default_rng(0).integers(0, 256, (1, 1, given.frames, 3, given.size, given.size), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        ways = _ways(Path(folder), given.backbone, clip, given.threads)
        spent: dict[str, list[float]] = {name: [] for name in ways}
        logits = {name: way() for name, way in ways.items()}  # compiling, caches
        for _ in tqdm(range(given.repeats), desc=given.backbone, unit="repeat", leave=False):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                spent[name].append(1e3 * (time.perf_counter() - start))
    exact = logits["PyTorch, fp32"]
    rows = [
        {"way": name, "ms": min(times), "difference": float(np.abs(logits[name] - exact).max() / np.abs(exact).max())}
        for name, times in spent.items()
    ]
    print(f"{given.backbone}, {given.frames} frames of {given.size} pixels, {given.threads} threads\n")
    print(_table(rows))
    return {"rows": rows, **{name: getattr(given, name) for name in ("backbone", "frames", "size", "threads")}}


def _ways(folder: Path, backbone: str, clip: np.ndarray, threads: int) -> dict[str, Callable[[], np.ndarray]]:
    """Each returns logits [1, classes]."""
    content = load_checkpoint(make_checkpoints(folder)[0])
    overrides = [f"model.backbone={backbone}", f"input.reduced_size={clip.shape[-1]}", "model.weights=null"]
    config = build_config(content["config"], overrides, "benchmark")

    def network(runtime: Runtime) -> Callable[[], np.ndarray]:
        torch.manual_seed(0)
        stream = cast(FrameStream, create_stream(config, content["classes"], weights=False))
        stream.network.eval()
        stream.network.frames_at_once = config.train.frames_at_once  # type: ignore[assignment]  # as in prediction
        runtime.place(stream.network)
        runtime.halve_weights(stream.network)

        def compute() -> np.ndarray:
            with torch.inference_mode(), runtime.autocast():
                logits: np.ndarray = stream.logits(torch.from_numpy(clip)).float().numpy()
            return logits

        return compute

    torch.manual_seed(0)
    stream = cast(FrameStream, create_stream(config, content["classes"], weights=False))
    traced = Traced(ExportedStream(stream).eval(), 1, clip.shape[2], clip.shape[3:])
    files = {"fp32": folder / "fp32.onnx", "int8": folder / "int8.onnx"}
    traced.write_onnx(files["fp32"])
    quantise(files["fp32"], files["int8"], [clip])
    sessions = {name: open_session(path.read_bytes(), threads) for name, path in files.items()}
    cpu = torch.device("cpu")
    return {
        "PyTorch, fp32": network(Runtime(cpu, torch.float32, channels_last=False)),
        "PyTorch, fp32, channels last": network(Runtime(cpu, torch.float32)),
        "PyTorch, bf16, channels last": network(Runtime(cpu, torch.bfloat16)),
        "ONNX Runtime, fp32": lambda: sessions["fp32"].run([OUTPUT], {INPUT: clip})[0],
        "ONNX Runtime, int8": lambda: sessions["int8"].run([OUTPUT], {INPUT: clip})[0],
    }


def _table(rows: list[dict[str, Any]]) -> str:
    first = rows[0]["ms"]
    cells = [[row["way"], f"{row['ms']:.0f}", f"{first / row['ms']:.2f}", f"{row['difference']:.1e}"] for row in rows]
    return markdown_table([["computed by", "ms per clip", "relative speed", "difference of logits"], *cells])
