"""Video lists, one clip a line: ``path class label``; class lists, one name a line; the data root."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

from coviar_mocrop import storage
from coviar_mocrop.bitstream.transcode import Codec
from coviar_mocrop.errors import DataError, ListError

GROUPS = "groups.txt"
"""The file beside lists that names the group of each clip, ``path<tab>group``, where clips were divided by groups."""
RECORD = "transcode.json"
"""The file in a folder of transcoded videos that says what they were made from, and how."""


class Form(NamedTuple):
    """The form that the videos of a data set were transcoded to: one codec without B-frames, key frames at a distance.

    Attributes:
        codec: ``h264`` or ``mpeg4``.
        size: (width, height), pixels; None: each video kept its own.
        gop: frames from one key frame to the next.
    """

    codec: Codec
    size: tuple[int, int] | None
    gop: int

    def __str__(self) -> str:
        size = f" at {self.size[0]}x{self.size[1]}" if self.size else ""
        return f"{self.codec}{size}, a key frame every {self.gop} frames, no B-frames"


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
        form: what the videos were transcoded to, where they were.
        group_of: by path, the recording (or whatever else clips share) that a clip belongs to; a clip that is not named
            is a group of its own.
    """

    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    form: Form | None = None
    group_of: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def digest(self) -> str:
        """BLAKE2 over all clips and labels, in their order: 32 hexadecimal digits."""
        text = "".join(f"{clip.path}\n{clip.label}\n" for clip in self.clips)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


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
    line_of: dict[str, int] = {}

    def wrong(number: int, text: str) -> ListError:
        return ListError(f"{path}, line {number}: {text}")

    for number, line in _lines(path):
        parts = line.rsplit(maxsplit=2)
        if len(parts) != 3 or not parts[2].lstrip("-").isdigit():
            raise wrong(number, f"expected 'path class label', such as 'a/b.mp4 jump 3', found {line!r}")
        clip = Clip(parts[0], parts[1], int(parts[2]))
        if not 0 <= clip.label < len(names):
            raise wrong(number, f"label {clip.label} is not one of 0..{len(names) - 1}")
        if names[clip.label] != clip.class_name:
            said = f"label {clip.label} is class {names[clip.label]!r}, but the line says {clip.class_name!r}"
            raise wrong(number, f"{said}; do list and class names belong together?")
        if line_of.setdefault(clip.path, number) != number:
            raise wrong(number, f"{clip.path} stands in line {line_of[clip.path]} already; list each video once")
        clips.append(clip)
    if not clips:
        raise ListError(f"{path}: holds no clip; make lists with coviar prepare")
    return VideoList(tuple(clips), names)


def groups_beside(lists: str | os.PathLike[str]) -> dict[str, str]:
    """The group of each clip, from the file ``groups.txt`` in the folder ``lists``; empty where there is none.

    Raises:
        ListError: naming the file, the line and what was expected there.
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
    """The text of a file of groups."""
    return "".join(f"{path}\t{group}\n" for path, group in sorted(group_of.items()))


def format_list(clips: Iterable[Clip]) -> str:
    """The text of a video list."""
    return "".join(f"{clip.path} {clip.class_name} {clip.label}\n" for clip in clips)


def format_classes(classes: Iterable[str]) -> str:
    """The text of a class list."""
    return "".join(f"{name}\n" for name in classes)


def _lines(path: str | os.PathLike[str]) -> list[tuple[int, str]]:
    try:
        text = storage.read(path).decode()
    except storage.NoSuchFile as error:
        raise ListError(f"{path}: no such list; make lists with coviar prepare") from error
    except UnicodeDecodeError as error:
        raise ListError(f"{path}: is no text; give a list, one clip or class a line") from error
    except DataError as error:
        if os.path.isdir(path):
            raise ListError(f"{path}: is a folder; give a list, which is a text file") from error
        raise ListError(str(error)) from error
    stripped = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]


def read_form(root: str | os.PathLike[str]) -> Form | None:
    """What the videos below a data root were transcoded to, as the record there tells; None if there is none."""
    try:
        return form_of(json.loads(Path(root, RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def form_of(values: Any) -> Form | None:
    """A form from what a record, a checkpoint or a card holds; None if it is not one."""
    try:
        size = None if values["size"] is None else (int(values["size"][0]), int(values["size"][1]))
        return Form(values["codec"], size, int(values["gop"])) if values["codec"] in get_args(Codec) else None
    except (ValueError, KeyError, TypeError, IndexError, OverflowError):
        return None


class DataRoot:
    """A folder that list entries must stay below.

    The real path of each subfolder is looked up once, so that 100 000 entries cost one system call each.
    """

    def __init__(self, path: str | os.PathLike[str], *, follow_links: bool = False) -> None:
        """Name the folder. Nothing is read yet.

        Args:
            path: the data root.
            follow_links: whether symbolic links below it may lead elsewhere.
        """
        self.path = os.fspath(path)
        self.follow_links = follow_links
        self._folders: dict[str, str] = {}

    def find(self, entry: str) -> tuple[str, os.stat_result | None]:
        """Join an entry to the root, refusing whatever would leave it.

        Args:
            entry: a path as it stands in a video list, with forward slashes.

        Returns:
            The path, and the status of the file that it leads to, None if there is none.

        Raises:
            DataError: the entry is absolute, or leaves the root by ``..`` or by a symbolic link.
        """
        name = entry[entry.rfind("/") + 1 :]
        folder = entry[: len(entry) - len(name)]
        if name in ("", ".", "..") or os.path.basename(name) != name:  # no file name: all of it is taken as a folder
            folder, name = entry, ""
        start = self._folders.get(folder)
        if start is None:
            start = os.path.join(self.path, folder)
            if not self._allows(folder, start):
                raise self._leaves(entry)
            if ".." in folder:  # resolved as it was checked, even behind a folder that does not exist
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
