"""Make Something-Something V1 ready from the annotation files and its folders of pictures.

SOURCE holds a folder of JPEG pictures for each video: 1/00001.jpg, ... --transcode encodes them at 12 frames per
second.
The annotation files are train.csv, validation.csv and labels.csv, also with something-something-v1- before the name.

The official validation split becomes the test list, because papers report on it. The official test split is not used.
Missing videos are counted and named in coverage.json beside the lists. Writes lists and class names to LISTS/ssv1.
"""

from __future__ import annotations

import argparse

from coviar_mocrop.commands.something_options import add_something, prepare_version

EXAMPLES = """\
  # MPEG-4 at 340x256 with a key frame every 12 frames
  coviar prepare ssv1 20bn-something-something-v1 --annotations labels --transcode data/ssv1

  # 5% of the training clips become a validation list, on which training chooses its best epoch
  coviar prepare ssv1 20bn-something-something-v1 --annotations labels --transcode data/ssv1 --val-share 0.05
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_something(parser, source="folder of the folders of pictures")


def main(given: argparse.Namespace) -> None:
    """Write the lists, and print what is missing and the commands to run next."""
    prepare_version(given, "v1")
