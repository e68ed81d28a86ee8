"""Make a data set ready for training: clips, lists, canonical videos, boxes.

The commands for data sets write the video lists and class names, check that the videos can be used, and transcode them
on request. Each kind of data set has its own --help.
"""

from __future__ import annotations

import argparse

from coviar_mocrop.cli import epilog
from coviar_mocrop.commands import description, load, summary

KINDS = ("demo", "folder", "ucf101", "hmdb51", "kinetics", "ssv1", "ssv2", "transcode", "boxes", "features", "shards")
EXAMPLES = """\
  # a small synthetic data set, to try everything out
  coviar prepare demo

  # your own videos, a folder per class: my_videos/jump/a.mp4, my_videos/run/b.mp4, ...
  coviar prepare folder my_videos --name mine --transcode data/mine

  # the official data sets, unpacked
  coviar prepare ucf101 UCF-101 --transcode data/ucf101
  coviar prepare hmdb51 hmdb51_org --splits testTrainMulti_7030_splits --transcode data/hmdb51

  # data sets whose annotation files name the clips; clips that are not on the disk are left out
  coviar prepare kinetics videos --annotations train.csv validate.csv --transcode data/kinetics400 --on-error skip
  coviar prepare ssv2 20bn-something-something-v2 --annotations labels --transcode data/ssv2

  # single videos of any codec to the canonical format
  coviar prepare transcode phone.mov phone.mp4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a subcommand for each kind of data set, and for each step."""
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    for kind in KINDS:
        module = load(f"prepare {kind}")
        arguments = kinds.add_parser(
            kind,
            help=summary(module),
            description=description(module),
            epilog=epilog(module.EXAMPLES),
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )
        module.add_arguments(arguments)
        arguments.set_defaults(prepare=module.main)


def main(given: argparse.Namespace) -> None:
    """Run the subcommand."""
    given.prepare(given)
