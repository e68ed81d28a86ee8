"""Files that are written completely or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from coviar_mocrop.errors import CoviarMocropError

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
