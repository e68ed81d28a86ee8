"""The base class of all settings. It refuses unknown keys, checks values and explains errors in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from coviar_mocrop.errors import ConfigError

SHARED = ("setting", "mocrop", "data.root", "data.classes", "data.backend", "data.anchor_every", "data.follow_links")
"""Settings in which streams must agree that are read together: they share one reading and one box."""


class BaseConfig(BaseModel):
    """A section of settings. Its fields cannot be reassigned.

    Raises:
        ConfigError: on construction. The message names the field and its valid range, or the nearest valid field.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __init__(self, /, **values: Any) -> None:
        """Check ``values`` and store them."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(f"{type(self).__name__}: {explain(error.errors(), type(self))}") from None

    # pydantic does not call __init__ for nested sections: whoever validates the outer section explains the error
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


def first_problem(problems: Sequence[Any]) -> Any:
    """The problem to report: an unknown key before others, because a misspelled key causes a missing one."""
    return next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])


def explain(problems: Sequence[Any], model: type[BaseModel], section: str = "", keywords: Sequence[str] = ()) -> str:
    """Describe what is wrong in one line.

    Args:
        problems: ``ValidationError.errors()``.
        model: the class that was validated.
        section: prefix of the keys, such as ``streams.mv.``.
        keywords: valid keys that are not fields of ``model``.
    """
    problem = first_problem(problems)
    location = [str(part) for part in problem["loc"]]
    key = section + ".".join(location)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        valid = [*_fields(model, location[:-1]), *(keywords if len(location) == 1 else ())]
        near = difflib.get_close_matches(location[-1], valid, 1, cutoff=0.5)
        near_key = ".".join([*location[:-1], *near])
        hint = f"did you mean {section + near_key!r}?" if near else f"valid: {', '.join(sorted(valid))}"
        return f"unknown key {key!r}; {hint}{more}"
    if problem["type"] == "missing":
        return f"key {key!r} is missing{more}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    if problem["type"] == "value_error":  # a validator of the whole section: its message says what does not fit
        message = message.removeprefix("value error, ")
        return f"key {key!r}: {message}{more}" if key else f"{message}{more}"
    if problem["type"] in ("model_type", "dict_type"):
        message = "it is a section, with keys of its own"
    return f"key {key!r} is {problem['input']!r}; {message}{_nearest(problem)}{more}"


def _nearest(problem: Any) -> str:
    """A suggestion where a word is not one of the valid choices."""
    if problem["type"] != "literal_error" or not isinstance(problem["input"], str):
        return ""
    choices = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
    near = difflib.get_close_matches(problem["input"], choices, 1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _fields(model: Any, section: list[str]) -> list[str]:
    """The field names of a section of ``model``."""
    for part in section:
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if model is None:
            return []
    return list(model.model_fields)


def require_shared(configs: Mapping[str, BaseConfig], keys: Sequence[str] = SHARED) -> None:
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


def _value_of(config: BaseConfig, key: str) -> Any:
    """The setting with a dotted name."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
