"""Options that several kinds of ``coviar prepare`` share, and what they print in the end."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coviar_mocrop.files import require_writable
from coviar_mocrop.shipped import shipped

if TYPE_CHECKING:
    from coviar_mocrop.datasets.annotated import Coverage
    from coviar_mocrop.datasets.preparing import Prepared

CANONICAL_SIZE = 340, 256
"""(width, height), as in :mod:`coviar_mocrop.bitstream.transcode`, which takes long to import."""
_MOST_WORKERS, _MOST_PIXELS = 512, 8192


def add_form(arguments: argparse._ActionsContainer, *, codec: str) -> None:
    """Add ``--codec`` and ``--size``."""
    width, height = CANONICAL_SIZE
    arguments.add_argument(
        "--codec", choices=("h264", "mpeg4"), default=codec, help="codec to write (default: %(default)s)"
    )
    arguments.add_argument(
        "--size",
        type=frame_size,
        default=CANONICAL_SIZE,
        metavar="WxH",
        help=f"frame size in pixels, or keep (default: {width}x{height})",
    )


def add_workers(arguments: argparse._ActionsContainer) -> None:
    """Add ``--workers``."""
    workers = whole_number(1, _MOST_WORKERS)
    arguments.add_argument(
        "--workers",
        type=workers,
        default=2,
        metavar="N",
        help="number of videos at the same time (default: %(default)s)",
    )


def add_ray(arguments: argparse._ActionsContainer) -> None:
    """Add ``--ray``."""
    arguments.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="work on all processors of a Ray cluster instead of this machine's: auto, or HOST:PORT of its head "
        "(pip install 'coviar_mocrop[ray]'). All its machines must see the folder in which the command is started, and "
        "what is read and written, at the same paths",
    )


def add_overwrite(arguments: argparse._ActionsContainer, what: str = "existing lists that differ") -> None:
    """Add ``--overwrite``, which replaces ``what``."""
    arguments.add_argument("--overwrite", action="store_true", help=f"replace {what}")


def add_common(arguments: argparse.ArgumentParser, *, codec: str) -> None:
    """Add the options that all data sets but the demo have."""
    lists = arguments.add_argument_group("lists")
    lists.add_argument(
        "--lists",
        type=Path,
        default=Path("data_lists"),
        metavar="DIR",
        help="folder in which each data set has a folder of lists (default: %(default)s)",
    )
    add_overwrite(lists)
    form = arguments.add_argument_group("canonical format")
    form.add_argument(
        "--transcode",
        type=Path,
        metavar="DIR",
        help="folder to write the canonical format of the videos to (a key frame every 12 frames, no B-frames), which "
        "the lists then name; videos from an earlier run are kept; one folder per data set",
    )
    add_form(form, codec=codec)
    add_workers(form)
    add_ray(form)
    videos = arguments.add_argument_group("videos")
    videos.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="what to do about videos that cannot be used: name them and stop, or name them and leave them out "
        "(default: %(default)s)",
    )
    videos.add_argument("--no-check", action="store_true", help="do not check that each video has motion vectors")
    videos.add_argument(
        "--follow-links",
        action="store_true",
        help="allow symbolic links that leave the data folder (train with data.follow_links=true)",
    )


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A parser of whole numbers from ``least`` to ``most``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {least} to {most}")
        return int(text)

    return parse


def frame_size(text: str) -> tuple[int, int] | None:
    """Parse ``WxH`` or ``keep``."""
    if text == "keep":
        return None
    sides = [int(side) for side in text.split("x") if side.isdecimal()]
    if text.count("x") != 1 or len(sides) != 2 or min(sides) < 16 or max(sides) > _MOST_PIXELS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; give WxH, each 16 to {_MOST_PIXELS} pixels, such as 340x256, or keep"
        )
    return sides[0], sides[1]


def common(given: argparse.Namespace, name: str) -> dict[str, Any]:
    """What :func:`add_common` added, as keyword arguments of the functions that prepare data set ``name``."""
    from coviar_mocrop.datasets.canonical import Canonical
    from coviar_mocrop.datasets.handling import Handling

    canonical = Canonical(given.transcode, given.codec, given.size) if given.transcode else None
    require_writable(given.lists, folder=True)
    handling = Handling(
        check=not given.no_check,
        on_error=given.on_error,
        workers=given.workers,
        ray=given.ray,
        follow_links=given.follow_links,
        overwrite=given.overwrite,
    )
    return {"lists": given.lists / name, "canonical": canonical, "handling": handling}


def add_official(arguments: argparse.ArgumentParser, *, groups: str) -> None:
    """Add the options of ``ucf101`` and ``hmdb51``.

    Args:
        arguments: of the command.
        groups: the data set's word for the clips that are held out together.
    """
    arguments.add_argument("source", type=Path, metavar="SOURCE", help="folder of the unpacked archive")
    _add_val_share(arguments, groups)
    arguments.add_argument(
        "--allow-incomplete", action="store_true", help="warn of missing classes and clips instead of stopping"
    )
    add_common(arguments, codec="mpeg4")


def add_annotated(arguments: argparse.ArgumentParser, *, source: str) -> None:
    """Add the options of ``kinetics``, ``ssv1`` and ``ssv2``.

    Args:
        arguments: of the command.
        source: what the folder of videos is.
    """
    arguments.add_argument("source", type=Path, metavar="SOURCE", help=source)
    _add_val_share(arguments, "videos")
    add_common(arguments, codec="mpeg4")


def _add_val_share(arguments: argparse.ArgumentParser, groups: str) -> None:
    arguments.add_argument(
        "--val-share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the official training clips of each class to hold out for validation, in whole "
        f"{groups}; 0 keeps the official lists whole (default: %(default)s)",
    )


def official(given: argparse.Namespace, name: str) -> dict[str, Any]:
    """What :func:`add_official` added, as keyword arguments of the functions that prepare data set ``name``."""
    return {
        "classes_file": shipped("data_lists") / name / "classes.txt",
        "val_share": given.val_share,
        "allow_incomplete": given.allow_incomplete,
        **common(given, name),
    }


def report(name: str, prepared: Prepared, *, follow_links: bool = False, seed: int = 0) -> None:
    """Print the number of clips per class and side, and the commands to run next."""
    from coviar_mocrop.datasets.summary import count_table, next_commands, other_splits
    from coviar_mocrop.failed import NAME

    print(f"{name}: {len(prepared.classes)} classes, lists in {prepared.lists}, videos in {prepared.root}")
    if prepared.left_out:
        print(f"left out: {len(prepared.left_out)} videos that cannot be used, see {prepared.lists / NAME}")
    print(count_table(prepared))
    print("next:")
    for command in next_commands(name, prepared, follow_links=follow_links, seed=seed):
        print(f"  {command}")
    if others := other_splits(prepared):
        print(others)


def report_annotated(name: str, prepared: Prepared, coverage: Coverage, *, follow_links: bool = False) -> None:
    """Print which of the annotated clips there are, and what :func:`report` prints."""
    from coviar_mocrop.datasets.annotated import COVERAGE

    print(coverage.table())
    print(f"what is missing: {prepared.lists / COVERAGE}")
    report(name, prepared, follow_links=follow_links)
