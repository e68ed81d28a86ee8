"""Make a small synthetic data set.

The clips are drawn and encoded here; nothing is downloaded. Writes videos, lists and class names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from coviar_mocrop.commands.dataset_options import add_overwrite, add_workers, report, whole_number
from coviar_mocrop.files import require_writable

EXAMPLES = """\
  coviar prepare demo
  coviar prepare demo --output data/tiny --lists data_lists/tiny --train-clips 32 --val-clips 8
"""
_MOST_CLIPS = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    for option, default, what in (("--output", "data/demo", "videos"), ("--lists", "data_lists/demo", "lists")):
        parser.add_argument(
            option, type=Path, default=Path(default), metavar="DIR", help=f"folder of the {what} (default: %(default)s)"
        )
    for side, title, least, default_clips in (
        ("train", "training", 1, 192),
        ("test", "test", 1, 96),
        ("val", "validation", 0, 0),
    ):
        parser.add_argument(
            f"--{side}-clips",
            type=whole_number(least, _MOST_CLIPS),
            default=default_clips,
            metavar="N",
            help=f"number of {title} clips (default: %(default)s)",
        )
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**63 - 1),
        default=0,
        metavar="N",
        help="random seed of the clips (default: %(default)s)",
    )
    add_workers(parser)
    add_overwrite(parser, "existing lists that differ, and the clips")


def main(given: argparse.Namespace) -> None:
    """Make the clips, and print the commands to run next."""
    from coviar_mocrop.datasets.demo import make_demo

    for folder in (given.output, given.lists):
        require_writable(folder, folder=True)
    prepared = make_demo(
        given.output,
        given.lists,
        train_clips=given.train_clips,
        test_clips=given.test_clips,
        val_clips=given.val_clips,
        seed=given.seed,
        workers=given.workers,
        overwrite=given.overwrite,
    )
    report("demo", prepared, seed=given.seed)
