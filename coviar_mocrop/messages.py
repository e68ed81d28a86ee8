"""Parts of messages: what another word may have been meant as, numbers and times, and what other libraries say."""

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


def similar(word: str, names: Iterable[str]) -> list[str]:
    """The names that ``word`` may have been meant as; none where no name is similar.

    The closest name in spelling comes before names that contain the word, or that it contains: of ``area_ratio`` and
    ``sparse``, ``area`` means the first.
    """
    names = list(dict.fromkeys(names))
    close = difflib.get_close_matches(word, names, 1, cutoff=0.75 if len(word) > 2 else 0.5)
    return close or [name for name in names if _contains(name, word) or _contains(word, name)]


def did_you_mean(names: Iterable[str]) -> str:
    """The question after an unknown word; empty where no name is similar."""
    listed = " or ".join(map(repr, names))
    return f"did you mean {listed}?" if listed else ""


def _contains(name: str, part: str) -> bool:
    """Whether ``name`` begins with ``part``, or holds it as a word between underscores or dots."""
    return bool(re.search(rf"(^|[._]){re.escape(part)}(_|$)", name)) or (len(part) > 2 and name.startswith(part))


def counted(number: int, noun: str) -> str:
    """A number and what it counts: ``1 clip``, ``2 clips``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def clock(seconds: float) -> str:
    """Stream time for people: ``0:07.5``, ``12:07.5``, and from an hour on ``3:12:07``."""
    minutes, tenths = divmod(round(10 * seconds), 600)
    if minutes < 60:
        return f"{minutes}:{tenths / 10:04.1f}"
    return f"{minutes // 60}:{minutes % 60:02}:{tenths // 10:02}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def pip_install(extra: str = "") -> str:
    """The command that installs this package with an extra, from where it came: a clone, or a package index."""
    from importlib.metadata import distributions
    from urllib.parse import urlparse
    from urllib.request import url2pathname

    found = [installed.read_text("direct_url.json") for installed in distributions(name="coviar_mocrop")]
    clone = Path(__file__).parents[1]
    # in a clone, Python may find the notes of building it before those of the installation, or these alone
    in_clone = {"url": clone.as_uri(), "dir_info": {"editable": True}} if (clone / "pyproject.toml").exists() else {}
    origin: dict[str, Any] = json.loads(next(filter(None, found), "{}")) or in_clone
    place, option = "coviar_mocrop", ""
    if str(origin.get("url", "")).startswith("file:"):
        place = url2pathname(urlparse(origin["url"]).path)
        option = "-e " if origin.get("dir_info", {}).get("editable") else ""
    return f"pip install {option}{shlex.quote(f'{place}[{extra}]' if extra else place)}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without logging and warnings: for libraries that comment on what they do, and raise what goes wrong."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
