"""Print the compute table: the multiply-adds of the networks in the papers.

Prints, as Markdown, the multiply-adds of the networks in the settings baseline, efficiency and attention, and those of
CoViAR's three streams per frame and per clip. Writes compute.json and one TensorBoard run per setting with the same
tags. Needs a clone of the project.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from coviar_mocrop.commands.benchmark import require_clone
from coviar_mocrop.files import require_writable, write_json

EXAMPLES = """\
  coviar compute
  coviar compute --latency --output runs/compute
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--output", type=Path, default=Path("runs/compute"), metavar="DIR", help="output folder (default: %(default)s)"
    )
    add = parser.add_argument_group("networks").add_argument
    add("--classes", type=int, default=101, metavar="N", help="number of classes (default: %(default)s)")
    add(
        "--full-size",
        type=int,
        default=224,
        metavar="PIXELS",
        help="input of baseline and attention (default: %(default)s)",
    )
    add("--reduced-size", type=int, default=192, metavar="PIXELS", help="input of efficiency (default: %(default)s)")
    add = parser.add_argument_group("times").add_argument
    add("--latency", action="store_true", help="also time one frame on this machine")
    add("--repeats", type=int, default=15, metavar="N", help="number of timed forward passes (default: %(default)s)")
    add("--threads", type=int, default=2, metavar="N", help="threads to time with (default: %(default)s)")


def main(given: argparse.Namespace) -> None:
    """Count, print, write."""
    require_clone()
    from benchmarks.compute_table import compute_markdown, compute_table, latencies, log_compute

    require_writable(given.output, folder=True)
    common = {"classes": given.classes, "full_size": given.full_size, "reduced_size": given.reduced_size}
    table = compute_table(**common)
    measured = latencies(**common, repeats=given.repeats, threads=given.threads) if given.latency else None
    print(compute_markdown(table, measured))
    content: dict[str, Any] = {**table, "latency": measured and {"threads": given.threads, "networks": measured}}
    write_json(given.output / "compute.json", content)
    log_compute(given.output, table, measured)
    print(f"wrote {given.output}/compute.json; tensorboard --logdir {given.output}", file=sys.stderr)
