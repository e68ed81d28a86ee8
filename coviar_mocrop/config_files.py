"""YAML files of settings and ``--set`` items as they are written: read, and split by run. Nothing is checked yet.

:mod:`coviar_mocrop.config` says how they are composed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from coviar_mocrop.errors import ConfigError
from coviar_mocrop.messages import did_you_mean, similar


class SettingsPart(NamedTuple):
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


def read_file(path: Path, builders: tuple[Path, ...] = ()) -> list[SettingsPart]:
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
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except FileNotFoundError as error:
        named = f" ({builders[-1]} builds on it through 'base')" if builders else ""
        raise ConfigError(f"{path}: no such configuration file{named}; see configs/") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: is a folder; give a YAML file in it") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not text; give a YAML file, see configs/") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: is not YAML ({_one_line(error)})") from error
    if values is None:
        values = {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path}: expected 'key: value' lines")
    files = (*builders, path)
    bases = read_bases(values, files)
    return [*bases, _split(str(path), values, files)]


def read_bases(values: dict[str, Any], files: tuple[Path, ...]) -> list[SettingsPart]:
    """Take ``base`` out of ``values`` and read the files that it names.

    Raises:
        ConfigError: see :func:`read_file`.
    """
    bases = values.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{files[-1]}: 'base' must be a path or a list of paths")
    return [part for base in bases for part in read_file(files[-1].parent / base, files)]


def _split(source: str, values: dict[str, Any], files: tuple[Path, ...] = ()) -> SettingsPart:
    """Take ``streams`` out of ``values``."""
    streams = values.pop("streams", None) or {}
    if not isinstance(streams, dict):
        raise ConfigError(f"{source}: key 'streams' is {streams!r}; it is a section, with a run's name for a key")
    for name, entry in streams.items():
        if not re.fullmatch(r"[\w-]+", str(name)):
            raise ConfigError(f"{source}: key 'streams' names {name!r}; use letters, digits, _ and - for a run's name")
        if not isinstance(entry, dict | None):
            raise ConfigError(f"{source}: key 'streams.{name}' is {entry!r}; it is a section, with keys of its own")
    return SettingsPart(source, values, {str(name): entry or {} for name, entry in streams.items()}, files)


def read_overrides(overrides: Sequence[str], source: str, names: Sequence[str]) -> list[SettingsPart]:
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


def run_names(parts: Sequence[SettingsPart]) -> list[str]:
    """The names of all runs, in the order in which they first appear."""
    return list(dict.fromkeys(name for part in parts for name in part.streams))


def unknown_run(source: str, name: str, names: Sequence[str]) -> str:
    """What to say of a run that ``source``, which holds runs of these names, does not hold."""
    if not names:
        return f"{source} describes one run; leave out 'streams.{name}.'"
    question = did_you_mean(similar(name, names))
    return f"{source} has no run {name!r}; {question + ' It' if question else 'it'} has {', '.join(names)}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
