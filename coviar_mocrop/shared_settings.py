"""The settings in which streams must agree that are read together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coviar_mocrop.config import Config
from coviar_mocrop.errors import ConfigError

SHARED = (
    *("setting", "mocrop", "data.root", "data.shards", "data.classes", "data.backend", "data.anchor_every"),
    "data.follow_links",
)
"""In training and testing they share one list, one reading and one box."""
READING = ("setting", "mocrop", "data.backend", "data.anchor_every")
"""Wherever the video comes from, they share one reading and one box."""


def require_shared(configs: Mapping[str, Config], keys: Sequence[str] = SHARED) -> None:
    """Check that streams which are read together agree in ``keys``.

    Raises:
        ConfigError: they do not; the first difference is named.
    """
    (first, config), *others = configs.items()
    for key in keys:
        for name, other in others:
            mine, theirs = _value_of(config, key), _value_of(other, key)
            if mine != theirs:
                raise ConfigError(
                    f"the {first} and the {name} stream differ in {key} ({_short(mine)} against {_short(theirs)}); "
                    f"streams that are read together share it: set it for all (--set {key}=...), or run them one by one"
                )


def _value_of(config: Config, key: str) -> Any:
    """The setting with a dotted name."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
