"""Settings of a run: YAML files that build on one another, composed and checked.

A file may name others under ``base`` (a path or a list, relative to itself); its own keys win, section by
section. Lists and single values are replaced whole. ``--set a.b=c`` comes last.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from coviar_mocrop.base_config import BaseConfig, explain
from coviar_mocrop.bitstream import Kind
from coviar_mocrop.clips.config import DataConfig, InputConfig, Setting
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.mocrop import MoCropSettings
from coviar_mocrop.networks.config import CLIPConfig, ModelConfig
from coviar_mocrop.networks.stream_net import Representation, Stream
from coviar_mocrop.training.optim import TrainConfig


class Config(BaseConfig):
    """All settings of one stream's run."""

    stream: Stream = Field(
        ...,
        description="iframe | mv | residual; clip: frozen CLIP and motion network, trained head; zero_shot: CLIP alone",
    )
    setting: Setting = Field(
        "baseline",
        description="baseline: uncropped at full size; efficiency: MoCrop box at reduced size; attention: "
        "MoCrop box at full size",
    )
    output: str = Field("runs/unnamed", description="folder of the run")
    seed: int = Field(0, ge=0, description="of everything random")
    data: DataConfig
    input: InputConfig = InputConfig()
    mocrop: MoCropSettings = MoCropSettings()
    model: ModelConfig = Field(ModelConfig(), description="the network; of the CLIP stream, its motion network")
    clip: CLIPConfig = CLIPConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _fit_together(self) -> Config:
        """What one section asks of another."""
        if self.input.frames == "decoded" and self.stream != "iframe":
            raise ConfigError(f"input.frames=decoded is for the I-frame stream; this is the {self.stream} stream")
        if self.model.motion_squeeze and min(self.input.segments, self.input.test_segments) < 2:
            raise ConfigError(
                "model.motion_squeeze compares neighbouring frames; set input.segments and input.test_segments to 2 "
                "or more, such as 8"
            )
        return self

    @property
    def crops(self) -> bool:
        """Whether clips are cropped by their MoCrop box."""
        return self.setting != "baseline"

    @property
    def representation(self) -> Representation:
        """What the stream reads.

        Raises:
            ConfigError: it looks at features, not at one representation.
        """
        if self.stream == "clip" or self.stream == "zero_shot":
            raise ConfigError(f"stream is {self.stream}; this is for iframe, mv and residual")
        return self.stream

    @property
    def kind(self) -> Kind:
        """What is read from the bitstream for it; see :attr:`representation`."""
        decoded = self.representation == "iframe" and self.input.frames == "decoded"
        return "frame" if decoded else self.representation

    @property
    def size(self) -> int:
        """Side of the network's input, pixels."""
        return self.input.reduced_size if self.setting == "efficiency" else self.input.full_size


Layer = tuple[str, dict[str, Any]]
"""Where settings come from, and the settings."""


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read, compose and check a configuration.

    Args:
        path: YAML file.
        overrides: ``a.b=value`` items; values are YAML.

    Raises:
        ConfigError: naming the file, the key, and the nearest valid key or the valid range.
    """
    return _build([*_read(Path(path), ()), *_override_layers(overrides)], str(path))


def build_config(values: dict[str, Any], overrides: Sequence[str], source: str) -> Config:
    """Check settings from elsewhere (a checkpoint), with overrides; see :func:`load_config`."""
    return _build([(source, values), *_override_layers(overrides)], source)


def _build(layers: Sequence[Layer], source: str) -> Config:
    merged: dict[str, Any] = {}
    for _, values in layers:
        merged = _merge(merged, values)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(error, layers, source)) from None


def _override_layers(overrides: Sequence[str]) -> list[Layer]:
    layers: list[Layer] = []
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {item}: expected key=value, such as train.epochs=5")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {item}: the value is not YAML ({_one_line(error)})") from error
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        layers.append((f"--set {item}", nested))
    return layers


def _read(path: Path, seen: tuple[Path, ...]) -> list[Layer]:
    """The file's layers: what it builds on first, itself last."""
    if path.resolve() in [file.resolve() for file in seen]:
        raise ConfigError(f"{path}: builds on itself through 'base'")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        named = f" ({seen[-1]} builds on it through 'base')" if seen else ""
        raise ConfigError(f"{path}: no such configuration file{named}; see configs/") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: is a folder; give a YAML file in it") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not text; give a YAML file, see configs/") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML ({_one_line(error)})") from error
    if values is None:
        values = {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path}: expected 'key: value' lines")
    bases = values.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: 'base' must be a path or a list of paths")
    layers: list[Layer] = []
    for base in bases:
        layers += _read(path.parent / base, (*seen, path))
    return [*layers, (str(path), values)]


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _explain(error: ValidationError, layers: Sequence[Layer], source: str) -> str:
    """The first problem, with the file or option that it comes from."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    origin = source
    if problem["type"] != "missing":
        origin = next((name for name, values in reversed(layers) if _holds(values, location)), source)
    return f"{origin}: {explain(error, Config)}"


def _holds(values: Any, location: Sequence[str]) -> bool:
    for part in location:
        if not isinstance(values, dict) or part not in values:
            return not isinstance(values, dict)  # an item of a list: the list holds it
        values = values[part]
    return True


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
