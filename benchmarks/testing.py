"""Testing a stream with the defaults beside a plain fp32 loop, in turn, on the same clips.

The defaults are precision, memory layout and reading processes. The plain loop is what one writes first: read a batch,
compute it in fp32, read the next.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

from coviar_mocrop.cli import add_set_argument
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.fusion import measure
from coviar_mocrop.inference.testing import score_checkpoint
from coviar_mocrop.viz.tables import markdown_table

PLAIN = ("train.precision=fp32", "train.channels_last=false", "data.workers=0", "train.frames_at_once=null")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options of ``benchmark.py testing``."""
    command.add_argument("--checkpoint", required=True, metavar="FILE", help="best.pt or last.pt of a run")
    add_set_argument(command)
    command.add_argument("--repeats", type=int, default=3, help="passes of each; the median counts (%(default)s)")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Compare, print a table."""
    found = compare_testing(given.checkpoint, given.set, given.repeats)
    print(table(found))
    return found


def compare_testing(
    checkpoint: str | os.PathLike[str], overrides: Sequence[str] = (), repeats: int = 3
) -> dict[str, Any]:
    """Test a stream both ways in turn, ``repeats`` times.

    Boxes are found before the clock starts. Reading processes are started within the time.

    Returns:
        ``clips``; ``ratio``, how many times as fast the defaults are; ``ways``: by name ``seconds`` of a pass over the
        list (median), ``top1``, ``compute``, ``ms_read`` and ``ms_network`` per clip (medians), and ``repeatable``,
        whether every pass gave the same scores.

    Raises:
        ConfigError: ``repeats`` is below 1.
        CoviarMocropError: the checkpoint or its test list cannot be used.
    """
    if repeats < 1:
        raise ConfigError(f"--repeats is {repeats}; it must be at least 1")
    options = {"plain loop": [*overrides, *PLAIN], "defaults": list(overrides)}
    for how in options.values():
        score_checkpoint(checkpoint, how)  # boxes, caches of the system, the first call of every kernel
    passes: dict[str, list[Any]] = {name: [] for name in options}
    seconds: dict[str, list[float]] = {name: [] for name in options}
    for _ in range(repeats):
        for name, how in options.items():
            start = time.perf_counter()
            passes[name].append(score_checkpoint(checkpoint, how))
            seconds[name].append(time.perf_counter() - start)
    ways = {
        name: {
            "seconds": statistics.median(seconds[name]),
            "top1": measure(scores[0]).top1,
            "compute": scores[0].settings["compute"],
            "ms_read": statistics.median(s.settings["ms_read"] for s in scores),
            "ms_network": statistics.median(s.settings["ms_network"] for s in scores),
            "repeatable": all((s.scores == scores[0].scores).all() for s in scores),
        }
        for name, scores in passes.items()
    }
    ratio = ways["plain loop"]["seconds"] / ways["defaults"]["seconds"]
    return {"clips": len(passes["defaults"][0].names), "ratio": ratio, "ways": ways}


def table(found: dict[str, Any]) -> str:
    """Format both ways as a Markdown table."""
    clips, rows = found["clips"], []
    for name, way in found["ways"].items():
        milliseconds = (1e3 * way["seconds"] / clips, way["ms_read"], way["ms_network"])
        rows.append((name, way["compute"], *(f"{ms:.1f}" for ms in milliseconds), f"{way['top1']:.1%}"))
    head = ("testing", "computed in", "ms per clip", "reading, ms", "network, ms", "top-1")
    return f"{markdown_table([head, *rows], 'llr')}\n\n{found['ratio']:.2f} times as fast, {clips} clips"
