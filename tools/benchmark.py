#!/usr/bin/env python
"""Run a benchmark of the folder benchmarks/."""

from __future__ import annotations

import sys
from pathlib import Path

from coviar_mocrop.cli import parser, run
from coviar_mocrop.files import require_writable, write_json

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks/ is not installed with the package

from benchmarks import footage, mocrop, reading, scale, squeeze, tables, testing, watch

EXAMPLES = """\
  python tools/benchmark.py reading
  python tools/benchmark.py reading clip.mp4 --transcode mpeg4 --repeats 21 --json reading.json
  python tools/benchmark.py mocrop --real clips/ --sparse-clips 40
  python tools/benchmark.py testing --checkpoint runs/demo/iframe/best.pt
  python tools/benchmark.py scale clip.mp4 --entries 100000 --batches 10000
  python tools/benchmark.py squeeze --json runs/benchmark/squeeze.json
  python tools/benchmark.py tables
  python tools/benchmark.py watch --minutes 60
  python tools/benchmark.py footage surveillance_fights --figure footage.png
"""


def main() -> None:
    """Parse, measure, print tables."""
    arguments = parser("Measure this package beside other ways, on the same files in the same run.", EXAMPLES)
    commands = arguments.add_subparsers(required=True, metavar="NAME")
    for module in (reading, mocrop, testing, scale, squeeze, tables, footage, watch):
        summary, _, details = str(module.__doc__).partition("\n")
        command = commands.add_parser(module.__name__.partition(".")[2], help=summary, description=summary + details)
        module.add_arguments(command)
        command.add_argument("--json", metavar="FILE", help="also write the results to this file")
        command.set_defaults(run=module.run)
    given = arguments.parse_args()
    if given.json:
        require_writable(given.json)
    results = given.run(given)
    if given.json:
        write_json(given.json, results)
        print(f"wrote {given.json}")


if __name__ == "__main__":
    run(main)
