"""Bytes by path or address: files on a disk, on a web server, in an object store (all that fsspec knows)."""

from __future__ import annotations

import itertools
import os
import re
import time
from typing import Any

from coviar_mocrop.bitstream.addresses import redacted
from coviar_mocrop.errors import DataError
from coviar_mocrop.messages import pip_install

_BRACES = re.compile(r"\{([^{}]*)\}")
_COUNT = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000
"""Names that one pattern may stand for."""
_TRIES = 3
_WAIT = 0.5
"""Seconds before the second try; twice as many before each further one."""


class NoSuchFile(DataError):
    """There is no file of this name."""


class Unreachable(DataError):
    """A server or store does not answer now. This says nothing about the file, so that no clip is left out for it."""


class WholeFilesOnly(DataError):
    """A server sends a whole file where a part was asked for."""


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether a name is an address, such as ``s3://bucket/a.tar``, and not a path."""
    return isinstance(path, str) and "://" in path


def beside(path: str | os.PathLike[str], name: str) -> str:
    """The file ``name`` in the folder of ``path``."""
    folder, slash, _ = os.fspath(path).rpartition("/") if is_address(path) else ("", "", "")
    return f"{folder}{slash}{name}" if slash else os.path.join(os.path.dirname(path), name)


def expand(pattern: str) -> list[str]:
    """The names that a pattern stands for: ``{000..099}`` counts, ``{a,b}`` lists.

    Raises:
        DataError: it counts down, or stands for too many names.
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
    """Bytes of a file from ``start`` on; fewer than ``size`` where it ends before. An address is tried three times.

    Raises:
        NoSuchFile: there is none.
        Unreachable: the server does not answer.
        WholeFilesOnly: it sends more than was asked for.
        DataError: the file cannot be read.
    """
    if not is_address(path):
        try:
            with open(path, "rb", buffering=0) as file:
                file.seek(start)
                return file.readall() if size is None else file.read(size)
        except FileNotFoundError as error:
            raise NoSuchFile(f"{os.fspath(path)}: no such file; check the path") from error
        except OSError as error:
            raise DataError(f"{os.fspath(path)}: cannot be read ({_said(error)}); check the path") from error
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
                said = f"cannot be read ({redacted(_said(error))}); check the address and the network"
                raise Unreachable(f"{redacted(address)}: {said}") from error
            time.sleep(_WAIT * 2**attempt)
    raise AssertionError


def copy(address: str, path: str | os.PathLike[str]) -> None:
    """Copy a whole file from an address, piece by piece.

    Raises:
        Unreachable: it cannot be read to its end.
    """
    system, inner = _file_system(address)
    try:
        system.get_file(inner, os.fspath(path))
    except Exception as error:  # every store raises errors of its own
        raise Unreachable(f"{redacted(address)}: cannot be copied ({redacted(_said(error))})") from error


def require_no_password(address: str) -> None:
    """Refuse an address that would be kept, with its password, in settings and checkpoints.

    Raises:
        DataError: it holds one.
    """
    if redacted(address) != address:
        raise DataError(
            f"{redacted(address)}: holds a password, which settings and checkpoints would keep; leave it to fsspec's "
            "configuration"
        )


def _file_system(address: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it. fsspec keeps one a process, and its connections."""
    try:
        from fsspec.core import url_to_fs

        system, inner = url_to_fs(address)
    except ImportError as error:
        how = f"for http: {pip_install('shards')}, for s3: s3fs, for gs: gcsfs"
        raise DataError(f"{redacted(address)}: {_said(error)}; {how}") from error
    except ValueError as error:
        raise DataError(f"{redacted(address)}: is no address that can be read ({redacted(_said(error))})") from error
    return system, inner


def _said(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
