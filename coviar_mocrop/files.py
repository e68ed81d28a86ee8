"""Write files atomically: completely or not at all."""

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
os.umask(_UMASK)  # reading it requires setting it, which is not safe later, when there are threads
_STEM = 100
"""Number of bytes of a name that its temporary name keeps, so that names of 255 bytes, the maximum, work too."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``. On success it replaces ``path``; on an error it is removed.

    The temporary name keeps the suffix, by which many writers choose the format. Missing folders are created.

    Raises:
        CoviarMocropError: the file cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _require_valid_name(target)
        stem = os.fsencode(target.stem)[:_STEM].decode(errors="ignore")  # ignore: the cut may be within a character
        handle, name = tempfile.mkstemp(prefix=f".{stem}.", suffix=target.suffix, dir=target.parent)
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
    """Check before a long computation that its result can be written. Nothing is changed.

    Args:
        path: path of the file that will be written. Its folder need not exist.
        folder: whether ``path`` is a folder that files will be written to.

    Raises:
        CoviarMocropError: no file can be written there, or the path of the file is a folder.
    """
    target = Path(path)
    if not folder and os.path.isdir(target):
        raise CoviarMocropError(f"{target}: is a folder; give the name of a file")
    nearest = target if folder else target.parent
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        _require_valid_name(target)
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise _refused(target, error) from error


def _require_valid_name(target: Path) -> None:
    with suppress(FileNotFoundError):
        os.lstat(target)  # fails where the name is too long, or a part of it is a file


def _refused(target: Path, error: OSError) -> CoviarMocropError:
    return CoviarMocropError(f"{target}: cannot be written ({error.strerror}); choose another place or name")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 with :func:`atomic_write`; see there for errors."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON with :func:`atomic_write`; see there for errors."""
    write_text(path, json.dumps(value, indent=2) + "\n")
