"""Files that come with the package: settings (``configs``) and class names (``data_lists``).

In a clone of the repository they are beside the package folder, in an installed package inside it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parent


def shipped(folder: Literal["configs", "data_lists"]) -> Path:
    """Return the path of a folder that comes with the package."""
    installed = _PACKAGE / folder
    return installed if installed.is_dir() else _PACKAGE.parent / folder


def find_config(name: str | os.PathLike[str]) -> Path:
    """Find a settings file or a file of prompts by its path or name.

    ``folder``, ``folder.yaml`` and ``configs/folder.yaml`` all stand for the first of these files that exists: the path
    itself, ``folder.yaml`` or ``configs/folder.yaml`` in the working directory, the ``folder.yaml`` that comes with the
    package.

    Args:
        name: a path, with or without ``configs/`` and ``.yaml``.

    Returns:
        The path of the file. If there is none, ``name`` as a path.
    """
    path = Path(name)
    if path.is_absolute() or os.path.isfile(path):
        return path
    below = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    if not below.suffix:
        below = below.with_name(f"{below.name}.yaml") if below.name else below
    places = (below, Path("configs", below), shipped("configs") / below)
    return next(filter(os.path.isfile, places), path)  # unlike Path.is_file, False for names that are too long


def shipped_configs() -> list[str]:
    """Return the names of the settings files that come with the package, sorted."""
    return sorted(path.stem for path in shipped("configs").glob("*.yaml"))
