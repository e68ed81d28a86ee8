"""Settings that must be equal for streams that are read together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coviar_mocrop.config import Config
from coviar_mocrop.errors import ConfigError

SHARED = (
    *("setting", "mocrop", "data.root", "data.shards", "data.classes", "data.backend", "data.anchor_every"),
    "data.follow_links",
)
"""Settings that must be equal in training and testing, where streams share the list, the decoding and the box."""
READING = ("setting", "mocrop", "data.backend", "data.anchor_every")
"""Settings that must be equal wherever streams share the decoding and the box."""


def require_shared(configs: Mapping[str, Config], keys: Sequence[str] = SHARED) -> None:
    """Check that streams which are read together have equal settings.

    Args:
        configs: settings of each stream, by name.
        keys: dotted names of the settings to compare.

    Raises:
        ConfigError: settings differ. The message names the first difference.
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
    """The value of the setting with a dotted name."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
