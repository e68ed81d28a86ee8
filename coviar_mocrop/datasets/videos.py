"""Find videos in folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from coviar_mocrop.datasets.splits import some
from coviar_mocrop.errors import DataError

VIDEO_SUFFIXES = frozenset(
    {
        ".3g2", ".3gp", ".264", ".asf", ".avi", ".divx", ".f4v", ".flv", ".h264", ".m2t", ".m2ts", ".m2v", ".m4v",
        ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv",
    }
)  # fmt: skip

_log = logging.getLogger(__name__)


def videos_by_folder(root: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Find the videos below each subfolder of ``root``.

    Returns:
        Paths relative to ``root``, sorted, by name of the subfolder. Subfolders without videos and hidden ones are left
        out.

    Raises:
        DataError: the root is missing, cannot be listed or holds no video, or a file name cannot be written to a list.
    """
    base = Path(root)
    if not base.is_dir():
        raise DataError(f"{base}: no such folder; give the one that holds a folder of videos per class")
    found: dict[str, list[str]] = {}
    for name in sorted(next(os.walk(base, onerror=_refuse))[1]):
        if name.startswith("."):
            continue
        found[name] = [path.relative_to(base).as_posix() for path in videos_below(base / name)]
    empty = [name for name, videos in found.items() if not videos]
    found = {name: videos for name, videos in found.items() if videos}
    if found and empty:
        _log.warning("%s: no video in %s; not used as a class", base, some(empty, 20))
    if not found:
        raise DataError(f"{base}: no folder in it holds a video; expected {base}/<class>/<video>")
    for path in (path for videos in found.values() for path in videos):
        require_listable(path, base)
    return found


def videos_below(folder: Path) -> list[Path]:
    """Find the videos in a folder and its subfolders, sorted by path.

    Symbolic links to folders are followed. Hidden files and folders are left out, because temporary files and the
    ``._`` files of macOS have video suffixes too.

    Raises:
        DataError: a folder cannot be listed.
    """
    found = [Path(folder, below, name) for below, _, files in _folders_below(folder) for name in files]
    found = [path for path in found if path.suffix.lower() in VIDEO_SUFFIXES]
    return sorted(found, key=Path.as_posix)


def videos_named(root: str | os.PathLike[str], names: Collection[str]) -> dict[str, str]:
    """Find the videos below a folder whose names without suffix are in ``names``.

    Folders are listed once, and no file is opened. If several files have the same name, the first path in alphabetical
    order is used. Symbolic links to folders are followed. Hidden files and folders are left out.

    Returns:
        The paths relative to ``root``, by name.

    Raises:
        DataError: a folder is missing or cannot be listed.
    """
    found: dict[str, str] = {}
    for place, _, files in _folders_below(root):
        for file in files:
            stem, _, suffix = file.rpartition(".")
            if stem in names and f".{suffix.lower()}" in VIDEO_SUFFIXES:
                path = place + file
                found[stem] = min(found.get(stem, path), path)
    return found


def folders_named(root: str | os.PathLike[str], names: Collection[str]) -> dict[str, str]:
    """Find the folders below a folder whose names are in ``names``, without listing what is in them.

    Otherwise like :func:`videos_named`.
    """
    found: dict[str, str] = {}
    for place, folders, _ in _folders_below(root):
        for folder in folders:
            if folder in names:
                path = place + folder
                found[folder] = min(found.get(folder, path), path)
        folders[:] = [folder for folder in folders if folder not in names]
    return found


def _folders_below(root: str | os.PathLike[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    """For ``root`` and each folder below: its path relative to ``root`` (empty or ending in /), its folders and files.

    A caller can remove folders from the list to skip them.
    """
    if not os.path.isdir(root):
        raise DataError(f"{os.fspath(root)}: no such folder; give the one that holds the videos")
    seen = set()
    for place, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(place, root).replace(os.sep, "/")
        yield "" if below == "." else f"{below}/", folders, [name for name in files if not name.startswith(".")]


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions") from error


def require_listable(path: str, root: Path) -> None:
    """Check that a path can be written to a list and read back unchanged.

    Raises:
        DataError: the path starts or ends with a space, starts with ``#``, contains a line break, or is not UTF-8.
    """
    try:
        path.encode("utf-8")
        readable = path == path.strip() and not path.startswith("#") and path.splitlines() == [path]
    except UnicodeEncodeError:
        readable = False
    if not readable:
        raise DataError(
            f"{root}: the name {path!r} cannot be written to a list (it starts with a space or #, or is not plain "
            "text); rename it"
        )
