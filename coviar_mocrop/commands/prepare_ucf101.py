"""Make UCF101 ready, with its three official splits.

SOURCE is the unpacked archive: ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi, ... Writes lists and class names to
LISTS/ucf101.
"""

from __future__ import annotations

import argparse

from coviar_mocrop.commands.dataset_options import add_official, official, report

EXAMPLES = """\
  # the format that CoViAR uses, MPEG-4 at 340x256 with a key frame every 12 frames
  coviar prepare ucf101 UCF-101 --transcode data/ucf101

  # the videos of the archive as they are; 15% of the training clips become a validation list, in whole groups
  coviar prepare ucf101 UCF-101 --val-share 0.15
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_official(parser, groups="groups, gNN in the file names")


def main(given: argparse.Namespace) -> None:
    """Write the lists, and print the commands to run next."""
    from coviar_mocrop.datasets.official import prepare_ucf101

    prepared = prepare_ucf101(given.source, **official(given, "ucf101"))
    report("ucf101", prepared, follow_links=given.follow_links and not given.transcode)
