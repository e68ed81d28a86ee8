"""Summarise a prepared data set: clips by class and side, and the commands to run next."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

from coviar_mocrop.datasets.preparing import Prepared
from coviar_mocrop.datasets.splits import SIDES, list_name
from coviar_mocrop.plain_yaml import parse_yaml
from coviar_mocrop.shipped import find_config

_CLASSES_SHOWN = 20
_LINE, _BREAK = 110, " \\\n    "


def count_table(prepared: Prepared) -> str:
    """Return a table with the number of clips on each side of each split.

    It lists every class if there is one split with at most 20 classes. Otherwise it gives the range over classes.
    """
    by_class = len(prepared.splits) == 1 and len(prepared.classes) <= _CLASSES_SHOWN
    width = max([len("  a class has"), *(len(class_name) + 2 for class_name in prepared.classes if by_class)])

    def row(title: str, cells: Sequence[object]) -> str:
        return f"{title:{width}}" + "".join(f"  {cell!s:>9}" for cell in cells)

    lines = []
    for number, split in enumerate(prepared.splits, 1):
        sides = [side for side in SIDES if side in split]
        counts = [Counter(clip.class_name for clip in split[side]) for side in sides]
        table = {f"  {class_name}": [count[class_name] for count in counts] for class_name in prepared.classes}
        lines.append(row(f"split {number}", sides))
        if by_class:
            lines += [row(title, numbers) for title, numbers in table.items()]
        else:
            ranges = [f"{min(side)}..{max(side)}" for side in zip(*table.values(), strict=True)]
            lines.append(row("  a class has", ranges))
        lines.append(row("  all", [len(split[side]) for side in sides]))
    return "\n".join(lines)


def next_commands(name: str, prepared: Prepared, *, follow_links: bool = False, seed: int = 0) -> list[str]:
    """Return the commands that train on split 1 of a data set, fuse the streams and classify one of its videos.

    Args:
        name: name of the data set, which selects the settings file. If there is none of this name, ``folder`` is used.
        prepared: the data set.
        follow_links: whether its videos are symbolic links that lead out of the data root.
        seed: random seed for training.
    """
    config = find_config(name)
    if not config.is_file():
        name, config = "folder", find_config("folder")
    values = parse_yaml(config.read_text(encoding="utf-8"))
    split = prepared.splits[0]
    wanted: dict[str, Any] = {"root": prepared.root.as_posix(), "classes": (prepared.lists / "classes.txt").as_posix()}
    for side in SIDES:
        wanted[f"{side}_list"] = (prepared.lists / list_name(side)).as_posix() if split.get(side) else None
    if follow_links:
        wanted["follow_links"] = True
    data = values.get("data", {})
    settings = [f"data.{key}={_to_yaml(value)}" for key, value in wanted.items() if data.get(key) != value]
    settings += [f"seed={seed}"] if seed else []
    output = f"runs/{prepared.lists.name}"  # the lists of the demo may have another name than the demo
    output += f"_seed{seed}" if seed and not output.endswith(f"_seed{seed}") else ""
    # a data set's own settings are for split 1, which papers report; with folds, no split is special
    output += "/split1" if len(prepared.splits) > 1 and name == "folder" else ""
    train = ["train", "--config", name]
    if settings:
        train += ["--set", *settings]
    if values.get("output") != output:
        train += ["--output", output]
    commands = [train]
    if split.get("test") or split.get("val"):
        commands.append(["fuse", "--checkpoints", output, "--output", f"{output}/fused"])
    clip = next(clip for side in ("test", "val", "train") for clip in split.get(side, ()))
    commands.append(["predict", (prepared.root / clip.path).as_posix(), "--checkpoints", output])
    return [_in_lines(["coviar", *command]) for command in commands]


def other_splits(prepared: Prepared) -> str:
    """Return how to train on the splits after the first, one line if it is alike for all; empty if there are none."""
    first, *others = [[side for side in SIDES if split.get(side)] for split in prepared.splits]
    alike = all(sides == others[0] for sides in others)
    last = len(prepared.splits)
    lines = []
    for number, sides in enumerate(others[:1] if alike else others, 2):
        lists = [
            f"data.{side}_list={(prepared.lists / list_name(side, number)).as_posix() if side in sides else 'null'}"
            for side in SIDES
            if side in sides or side in first
        ]
        which = f"split 2 to {last}" if alike and last > 2 else f"split {number}"
        lines.append(f"{which}: as split 1, with --set {' '.join(map(shlex.quote, lists))} and an --output of its own")
    return "\n".join(lines)


def _in_lines(words: Sequence[str]) -> str:
    """Format a command for a shell. A long command has one setting per line."""
    line = shlex.join(words)
    if len(line) <= _LINE:
        return line
    breaks = ("data.", "--output")
    return "".join(f"{_BREAK if word.startswith(breaks) else ' '}{shlex.quote(word)}" for word in words).lstrip()


def _to_yaml(value: str | bool | None) -> str:
    """Format a value for ``--set`` as one line of YAML, quoted if YAML would read the plain text differently."""
    try:
        plain = isinstance(value, str) and parse_yaml(value) == value
    except ValueError:
        plain = False
    return str(value) if plain else json.dumps(value, ensure_ascii=False)
