"""Make a data set ready: its video lists, class names and, on request, the canonical form of its videos."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coviar_mocrop.bitstream.transcode import CANONICAL_SIZE
from coviar_mocrop.cli import parser, run
from coviar_mocrop.datasets.convert import Canonical, Handling, Prepared
from coviar_mocrop.datasets.demo import make_demo
from coviar_mocrop.datasets.folder import prepare_folder
from coviar_mocrop.datasets.official import prepare_hmdb51, prepare_ucf101
from coviar_mocrop.datasets.summary import count_table, next_commands
from coviar_mocrop.datasets.transcoding import transcode_files
from coviar_mocrop.errors import DataError
from coviar_mocrop.files import require_writable

PROJECT = Path(__file__).resolve().parent.parent
MOST_CLIPS, MOST_WORKERS, MOST_PIXELS = 1_000_000, 512, 8192

EXAMPLES = """\
  # a small synthetic data set, to try everything out
  python tools/prepare_data.py demo

  # your own videos, a folder per class: my_videos/jump/a.mp4, my_videos/run/b.mp4, ...
  python tools/prepare_data.py folder my_videos --name mine --transcode data/mine

  # the official data sets, unpacked
  python tools/prepare_data.py ucf101 UCF-101 --transcode data/ucf101
  python tools/prepare_data.py hmdb51 hmdb51_org --splits testTrainMulti_7030_splits --transcode data/hmdb51

  # single videos of any codec to the canonical form
  python tools/prepare_data.py transcode phone.mov phone.mp4"""

FOLDER_EXAMPLES = """\
  # 30 % of each class for testing, 15 % of the others for validation; the videos stay as they are
  python tools/prepare_data.py folder my_videos --name mine

  # videos in my_videos/train/jump/, my_videos/val/jump/, my_videos/test/jump/, ...: the lists follow these folders
  python tools/prepare_data.py folder my_videos --name mine

  # 5 folds: train_split1.txt ... test_split5.txt, every clip tested once
  python tools/prepare_data.py folder my_videos --name mine --folds 5

  # clips cut from one recording show one scene: keep them on one side (groups.csv: path,source_video)
  python tools/prepare_data.py folder my_videos --name mine --groups groups.csv --group-column source_video

  # to H.264 with a key frame every 12 frames; needed where a codec has no motion vectors (HEVC, VP9, AV1)
  python tools/prepare_data.py folder my_videos --name mine --transcode data/mine --on-error skip"""

OFFICIAL_EXAMPLES = """\
  # the form that CoViAR uses, MPEG-4 at 340x256 with a key frame every 12 frames
  python tools/prepare_data.py {command} --transcode data/{name}

  # the videos of the archive as they are; 15 % of the training clips become a validation list, in whole {groups}
  python tools/prepare_data.py {command} --val-share 0.15"""

DEMO_EXAMPLES = """\
  python tools/prepare_data.py demo
  python tools/prepare_data.py demo --output data/tiny --lists data_lists/tiny --train-clips 32 --val-clips 8"""

TRANSCODE_EXAMPLES = """\
  python tools/prepare_data.py transcode phone.mov phone.mp4
  python tools/prepare_data.py transcode a.webm b.mkv more/ transcoded/
  python tools/prepare_data.py transcode phone.mov phone.mp4 --codec mpeg4 --size keep"""


def main() -> None:
    """Parse the arguments and call the command."""
    arguments = build_parser().parse_args()
    arguments.prepare(arguments)


def build_parser() -> argparse.ArgumentParser:
    """The arguments of all commands."""
    top = parser(
        "Make a data set ready for training: write its video lists and class names, check that the videos can be\n"
        "used, and transcode them on request. Each kind of data set has its own --help.",
        EXAMPLES,
    )
    kinds = top.add_subparsers(dest="kind", required=True, metavar="demo | folder | ucf101 | hmdb51 | transcode")

    def add(name: str, summary: str, more: str, examples: str) -> argparse.ArgumentParser:
        return kinds.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.\n{more}",
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    more = "The clips are drawn and encoded here; nothing is downloaded."
    demo = add("demo", "make a small synthetic data set", more, DEMO_EXAMPLES)
    demo.add_argument("--output", type=Path, default=Path("data/demo"), help="folder of the videos (%(default)s)")
    demo.add_argument("--lists", type=Path, default=Path("data_lists/demo"), help="folder of the lists (%(default)s)")
    numbers = (("train", "training", 1, 192), ("test", "test", 1, 96), ("val", "validation", 0, 0))
    for side, title, least, default in numbers:
        clips, shown = whole_number(least, MOST_CLIPS), f"number of {title} clips (%(default)s)"
        demo.add_argument(f"--{side}-clips", type=clips, default=default, metavar="N", help=shown)
    seed = whole_number(0, 2**63 - 1)
    demo.add_argument("--seed", type=seed, default=0, help="random seed of the clips (%(default)s)")
    add_workers(demo)
    add_overwrite(demo)
    demo.set_defaults(prepare=demo_command)

    folder = add(
        "folder",
        "your own videos, a folder per class",
        "The classes are named like the folders (a space becomes _). Videos may be in subfolders.\n"
        "Writes LISTS/NAME/classes.txt and train_, val_ and test_split1.txt (with --folds, K of each).\n"
        "If SOURCE holds train/, val/ (or valid/, validation/) and test/, with a folder per class in each, the lists\n"
        "follow them; without val/, validation clips are held out of train/. The same file on two sides is an error.",
        FOLDER_EXAMPLES,
    )
    folder.add_argument("source", type=Path, help="folder that holds a folder of videos per class")
    folder.add_argument("--name", type=plain_name, required=True, help="name of the data set, a folder of --lists")
    folder.add_argument(
        "--groups",
        type=Path,
        metavar="CSV",
        help="file that names the group of each clip, with a column path; a group stays on one side",
    )
    folder.add_argument(
        "--group-column",
        default="source_video",
        metavar="COLUMN",
        help="column of --groups that names the group (%(default)s)",
    )
    division = folder.add_mutually_exclusive_group()
    division.add_argument("--folds", type=int, metavar="K", help="write K splits; each clip is tested in one")
    division.add_argument(
        "--test-share", type=float, metavar="SHARE", help="share of the clips of each class to test on (0.3)"
    )
    folder.add_argument(
        "--val-share",
        type=float,
        metavar="SHARE",
        help="share of the training clips of each class and split to hold out for validation, in whole groups; "
        "training chooses its best epoch on them; 0: none (0.15)",
    )
    folder.add_argument("--seed", type=int, default=0, help="random seed of the division (%(default)s)")
    add_common(folder, codec="h264")
    folder.set_defaults(prepare=folder_command)

    ucf101 = add(
        "ucf101",
        "UCF101 with its three official splits",
        "SOURCE is the unpacked archive: ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi, ...",
        OFFICIAL_EXAMPLES.format(name="ucf101", command="ucf101 UCF-101", groups="groups"),
    )
    hmdb51 = add(
        "hmdb51",
        "HMDB51 with its three official splits",
        "SOURCE is the unpacked archive with its 51 inner archives unpacked too: brush_hair/*.avi, ...",
        OFFICIAL_EXAMPLES.format(
            name="hmdb51",
            command="hmdb51 hmdb51_org --splits testTrainMulti_7030_splits",
            groups="source videos",
        ),
    )
    hmdb51.add_argument(
        "--splits",
        type=Path,
        required=True,
        help="folder of the unpacked official splits, brush_hair_test_split1.txt, ...",
    )
    for official, groups in (
        (ucf101, "groups, gNN in the file names"),
        (hmdb51, "source videos, as the files name them"),
    ):
        official.add_argument("source", type=Path, help="folder of the unpacked archive")
        official.add_argument(
            "--val-share",
            type=float,
            default=0.0,
            metavar="SHARE",
            help="share of the official training clips of each class to hold out for validation, in whole "
            f"{groups}; 0 keeps the official lists whole (%(default)s)",
        )
        official.add_argument(
            "--allow-incomplete", action="store_true", help="warn of missing classes and clips instead of stopping"
        )
        add_common(official, codec="mpeg4")
        official.set_defaults(prepare=official_command)

    single = add(
        "transcode",
        "single videos, or folders of them, to the canonical form",
        "A key frame every 12 frames, no B-frames, one size; sound is dropped. The source may have any codec that\n"
        "FFmpeg decodes, including those without motion vectors (HEVC, VP9, AV1). For data sets see folder.",
        TRANSCODE_EXAMPLES,
    )
    single.add_argument("source", nargs="+", help="videos, addresses of videos (http), or folders of videos")
    single.add_argument("target", type=Path, help="file to write; for several videos, or without a suffix, a folder")
    add_form(single, codec="h264")
    single.set_defaults(prepare=transcode_command)
    return top


def add_form(arguments: argparse.ArgumentParser, *, codec: str, of: str = "") -> None:
    """Add ``--codec``, ``--size`` and ``--workers``."""
    width, height = CANONICAL_SIZE
    arguments.add_argument("--codec", choices=("h264", "mpeg4"), default=codec, help=f"{of}%(default)s by default")
    arguments.add_argument(
        "--size", type=frame_size, default=CANONICAL_SIZE, help=f"{of}WxH or keep; {width}x{height} by default"
    )
    add_workers(arguments)


def add_workers(arguments: argparse.ArgumentParser) -> None:
    """Add ``--workers``."""
    workers = whole_number(1, MOST_WORKERS)
    arguments.add_argument("--workers", type=workers, default=2, help="number of threads (%(default)s)")


def add_common(arguments: argparse.ArgumentParser, *, codec: str) -> None:
    """Arguments of ``folder``, ``ucf101`` and ``hmdb51``."""
    arguments.add_argument(
        "--lists", type=Path, default=Path("data_lists"), help="folder of the data sets' list folders (%(default)s)"
    )
    arguments.add_argument(
        "--transcode",
        type=Path,
        metavar="DIR",
        help="write the canonical form of the videos there (a key frame every 12 frames, no B-frames) and list that; "
        "videos from an earlier run are kept. One folder per data set",
    )
    add_form(arguments, codec=codec, of="of --transcode: ")
    arguments.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="videos that cannot be used: name them and stop, or name them and leave them out (%(default)s)",
    )
    arguments.add_argument("--no-check", action="store_true", help="do not check that each video has motion vectors")
    arguments.add_argument(
        "--follow-links",
        action="store_true",
        help="allow symbolic links that leave the data folder (train with data.follow_links=true)",
    )
    add_overwrite(arguments)


def add_overwrite(arguments: argparse.ArgumentParser) -> None:
    """Add ``--overwrite``."""
    arguments.add_argument(
        "--overwrite", action="store_true", help="replace lists of this name that differ; for the demo, its clips too"
    )


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A parser of whole numbers from ``least`` to ``most``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {least} to {most}")
        return int(text)

    return parse


def plain_name(text: str) -> str:
    """Parse the name of one folder."""
    if not text or text in (".", "..") or "/" in text or "\\" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no plain name; it becomes a folder of --lists")
    return text


def frame_size(text: str) -> tuple[int, int] | None:
    """Parse ``WxH`` or ``keep``."""
    if text == "keep":
        return None
    sides = [int(side) for side in text.split("x") if side.isdecimal()]
    if text.count("x") != 1 or len(sides) != 2 or min(sides) < 16 or max(sides) > MOST_PIXELS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size; give WxH, each 16 to {MOST_PIXELS} pixels, such as 340x256, or keep"
        )
    return sides[0], sides[1]


def common(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """What :func:`add_common` added, as keyword arguments of the functions that prepare data set ``name``."""
    canonical = Canonical(arguments.transcode, arguments.codec, arguments.size) if arguments.transcode else None
    require_writable(arguments.lists, folder=True)
    handling = Handling(
        check=not arguments.no_check,
        on_error=arguments.on_error,
        workers=arguments.workers,
        follow_links=arguments.follow_links,
        overwrite=arguments.overwrite,
    )
    return {"lists": arguments.lists / name, "canonical": canonical, "handling": handling}


def demo_command(arguments: argparse.Namespace) -> None:
    """``demo``."""
    for folder in (arguments.output, arguments.lists):
        require_writable(folder, folder=True)
    prepared = make_demo(
        arguments.output,
        arguments.lists,
        train_clips=arguments.train_clips,
        test_clips=arguments.test_clips,
        val_clips=arguments.val_clips,
        seed=arguments.seed,
        workers=arguments.workers,
        overwrite=arguments.overwrite,
    )
    report("demo", prepared, seed=arguments.seed)


def folder_command(arguments: argparse.Namespace) -> None:
    """``folder``."""
    prepared = prepare_folder(
        arguments.source,
        groups=arguments.groups,
        group_column=arguments.group_column,
        folds=arguments.folds,
        test_share=arguments.test_share,
        val_share=arguments.val_share,
        seed=arguments.seed,
        **common(arguments, arguments.name),
    )
    report(arguments.name, prepared, follow_links=arguments.follow_links and not arguments.transcode)


def official_command(arguments: argparse.Namespace) -> None:
    """``ucf101`` and ``hmdb51``."""
    name = arguments.kind
    options = {
        "classes_file": PROJECT / "data_lists" / name / "classes.txt",
        "val_share": arguments.val_share,
        "allow_incomplete": arguments.allow_incomplete,
        **common(arguments, name),
    }
    if name == "ucf101":
        prepared = prepare_ucf101(arguments.source, **options)
    else:
        prepared = prepare_hmdb51(arguments.source, arguments.splits, **options)
    report(name, prepared, follow_links=arguments.follow_links and not arguments.transcode)


def transcode_command(arguments: argparse.Namespace) -> None:
    """``transcode``."""
    written, failed = transcode_files(
        arguments.source,
        arguments.target,
        codec=arguments.codec,
        size=arguments.size,
        handling=Handling(workers=arguments.workers),
    )
    for source, target in written.items():
        print(f"{source} -> {target}")
    reasons = list(failed.values())
    for reason in reasons if written or len(reasons) > 1 else []:  # else the error names the only one
        print(f"skipped {reason}", file=sys.stderr)
    if not written:
        raise DataError(reasons[0] if len(reasons) == 1 else f"none of {len(reasons)} could be transcoded, see above")
    if failed:
        raise SystemExit(1)


def report(name: str, prepared: Prepared, *, follow_links: bool = False, seed: int = 0) -> None:
    """Print the number of clips per class and side, and the commands to run next."""
    print(f"{name}: {len(prepared.classes)} classes, lists in {prepared.lists}, videos in {prepared.root}")
    if prepared.left_out:
        print(f"left out: {len(prepared.left_out)} videos that cannot be used (named above)")
    print(count_table(prepared))
    print("next:")
    for command in next_commands(PROJECT, name, prepared, follow_links=follow_links, seed=seed):
        print(f"  {command}")
    if len(prepared.splits) > 1:
        print(f"the same with the lists of split 2 to {len(prepared.splits)}, and an output for each")


if __name__ == "__main__":
    run(main)
