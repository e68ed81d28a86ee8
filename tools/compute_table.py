#!/usr/bin/env python
"""Print the compute table: what every published network costs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from coviar_mocrop.cli import parser, run
from coviar_mocrop.files import require_writable, write_json

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks/ is not installed with the package

from benchmarks.compute_table import compute_markdown, compute_table, latencies, log_compute

EXAMPLES = """\
  python tools/compute_table.py
  python tools/compute_table.py --latency --output runs/compute
"""


def main() -> None:
    """Parse, count, print, write."""
    arguments = parser(
        "Print, as Markdown, the multiply-adds of every published network of this field in the settings baseline,\n"
        "efficiency and attention, and of CoViAR's three streams per frame and per clip.\n\n"
        "Writes to the output folder: compute.json and one TensorBoard run per setting, with the same tags.",
        EXAMPLES,
    )
    arguments.add_argument("--output", type=Path, default=Path("runs/compute"), help="folder (%(default)s)")
    arguments.add_argument("--classes", type=int, default=101, help="outputs of the networks (%(default)s)")
    arguments.add_argument("--full-size", type=int, default=224, help="of baseline and attention (%(default)s)")
    arguments.add_argument("--reduced-size", type=int, default=192, help="of efficiency (%(default)s)")
    arguments.add_argument("--latency", action="store_true", help="also time one frame on this machine")
    arguments.add_argument("--repeats", type=int, default=15, help="forward passes that are timed (%(default)s)")
    arguments.add_argument("--threads", type=int, default=2, help="of the timing (%(default)s)")
    given = arguments.parse_args()
    require_writable(given.output, folder=True)
    common = {"classes": given.classes, "full_size": given.full_size, "reduced_size": given.reduced_size}
    table = compute_table(**common)
    measured = latencies(**common, repeats=given.repeats, threads=given.threads) if given.latency else None
    print(compute_markdown(table, measured))
    content: dict[str, Any] = {**table, "latency": measured and {"threads": given.threads, "networks": measured}}
    write_json(given.output / "compute.json", content)
    log_compute(given.output, table, measured)
    print(f"wrote {given.output}/compute.json; tensorboard --logdir {given.output}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
