"""Files that come with the package: settings (``configs``) and class names (``data_lists``).

In a clone they lie beside the package. In an installed package they lie in it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parent


def shipped(folder: Literal["configs", "data_lists"]) -> Path:
    """The folder of files that come with the package."""
    installed = _PACKAGE / folder
    return installed if installed.is_dir() else _PACKAGE.parent / folder


def find_config(name: str | os.PathLike[str]) -> Path:
    """The file that a name of settings, or of prompts, means.

    ``folder``, ``folder.yaml`` and ``configs/folder.yaml`` mean the first of these files that exists: the path itself,
    ``folder.yaml`` and ``configs/folder.yaml`` in the working folder, ``folder.yaml`` that comes with the package.

    Args:
        name: a path, with or without ``configs/`` and ``.yaml``.

    Returns:
        The file. If there is none, the path as it was given.
    """
    path = Path(name)
    if path.is_absolute() or os.path.isfile(path):
        return path
    below = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    if not below.suffix:
        below = below.with_name(f"{below.name}.yaml") if below.name else below
    places = (below, Path("configs", below), shipped("configs") / below)
    return next(filter(os.path.isfile, places), path)  # unlike Path.is_file, False where a name is too long


def shipped_configs() -> list[str]:
    """The names of the settings that come with the package."""
    return sorted(path.stem for path in shipped("configs").glob("*.yaml"))
