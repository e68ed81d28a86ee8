"""Files that are written completely or not at all."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from coviar_mocrop.errors import CoviarMocropError, DataError

_UMASK = os.umask(0o077)
os.umask(_UMASK)  # it can only be read by setting it, which in threads would change the files of others


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``. On success it replaces ``path``, on an error it is removed.

    The temporary name keeps the suffix, because writers choose their format by it.

    Raises:
        CoviarMocropError: the file cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise _refused(target, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "r+b") as written:  # Windows needs a handle that can write
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_UMASK)  # mkstemp makes private files
        os.replace(temporary, target)
    except OSError as error:
        raise CoviarMocropError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(path: str | os.PathLike[str], *, folder: bool = False) -> None:
    """Check before work begins that its result can be written. Nothing is changed.

    Args:
        path: of the file that will be written. The folders above it need not exist.
        folder: whether ``path`` is a folder, which files will be written to.

    Raises:
        CoviarMocropError: no file can be written there, or a file's path is that of a folder.
    """
    target = Path(path)
    if not folder and os.path.isdir(target):
        raise CoviarMocropError(f"{target}: is a folder; give the name of a file")
    nearest = target if folder else target.parent
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with suppress(FileNotFoundError):
            os.lstat(target)  # fails where the name is too long, or a part of it is a file
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise _refused(target, error) from error


def _refused(target: Path, error: OSError) -> CoviarMocropError:
    return CoviarMocropError(f"{target}: cannot be written ({error.strerror}); choose another place")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 with :func:`atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON with :func:`atomic_write`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


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


def inside(root: str | os.PathLike[str], relative: str) -> Path:
    """Join a single list entry to the data root; see :meth:`DataRoot.find`.

    Raises:
        DataError: the entry is absolute, or leaves the root by ``..`` or by a symbolic link.
    """
    return Path(DataRoot(root).find(relative)[0])
