"""Splits of a data set: divide clips into training, validation and test, find identical files, and write the lists."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from coviar_mocrop.datasets.lists import GROUPS, Clip, format_classes, format_groups, format_list
from coviar_mocrop.errors import DataError
from coviar_mocrop.files import write_text

Side = Literal["train", "val", "test"]
"""The part of a split that a clip belongs to."""
SIDES: tuple[Side, ...] = get_args(Side)
Split = Mapping[Side, Sequence[Clip]]
"""The clips on each side of a split. A side without clips has no list."""
Sides = Mapping[str, Sequence[Side | None]]
"""The side of each clip in each split, by path; None: the split does not use the clip."""

_NAMES: dict[Side, str] = {"train": "training", "val": "validation", "test": "test"}
_SWAPS_UP_TO = 300
_EMPTY = 4
"""Cost of a part without any clip of a class. It outweighs what leaving the class out can gain in evenness."""
_SHOWN = 20
_CHUNK = 1 << 20
_SAMPLE = 1 << 12

_log = logging.getLogger(__name__)


def some(names: Sequence[str], most: int = 1) -> str:
    """Join the first ``most`` names, and say how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# -- dividing --------------------------------------------------------------------------------------------


def divide(sizes: Mapping[str, Mapping[str, int]], shares: Sequence[float], seed: int) -> dict[str, int]:
    """Divide groups of clips into parts, so that each part gets about its share of every class and of all clips.

    The groups are assigned one by one, in an order drawn from the seed, to the part where they fit best. Then single
    groups are moved and pairs of groups are swapped as long as this brings the parts closer to their shares. Pairs are
    swapped only if there are at most 300 groups.

    Args:
        sizes: number of clips per class, for each group. A clip on its own is a group of one.
        shares: share of each part. They sum to 1.
        seed: random seed. It selects one of many about equally good divisions. The order of ``sizes`` does not matter.

    Returns:
        The part of each group, from 0. If there are few groups, a part can be empty.
    """
    every: str | None = None  # a class that includes all clips: keeps rounding errors from adding up
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
        # with many groups, single moves suffice and there are too many pairs
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


def group_sizes(clips: Iterable[Clip], group_of: Mapping[str, str]) -> dict[str, Counter[str]]:
    """Count the clips per class in each group."""
    sizes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        sizes[group_of[clip.path]][clip.class_name] += 1
    return sizes


def hold_out(
    clips: Sequence[Clip], sides: Sides, group_of: Mapping[str, str], share: float, seed: int = 0
) -> dict[str, list[Side | None]]:
    """Move whole groups of the training side of each split to its validation side.

    Args:
        clips: the clips to divide.
        sides: their sides so far.
        group_of: group of each clip, by path.
        share: share of each class's training clips to move, 0 to below 1. Groups stay whole, so it is approximate.
            Every class keeps at least one group to train on.
        seed: random seed of the division.

    Returns:
        The new sides of ``clips``.

    Raises:
        DataError: ``share`` is out of range.
    """
    if not 0 <= share < 1:
        raise DataError(f"validation share {share}: give a number from 0 (none) to below 1, such as 0.15")
    result = {clip.path: list(sides[clip.path]) for clip in clips}
    splits = len(next(iter(result.values()), ())) if share else 0
    for split in range(splits):
        train = [clip for clip in clips if result[clip.path][split] == "train"]
        sizes = group_sizes(train, group_of)
        part_of = divide(sizes, [share, 1 - share], seed)
        kept = {name for group, part in part_of.items() if part == 1 for name in sizes[group]}
        for group in sorted(sizes, key=lambda group: (sum(sizes[group].values()), group)):
            if not kept.issuperset(sizes[group]):  # move back the smallest group with a class that training would lack
                part_of[group] = 1
                kept.update(sizes[group])
        for clip in train:
            if part_of[group_of[clip.path]] == 0:
                result[clip.path][split] = "val"
    return result


# -- files that are the same -----------------------------------------------------------------------------


def same_files(files: Mapping[str, str | os.PathLike[str]]) -> list[list[str]]:
    """Find files with identical content.

    Files of the same size are first compared by 4096 bytes from their middle. So hundreds of thousands of videos, many
    of which happen to have the same size, need not be read completely. Empty and missing files are ignored.

    Args:
        files: files by name.

    Returns:
        The names of each set of identical files.

    Raises:
        DataError: a file cannot be read.
    """
    by_size: defaultdict[int, list[str]] = defaultdict(list)
    for name, file in files.items():
        try:
            by_size[os.stat(file).st_size].append(name)
        except OSError:  # a broken link: opening it raises an error later
            continue
    found = []
    for size, alike in by_size.items():
        for similar in _by_digest(alike, files, size // 2, _SAMPLE) if size else ():
            found += _by_digest(similar, files)
    return found


def _by_digest(
    names: Sequence[str], files: Mapping[str, str | os.PathLike[str]], start: int = 0, count: int | None = None
) -> list[list[str]]:
    """The sets of names whose files agree in ``count`` bytes from ``start`` on (None: to the end)."""
    by_bytes: defaultdict[bytes, list[str]] = defaultdict(list)
    for name in names if len(names) > 1 else ():
        by_bytes[_digest(files[name], start, count)].append(name)
    return [same for same in by_bytes.values() if len(same) > 1]


def _digest(file: str | os.PathLike[str], start: int, count: int | None) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(file, "rb") as data:
            data.seek(start)
            if count is not None:
                digest.update(data.read(count))
            else:
                while chunk := data.read(_CHUNK):
                    digest.update(chunk)
    except OSError as error:
        problem = f"{os.fspath(file)}: cannot be read ({error.strerror}); check its permissions, or remove it"
        raise DataError(problem) from error
    return digest.digest()


def find_leak(same: Iterable[Sequence[str]], sides: Sides) -> str | None:
    """Describe identical files (see :func:`same_files`) that are in two lists of a split; None if there are none."""
    found = []
    for members in ([path for path in paths if path in sides] for paths in same):
        for split in zip(*(sides[path] for path in members), strict=True):
            path_on = {side: path for path, side in zip(members, split, strict=True) if side}
            if len(path_on) > 1:
                (side, path), (other_side, other) = sorted(path_on.items(), key=lambda item: item[1])[:2]
                found.append(f"{path} ({_NAMES[side]}) and {other} ({_NAMES[other_side]})")
                break
    if not found:
        return None
    return f"{found[0]} hold the same bytes" + (f", and {len(found) - 1} more such pairs" if len(found) > 1 else "")


# -- lists -----------------------------------------------------------------------------------------------


def require_replaceable(
    lists: Path, classes: Sequence[str], splits: Sequence[Split], group_of: Mapping[str, str] | None = None
) -> None:
    """Check that :func:`write_splits` would not change or remove any existing list.

    Args:
        lists: folder of the lists.
        classes: see :func:`write_splits`.
        splits: see :func:`write_splits`.
        group_of: see :func:`write_splits`.

    Raises:
        DataError: an existing list would be changed or removed.
    """
    new = _texts(classes, splits, group_of)
    if changed := [path.name for path in _lists_in(lists) if _text(path) != new.get(path.name)]:
        raise DataError(
            f"{lists}: already holds other lists ({some(changed)}), which runs may have used; give --overwrite to "
            "replace them, or another name or folder"
        )


def write_splits(
    lists: Path, classes: Sequence[str], splits: Sequence[Split], group_of: Mapping[str, str] | None = None
) -> None:
    """Write the class list, the lists of all splits and the groups, and log classes that are missing on a side.

    Other lists in the folder are removed, because mixing lists of different divisions would leak test clips into
    training.

    Args:
        lists: folder of the lists.
        classes: class names by label.
        splits: the splits, from split 1 on.
        group_of: group of each clip, by path; None: no groups.
    """
    new = _texts(classes, splits, group_of)
    for name, text in new.items():
        write_text(lists / name, text)
    for path in _lists_in(lists):
        if path.name not in new:
            path.unlink()
            _log.info("%s: removed, it belongs to an earlier division", path)
    for number, split in enumerate(splits, 1):
        for side, clips in split.items():
            there = {clip.class_name for clip in clips}
            if absent := [name for name in classes if name not in there]:
                _log.warning("split %d: no %s clip of %s", number, _NAMES[side], some(absent, _SHOWN))


def _texts(classes: Sequence[str], splits: Sequence[Split], group_of: Mapping[str, str] | None) -> dict[str, str]:
    """The text of each list, by file name."""
    texts = {"classes.txt": format_classes(classes)} | ({GROUPS: format_groups(group_of)} if group_of else {})
    for number, split in enumerate(splits, 1):
        texts |= {list_name(side, number): format_list(split[side]) for side in SIDES if split.get(side)}
    return texts


def list_name(side: Side, split: int = 1) -> str:
    """Return the file name of a list. Splits are counted from 1."""
    return f"{side}_split{split}.txt"


def _lists_in(folder: Path) -> list[Path]:
    pattern = rf"classes\.txt|{re.escape(GROUPS)}|({'|'.join(SIDES)})_split\d+\.txt"
    return sorted(path for path in folder.glob("*.txt") if re.fullmatch(pattern, path.name))


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
