"""Your own data set: one folder per class. Clips are divided into training, validation and test by share, by group or
into folds; or the folders are divided already."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from coviar_mocrop.datasets.canonical import Canonical
from coviar_mocrop.datasets.handling import Handling
from coviar_mocrop.datasets.lists import Clip
from coviar_mocrop.datasets.preparing import Prepared, prepare
from coviar_mocrop.datasets.splits import SIDES, Side, Sides, divide, group_sizes, hold_out, some
from coviar_mocrop.datasets.videos import videos_by_folder
from coviar_mocrop.errors import DataError
from coviar_mocrop.messages import similar

_SIDE_FOLDERS: dict[str, Side] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""Folder names (in lower case) by which a source that is divided already is recognised, and the side of each."""
GROUPS, NO_GROUPS = "groups.csv", "none"
"""Default file of groups in a source, and the value that means no groups."""
_MOST_FOLDS = 1000
_SHOWN = 20

_log = logging.getLogger(__name__)


def prepare_folder(
    source: str | os.PathLike[str],
    lists: str | os.PathLike[str],
    *,
    groups: str | os.PathLike[str] | None = None,
    group_column: str = "source_video",
    folds: int | None = None,
    test_share: float | None = None,
    val_share: float | None = None,
    seed: int = 0,
    canonical: Canonical | None = None,
    handling: Handling | None = None,
) -> Prepared:
    """Find the videos ``source/<class>/**/<video>``, transcode and check them, and write their lists.

    A source with folders ``train/<class>/``, ``val/<class>/`` (or ``valid``, ``validation``) and ``test/<class>/`` is
    divided already, and the lists follow it. If it has no ``val``, validation clips are held out of ``train``.

    Args:
        source: folder that holds one folder per class. Spaces in folder names become ``_`` in class names.
        lists: folder for ``classes.txt`` and ``{train,val,test}_split<k>.txt``.
        groups: CSV file with the columns ``path`` (relative to ``source``) and ``group_column``. All clips of a group,
            such as those cut from one source video, go to the same side. None: every clip is its own group.
        group_column: column of ``groups`` that names the group.
        folds: number of splits for cross-validation. Each clip is tested in one of them. None: one split, by
            ``test_share``.
        test_share: share of each class to hold out for testing, 0 to below 1 (default 0.3; 0: no test list). Groups
            stay whole, so the share is approximate.
        val_share: share of each class's training clips to hold out for validation in each split, 0 to below 1 (default
            0.15; 0: none). Groups stay whole, so the share is approximate.
        seed: random seed of the division. The division also depends on the paths and the groups.
        canonical: see :func:`~coviar_mocrop.datasets.preparing.prepare`.
        handling: see :func:`~coviar_mocrop.datasets.preparing.prepare`.

    Raises:
        DataError: the folder, the CSV file or a video is not as expected; the training or test side would be empty; or
            shares or folds are given for a source that is divided already.
    """
    classes, clips, given = index_folder(source)
    group_of = {clip.path: clip.path for clip in clips}
    if groups is not None:
        group_of = read_groups(groups, group_column, [clip.path for clip in clips])
    present = [side for side in SIDES if side in given.values()]
    asked = {"--folds": folds, "--test-share": test_share, "--val-share": val_share if "val" in present else None}
    if given and (option := next((name for name, value in asked.items() if value is not None), None)):
        raise DataError(f"{os.fspath(source)}: is divided into {', '.join(present)} already; leave out {option}")
    shares = _shares(folds, 0.3 if test_share is None else test_share)
    if val_share is None:
        val_share = 0.0 if "val" in present else 0.15

    def sides_of(usable: Sequence[Clip]) -> Sides:
        if len({clip.class_name for clip in usable}) < 2:
            raise DataError(
                f"{os.fspath(source)}: only videos of one class, {usable[0].class_name}, can be used; add others"
            )
        sides: dict[str, list[Side | None]]
        if given:
            sides = {clip.path: [given[clip.path]] for clip in usable}
        elif shares[0] == 0:
            sides = {clip.path: ["train"] for clip in usable}
        else:
            part_of = _divide_clips(usable, group_of, shares, seed)
            sides = {
                clip.path: ["test" if part_of[group_of[clip.path]] == part else "train" for part in range(folds or 1)]
                for clip in usable
            }
        return hold_out(usable, sides, group_of, val_share, seed)

    if given:
        _require_whole_groups(clips, group_of, given)
    there = present or (("train", "test") if shares[0] else ("train",))
    wanted = [side for side in SIDES if side in there or (side == "val" and val_share)]
    written = None if groups is None else group_of
    prepared = prepare(source, lists, classes, clips, wanted, sides_of, canonical, handling, group_of=written)
    if not given:
        usable = [clip for clip in clips if clip.path not in prepared.left_out]
        _warn_of_single(usable, group_of, "clip" if groups is None else "group of clips")
    return prepared


def find_groups(source: str | os.PathLike[str], given: str | None = None) -> Path | None:
    """Find the CSV file of groups for :func:`prepare_folder`.

    Args:
        source: folder that holds one folder per class.
        given: path of the file, relative to the working directory or else to ``source``. ``none``: no groups. None:
            ``groups.csv`` in ``source``, if it exists.

    Returns:
        The path, which need not exist if it was ``given``; None: no groups.
    """
    inside = Path(source, given or GROUPS)
    if given is None or given == NO_GROUPS:
        return inside if given is None and inside.is_file() else None
    return inside if inside.is_file() and not Path(given).exists() else Path(given)


def index_folder(source: str | os.PathLike[str]) -> tuple[tuple[str, ...], list[Clip], dict[str, Side]]:
    """Find the classes and clips of a data set with one folder per class.

    Returns:
        The class names, sorted without regard to case; the clips; and the side of each clip by its path, if the source
        is divided already (else empty).

    Raises:
        DataError: there are fewer than two classes, two folders have the same class name, or the folders look divided
            already but are not named or arranged consistently.
    """
    videos = videos_by_folder(source)
    given: dict[str, Side] = {}
    if side_of_folder := _given_sides(source, videos):
        by_class: defaultdict[str, list[str]] = defaultdict(list)
        for side_folder, side in side_of_folder.items():
            for folder, paths in videos_by_folder(Path(source, side_folder)).items():
                by_class[folder] += [f"{side_folder}/{path}" for path in paths]
                given |= {f"{side_folder}/{path}": side for path in paths}
        videos = by_class
    folder_of: dict[str, str] = {}
    for folder in videos:
        name = re.sub(r"\s", "_", folder)
        if name in folder_of:
            raise DataError(
                f"{os.fspath(source)}: the folders {folder_of[name]!r} and {folder!r} both give the class {name}; "
                "rename one"
            )
        folder_of[name] = folder
    if len(folder_of) < 2:
        raise DataError(
            f"{os.fspath(source)}: holds videos of one class only, {next(iter(folder_of))}; give the folder "
            "that holds a folder per class"
        )
    classes = tuple(sorted(folder_of, key=lambda name: (name.lower(), name)))
    clips = [Clip(path, name, label) for label, name in enumerate(classes) for path in videos[folder_of[name]]]
    return classes, clips, given


def _given_sides(source: str | os.PathLike[str], videos: Mapping[str, Sequence[str]]) -> dict[str, Side]:
    """The side of each folder if the source is divided already, else an empty dictionary."""
    side_of = {folder: _SIDE_FOLDERS[folder.lower()] for folder in videos if folder.lower() in _SIDE_FOLDERS}
    unclear = _unclear_sides(videos, side_of)
    if unclear and len(unclear) + len(side_of) > 1:
        renamed = ", ".join(f"{folder} to {name}" for folder, name in unclear.items())
        raise DataError(
            f"{os.fspath(source)}: {', '.join([*side_of, *unclear])} look like the sides of a division; rename "
            f"{renamed} (or to another name, if it is a class)"
        )
    flat = [path for folder in side_of for path in videos[folder] if path.count("/") < 2]
    if "train" not in side_of.values() or len(side_of) < 2 or len(flat) == sum(len(videos[name]) for name in side_of):
        return {}
    named = f"{os.fspath(source)}: is divided into {' and '.join(side_of)}"
    if len(set(side_of.values())) < len(side_of):
        raise DataError(f"{named}, two of which mean the same list; move their class folders into one")
    if flat:
        raise DataError(f"{named}, but {flat[0]} is in no class folder of its side; move it into one")
    if other := [folder for folder in videos if folder not in side_of]:
        raise DataError(f"{named}, but {some(other)} is not a side (train, val or test); move it elsewhere")
    return side_of


def _unclear_sides(videos: Mapping[str, Sequence[str]], side_of: Mapping[str, Side]) -> dict[str, str]:
    """Folders with a name similar to a side, such as ``tests``, that hold only folders; and the name of that side.

    Without this check they would be treated as classes.
    """
    free = [name for name in SIDES if name not in side_of.values()]
    unclear = {}
    for folder, paths in videos.items():
        near = similar(folder.lower(), free) if folder not in side_of else []
        if near and all(path.count("/") > 1 for path in paths):
            unclear[folder] = near[0]
    return unclear


def read_groups(file: str | os.PathLike[str], column: str, paths: Sequence[str]) -> dict[str, str]:
    """Read the group of each path from a CSV file with the columns ``path`` and ``column``.

    Rows of paths that are not among ``paths`` are ignored with a warning.

    Raises:
        DataError: the file is missing, cannot be parsed, lacks a column, has an empty field, gives a path two groups,
            or has no row for one of ``paths``.
    """
    name = os.fspath(file)
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:  # spreadsheets write a byte order mark
            rows = csv.DictReader(text)
            found = rows.fieldnames or ()
            missing = [wanted for wanted in ("path", column) if wanted not in found]
            if missing:
                raise DataError(
                    f"{name}: has no column {missing[0]!r}; its first line names {', '.join(found) or 'none'} "
                    "(choose one with --group-column, separate columns by commas, or --groups none for no groups)"
                )
            group_of: dict[str, str] = {}
            for row in rows:
                path = (row["path"] or "").strip().replace("\\", "/").removeprefix("./")
                group = " ".join((row[column] or "").split())
                if not path or not group:
                    raise DataError(f"{name}, line {rows.line_num}: path or {column} is empty; fill it in")
                if group_of.setdefault(path, group) != group:
                    raise DataError(f"{name}, line {rows.line_num}: {path} is already of group {group_of[path]}")
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file; give the CSV file that names each video's group") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name}: cannot be read as CSV ({error})") from error
    known = set(paths)
    if absent := [path for path in paths if path not in group_of]:
        raise DataError(
            f"{name}: has no row for {some(absent)}; add what is missing, paths as below the data folder, "
            "or leave the groups out (--groups none)"
        )
    if absent := [path for path in group_of if path not in known]:
        _log.warning("%s: names %s, not found in the data folder", name, some(absent))
    return {path: group_of[path] for path in paths}


def _shares(folds: int | None, test_share: float) -> list[float]:
    if folds is not None:
        if not 2 <= folds <= _MOST_FOLDS:
            raise DataError(f"{folds} folds: give 2 to {_MOST_FOLDS}, or a test share")
        return [1 / folds] * folds
    if not 0 <= test_share < 1:
        raise DataError(f"test share {test_share}: give a number from 0 (no test list) to below 1, such as 0.3")
    return [test_share, 1 - test_share]


def _divide_clips(
    clips: Sequence[Clip], group_of: Mapping[str, str], shares: Sequence[float], seed: int
) -> dict[str, int]:
    sizes = group_sizes(clips, group_of)
    part_of = divide(sizes, shares, seed)
    if len(set(part_of.values())) < len(shares):
        raise DataError(
            f"{len(clips)} clips in {len(sizes)} groups cannot be divided into {len(shares)} parts like that; "
            "choose another test share, fewer folds or finer groups"
        )
    return part_of


def _require_whole_groups(clips: Sequence[Clip], group_of: Mapping[str, str], given: Mapping[str, Side]) -> None:
    first: dict[str, str] = {}
    for clip in clips:
        path = first.setdefault(group_of[clip.path], clip.path)
        if given[path] != given[clip.path]:
            raise DataError(
                f"{path} and {clip.path} are of one group, {group_of[path]}, but in two lists; move one of them, or "
                "leave the groups out (--groups none)"
            )


def _warn_of_single(clips: Sequence[Clip], group_of: Mapping[str, str], what: str) -> None:
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for clip in clips:
        groups[clip.class_name].add(group_of[clip.path])
    if single := [name for name, members in groups.items() if len(members) == 1]:
        _log.warning(
            "only one %s of %s: it can be used for training or testing, not both; add videos",
            what,
            some(single, _SHOWN),
        )
