"""Splits of a data set: dividing clips into training, validation and test, finding files on two sides, the lists."""

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
"""Where a clip is in a split."""
SIDES: tuple[Side, ...] = get_args(Side)
Split = Mapping[Side, Sequence[Clip]]
"""The clips of each side of a split. A side without clips has no list."""
Sides = Mapping[str, Sequence[Side | None]]
"""By the path of a clip, its side in each split; None: the split does not use it."""

_NAMES: dict[Side, str] = {"train": "training", "val": "validation", "test": "test"}
_SWAPS_UP_TO = 300
_EMPTY = 4
"""Cost of a class missing in a part: more than single clips can gain in evenness by leaving it out."""
_SHOWN = 20
_CHUNK = 1 << 20
_SAMPLE = 1 << 12

_log = logging.getLogger(__name__)


def some(names: Sequence[str], most: int = 1) -> str:
    """The first ``most`` names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# -- dividing --------------------------------------------------------------------------------------------


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


def group_sizes(clips: Iterable[Clip], group_of: Mapping[str, str]) -> dict[str, Counter[str]]:
    """The number of clips per class of each group."""
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
        group_of: group of each clip, by its path.
        share: share of the training clips of each class, as near as whole groups allow; 0 moves none. Every class
            keeps a group to train on.
        seed: decides the division, together with the groups.

    Returns:
        The new sides of ``clips``.

    Raises:
        DataError: ``share`` is no share.
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
            if not kept.issuperset(sizes[group]):  # the smallest groups that hold a class which training would lack
                part_of[group] = 1
                kept.update(sizes[group])
        for clip in train:
            if part_of[group_of[clip.path]] == 0:
                result[clip.path][split] = "val"
    return result


# -- files that are the same -----------------------------------------------------------------------------


def same_files(files: Mapping[str, str | os.PathLike[str]]) -> list[list[str]]:
    """The sets of names whose files hold the same bytes.

    Files of equal size are compared by a few bytes from their middle first, so that hundreds of thousands of videos,
    of which many happen to be of equal size, need not be read.
    """
    by_size: defaultdict[int, list[str]] = defaultdict(list)
    for name, file in files.items():
        try:
            by_size[os.stat(file).st_size].append(name)
        except OSError:  # a broken link: it is named when it is opened
            continue
    found = []
    for size, alike in by_size.items():
        for similar in _by_digest(alike, files, size // 2, _SAMPLE) if size else ():
            found += _by_digest(similar, files)
    return found


def _by_digest(
    names: Sequence[str], files: Mapping[str, str | os.PathLike[str]], start: int = 0, count: int | None = None
) -> list[list[str]]:
    """The sets of names whose files agree in ``count`` bytes from ``start`` (None: to the end)."""
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
        problem = f"{os.fspath(file)}: cannot be read ({error.strerror}); mend its access or remove it"
        raise DataError(problem) from error
    return digest.digest()


def find_leak(same: Iterable[Sequence[str]], sides: Sides) -> str | None:
    """Say which of the :func:`same_files` are on two sides of one split; None if there are none."""
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
    """Refuse to replace lists that differ.

    Args:
        lists: folder of the lists.
        classes, splits, group_of: what :func:`write_splits` would write there.

    Raises:
        DataError: a list there would be changed or removed.
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
    """Write the class list, the lists of all splits and the groups, if any; name the classes that a side lacks.

    Other lists in the folder are removed, because lists of different divisions would leak into each other.
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
    """The text of each list, by its file name."""
    texts = {"classes.txt": format_classes(classes)} | ({GROUPS: format_groups(group_of)} if group_of else {})
    for number, split in enumerate(splits, 1):
        texts |= {list_name(side, number): format_list(split[side]) for side in SIDES if split.get(side)}
    return texts


def list_name(side: Side, split: int = 1) -> str:
    """The file name of a list; splits count from 1."""
    return f"{side}_split{split}.txt"


def _lists_in(folder: Path) -> list[Path]:
    pattern = rf"classes\.txt|{re.escape(GROUPS)}|({'|'.join(SIDES)})_split\d+\.txt"
    return sorted(path for path in folder.glob("*.txt") if re.fullmatch(pattern, path.name))


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
