"""Report videos that could not be processed: all in a table, and the first ones in the terminal."""

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
    """Return the first 20 reasons, and if there are more, a line that refers to the table."""
    lines = [str(reason) for reason in reasons]
    more = [f"... and {len(lines) - _SHOWN} more, see {table}"] if len(lines) > _SHOWN else []
    return lines[:_SHOWN] + more


def write_failed(folder: str | os.PathLike[str], reasons: Mapping[str, str]) -> Path:
    """Write ``failed.csv`` with the columns ``video`` and ``why``. If nothing failed, remove an earlier file.

    Args:
        folder: folder of the file.
        reasons: reasons by video.

    Returns:
        The path of the file, which does not exist if nothing failed.

    Raises:
        CoviarMocropError: the file cannot be written.
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
