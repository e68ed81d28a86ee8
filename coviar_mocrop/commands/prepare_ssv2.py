"""Make Something-Something V2 ready from the annotation files and its videos.

SOURCE holds the unpacked videos: 1.webm, ... They are VP9, which has no motion vectors, so they need --transcode.
The annotation files are train.json, validation.json and labels.json, also with something-something-v2- before the name.

The official validation split becomes the test list, because papers report on it. The official test split is not used.
Missing videos are counted and named in coverage.json beside the lists. Writes lists and class names to LISTS/ssv2.
"""

from __future__ import annotations

import argparse

from coviar_mocrop.commands.something_options import add_something, prepare_version

EXAMPLES = """\
  # MPEG-4 at 340x256 with a key frame every 12 frames
  coviar prepare ssv2 20bn-something-something-v2 --annotations labels --transcode data/ssv2

  # 5% of the training clips become a validation list, on which training chooses its best epoch
  coviar prepare ssv2 20bn-something-something-v2 --annotations labels --transcode data/ssv2 --val-share 0.05
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_something(parser, source="folder of the videos")


def main(given: argparse.Namespace) -> None:
    """Write the lists, and print what is missing and the commands to run next."""
    prepare_version(given, "v2")
