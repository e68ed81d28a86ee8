"""Measure speed, memory and accuracy of this package, and of alternatives in the same run.

Prints tables; --json also writes the numbers. Needs a clone of the project. Each benchmark has its own --help.

benchmarks:
  reading      reading speed on one core, beside bare decoding of the same packets
  mocrop       how much of what moves lies in the box, on synthetic and on real clips
  testing      testing a stream with the defaults, beside a plain loop in fp32
  scale        how soon training starts on a very long list, and how memory grows
  shards       packing shards, and reading from them, beside the same clips as files
  preparing    transcoding, checking and boxes in processes and on a Ray cluster
  squeeze      time and memory of MotionSqueeze's correlation
  tables       the accuracies on synthetic clips in the docs, over several seeds
  footage      accuracy on real clips, cross-validated
  backends     time of a network in PyTorch and in ONNX Runtime
  watch        watching long videos and cameras: CPU, latency, memory
  annotations  how soon long annotation files are read, their videos found, and parts cut
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from coviar_mocrop.cli import parser as build_parser
from coviar_mocrop.errors import CoviarMocropError
from coviar_mocrop.files import require_writable, write_json

EXAMPLES = """\
  coviar benchmark reading
  coviar benchmark reading clip.mp4 --transcode mpeg4 --repeats 21 --json reading.json
  coviar benchmark mocrop --real clips/ --sparse-clips 40
  coviar benchmark testing --checkpoint runs/demo/iframe/best.pt
  coviar benchmark scale clip.mp4 --entries 100000 --batches 10000
  coviar benchmark shards surveillance_fights
  coviar benchmark preparing --clips 2000
  coviar benchmark squeeze --json runs/benchmark/squeeze.json
  coviar benchmark tables
  coviar benchmark backends --threads 1
  coviar benchmark watch --minutes 60
  coviar benchmark annotations --rows 650000
  coviar benchmark footage surveillance_fights --figure footage.png
"""
NAMES = (
    "reading",
    "mocrop",
    "testing",
    "scale",
    "squeeze",
    "tables",
    "footage",
    "backends",
    "watch",
    "annotations",
    "shards",
    "preparing",
)
_CLONE = Path(__file__).resolve().parents[2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name. Its options are those of the benchmark's module, which imports much, and are added in ``main``."""
    installed = not _is_clone()  # then whatever is given, main says that there are no benchmarks
    parser.add_argument(
        "name", metavar="NAME", nargs="?" if installed else None, choices=NAMES, help="benchmark to run, see above"
    )
    parser.add_argument(
        "options", nargs="*" if installed else argparse.REMAINDER, metavar="OPTION", help="options of the benchmark"
    )
    parser.set_defaults(program=parser.prog)


def main(given: argparse.Namespace) -> None:
    """Measure, and print tables."""
    require_clone()
    module = import_module(f"benchmarks.{given.name}")
    arguments = build_parser((module.__doc__ or "").strip(), program=f"{given.program} {given.name}")
    module.add_arguments(arguments)
    arguments.add_argument("--json", metavar="FILE", help="also write the results to this file")
    chosen = arguments.parse_args(given.options)
    if chosen.json:
        require_writable(chosen.json)
    results = module.run(chosen)
    if chosen.json:
        write_json(chosen.json, results)
        print(f"wrote {chosen.json}")


def require_clone() -> None:
    """Make the package ``benchmarks`` importable, which lies beside this one in a clone and is not installed.

    Raises:
        CoviarMocropError: this is not a clone.
    """
    if not _is_clone():
        raise CoviarMocropError(
            "benchmarks are not installed with the package; clone the project and install it with pip install -e ."
        )
    if str(_CLONE) not in sys.path:
        sys.path.insert(0, str(_CLONE))


def _is_clone() -> bool:
    return (_CLONE / "benchmarks" / "compute_table.py").exists()
