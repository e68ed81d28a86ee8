"""Prepare UCF101 and HMDB51 with their official splits, from the unpacked archives."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from coviar_mocrop.datasets.canonical import Canonical
from coviar_mocrop.datasets.handling import Handling
from coviar_mocrop.datasets.lists import Clip, read_classes
from coviar_mocrop.datasets.preparing import Prepared, prepare
from coviar_mocrop.datasets.splits import Side, Sides, hold_out, some
from coviar_mocrop.datasets.videos import videos_by_folder
from coviar_mocrop.errors import DataError

UCF101_COUNTS = ((9537, 3783), (9586, 3734), (9624, 3696))
"""Number of training and test clips of each of the three splits."""
HMDB51_COUNTS = ((3570, 1530),) * 3

_SPLITS = (1, 2, 3)
_GROUPS = 25
_GROUPS_IN_TEST = 7
_SHOWN = 10
_SIDES: dict[str, Side | None] = {"0": None, "1": "train", "2": "test"}

_log = logging.getLogger(__name__)


def prepare_ucf101(
    source: str | os.PathLike[str],
    lists: str | os.PathLike[str],
    classes_file: str | os.PathLike[str],
    *,
    val_share: float = 0.0,
    allow_incomplete: bool = False,
    canonical: Canonical | None = None,
    handling: Handling | None = None,
) -> Prepared:
    """Write the three official splits of UCF101: test groups 1-7, 8-14 and 15-21.

    Args:
        source: folder of ``<Class>/v_<Class>_g<group>_c<clip>.avi``. Any video suffix is accepted.
        lists: folder for ``classes.txt`` and ``{train,val,test}_split<k>.txt``.
        classes_file: class list with the 101 names.
        val_share: share of each class's training clips to hold out for validation (0: keep the official training
            lists). Groups (``g<group>`` in the file name) stay whole, so the share is approximate.
        allow_incomplete: if classes or clips are missing, warn instead of raising.
        canonical: see :func:`~coviar_mocrop.datasets.preparing.prepare`.
        handling: see :func:`~coviar_mocrop.datasets.preparing.prepare`.

    Raises:
        DataError: classes or clips are missing or unknown, or a video cannot be used.
        ListError: the class list cannot be read.
    """
    classes, clips = _index(source, classes_file, allow_incomplete)
    groups = {clip.path: _ucf101_group(source, clip) for clip in clips}
    sides = {path: _ucf101_sides(group) for path, group in groups.items()}
    group_of = {clip.path: f"{clip.class_name}/{groups[clip.path]}" for clip in clips}
    division = _Division(sides, group_of, val_share, UCF101_COUNTS)
    return _prepare(source, lists, classes, clips, division, allow_incomplete, canonical, handling)


def prepare_hmdb51(
    source: str | os.PathLike[str],
    split_folder: str | os.PathLike[str],
    lists: str | os.PathLike[str],
    classes_file: str | os.PathLike[str],
    *,
    val_share: float = 0.0,
    allow_incomplete: bool = False,
    canonical: Canonical | None = None,
    handling: Handling | None = None,
) -> Prepared:
    """Write the three official splits of HMDB51.

    Args:
        source: folder of ``<class>/<video>.avi``. Any video suffix is accepted.
        split_folder: folder of the unpacked official splits: ``<class>_test_split<k>.txt`` with lines ``file 0|1|2``
            (0: unused, 1: training, 2: test).
        lists: folder for ``classes.txt`` and ``{train,val,test}_split<k>.txt``.
        classes_file: class list with the 51 names.
        val_share: share of each class's training clips to hold out for validation (0: keep the official training
            lists). Clips of one source video (files are named ``<source video>_<class>_...``) stay together, so the
            share is approximate.
        allow_incomplete: if classes or clips are missing, warn instead of raising.
        canonical: see :func:`~coviar_mocrop.datasets.preparing.prepare`.
        handling: see :func:`~coviar_mocrop.datasets.preparing.prepare`.

    Raises:
        DataError: classes, clips or split files are missing or unknown, or a video cannot be used.
        ListError: the class list cannot be read.
    """
    classes, clips = _index(source, classes_file, allow_incomplete)
    if not Path(split_folder).is_dir():
        raise DataError(f"{os.fspath(split_folder)}: no such folder; give the unpacked official splits of HMDB51")
    path_by_class: defaultdict[str, dict[str, str]] = defaultdict(dict)  # class -> stem -> path
    for clip in clips:
        path_by_class[clip.class_name][PurePosixPath(clip.path).stem] = clip.path
    sides: dict[str, list[Side | None]] = {clip.path: [] for clip in clips}
    unnamed, absent = [], []
    for name, path_of in path_by_class.items():
        for split in _SPLITS:
            file = Path(split_folder) / f"{name}_test_split{split}.txt"
            said = _read_hmdb51_split(file)
            unnamed += [f"{path} ({file.name})" for stem, path in path_of.items() if stem not in said]
            absent += [f"{name}/{stem} ({file.name})" for stem in said if stem not in path_of]
            for stem, path in path_of.items():
                sides[path].append(said.get(stem))
    named = some(absent, _SHOWN)
    _complain(source, f"the splits name videos that are not there: {named}", absent, allow_incomplete)
    _complain(source, f"the splits do not name {some(unnamed, _SHOWN)}", unnamed, allow_incomplete)
    group_of = {clip.path: _hmdb51_source_video(clip) for clip in clips}
    division = _Division(sides, group_of, val_share, HMDB51_COUNTS)
    return _prepare(source, lists, classes, clips, division, allow_incomplete, canonical, handling)


def _index(
    source: str | os.PathLike[str], classes_file: str | os.PathLike[str], allow_incomplete: bool
) -> tuple[tuple[str, ...], list[Clip]]:
    """The classes of a class list, and their clips. Folders are matched to classes without regard to case."""
    classes = read_classes(classes_file)
    label_of = {name.lower(): label for label, name in enumerate(classes)}
    videos = videos_by_folder(source)
    unknown = [folder for folder in videos if folder.lower() not in label_of]
    if unknown:
        raise DataError(
            f"{os.fspath(source)}: {some(unknown, _SHOWN)} not among the {len(classes)} classes of "
            f"{os.fspath(classes_file)}; give the folder that holds {classes[0]}, {classes[1]}, ..., and nothing else "
            "with videos in it"
        )
    missing = sorted(set(classes) - {classes[label_of[folder.lower()]] for folder in videos}, key=str.lower)
    _complain(source, f"has no videos of {len(missing)} classes: {some(missing, _SHOWN)}", missing, allow_incomplete)
    clips = []
    seen: dict[tuple[int, str], str] = {}
    for folder, paths in videos.items():
        label = label_of[folder.lower()]
        for path in paths:
            before = seen.setdefault((label, PurePosixPath(path).stem), path)
            if before != path:
                raise DataError(f"{os.fspath(source)}: {before} and {path} are the same clip; remove one of them")
            clips.append(Clip(path, classes[label], label))
    return classes, clips


def _ucf101_group(source: str | os.PathLike[str], clip: Clip) -> int:
    stem = PurePosixPath(clip.path).stem
    # without regard to case: the files in HandstandPushups say HandStandPushups
    match = re.fullmatch(rf"v_{re.escape(clip.class_name)}_g(\d\d)_c\d\d", stem, re.IGNORECASE)
    group = int(match[1]) if match else 0
    if not 1 <= group <= _GROUPS:
        raise DataError(
            f"{os.fspath(source)}: {clip.path} is not named v_{clip.class_name}_g<01 to {_GROUPS}>_c<number>; "
            "it is not a clip of UCF101; remove it"
        )
    return group


def _ucf101_sides(group: int) -> list[Side]:
    return ["test" if (group - 1) // _GROUPS_IN_TEST == split - 1 else "train" for split in _SPLITS]


def _hmdb51_source_video(clip: Clip) -> str:
    """The title in ``<title>_<class>_<attributes>_<number>``. One title can have clips of several classes."""
    stem = PurePosixPath(clip.path).stem.lower()
    return stem.rpartition(f"_{clip.class_name.lower()}_")[0] or stem


def _read_hmdb51_split(file: Path) -> dict[str, Side | None]:
    """The side of each clip (None: unused), by file name without suffix."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file; unpack the official splits of HMDB51 there") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as text ({error})") from error
    said: dict[str, Side | None] = {}
    for number, line in enumerate(lines, 1):
        parts = line.rsplit(maxsplit=1)
        if not parts:
            continue
        if len(parts) != 2 or parts[1] not in _SIDES:
            raise DataError(f"{file}, line {number}: expected 'file 0|1|2', found {line!r}")
        said[PurePosixPath(parts[0].strip()).stem] = _SIDES[parts[1]]
    return said


class _Division(NamedTuple):
    """The official splits of a data set, and what is needed to hold out validation clips."""

    sides: Sides
    group_of: Mapping[str, str]
    val_share: float
    counts: Sequence[tuple[int, int]]
    """Number of training and test clips in each split of the complete data set."""


def _prepare(
    source: str | os.PathLike[str],
    lists: str | os.PathLike[str],
    classes: tuple[str, ...],
    clips: Sequence[Clip],
    division: _Division,
    allow_incomplete: bool,
    canonical: Canonical | None,
    handling: Handling | None,
) -> Prepared:
    """Check the counts, hold out validation clips and write the lists: the steps that both data sets share."""
    official, group_of, val_share, expected = division
    wrong = []
    for split, counts in enumerate(expected):
        found = Counter(official[clip.path][split] for clip in clips)
        if (found["train"], found["test"]) != counts:
            wrong.append(f"split {split + 1} expected {counts[0]}/{counts[1]}, found {found['train']}/{found['test']}")
    _complain(source, f"train/test clips differ from the official ones: {'; '.join(wrong)}", wrong, allow_incomplete)
    used = [clip for clip in clips if any(official[clip.path])]
    if not used:
        raise DataError(f"{os.fspath(source)}: the official splits use none of its videos; unpack the archive again")
    wanted: list[Side] = ["train", "val", "test"] if val_share else ["train", "test"]

    def sides_of(usable: Sequence[Clip]) -> Sides:
        return hold_out(usable, official, group_of, val_share)

    return prepare(
        *(source, lists, classes, used, wanted, sides_of, canonical, handling), group_of=group_of, official=True
    )


def _complain(source: str | os.PathLike[str], problem: str, about: Sequence[str], allow_incomplete: bool) -> None:
    """Raise or log ``problem``, unless ``about`` is empty."""
    message = f"{os.fspath(source)}: {problem}"
    if about and not allow_incomplete:
        raise DataError(f"{message}; unpack the archive again, or continue without it (--allow-incomplete)")
    if about:
        _log.warning("%s", message)
