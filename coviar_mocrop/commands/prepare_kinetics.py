"""Make Kinetics-400, -600 or -700 ready from the annotation files and the videos that are on the disk.

Videos are found by their YouTube id at any depth below SOURCE: <id>_<start>_<end>.mp4 with times in six digits is a
clip, <id>.mp4 a whole video, which --transcode cuts. Missing ones are counted and named in coverage.json beside the
lists.

The official validation split becomes the test list, because papers report on it. The official test split is not used.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from coviar_mocrop.commands.dataset_options import add_annotated, common, report_annotated
from coviar_mocrop.commands.prepare_folder import plain_name

EXAMPLES = """\
  # MPEG-4 at 340x256 with a key frame every 12 frames; downloads that cannot be read are left out
  coviar prepare kinetics videos --annotations train.csv validate.csv --transcode data/kinetics400 --on-error skip

  # 5% of the training clips become a validation list, on which training chooses its best epoch
  coviar prepare kinetics videos --annotations train.csv validate.csv --transcode data/kinetics400 --val-share 0.05

  # clips that were cut already and are named by their id alone, as they are
  coviar prepare kinetics videos --annotations train.csv validate.csv --trimmed
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--annotations",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="official annotation files of the training and the validation split, CSV or JSON",
    )
    parser.add_argument(
        "--trimmed", action="store_true", help="<id>.mp4 is the annotated clip, not the video that it is cut from"
    )
    parser.add_argument(
        "--name",
        type=plain_name,
        help="name of the data set; its lists get a folder of this name (default: kinetics400, kinetics600 or "
        "kinetics700, by the number of classes)",
    )
    add_annotated(parser, source="folder of the videos")


def main(given: argparse.Namespace) -> None:
    """Write the lists, and print what is missing and the commands to run next."""
    from coviar_mocrop.datasets.kinetics import kinetics_name, prepare_kinetics, read_kinetics

    annotations = read_kinetics(given.annotations)
    name = given.name or kinetics_name(annotations)
    prepared, coverage = prepare_kinetics(
        given.source, annotations, trimmed=given.trimmed, val_share=given.val_share, **common(given, name)
    )
    report_annotated(name, prepared, coverage, follow_links=given.follow_links and not given.transcode)
