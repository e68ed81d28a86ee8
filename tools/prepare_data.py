"""Make a data set ready: its video lists, class names and, on request, the canonical form of its videos."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from coviar_mocrop.bitstream.transcode import CANONICAL_SIZE
from coviar_mocrop.cli import parser, run
from coviar_mocrop.datasets.convert import Canonical, Handling, Prepared
from coviar_mocrop.datasets.demo import make_demo
from coviar_mocrop.datasets.folder import prepare_folder
from coviar_mocrop.datasets.official import prepare_hmdb51, prepare_ucf101
from coviar_mocrop.datasets.transcoding import transcode_files
from coviar_mocrop.errors import DataError

PROJECT = Path(__file__).resolve().parent.parent
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

OFFICIAL_EXAMPLES = """\
  # the form that CoViAR uses, MPEG-4 at 340x256 with a key frame every 12 frames
  python tools/prepare_data.py {command} --transcode data/{name}

  # the videos of the archive as they are
  python tools/prepare_data.py {command}"""

DEMO_EXAMPLES = """\
  python tools/prepare_data.py demo
  python tools/prepare_data.py demo --output data/tiny --lists data_lists/tiny --train-clips 32 --test-clips 16"""

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
    demo.add_argument(
        "--train-clips", type=positive, default=192, metavar="N", help="number of training clips (%(default)s)"
    )
    demo.add_argument("--test-clips", type=positive, default=96, metavar="N", help="number of test clips (%(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="random seed of the clips (%(default)s)")
    demo.add_argument("--workers", type=positive, default=2, help="number of threads (%(default)s)")
    demo.set_defaults(prepare=demo_command)

    folder = add(
        "folder",
        "your own videos, a folder per class",
        "The classes are named like the folders (a space becomes _). Videos may be in subfolders.\n"
        "Writes LISTS/NAME/classes.txt, train_split1.txt and test_split1.txt (with --folds, K of each).",
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
        "--test-share", type=float, default=0.3, metavar="SHARE", help="share of the clips to test on (%(default)s)"
    )
    folder.add_argument("--seed", type=int, default=0, help="random seed of the division (%(default)s)")
    add_common(folder, codec="h264")
    folder.set_defaults(prepare=folder_command)

    ucf101 = add(
        "ucf101",
        "UCF101 with its three official splits",
        "SOURCE is the unpacked archive: ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi, ...",
        OFFICIAL_EXAMPLES.format(name="ucf101", command="ucf101 UCF-101"),
    )
    hmdb51 = add(
        "hmdb51",
        "HMDB51 with its three official splits",
        "SOURCE is the unpacked archive with its 51 inner archives unpacked too: brush_hair/*.avi, ...",
        OFFICIAL_EXAMPLES.format(name="hmdb51", command="hmdb51 hmdb51_org --splits testTrainMulti_7030_splits"),
    )
    hmdb51.add_argument(
        "--splits",
        type=Path,
        required=True,
        help="folder of the unpacked official splits, brush_hair_test_split1.txt, ...",
    )
    for official in (ucf101, hmdb51):
        official.add_argument("source", type=Path, help="folder of the unpacked archive")
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
    single.add_argument("source", type=Path, nargs="+", help="videos, or folders of them")
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
    arguments.add_argument("--workers", type=positive, default=2, help="number of threads (%(default)s)")


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


def positive(text: str) -> int:
    """Parse a whole number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("give 1 or more")
    return number


def plain_name(text: str) -> str:
    """Parse the name of one folder."""
    if not text or text in (".", "..") or "/" in text or "\\" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no plain name; it becomes a folder of --lists")
    return text


def frame_size(text: str) -> tuple[int, int] | None:
    """Parse ``WxH`` or ``keep``."""
    if text == "keep":
        return None
    width, cross, height = text.partition("x")
    if not cross or not width.isdecimal() or not height.isdecimal() or min(int(width), int(height)) < 16:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give WxH in pixels, such as 340x256, or keep")
    return int(width), int(height)


def common(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """What :func:`add_common` added, as keyword arguments of the functions that prepare data set ``name``."""
    canonical = Canonical(arguments.transcode, arguments.codec, arguments.size) if arguments.transcode else None
    handling = Handling(
        check=not arguments.no_check,
        on_error=arguments.on_error,
        workers=arguments.workers,
        follow_links=arguments.follow_links,
    )
    return {"lists": arguments.lists / name, "canonical": canonical, "handling": handling}


def demo_command(arguments: argparse.Namespace) -> None:
    """``demo``."""
    prepared = make_demo(
        arguments.output,
        arguments.lists,
        train_clips=arguments.train_clips,
        test_clips=arguments.test_clips,
        seed=arguments.seed,
        workers=arguments.workers,
    )
    report("demo", prepared)


def folder_command(arguments: argparse.Namespace) -> None:
    """``folder``."""
    prepared = prepare_folder(
        arguments.source,
        groups=arguments.groups,
        group_column=arguments.group_column,
        folds=arguments.folds,
        test_share=arguments.test_share,
        seed=arguments.seed,
        **common(arguments, arguments.name),
    )
    report(arguments.name, prepared)


def official_command(arguments: argparse.Namespace) -> None:
    """``ucf101`` and ``hmdb51``."""
    name = arguments.kind
    options = {
        "classes_file": PROJECT / "data_lists" / name / "classes.txt",
        "allow_incomplete": arguments.allow_incomplete,
        **common(arguments, name),
    }
    if name == "ucf101":
        report(name, prepare_ucf101(arguments.source, **options))
    else:
        report(name, prepare_hmdb51(arguments.source, arguments.splits, **options))


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
    """Print the number of clips per class and side, and the commands to run next."""
    print(f"{name}: {len(prepared.classes)} classes, lists in {prepared.lists}, videos in {prepared.root}")
    if prepared.left_out:
        print(f"left out: {len(prepared.left_out)} videos that cannot be used (named above)")
    width = max(len("a class has"), *(len(class_name) + 2 for class_name in prepared.classes))
    for number, split in enumerate(prepared.splits, 1):
        counts = [Counter(clip.class_name for clip in side) for side in split]
        table = {f"  {class_name}": [count[class_name] for count in counts] for class_name in prepared.classes}
        print(f"{f'split {number}':{width}}  {'train':>9} {'test':>9}")
        if len(prepared.splits) == 1 and len(prepared.classes) <= CLASSES_SHOWN:
            rows: dict[str, list[Any]] = dict(table)
        else:
            rows = {"  a class has": [f"{min(side)}..{max(side)}" for side in zip(*table.values(), strict=True)]}
        for title, (train, test) in {**rows, "  all": [len(side) for side in split]}.items():
            print(f"{title:{width}}  {train:>9} {test:>9}")
    config = Path("configs") / f"{name}.yaml"
    if not (PROJECT / config).exists():
        config = Path("configs/folder.yaml")
    settings = {
        "data.root": prepared.root,
        "data.train_list": prepared.lists / "train_split1.txt",
        "data.test_list": prepared.lists / "test_split1.txt",
        "data.classes": prepared.lists / "classes.txt",
    }
    output = Path("runs") / name
    lines = [
        f"python tools/train_stream.py --config {config} --set",
        *(f"  {shlex.quote(f'{key}={value}')}" for key, value in settings.items()),
        f"  --output {shlex.quote(str(output))}",
    ]
    print("next:\n  " + " \\\n  ".join(lines))
    print(
        f"  python tools/fuse.py --checkpoints {shlex.quote(str(output))} --output {shlex.quote(str(output / 'fused'))}"
    )


if __name__ == "__main__":
    run(main)
