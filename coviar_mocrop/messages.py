"""Helpers for messages: suggestions, numbers, times, removing passwords, and reasons given by other libraries."""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import re
import shlex
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_SECRET = (
    r"(?!(?:sort|order|group|partition|primary|foreign)[-_]?key=)"  # keys that open nothing
    r"(?:[\w.-]*(?:password|passwd|pwd|token|secret|signature|(?:api|access|auth|secret)key)"
    r"|(?:[\w.-]*[-_.])?(?:pass|sig|key))="
)
"""Names of parameters that hold a password: a long word at the end of the name, or a short one as a word of its own."""
_PASSWORDS = (
    # user:password@, also if the password is not escaped. A number before a slash is a port, unless an @ and another
    # slash follow
    re.compile(r"(://[^/\s:]*:)(?!\d{1,5}/(?!\S*[^\s/]@[^\s/@]+/))\S*(?=@)"),
    # password=...; in a query, the value may hold slashes
    re.compile(rf"(([?&])?(?<![\w.-]){_SECRET})(?(2)[^&\s'\"]+|[^&\s/'\"]+)", re.IGNORECASE),
)


def similar(word: str, names: Iterable[str]) -> list[str]:
    """Return the names that ``word`` may stand for; empty if no name is similar.

    This is the name with the closest spelling. If no spelling is close, these are the names that contain the word or
    are contained in it, as ``area_ratio`` for ``area``.
    """
    names = list(dict.fromkeys(names))
    close = difflib.get_close_matches(word, names, 1, cutoff=0.75 if len(word) > 2 else 0.5)
    return close or [name for name in names if _contains(name, word) or _contains(word, name)]


def did_you_mean(names: Iterable[str]) -> str:
    """Return the question for an unknown word; empty if there are no names to suggest."""
    listed = " or ".join(map(repr, names))
    return f"did you mean {listed}?" if listed else ""


def _contains(name: str, part: str) -> bool:
    """Whether ``name`` begins with ``part``, or holds it as a word between underscores or dots."""
    return bool(re.search(rf"(^|[._]){re.escape(part)}(_|$)", name)) or (len(part) > 2 and name.startswith(part))


def counted(number: int, noun: str) -> str:
    """Format a number with a noun: ``1 clip``, ``2 clips``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def clock(seconds: float) -> str:
    """Format stream time: ``0:07.5``, ``12:07.5``, and from one hour on ``3:12:07``."""
    minutes, tenths = divmod(round(10 * seconds), 600)
    if minutes < 60:
        return f"{minutes}:{tenths / 10:04.1f}"
    return f"{minutes // 60}:{minutes % 60:02}:{tenths // 10:02}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut after 200 characters; the name of its class if there is none."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if len(line) <= 200 else f"{line[:199]}…"


def reason_of(error: BaseException) -> str:
    """Return the reason of an error in one line: the text of the system or of FFmpeg without error number and path, or
    else the error's message, or else the name of its class.
    """
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def redacted(text: str) -> str:
    """Replace passwords in a message or an address by ``***``."""
    for pattern in _PASSWORDS:
        text = pattern.sub(r"\1***", text)
    return text


def pip_install(extra: str = "") -> str:
    """Return the command that installs this package with an extra, from its origin: a clone or the package index."""
    from importlib.metadata import distributions
    from urllib.parse import urlparse
    from urllib.request import url2pathname

    found = [installed.read_text("direct_url.json") for installed in distributions(name="coviar_mocrop")]
    clone = Path(__file__).parents[1]
    # in a clone, Python may find the metadata of the build before, or instead of, those of the installation
    in_clone = {"url": clone.as_uri(), "dir_info": {"editable": True}} if (clone / "pyproject.toml").exists() else {}
    origin: dict[str, Any] = json.loads(next(filter(None, found), "{}")) or in_clone
    place, option = "coviar_mocrop", ""
    if str(origin.get("url", "")).startswith("file:"):
        place = url2pathname(urlparse(origin["url"]).path)
        option = "-e " if origin.get("dir_info", {}).get("editable") else ""
    return f"pip install {option}{shlex.quote(f'{place}[{extra}]' if extra else place)}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress logging and warnings, for libraries that are verbose but raise errors if something goes wrong."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
