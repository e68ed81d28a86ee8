"""What could not be done, and why: all of it in a table, and the beginning on the terminal."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from coviar_mocrop.files import write_text

NAME = "failed.csv"
_SHOWN = 20


def shown(reasons: Collection[object], table: Path) -> list[str]:
    """The first reasons, and a line that says where the others are."""
    lines = [str(reason) for reason in reasons]
    more = [f"... and {len(lines) - _SHOWN} more, see {table}"] if len(lines) > _SHOWN else []
    return lines[:_SHOWN] + more


def write_failed(folder: str | os.PathLike[str], reasons: Mapping[str, str]) -> Path:
    """Write ``failed.csv`` with the columns ``video`` and ``why``; where nothing failed, remove an earlier one.

    Args:
        folder: where the file belongs.
        reasons: why, by video.

    Returns:
        The path of the file.

    Raises:
        CoviarMocropError: it cannot be written.
    """
    path = Path(folder, NAME)
    if not reasons:
        path.unlink(missing_ok=True)
        return path
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("video", "why"))
    rows.writerows(reasons.items())
    write_text(path, text.getvalue())
    return path
