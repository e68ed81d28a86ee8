"""Make HMDB51 ready, with its three official splits.

SOURCE is the unpacked archive with its 51 inner archives unpacked too: brush_hair/*.avi, ... Writes lists and class
names to LISTS/hmdb51.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from coviar_mocrop.commands.dataset_options import add_official, official, report

EXAMPLES = """\
  # the format that CoViAR uses, MPEG-4 at 340x256 with a key frame every 12 frames
  coviar prepare hmdb51 hmdb51_org --splits testTrainMulti_7030_splits --transcode data/hmdb51

  # the videos of the archive as they are; 15% of the training clips become a validation list, in whole source videos
  coviar prepare hmdb51 hmdb51_org --splits testTrainMulti_7030_splits --val-share 0.15
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--splits",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the unpacked official splits, brush_hair_test_split1.txt, ...",
    )
    add_official(parser, groups="source videos, as the files name them")


def main(given: argparse.Namespace) -> None:
    """Write the lists, and print the commands to run next."""
    from coviar_mocrop.datasets.official import prepare_hmdb51

    prepared = prepare_hmdb51(given.source, given.splits, **official(given, "hmdb51"))
    report("hmdb51", prepared, follow_links=given.follow_links and not given.transcode)
