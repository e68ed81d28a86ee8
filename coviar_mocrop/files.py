"""Files written whole or not at all, and paths that stay inside their root."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coviar_mocrop.errors import CoviarMocropError, DataError


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it replaces ``path``, on error it vanishes.

    The temporary name keeps the suffix, because writers choose their format by it.

    Raises:
        CoviarMocropError: the folder cannot be written to.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise CoviarMocropError(f"{target}: cannot be written ({error.strerror}); choose another folder") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; results are for sharing
        os.replace(temporary, target)
    except OSError as error:
        raise CoviarMocropError(f"{target}: cannot be written ({error.strerror or error})") from error
    except ValueError as error:
        if "is not supported" not in str(error):  # what matplotlib says of a suffix it does not know
            raise
        raise CoviarMocropError(
            f"{target}: is no kind of picture that can be written; use .png, .jpg or .pdf"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def inside(root: str | os.PathLike[str], relative: str) -> Path:
    """Join a list entry to the data root, refusing whatever would leave it.

    Args:
        root: the data root.
        relative: a path as it stands in a video list, with forward slashes.

    Raises:
        DataError: the entry is absolute, or leaves the root by ``..`` or by a symbolic link.
    """
    base = Path(os.path.realpath(root))
    joined = Path(os.path.realpath(base / relative))
    if Path(relative).is_absolute() or not joined.is_relative_to(base):
        raise DataError(f"{relative}: leaves the data root {root}; list entries must lie below it")
    return Path(root) / relative
