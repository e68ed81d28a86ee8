"""Read files by path or address: on a disk, a web server, or any object store that fsspec supports."""

from __future__ import annotations

import itertools
import os
import re
import time
from typing import Any

from coviar_mocrop.errors import DataError
from coviar_mocrop.messages import pip_install, reason_of, redacted

_BRACES = re.compile(r"\{([^{}]*)\}")
_COUNT = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000
"""Largest number of names that one pattern may stand for."""
_TRIES = 3
_WAIT = 0.5
"""Time before the second try, seconds. It doubles with each further try."""


class NoSuchFile(DataError):
    """A file does not exist."""


class Unreachable(DataError):
    """A server cannot be reached. The file itself may be intact, so clips are never skipped because of this error."""


class WholeFilesOnly(DataError):
    """A server does not support range requests: it sends the whole file instead of a part."""


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is an address, such as ``s3://bucket/a.tar``, and not a local path."""
    return isinstance(path, str) and "://" in path


def beside(path: str | os.PathLike[str], name: str) -> str:
    """Return the path or address of the file ``name`` in the folder of ``path``."""
    folder, slash, _ = os.fspath(path).rpartition("/") if is_address(path) else ("", "", "")
    return f"{folder}{slash}{name}" if slash else os.path.join(os.path.dirname(path), name)


def expand(pattern: str) -> list[str]:
    """Expand a pattern to names. ``{000..099}`` stands for a range of numbers, ``{a,b}`` for a list of words.

    Raises:
        DataError: a range counts down, or the pattern stands for more than a million names.
    """
    choices: list[list[str]] = []
    total = 1
    for part in _BRACES.findall(pattern):
        if (count := _COUNT.fullmatch(part)) is None:
            choices.append(part.split(","))
        else:
            first, last = int(count[1]), int(count[2])
            if not 0 <= last - first < _MOST:
                raise DataError(f"{pattern}: {{{part}}} does not count up, or too far; give {{000..099}}")
            choices.append([f"{number:0{len(count[1])}d}" for number in range(first, last + 1)])
        total *= len(choices[-1])
    if total > _MOST:
        raise DataError(f"{pattern}: stands for {total} names; give at most {_MOST}")
    pieces = _BRACES.split(pattern)[::2]
    names = []
    for chosen in itertools.product(*choices):
        names.append("".join(itertools.chain(*itertools.zip_longest(pieces, chosen, fillvalue=""))))
    return names


def read(path: str | os.PathLike[str], start: int = 0, size: int | None = None) -> bytes:
    """Read bytes of a file. Addresses are tried three times.

    Args:
        path: path or address.
        start: position of the first byte.
        size: number of bytes; None: to the end of the file.

    Returns:
        The bytes: fewer than ``size`` if the file ends before.

    Raises:
        NoSuchFile: the file does not exist.
        Unreachable: the address cannot be read.
        WholeFilesOnly: the server does not support range requests.
        DataError: a local file cannot be read, or fsspec lacks a package for the address.
    """
    if not is_address(path):
        try:
            with open(path, "rb") as file:
                file.seek(start)
                return file.read() if size is None else file.read(size)
        except FileNotFoundError as error:
            raise NoSuchFile(f"{os.fspath(path)}: no such file; check the path") from error
        except OSError as error:
            raise DataError(f"{os.fspath(path)}: cannot be read ({reason_of(error)}); check the path") from error
    address = os.fspath(path)
    system, inner = _file_system(address)
    for attempt in range(_TRIES):
        try:
            data: bytes = system.cat_file(inner, start=start or None, end=None if size is None else start + size)
            if size is not None and len(data) > size:
                raise WholeFilesOnly(f"{redacted(address)}: its server sends no parts of files (byte ranges)")
            return data
        except WholeFilesOnly:
            raise
        except FileNotFoundError as error:
            raise NoSuchFile(f"{redacted(address)}: no such file; check the address") from error
        except Exception as error:  # every store raises errors of its own
            if attempt == _TRIES - 1:
                said = f"cannot be read ({redacted(reason_of(error))}); check the address and the network"
                raise Unreachable(f"{redacted(address)}: {said}") from error
            time.sleep(_WAIT * 2**attempt)
    raise AssertionError


def copy(address: str, path: str | os.PathLike[str]) -> None:
    """Copy a file from an address to a local path, without holding it in memory.

    Raises:
        Unreachable: the file cannot be read to its end.
        DataError: fsspec lacks a package for the address.
    """
    system, inner = _file_system(address)
    try:
        system.get_file(inner, os.fspath(path))
    except Exception as error:  # every store raises errors of its own
        raise Unreachable(f"{redacted(address)}: cannot be copied ({redacted(reason_of(error))})") from error


def require_no_password(address: str) -> None:
    """Check that an address holds no password, which would be stored in settings and checkpoints.

    Raises:
        DataError: it holds one.
    """
    if redacted(address) != address:
        raise DataError(
            f"{redacted(address)}: holds a password, which settings and checkpoints would keep; leave it to fsspec's "
            "configuration"
        )


def _file_system(address: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it. fsspec reuses file systems and their connections."""
    try:
        from fsspec.core import url_to_fs

        system, inner = url_to_fs(address)
    except ImportError as error:
        how = f"for http: {pip_install('shards')}, for s3: s3fs, for gs: gcsfs"
        raise DataError(f"{redacted(address)}: {reason_of(error)}; {how}") from error
    except ValueError as error:
        raise DataError(
            f"{redacted(address)}: is not an address that can be read ({redacted(reason_of(error))})"
        ) from error
    return system, inner
