#!/usr/bin/env python
"""Measure this package beside what people use."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import loader, mocrop, squeeze
from benchmarks.scale import measure_scale
from benchmarks.testing import compare_testing
from coviar_mocrop.bitstream import transcode
from coviar_mocrop.cli import add_set_argument, parser, run
from coviar_mocrop.errors import DataError
from coviar_mocrop.files import atomic_write, write_json

EXAMPLES = """\
  python tools/benchmark.py loader clip.mp4 --output loader.json
  python tools/benchmark.py loader clip.mp4 --transcode mpeg4 --repeats 11 --profile
  python tools/benchmark.py mocrop --output runs/benchmark/mocrop
  python tools/benchmark.py mocrop --real clips/ --sparse-clips 40
  python tools/benchmark.py testing --checkpoint runs/demo/iframe/best.pt
  python tools/benchmark.py scale clip.mp4 --entries 100000 --batches 10000
  python tools/benchmark.py squeeze --output runs/benchmark/squeeze.json
"""


def main() -> None:
    """Parse, measure, print tables."""
    arguments = parser("Measure this package beside what people use, on the same files in the same run.", EXAMPLES)
    commands = arguments.add_subparsers(required=True, metavar="WHAT")
    add_loader(commands)
    add_mocrop(commands)
    add_testing(commands)
    add_scale(commands)
    add_squeeze(commands)
    given = arguments.parse_args()
    given.run(given)


def add_loader(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``benchmark.py loader``."""
    command = commands.add_parser(
        "loader",
        help="reading speed beside mvextractor, OpenCV, torchcodec and decord",
        description="Reading speed on one core beside mvextractor, OpenCV, torchcodec and decord where installed.",
    )
    command.add_argument("files", nargs="+", metavar="FILE", help="videos")
    command.add_argument("--repeats", type=int, default=7, help="passes of each, of which the median counts")
    command.add_argument(
        "--transcode",
        choices=["mpeg4", "h264"],
        help="to the canonical form (340x256, GOP 12) first, in a temporary file",
    )
    command.add_argument(
        "--all-cores", action="store_true", help="let readers that use several threads have them (default: one core)"
    )
    command.add_argument("--profile", action="store_true", help="also tell where our own time goes")
    command.add_argument("--output", metavar="FILE", help="JSON file to write")
    command.set_defaults(run=run_loader)


def add_testing(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``benchmark.py testing``."""
    command = commands.add_parser(
        "testing",
        help="testing with the defaults beside a plain fp32 loop",
        description="Test a stream with the defaults (precision, memory layout, reading processes) and as a plain "
        "fp32 loop, in turn, on the same clips.",
    )
    command.add_argument("--checkpoint", required=True, metavar="FILE", help="best.pt or last.pt of a run")
    add_set_argument(command)
    command.add_argument("--repeats", type=int, default=3, help="passes of each, of which the median counts")
    command.add_argument("--output", metavar="FILE", help="JSON file to write")
    command.set_defaults(run=run_testing)


def run_testing(given: argparse.Namespace) -> None:
    """Compare, print."""
    found = compare_testing(given.checkpoint, given.set, given.repeats)
    print(found.table())
    if given.output:
        write_json(given.output, found.as_json())


def add_scale(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``benchmark.py scale``."""
    command = commands.add_parser(
        "scale",
        help="how soon training starts on a very long list, and whether its readers grow",
        description="Train on very many names (hard links) of one small clip, their boxes known: seconds until the "
        "first step is done, and the private memory of the reading processes over many batches.",
    )
    command.add_argument("clip", metavar="FILE", help="a small video; the links are made beside it")
    command.add_argument("--entries", type=int, default=100_000, help="names in the list (%(default)s)")
    command.add_argument("--batches", type=int, default=10_000, help="batches of two clips to read (%(default)s)")
    command.add_argument("--output", metavar="FILE", help="JSON file to write")
    command.set_defaults(run=run_scale)


def run_scale(given: argparse.Namespace) -> None:
    """Measure, print."""
    found = measure_scale(given.clip, given.entries, given.batches)
    print(found.table())
    if given.output:
        write_json(given.output, found.as_json())


def run_loader(given: argparse.Namespace) -> None:
    """Compare on every file, print as it goes."""
    comparisons, profiles = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for file in given.files:
            path = Path(file)
            if given.transcode:
                path = Path(folder, f"{path.stem}_{given.transcode}.mp4")
                transcode(file, path, codec=given.transcode)
            comparisons.append(loader.compare(path, repeats=given.repeats, one_core=not given.all_cores))
            print(loader.markdown(comparisons[-1]), end="\n\n", flush=True)
            if given.profile:
                profiles[path.name] = loader.profile(path, repeats=given.repeats)
                print(loader.profile_markdown(profiles[path.name]), end="\n\n", flush=True)
    if given.output:
        write_json(given.output, loader.report(comparisons, profiles))
        print(f"wrote {given.output}")


def add_mocrop(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``benchmark.py mocrop``."""
    command = commands.add_parser(
        "mocrop",
        help="the crop box against ground truth, and sparse reading",
        description="Coverage of what moves by the crop box: on 64 clips made here, whose moving objects are known, "
        "and on real clips with marked regions; and how far a box from a few frames agrees with the full one.",
    )
    command.add_argument(
        "--real", type=Path, metavar="DIR", help="folder of real clips with action_boxes.csv (path,x0,y0,x1,y1)"
    )
    command.add_argument(
        "--sparse-clips", type=int, default=0, metavar="N", help="measure sparse reading on N clips of --real"
    )
    command.add_argument("--output", type=Path, default=Path("runs/benchmark/mocrop"), help="folder (%(default)s)")
    command.add_argument("--seed", type=int, default=0, help="of the clips (%(default)s)")
    command.set_defaults(run=run_mocrop)


def run_mocrop(given: argparse.Namespace) -> None:
    """Measure, print tables, write JSON and figure."""
    if given.sparse_clips and not given.real:
        raise DataError("--sparse-clips takes its clips from --real; give a folder")
    if given.real:  # mistakes first: the rest takes minutes
        mocrop.check_marks(given.real)
    videos = mocrop.spread_videos(given.real, given.sparse_clips) if given.sparse_clips else []
    found: dict[str, list[dict[str, object]]] = {"synthetic": mocrop.run_synthetic(seed=given.seed)}
    print(mocrop.synthetic_table(found["synthetic"]))
    if given.real:
        found["real"] = mocrop.run_real(given.real)
        print(f"\n{mocrop.real_table(found['real'])}")
    if videos:
        found["sparse"], found["prefix"] = mocrop.run_sparse(videos), mocrop.run_prefix(videos)
        print(f"\n{mocrop.sparse_table(found['sparse'])}\n\n{mocrop.sparse_table(found['prefix'], 'share')}")
        times = mocrop.box_time(videos)
        print(f"\nThe box alone: {sorted(times)[len(times) // 2]:.1f} ms (median over {len(times)} clips)")
    write_json(given.output / "mocrop.json", found)
    with atomic_write(given.output / "coverage.png") as temporary:
        mocrop.coverage_figure(found["synthetic"], found.get("real", [])).savefig(temporary, dpi=110)
    print(f"\nwrote {given.output}/mocrop.json and coverage.png")


def add_squeeze(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``benchmark.py squeeze``."""
    command = commands.add_parser(
        "squeeze",
        help="time and memory of MotionSqueeze's correlation",
        description="Time and peak memory, forward and backward, of both forms of MotionSqueeze's correlation.",
    )
    command.add_argument("--sides", nargs="+", type=int, default=squeeze.SIDES, help="of the maps, cells (%(default)s)")
    command.add_argument("--channels", type=int, default=64, help="that are compared (%(default)s)")
    command.add_argument("--window", type=int, default=15, help="cells (%(default)s)")
    command.add_argument("--frames", type=int, default=8, help="of the clip (%(default)s)")
    command.add_argument("--repeats", type=int, default=7, help="passes, of which the fastest counts (%(default)s)")
    command.add_argument("--device", default="cpu", help="%(default)s, cuda, ...")
    command.add_argument("--threads", type=int, default=1, help="of a CPU (%(default)s)")
    command.add_argument("--output", metavar="FILE", help="JSON file to write")
    command.set_defaults(run=run_squeeze)


def run_squeeze(given: argparse.Namespace) -> None:
    """Measure, print the table, write JSON."""
    options = ("sides", "channels", "window", "frames", "repeats", "device", "threads")
    report = squeeze.run_cases(**{name: getattr(given, name) for name in options})
    print(squeeze.markdown(report))
    if given.output:
        write_json(given.output, report)
        print(f"\nwrote {given.output}")


if __name__ == "__main__":
    run(main)
