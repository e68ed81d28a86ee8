"""Video lists (one clip per line: ``path class label``), class lists (one name per line), and the data root."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

from coviar_mocrop import storage
from coviar_mocrop.bitstream.transcode import Codec
from coviar_mocrop.errors import DataError, ListError

GROUPS = "groups.txt"
"""File beside the lists with the group of each clip, ``path<tab>group``, if clips were divided by group."""
RECORD = "transcode.json"
"""File in a folder of transcoded videos that records their source, codec, frame size and key frame interval."""


class Form(NamedTuple):
    """The form that the videos of a data set were transcoded to. They have no B-frames.

    Attributes:
        codec: ``h264`` or ``mpeg4`` (Part 2).
        size: (width, height), pixels; None: each video kept its size.
        gop: key frame interval, frames.
    """

    codec: Codec
    size: tuple[int, int] | None
    gop: int

    def __str__(self) -> str:
        size = f" at {self.size[0]}x{self.size[1]}" if self.size else ""
        return f"{self.codec}{size}, a key frame every {self.gop} frames, no B-frames"


class Clip(NamedTuple):
    """One line of a video list."""

    path: str
    """Path relative to the data root, with forward slashes. It may contain spaces."""
    class_name: str
    label: int


@dataclass(frozen=True)
class VideoList:
    """A parsed video list.

    Attributes:
        clips: clips in the order of the file.
        classes: class names by label.
        form: format that the videos were transcoded to; None: not transcoded, or not known.
        group_of: group of each clip by its path. Clips of a group have something in common, such as the recording they
            were cut from. A clip that is not named is its own group.
    """

    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    form: Form | None = None
    group_of: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def digest(self) -> str:
        """BLAKE2b hash of the paths and labels of all clips in order: 32 hexadecimal digits."""
        text = "".join(f"{clip.path}\n{clip.label}\n" for clip in self.clips)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read a class list: one name per line, in the order of the labels. Empty lines and ``#`` comments are ignored.

    Raises:
        ListError: the file is missing, unreadable or empty, or a name appears twice or contains a space.
    """
    names = [line for _, line in _lines(path)]
    if not names:
        raise ListError(f"{path}: names no class; expected one name a line")
    for number, line in _lines(path):
        if len(line.split()) > 1:
            raise ListError(f"{path}, line {number}: {line!r} holds a space; write it with _")
        if names.count(line) > 1:
            raise ListError(f"{path}, line {number}: {line!r} appears twice")
    return tuple(names)


def read_list(path: str | os.PathLike[str], classes: Iterable[str]) -> VideoList:
    """Read a video list: one clip per line, ``path class label``. Empty lines and ``#`` comments are ignored.

    Args:
        path: path or address of the list.
        classes: class names by label.

    Returns:
        The list, without form and groups.

    Raises:
        ListError: the list is missing, unreadable or empty, or a line is invalid. The message names the line and says
            what was expected.
    """
    names = tuple(classes)
    clips = []
    line_of: dict[str, int] = {}

    def wrong(number: int, text: str) -> ListError:
        return ListError(f"{path}, line {number}: {text}")

    for number, line in _lines(path):
        parts = line.rsplit(maxsplit=2)
        if len(parts) != 3 or not re.fullmatch("-?[0-9]{1,9}", parts[2]):
            raise wrong(number, f"expected 'path class label', such as 'a/b.mp4 jump 3', found {line!r}")
        clip = Clip(parts[0], parts[1], int(parts[2]))
        if not 0 <= clip.label < len(names):
            raise wrong(number, f"label {clip.label} is not one of 0..{len(names) - 1}")
        if names[clip.label] != clip.class_name:
            said = f"label {clip.label} is class {names[clip.label]!r}, but the line says {clip.class_name!r}"
            raise wrong(number, f"{said}; do list and class names belong together?")
        if line_of.setdefault(clip.path, number) != number:
            raise wrong(number, f"{clip.path} is already in line {line_of[clip.path]}; list each video once")
        clips.append(clip)
    if not clips:
        raise ListError(f"{path}: holds no clip; make lists with coviar prepare")
    return VideoList(tuple(clips), names)


def groups_beside(lists: str | os.PathLike[str]) -> dict[str, str]:
    """Read the group of each clip, by path, from ``groups.txt`` in the folder ``lists``; empty if there is no file.

    Raises:
        ListError: the file cannot be read, or a line is invalid. The message names the line and says what was expected.
    """
    path = storage.beside(f"{os.fspath(lists)}/", GROUPS)
    try:
        lines = _lines(path)
    except ListError as error:
        if isinstance(error.__cause__, storage.NoSuchFile):
            return {}
        raise
    group_of = {}
    for number, line in lines:
        name, tab, group = line.rpartition("\t")
        if not tab:
            raise ListError(f"{path}, line {number}: expected 'path<tab>group', found {line!r}")
        group_of[name] = group
    return group_of


def format_groups(group_of: Mapping[str, str]) -> str:
    """Return the text of ``groups.txt``, sorted by path."""
    return "".join(f"{path}\t{group}\n" for path, group in sorted(group_of.items()))


def format_list(clips: Iterable[Clip]) -> str:
    """Return the text of a video list."""
    return "".join(f"{clip.path} {clip.class_name} {clip.label}\n" for clip in clips)


def format_classes(classes: Iterable[str]) -> str:
    """Return the text of a class list."""
    return "".join(f"{name}\n" for name in classes)


def _lines(path: str | os.PathLike[str]) -> list[tuple[int, str]]:
    try:
        text = storage.read(path).decode()
    except storage.NoSuchFile as error:
        raise ListError(f"{path}: no such list; make lists with coviar prepare") from error
    except UnicodeDecodeError as error:
        raise ListError(f"{path}: is not text; give a list, one clip or class a line") from error
    except DataError as error:
        if os.path.isdir(path):
            raise ListError(f"{path}: is a folder; give a list, which is a text file") from error
        raise ListError(str(error)) from error
    stripped = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]


def read_form(root: str | os.PathLike[str]) -> Form | None:
    """Read the form of the videos below a data root from its ``RECORD``; None if there is no valid record."""
    try:
        return form_of(json.loads(Path(root, RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return None


def form_of(values: Any) -> Form | None:
    """Build a form from its values in a record, a checkpoint or a card; None if they are invalid."""
    try:
        size = None if values["size"] is None else (int(values["size"][0]), int(values["size"][1]))
        return Form(values["codec"], size, int(values["gop"])) if values["codec"] in get_args(Codec) else None
    except (ValueError, KeyError, TypeError, IndexError, OverflowError):
        return None


class DataRoot:
    """The data root: a folder that list entries must not leave.

    The real path of each subfolder is looked up only once, so a list of 100 000 clips costs one system call per clip.
    """

    def __init__(self, path: str | os.PathLike[str], *, follow_links: bool = False) -> None:
        """Name the folder. Nothing is read yet.

        Args:
            path: the data root.
            follow_links: whether symbolic links below the root may lead out of it.
        """
        self.path = os.fspath(path)
        self.follow_links = follow_links
        self._folders: dict[str, str] = {}

    def find(self, entry: str) -> tuple[str, os.stat_result | None]:
        """Join a list entry to the root. Entries that would leave the root are refused.

        Args:
            entry: path from a video list, with forward slashes.

        Returns:
            The path, and the status of the file it leads to; None if there is no such file.

        Raises:
            DataError: the entry is absolute, or leaves the root through ``..`` or, unless links are followed, through
                a symbolic link.
        """
        name = entry[entry.rfind("/") + 1 :]
        folder = entry[: len(entry) - len(name)]
        if name in ("", ".", "..") or os.path.basename(name) != name:  # no file name: all of it is treated as a folder
            folder, name = entry, ""
        start = self._folders.get(folder)
        if start is None:
            start = os.path.join(self.path, folder)
            if not self._allows(folder, start):
                raise self._leaves(entry)
            if ".." in folder:  # use the path as it was checked, even if a folder in it does not exist
                start = os.path.realpath(start)
            self._folders[folder] = start
        path = os.path.join(start, name)
        try:
            facts = os.lstat(path)
            if stat.S_ISLNK(facts.st_mode):
                if not self.follow_links and not self._holds(path):
                    raise self._leaves(entry)
                facts = os.stat(path)
        except (OSError, ValueError):  # ValueError: a name with a zero byte
            return path, None
        return path, facts

    def _allows(self, folder: str, path: str) -> bool:
        if os.path.isabs(folder) or os.path.splitdrive(folder)[0]:
            return False
        return ".." not in Path(folder).parts if self.follow_links else self._holds(path)

    def _holds(self, path: str) -> bool:
        try:
            root, real = os.path.realpath(self.path), os.path.realpath(path)
        except ValueError:  # a name with a zero byte
            return False
        return real == root or real.startswith(os.path.join(root, ""))

    def _leaves(self, entry: str) -> DataError:
        hint = "" if self.follow_links else " (data.follow_links=true allows symbolic links that lead elsewhere)"
        return DataError(f"{entry}: leaves the data root {self.path}; list entries must lie below it{hint}")
