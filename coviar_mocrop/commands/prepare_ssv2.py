"""Make Something-Something V2 ready from the annotation files and its videos.

SOURCE holds the unpacked videos: 1.webm, ... They are VP9, which has no motion vectors, so they need --transcode.
The annotation files are train.json, validation.json and labels.json, also with something-something-v2- before the name.

The official validation split becomes the test list, because papers report on it. The official test split is not used.
Missing videos are counted and named in coverage.json beside the lists. Writes lists and class names to LISTS/ssv2.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from coviar_mocrop.commands.dataset_options import add_annotated, common, report_annotated

EXAMPLES = """\
  # MPEG-4 at 340x256 with a key frame every 12 frames
  coviar prepare ssv2 20bn-something-something-v2 --annotations labels --transcode data/ssv2

  # 5 % of the training clips become a validation list, on which training chooses its best epoch
  coviar prepare ssv2 20bn-something-something-v2 --annotations labels --transcode data/ssv2 --val-share 0.05
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="DIR", help="folder of the official annotation files"
    )
    add_annotated(parser, source="folder of the videos")


def main(given: argparse.Namespace) -> None:
    """Write the lists, and print what is missing and the commands to run next."""
    from coviar_mocrop.datasets.something import prepare_something, read_something

    prepared, coverage = prepare_something(
        given.source,
        read_something(given.annotations, "v2"),
        version="v2",
        val_share=given.val_share,
        **common(given, "ssv2"),
    )
    report_annotated("ssv2", prepared, coverage, follow_links=given.follow_links and not given.transcode)
