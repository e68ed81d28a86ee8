"""Text prompts for CLIP, made from templates and class names."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import Any

from coviar_mocrop.errors import ConfigError
from coviar_mocrop.plain_yaml import parse_yaml
from coviar_mocrop.shipped import find_config, shipped

TEMPLATES = (
    "a photo of a person {}.",
    "a video frame of someone {}.",
    "people {}.",
    "an example of the action {}.",
)
"""Default templates, used if there is no file of prompts or it has no templates."""


def words_of(name: str) -> str:
    """Split a class name into lower-case words, at capitals, digits, and characters that are not letters or digits.

    ``ApplyEyeMakeup`` gives ``apply eye makeup``, ``brush_hair`` gives ``brush hair``.
    """
    spaced = ""
    for before, letter, after in zip(" " + name, name, name[1:] + " ", strict=False):
        new_word = letter.isupper() and (before.islower() or (before.isupper() and after.islower()))
        number = before.isalnum() and letter.isdigit() != before.isdigit()
        spaced += (" " if new_word or number else "") + (letter if letter.isalnum() else " ")
    return " ".join(spaced.split()).lower() or name


def read_prompts(path: str | os.PathLike[str] | None, classes: Sequence[str]) -> list[list[str]]:
    """Read the prompts of every class: all combinations of a template and a name of the class.

    Args:
        path: YAML file with ``templates`` (list of texts, in which ``{}`` stands for the name) and ``names`` (by class,
            a name or a list of synonyms), or the name of a file that comes with the package, such as
            ``prompts/ucf101``. Both keys are optional. The name of a class without an entry is made by
            :func:`words_of`. None: ``TEMPLATES`` and no names.
        classes: class names, in the order of the labels.

    Returns:
        One or more prompts for each class.

    Raises:
        ConfigError: the file is missing or invalid, a template does not contain ``{}`` exactly once, or a name belongs
            to no class.
    """
    content = _read(path) if path is not None else {}
    unknown = sorted(content.keys() - {"templates", "names"})
    if unknown:
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}; valid: names, templates")
    templates = _texts(content.get("templates", list(TEMPLATES)), f"{path}: templates")
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(f"{path}: the template {template!r} must hold {{}} once, where the class name goes")
    names = content.get("names") or {}
    if not isinstance(names, dict):
        raise ConfigError(f"{path}: names must be 'class: name' lines")
    for name in names:
        if name not in classes:
            near = difflib.get_close_matches(str(name), classes, 1)
            hint = f"did you mean {near[0]}?" if near else f"the classes are {', '.join(list(classes)[:5])}, ..."
            raise ConfigError(f"{path}: names {name!r}, which is not a class; {hint}")
    return [
        [
            template.replace("{}", text)
            for text in _texts(names.get(name, words_of(name)), f"{path}: names.{name}")
            for template in templates
        ]
        for name in classes
    ]


def _texts(value: Any, where: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ConfigError(f"{where} must be a text or a list of texts, quoted where YAML takes them for something else")
    return texts


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        content = parse_yaml(find_config(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        there = ", ".join(f"prompts/{found.name}" for found in sorted((shipped("configs") / "prompts").glob("*.yaml")))
        raise ConfigError(
            f"{path}: no such prompt file; with the package come {there}; null takes the class names"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not YAML ({error})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected the keys names and templates")
    return content
