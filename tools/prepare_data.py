"""Make a data set ready: video lists, class names, and where wanted the canonical form of the videos."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from coviar_mocrop.bitstream.transcode import CANONICAL_SIZE
from coviar_mocrop.cli import parser, run
from coviar_mocrop.datasets.convert import Canonical, Handling, Prepared, SplitCounts
from coviar_mocrop.datasets.folder import prepare_folder
from coviar_mocrop.datasets.lists import read_classes, read_list
from coviar_mocrop.datasets.official import prepare_hmdb51, prepare_ucf101
from coviar_mocrop.datasets.transcoding import transcode_files
from coviar_mocrop.errors import DataError

PROJECT = Path(__file__).resolve().parent.parent
TRACKED = PROJECT / "data_lists"
CLASSES_SHOWN = 20

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
  # 30 % of each class for testing; the videos stay as they are
  python tools/prepare_data.py folder my_videos --name mine

  # 5 folds: train_split1.txt ... test_split5.txt, every clip tested once
  python tools/prepare_data.py folder my_videos --name mine --folds 5

  # clips cut from one recording show one scene: keep them on one side (groups.csv: path,source_video)
  python tools/prepare_data.py folder my_videos --name mine --groups groups.csv --group-column source_video

  # to H.264 with a key frame every 12 frames; needed where a codec has no motion vectors (HEVC, VP9, AV1)
  python tools/prepare_data.py folder my_videos --name mine --transcode data/mine --on-error skip"""

UCF101_EXAMPLES = """\
  # CoViAR's own form, MPEG-4 at 340x256 with a key frame every 12 frames
  python tools/prepare_data.py ucf101 UCF-101 --transcode data/ucf101

  # the archive's videos as they are
  python tools/prepare_data.py ucf101 UCF-101"""

HMDB51_EXAMPLES = """\
  # CoViAR's own form, MPEG-4 at 340x256 with a key frame every 12 frames
  python tools/prepare_data.py hmdb51 hmdb51_org --splits testTrainMulti_7030_splits --transcode data/hmdb51

  # the archive's videos as they are
  python tools/prepare_data.py hmdb51 hmdb51_org --splits testTrainMulti_7030_splits"""

DEMO_EXAMPLES = """\
  python tools/prepare_data.py demo
  python tools/prepare_data.py demo --output data/tiny --lists data_lists/tiny --train-clips 32 --test-clips 16"""


TRANSCODE_EXAMPLES = """\
  python tools/prepare_data.py transcode phone.mov phone.mp4
  python tools/prepare_data.py transcode a.webm b.mkv more/ transcoded/
  python tools/prepare_data.py transcode phone.mov phone.mp4 --codec mpeg4 --size keep"""


def main() -> None:
    """Parse arguments and prepare."""
    arguments = build_parser().parse_args()
    arguments.prepare(arguments)


def build_parser() -> argparse.ArgumentParser:
    """The tool's arguments."""
    top = parser(
        "Make a data set ready for training: write its video lists and class names, check that the videos can\n"
        "be used, and transcode them where wanted. Each kind of data set has its own --help.",
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

    demo = add(
        "demo",
        "make a small synthetic data set",
        "The clips are drawn and encoded here; nothing is downloaded.",
        DEMO_EXAMPLES,
    )
    demo.add_argument("--output", type=Path, default=Path("data/demo"), help="folder of the videos (%(default)s)")
    demo.add_argument("--lists", type=Path, default=Path("data_lists/demo"), help="folder of the lists (%(default)s)")
    demo.add_argument("--train-clips", type=positive, default=192, metavar="N", help="clips to train on (%(default)s)")
    demo.add_argument("--test-clips", type=positive, default=96, metavar="N", help="clips to test on (%(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="of all that is random (%(default)s)")
    demo.add_argument("--workers", type=positive, default=2, help="videos made at once (%(default)s)")
    demo.set_defaults(prepare=demo_command)

    folder = add(
        "folder",
        "your own videos, a folder per class",
        "The classes are the folders' names (a space becomes _); videos may lie in folders below.\n"
        "Writes LISTS/NAME/classes.txt, train_split1.txt and test_split1.txt (with --folds, K of each).",
        FOLDER_EXAMPLES,
    )
    folder.add_argument("source", type=Path, help="folder that holds a folder of videos per class")
    folder.add_argument("--name", type=plain_name, required=True, help="what to call the data set in --lists")
    folder.add_argument(
        "--groups",
        type=Path,
        metavar="CSV",
        help="file that tells which clips must stay on one side: columns path, ...",
    )
    folder.add_argument(
        "--group-column", default="source_video", metavar="COLUMN", help="its column of group names (%(default)s)"
    )
    division = folder.add_mutually_exclusive_group()
    division.add_argument("--folds", type=int, metavar="K", help="write K splits; every clip is tested in one of them")
    division.add_argument("--test-share", type=float, default=0.3, metavar="SHARE", help="held out (%(default)s)")
    folder.add_argument("--seed", type=int, default=0, help="of the division (%(default)s)")
    add_common(folder, codec="h264")
    folder.set_defaults(prepare=folder_command)

    ucf101 = add(
        "ucf101",
        "UCF101 with its three official splits",
        "SOURCE is the unpacked archive: ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi, ...",
        UCF101_EXAMPLES,
    )
    hmdb51 = add(
        "hmdb51",
        "HMDB51 with its three official splits",
        "SOURCE is the unpacked archive with its 51 inner archives unpacked too: brush_hair/*.avi, ...",
        HMDB51_EXAMPLES,
    )
    hmdb51.add_argument(
        "--splits",
        type=Path,
        required=True,
        help="folder of the unpacked official splits, brush_hair_test_split1.txt, ...",
    )
    for official, command in ((ucf101, ucf101_command), (hmdb51, hmdb51_command)):
        official.add_argument("source", type=Path, help="folder of the unpacked archive")
        official.add_argument(
            "--allow-incomplete", action="store_true", help="warn of missing classes and clips instead of stopping"
        )
        add_common(official, codec="mpeg4")
        official.set_defaults(prepare=command)

    single = add(
        "transcode",
        "single videos, or folders of them, to the canonical form",
        "A key frame every 12 frames, no B-frames, one size; sound is dropped. Any codec that FFmpeg decodes will do,\n"
        "those without motion vectors (HEVC, VP9, AV1) included. No lists are written; for a data set see folder.",
        TRANSCODE_EXAMPLES,
    )
    single.add_argument("source", type=Path, nargs="+", help="videos, or folders of them")
    single.add_argument("target", type=Path, help="file to write; for several videos, or without a suffix, a folder")
    add_form(single, codec="h264")
    single.add_argument("--workers", type=positive, default=2, help="videos worked on at once (%(default)s)")
    single.set_defaults(prepare=transcode_command)
    return top


def add_form(arguments: argparse.ArgumentParser, *, codec: str, of: str = "") -> None:
    """``--codec`` and ``--size``."""
    width, height = CANONICAL_SIZE
    arguments.add_argument("--codec", choices=("h264", "mpeg4"), default=codec, help=f"{of}%(default)s by default")
    arguments.add_argument(
        "--size", type=frame_size, default=CANONICAL_SIZE, help=f"{of}WxH or keep; {width}x{height} by default"
    )


def add_common(arguments: argparse.ArgumentParser, *, codec: str) -> None:
    """Arguments of all data sets that exist already."""
    arguments.add_argument(
        "--lists", type=Path, default=Path("data_lists"), help="folder of the data sets' list folders (%(default)s)"
    )
    arguments.add_argument(
        "--transcode",
        type=Path,
        metavar="DIR",
        help="write the videos' canonical form there (a key frame every 12 frames, no B-frames) and list that; "
        "what is there from an earlier run is kept. One folder per data set",
    )
    add_form(arguments, codec=codec, of="of --transcode: ")
    arguments.add_argument("--workers", type=positive, default=2, help="videos worked on at once (%(default)s)")
    arguments.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="videos that cannot be used: name them and stop, or leave them out of the lists (%(default)s)",
    )
    arguments.add_argument(
        "--no-check", action="store_true", help="do not open each video to see that it has motion vectors"
    )
    arguments.add_argument(
        "--follow-links",
        action="store_true",
        help="allow symbolic links out of the data folder (train with data.follow_links=true)",
    )


def positive(text: str) -> int:
    """A whole number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("give 1 or more")
    return number


def plain_name(text: str) -> str:
    """The name of one folder."""
    if not text or text in (".", "..") or "/" in text or "\\" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no plain name; it becomes a folder of --lists")
    return text


def frame_size(text: str) -> tuple[int, int] | None:
    """``WxH`` or ``keep``."""
    if text == "keep":
        return None
    width, cross, height = text.partition("x")
    if not cross or not width.isdecimal() or not height.isdecimal() or min(int(width), int(height)) < 16:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give WxH in pixels, such as 340x256, or keep")
    return int(width), int(height)


def canonical_of(arguments: argparse.Namespace) -> Canonical | None:
    """What ``--transcode``, ``--codec`` and ``--size`` ask for."""
    return Canonical(arguments.transcode, arguments.codec, arguments.size) if arguments.transcode else None


def handling_of(arguments: argparse.Namespace) -> Handling:
    """What ``--no-check``, ``--on-error`` and ``--workers`` ask for."""
    return Handling(
        check=not arguments.no_check,
        on_error=arguments.on_error,
        workers=arguments.workers,
        follow_links=arguments.follow_links,
    )


def demo_command(arguments: argparse.Namespace) -> None:
    """``demo``."""
    from coviar_mocrop.datasets.demo import make_demo

    make_demo(
        arguments.output,
        arguments.lists,
        train_clips=arguments.train_clips,
        test_clips=arguments.test_clips,
        seed=arguments.seed,
        workers=arguments.workers,
    )
    classes = read_classes(arguments.lists / "classes.txt")
    train = read_list(arguments.lists / "train_split1.txt", classes)
    test = read_list(arguments.lists / "test_split1.txt", classes)
    counts = SplitCounts.of(train.clips, test.clips, classes)
    report("demo", Prepared(arguments.output, arguments.lists, classes, (counts,), {}))


def folder_command(arguments: argparse.Namespace) -> None:
    """``folder``."""
    prepared = prepare_folder(
        arguments.source,
        arguments.lists / arguments.name,
        groups=arguments.groups,
        group_column=arguments.group_column,
        folds=arguments.folds,
        test_share=arguments.test_share,
        seed=arguments.seed,
        canonical=canonical_of(arguments),
        handling=handling_of(arguments),
    )
    report(arguments.name, prepared)


def ucf101_command(arguments: argparse.Namespace) -> None:
    """``ucf101``."""
    prepared = prepare_ucf101(
        arguments.source,
        arguments.lists / "ucf101",
        TRACKED / "ucf101" / "classes.txt",
        allow_incomplete=arguments.allow_incomplete,
        canonical=canonical_of(arguments),
        handling=handling_of(arguments),
    )
    report("ucf101", prepared)


def hmdb51_command(arguments: argparse.Namespace) -> None:
    """``hmdb51``."""
    prepared = prepare_hmdb51(
        arguments.source,
        arguments.splits,
        arguments.lists / "hmdb51",
        TRACKED / "hmdb51" / "classes.txt",
        allow_incomplete=arguments.allow_incomplete,
        canonical=canonical_of(arguments),
        handling=handling_of(arguments),
    )
    report("hmdb51", prepared)


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
    for reason in reasons if written else reasons[1:]:  # else the error names the first
        print(f"skipped {reason}", file=sys.stderr)
    if not written:
        raise DataError(
            reasons[0] if len(reasons) == 1 else f"none of {len(reasons)} could be transcoded: {reasons[0]}"
        )
    if failed:
        raise SystemExit(1)


def report(name: str, prepared: Prepared) -> None:
    """Print the clips per class and side, and what to type next."""
    print(f"{name}: {len(prepared.classes)} classes, lists in {prepared.lists}, videos in {prepared.root}")
    if prepared.left_out:
        print(f"left out: {len(prepared.left_out)} videos that cannot be used (named above)")
    width = max(len("a class has"), *(len(class_name) + 2 for class_name in prepared.classes))
    for number, split in enumerate(prepared.splits, 1):
        sides = (list(split.train.values()), list(split.test.values()))
        print(f"{f'split {number}':{width}}  {'train':>9} {'test':>9}")
        if len(prepared.splits) == 1 and len(prepared.classes) <= CLASSES_SHOWN:
            for class_name, *counts in zip(prepared.classes, *sides, strict=True):
                print(f"{'  ' + class_name:{width}}  {counts[0]:>9} {counts[1]:>9}")
        else:
            print(f"{'  a class has':{width}}  {span(sides[0]):>9} {span(sides[1]):>9}")
        print(f"{'  all':{width}}  {sum(sides[0]):>9} {sum(sides[1]):>9}")
    config = Path("configs") / name / "iframe.yaml"
    if not (PROJECT / config).exists():
        config = Path("configs/folder/iframe.yaml")
    settings = {
        "output": Path("runs") / name / "iframe",
        "data.root": prepared.root,
        "data.train_list": prepared.lists / "train_split1.txt",
        "data.test_list": prepared.lists / "test_split1.txt",
        "data.classes": prepared.lists / "classes.txt",
    }
    print("next:")
    print(f"  python tools/train_stream.py --config {config} --set \\")
    print(" \\\n".join(f"    {shlex.quote(f'{key}={value}')}" for key, value in settings.items()))


def span(counts: Sequence[int]) -> str:
    """``smallest..largest``."""
    return f"{min(counts)}..{max(counts)}"


if __name__ == "__main__":
    run(main)
