"""The base class of all settings. It refuses unknown keys, checks values, and explains errors in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from coviar_mocrop.errors import ConfigError
from coviar_mocrop.messages import did_you_mean, similar

_MOST_SUGGESTED = 3


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

    # pydantic does not call __init__ for nested sections: the outermost section explains their errors
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


def first_problem(problems: Sequence[Any]) -> Any:
    """Select the problem to report: an unknown key first, because a misspelled key also causes a missing one."""
    return next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])


def explain(problems: Sequence[Any], model: type[BaseModel], section: str = "", keywords: Sequence[str] = ()) -> str:
    """Describe what is wrong in one line.

    Args:
        problems: result of pydantic's ``ValidationError.errors()``.
        model: the class that was validated.
        section: prefix of the keys, such as ``streams.mv.``.
        keywords: valid keys that are not fields of ``model``.
    """
    problem = first_problem(problems)
    location = [str(part) for part in problem["loc"]]
    key = section + ".".join(location)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {_valid_keys(model, location, section, keywords)}{more}"
    if problem["type"] == "missing":
        return f"key {key!r} is missing{more}"
    message = (problem["msg"][0].lower() + problem["msg"][1:]).replace("tuple", "list")
    if problem["type"] in ("model_type", "dict_type"):
        message = "it is a section, with keys of its own"
    return f"key {key!r} is {problem['input']!r:.60}; {message}{_nearest(problem)}{more}"


def _nearest(problem: Any) -> str:
    """A suggestion if a word is not one of the valid choices; else empty."""
    if problem["type"] != "literal_error" or not isinstance(problem["input"], str):
        return ""
    question = did_you_mean(similar(problem["input"], re.findall(r"'([^']*)'", problem["ctx"]["expected"])))
    return question and f"; {question}"


def _valid_keys(model: type[BaseModel], location: Sequence[str], section: str, keywords: Sequence[str]) -> str:
    """A suggestion for an unknown key: similar keys, or all keys of its section."""
    described = {**_keys(model), **dict.fromkeys(keywords, "")}
    own = [key for key in described if key.split(".")[:-1] == list(location[:-1])]
    near = _similar_keys(location[-1], own, described)
    if 0 < len(near) <= _MOST_SUGGESTED:
        return did_you_mean(section + key for key in near)
    return f"valid: {', '.join(sorted(map(_name, own)))}"


def _similar_keys(word: str, own: Sequence[str], described: Mapping[str, str]) -> list[str]:
    """The dotted keys that may have been meant.

    These are keys of the same name in any section; else similar keys of the ``own`` section; else similar keys of any
    section; else keys whose description begins with the words of the key.
    """

    def named(names: Sequence[str], keys: Iterable[str]) -> list[str]:
        return [key for key in keys if _name(key) in names]

    return (
        named([word], described)
        or named(similar(word, map(_name, own)), own)
        or named(similar(word, map(_name, described)), described)
        or [key for key, text in described.items() if text.lower().startswith(word.replace("_", " "))]
    )


def _name(key: str) -> str:
    """The last part of a dotted key."""
    return key.rpartition(".")[2]


def _keys(model: type[BaseModel]) -> dict[str, str]:
    """The dotted keys of ``model`` and of all its sections, with their descriptions."""
    keys: dict[str, str] = {}
    for name, field in model.model_fields.items():
        keys[name] = field.description or ""
        candidates = [field.annotation, *get_args(field.annotation)]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        keys |= {f"{name}.{key}": text for key, text in (_keys(section) if section else {}).items()}
    return keys
