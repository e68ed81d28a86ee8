"""Write figures to image files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from coviar_mocrop.errors import CoviarMocropError
from coviar_mocrop.files import atomic_write, require_writable

if TYPE_CHECKING:  # commands that draw only on request do not wait for matplotlib
    from matplotlib.figure import Figure

PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg", ".webp")
"""Supported suffixes of image files."""


def require_picture(path: str | os.PathLike[str]) -> None:
    """Check before a long computation that a figure can be written to ``path`` in the end.

    Raises:
        CoviarMocropError: the suffix is not in ``PICTURES``, or the file cannot be written (see
            :func:`~coviar_mocrop.files.require_writable`).
    """
    if Path(path).suffix.lower() not in PICTURES:
        raise CoviarMocropError(f"{path}: is not a supported picture format; use {', '.join(PICTURES)}")
    require_writable(path)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to a file atomically. The suffix selects the format.

    Raises:
        CoviarMocropError: the file cannot be written.
    """
    with atomic_write(path) as temporary:
        figure.savefig(temporary)
