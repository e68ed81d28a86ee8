"""Parts of messages: what another word may have been meant as, numbers and times, and what other libraries say."""

from __future__ import annotations

import contextlib
import difflib
import logging
import re
import warnings
from collections.abc import Iterable, Iterator


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
