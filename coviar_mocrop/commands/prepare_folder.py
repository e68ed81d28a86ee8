"""Make your own videos ready: a folder of videos for each class.

The classes are named like the folders (a space becomes _). Videos may be in subfolders. Writes LISTS/NAME/classes.txt
and train_, val_ and test_split1.txt (with --folds, K of each).

If SOURCE holds train/, val/ (or valid/, validation/) and test/, with a folder per class in each, the lists follow
them; without val/, validation clips are held out of train/. The same file in two lists is an error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from coviar_mocrop.commands.dataset_options import add_common, common, report

EXAMPLES = """\
  # 30% of each class for testing, 15% of the others for validation; the videos stay as they are
  coviar prepare folder my_videos --name mine

  # videos in my_videos/train/jump/, my_videos/val/jump/, my_videos/test/jump/, ...: the lists follow these folders
  coviar prepare folder my_videos --name mine

  # 5 folds: train_split1.txt ... test_split5.txt, every clip tested once
  coviar prepare folder my_videos --name mine --folds 5

  # clips cut from one recording show one scene: keep them in one list. my_videos/groups.csv (path,source_video) is
  # used if it exists; this is another file, and another column
  coviar prepare folder my_videos --name mine --groups cameras.csv --group-column camera

  # to H.264 with a key frame every 12 frames; needed where a codec has no motion vectors (HEVC, VP9, AV1)
  coviar prepare folder my_videos --name mine --transcode data/mine --on-error skip
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="folder that holds a folder of videos for each class"
    )
    parser.add_argument(
        "--name", type=plain_name, required=True, help="name of the data set; its lists get a folder of this name"
    )
    division = parser.add_argument_group("division")
    division.add_argument(
        "--groups",
        metavar="CSV",
        help="table that names the group of each clip, with a column path; a group stays in one list; none: no groups "
        "(default: groups.csv in SOURCE, if it exists)",
    )
    division.add_argument(
        "--group-column",
        default="source_video",
        metavar="COLUMN",
        help="column of --groups that names the group (default: %(default)s)",
    )
    test = division.add_mutually_exclusive_group()
    test.add_argument("--folds", type=int, metavar="K", help="write K splits; each clip is tested in one")
    test.add_argument(
        "--test-share", type=float, metavar="SHARE", help="share of the clips of each class to test on (default: 0.3)"
    )
    division.add_argument(
        "--val-share",
        type=float,
        metavar="SHARE",
        help="share of the training clips of each class and split to hold out for validation, in whole groups; "
        "training chooses its best epoch on them; 0: none (default: 0.15)",
    )
    division.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed of the division (default: %(default)s)"
    )
    add_common(parser, codec="h264")


def main(given: argparse.Namespace) -> None:
    """Write the lists, and print the commands to run next."""
    from coviar_mocrop.datasets.folder import NO_GROUPS, find_groups, prepare_folder

    groups = find_groups(given.source, given.groups)
    if groups is not None and given.groups is None:
        print(
            f"groups: {groups}, so clips of one {given.group_column} stay in one list "
            f"(--groups {NO_GROUPS} turns this off)"
        )
    prepared = prepare_folder(
        given.source,
        groups=groups,
        group_column=given.group_column,
        folds=given.folds,
        test_share=given.test_share,
        val_share=given.val_share,
        seed=given.seed,
        **common(given, given.name),
    )
    report(given.name, prepared, follow_links=given.follow_links and not given.transcode)


def plain_name(text: str) -> str:
    """Parse the name of one folder."""
    if not text or text in (".", "..") or "/" in text or "\\" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a plain name; it becomes a folder of --lists")
    return text
