"""The base of all settings: unknown keys are refused, values are checked, and what is wrong is one line."""

from __future__ import annotations

import difflib
import re
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from coviar_mocrop.errors import ConfigError


class BaseConfig(BaseModel):
    """A frozen section of settings.

    Raises:
        ConfigError: on construction, naming the field and its range, or the nearest field there is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __init__(self, /, **values: Any) -> None:
        """Check and keep ``values``."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(f"{type(self).__name__}: {explain(error, type(self))}") from None

    # pydantic need not come by here for sections of sections: whoever validates the whole explains the error
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of ``error``, in one line."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        valid = _fields(model, location[:-1])
        near = difflib.get_close_matches(location[-1], valid, 1, cutoff=0.5)
        hint = (
            f"did you mean {'.'.join([*location[:-1], near[0]])!r}?" if near else f"valid: {', '.join(sorted(valid))}"
        )
        return f"unknown key {key!r}; {hint}{more}"
    if problem["type"] == "missing":
        return f"key {key!r} is missing{more}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    if "valid dictionary" in message:
        message = "it is a section, with keys of its own"
    return f"key {key!r} is {problem['input']!r}; {message}{_nearest(problem)}{more}"


def _nearest(problem: Any) -> str:
    """What was probably meant, where a word is not among those to choose from."""
    if problem["type"] != "literal_error" or not isinstance(problem["input"], str):
        return ""
    choices = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
    near = difflib.get_close_matches(problem["input"], choices, 1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _fields(model: Any, section: list[str]) -> list[str]:
    for part in section:
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if model is None:
            return []
    return list(model.model_fields)
