"""Video lists: one clip a line, ``path class label``; class lists: one name a line."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from coviar_mocrop.errors import ListError
from coviar_mocrop.files import write_text


class Clip(NamedTuple):
    """One line of a list."""

    path: str
    """Below the data root, with forward slashes; may contain spaces."""
    class_name: str
    label: int


@dataclass(frozen=True)
class VideoList:
    """A parsed list.

    Attributes:
        clips: in the file's order.
        classes: names by label.
    """

    clips: tuple[Clip, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.clips)


def read_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Class names, one a line, in the order of the labels; empty lines and ``#`` comments are passed over.

    Raises:
        ListError: the file is missing or empty, or a name stands twice or holds a space.
    """
    names = [line for _, line in _lines(path)]
    if not names:
        raise ListError(f"{path}: names no class; expected one name a line")
    for number, line in _lines(path):
        if len(line.split()) > 1:
            raise ListError(f"{path}, line {number}: {line!r} holds a space; write it with _")
        if names.count(line) > 1:
            raise ListError(f"{path}, line {number}: {line!r} stands twice")
    return tuple(names)


def read_list(path: str | os.PathLike[str], classes: Iterable[str]) -> VideoList:
    """Parse a video list.

    Raises:
        ListError: naming the file, the line and what was expected there.
    """
    names = tuple(classes)
    clips = []
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        parts = line.rsplit(maxsplit=2)
        if len(parts) != 3 or not parts[2].lstrip("-").isdigit():
            raise ListError(f"{where}: expected 'path class label', such as 'a/b.mp4 jump 3', found {line!r}")
        clip = Clip(parts[0], parts[1], int(parts[2]))
        if not 0 <= clip.label < len(names):
            raise ListError(f"{where}: label {clip.label} is not one of 0..{len(names) - 1}")
        if names[clip.label] != clip.class_name:
            raise ListError(
                f"{where}: label {clip.label} is class {names[clip.label]!r}, but the line says "
                f"{clip.class_name!r}; do list and class names belong together?"
            )
        clips.append(clip)
    if not clips:
        raise ListError(f"{path}: holds no clip; make lists with tools/prepare_data.py")
    return VideoList(tuple(clips), names)


def write_list(path: str | os.PathLike[str], clips: Iterable[Clip]) -> None:
    """Write a video list, whole or not at all."""
    write_text(path, "".join(f"{clip.path} {clip.class_name} {clip.label}\n" for clip in clips))


def write_classes(path: str | os.PathLike[str], classes: Iterable[str]) -> None:
    """Write a class list, whole or not at all."""
    write_text(path, "".join(f"{name}\n" for name in classes))


def _lines(path: str | os.PathLike[str]) -> list[tuple[int, str]]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ListError(f"{path}: no such list; make lists with tools/prepare_data.py") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ListError(f"{path}: cannot be read as text ({error})") from error
    stripped = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]
