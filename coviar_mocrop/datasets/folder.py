"""A user's own data set: a folder per class, divided into train and test by share, by group or into folds."""

from __future__ import annotations

import csv
import hashlib
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from coviar_mocrop.datasets.convert import (
    Canonical,
    Handling,
    Prepared,
    Side,
    prepare,
    some,
)
from coviar_mocrop.datasets.lists import Clip
from coviar_mocrop.datasets.videos import videos_by_folder
from coviar_mocrop.errors import DataError

_log = logging.getLogger(__name__)
_SWAPS_UP_TO = 300
_EMPTY = 4
"""Cost of a class missing in a part: more than single clips can gain in evenness by leaving it out."""


def prepare_folder(
    source: str | os.PathLike[str],
    lists: str | os.PathLike[str],
    *,
    groups: str | os.PathLike[str] | None = None,
    group_column: str = "source_video",
    folds: int | None = None,
    test_share: float = 0.3,
    seed: int = 0,
    canonical: Canonical | None = None,
    handling: Handling | None = None,
) -> Prepared:
    """Index ``source/<class>/**/<video>``, transcode and check the videos, and write their lists.

    Args:
        source: folder of a folder per class; spaces in their names become ``_`` in the class names.
        lists: folder to write ``classes.txt`` and ``{train,test}_split<k>.txt`` to.
        groups: CSV file with the columns ``path`` (below ``source``) and ``group_column``. The clips of one group,
            for instance cut from one source video, all go to one side. None: every clip is a group of its own.
        group_column: column of ``groups`` that names the group.
        folds: write this many splits; each clip is tested in one of them. None: one split, by ``test_share``.
        test_share: share of each class, as near as whole groups allow, that is held out for testing.
        seed: decides the division, together with the paths and the groups.
        canonical: see :func:`~coviar_mocrop.datasets.convert.prepare`.
        handling: see there.

    Raises:
        DataError: the folder, the CSV file or a video is not as expected, or a side would be empty.
    """
    classes, clips = index_folder(source)
    group_of = {clip.path: clip.path for clip in clips}
    if groups is not None:
        group_of = read_groups(groups, group_column, [clip.path for clip in clips])
    shares = _shares(folds, test_share)

    def sides_of(usable: Sequence[Clip]) -> dict[str, list[Side]]:
        part_of = _divide_clips(usable, group_of, shares, seed)
        return {
            clip.path: ["test" if part_of[group_of[clip.path]] == part else "train" for part in range(folds or 1)]
            for clip in usable
        }

    sides_of(clips)  # what cannot be divided is refused before the videos are transcoded
    prepared = prepare(source, lists, classes, clips, sides_of, canonical, handling)
    usable = [clip for clip in clips if clip.path not in prepared.left_out]
    _warn_of_single(usable, group_of, "clip" if groups is None else "group of clips")
    return prepared


def index_folder(source: str | os.PathLike[str]) -> tuple[tuple[str, ...], list[Clip]]:
    """The classes of a folder-per-class data set, sorted without regard to case, and its clips.

    Raises:
        DataError: there are fewer than two classes, or two folders give one class name.
    """
    folder_of: dict[str, str] = {}
    videos = videos_by_folder(source)
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
    return classes, [Clip(path, name, label) for label, name in enumerate(classes) for path in videos[folder_of[name]]]


def read_groups(file: str | os.PathLike[str], column: str, paths: Sequence[str]) -> dict[str, str]:
    """The group of each path, from a CSV file with the columns ``path`` and ``column``.

    Raises:
        DataError: the file does not parse, lacks a column, contradicts itself, or does not name exactly ``paths``.
    """
    name = os.fspath(file)
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:  # spreadsheets put a mark in front
            rows = csv.DictReader(text)
            found = rows.fieldnames or ()
            missing = [wanted for wanted in ("path", column) if wanted not in found]
            if missing:
                raise DataError(
                    f"{name}: has no column {missing[0]!r}; its first line names {', '.join(found) or 'none'} "
                    "(choose one with --group-column, separate columns by commas)"
                )
            group_of: dict[str, str] = {}
            for row in rows:
                path = (row["path"] or "").strip().replace("\\", "/").removeprefix("./")
                group = (row[column] or "").strip()
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
        raise DataError(f"{name}: has no row for {some(absent)}; add what is missing, paths as below the data folder")
    if absent := [path for path in group_of if path not in known]:
        raise DataError(f"{name}: names {some(absent)}, not found in the data folder; remove the row or add the video")
    return group_of


def divide(sizes: Mapping[str, Mapping[str, int]], shares: Sequence[float], seed: int) -> dict[str, int]:
    """Divide groups of clips into parts, so that each part gets near its share of every class and of all clips.

    Groups in an order drawn from the seed go, one by one, to where they fit best; then single groups move and
    pairs change places as long as that brings the parts nearer to their shares.

    Args:
        sizes: of each group, its clips per class. A clip on its own is a group of one.
        shares: of each part; they sum to 1.
        seed: decides which of many about equally good divisions it is. The order of ``sizes`` does not matter.

    Returns:
        The part of each group. A part can come out empty where there are few groups.
    """
    every: str | None = None  # as a class that all clips are of: keeps rounding errors from adding up
    rows: dict[str, dict[str | None, int]] = {
        group: {**{name: clips for name, clips in classes.items() if clips}, every: sum(classes.values())}
        for group, classes in sizes.items()
    }
    total: Counter[str | None] = Counter()
    for row in rows.values():
        total.update(row)
    parts = range(len(shares))
    have: list[Counter[str | None]] = [Counter() for _ in parts]
    part_of: dict[str, int] = {}

    def cost(part: int, name: str | None, clips: int) -> float:
        off = clips - shares[part] * total[name]
        return off * off / total[name] + _EMPTY * (clips == 0)

    def change(part: int, row: Mapping[str | None, int], sign: int) -> float:
        now = have[part]
        return sum(cost(part, name, now[name] + sign * n) - cost(part, name, now[name]) for name, n in row.items())

    def move(row: Mapping[str | None, int], start: int, end: int) -> None:
        for name, clips in row.items():
            have[start][name] -= clips
            have[end][name] += clips

    order = sorted(rows, key=lambda group: (_drawn(seed, group), group))
    for group in order:
        costs = [change(part, rows[group], 1) for part in parts]
        part_of[group] = costs.index(min(costs))
        have[part_of[group]].update(rows[group])
    better = True
    while better:
        better = False
        for group in order:
            start, row = part_of[group], rows[group]
            costs = [0.0 if end == start else change(start, row, -1) + change(end, row, 1) for end in parts]
            if min(costs) < -1e-9:
                part_of[group] = costs.index(min(costs))
                move(row, start, part_of[group])
                better = True
        # among many groups single moves are enough, and pairs too many
        for number, first in enumerate(order if len(order) <= _SWAPS_UP_TO else ()):
            for second in order[:number]:
                one, other = part_of[first], part_of[second]
                if one == other:
                    continue
                a, b = rows[first], rows[second]
                row = {name: a.get(name, 0) - b.get(name, 0) for name in a | b}
                if change(one, row, -1) + change(other, row, 1) < -1e-9:
                    part_of[first], part_of[second] = other, one
                    move(row, one, other)
                    better = True
    return part_of


def _drawn(seed: int, group: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{group}".encode(), digest_size=8).digest()


def _shares(folds: int | None, test_share: float) -> list[float]:
    if folds is not None:
        if folds < 2:
            raise DataError(f"{folds} folds: give 2 or more, or a test share")
        return [1 / folds] * folds
    if not 0 < test_share < 1:
        raise DataError(f"test share {test_share}: give a number between 0 and 1, such as 0.3")
    return [test_share, 1 - test_share]


def _divide_clips(
    clips: Sequence[Clip], group_of: Mapping[str, str], shares: Sequence[float], seed: int
) -> dict[str, int]:
    sizes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        sizes[group_of[clip.path]][clip.class_name] += 1
    part_of = divide(sizes, shares, seed)
    if len(set(part_of.values())) < len(shares):
        raise DataError(
            f"{len(clips)} clips in {len(sizes)} groups cannot be divided into {len(shares)} parts like that; "
            "choose another test share, fewer folds or finer groups"
        )
    return part_of


def _warn_of_single(clips: Sequence[Clip], group_of: Mapping[str, str], what: str) -> None:
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for clip in clips:
        groups[clip.class_name].add(group_of[clip.path])
    if single := [name for name, members in groups.items() if len(members) == 1]:
        _log.warning("only one %s in %s: it can be learned from or tested on, not both; add videos", what, some(single))
