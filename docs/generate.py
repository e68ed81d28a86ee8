"""Write the reference of commands and of settings from the parsers and the settings classes.

``mkdocs.yml`` names this file as a hook, so the pages are completed whenever the site is built.
"""

from __future__ import annotations

import argparse
import math
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from coviar_mocrop import commands
from coviar_mocrop.config import Config
from coviar_mocrop.mocrop.settings import MoCropSettings

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

PROJECT = Path(__file__).parents[1]


class Setting(NamedTuple):
    """One setting, as the reference shows it."""

    key: str
    kind: str
    default: str
    meaning: str


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put what is generated in the place of a page's last paragraph, which says where it stands; MkDocs calls it."""
    generated = {
        "reference/commands.md": commands_page,
        "reference/settings.md": settings_page,
        "reference/lists.md": lambda: (PROJECT / "data_lists/README.md").read_text(encoding="utf-8"),
    }
    if page.file.src_uri not in generated:
        return markdown
    above = markdown.rstrip().rpartition("\n\n")[0]
    return f"{above}\n\n{generated[page.file.src_uri]()}".lstrip()


def on_page_content(html: str, **_: Any) -> str:
    """Show the cross-references of docstrings as plain names; MkDocs calls it."""
    return re.sub(r":(?:func|class|meth|attr|mod):<code>~?(?:[\w.]+\.)?([\w]+)</code>", r"<code>\1</code>", html)


def settings_page() -> str:
    """The reference of settings, Markdown."""
    parts = []
    for section, model in sections(Config):
        parts.append(f"\n## {section or 'Run'}\n\n{_summary(model)}\n")
        parts.append("| setting | values | default | meaning |\n|---|---|---|---|")
        for row in settings(model):
            prefix = f"{section}." if section else ""
            parts.append(f"| `{prefix}{row.key}` | {row.kind} | {row.default} | {row.meaning} |")
        if model is MoCropSettings:
            parts.append(_presets())
    return "\n".join(parts) + "\n"


def commands_page() -> str:
    """The reference of commands, Markdown: what each ``--help`` prints."""
    parts: list[str] = []
    for name in commands.NAMES:
        parts += _helps(f"coviar {name}", commands.build_parser(name, f"coviar {name}"))
    return "\n".join(parts) + "\n"


def _helps(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """The help of a command, then that of its subcommands."""
    parser.formatter_class = _Help
    yield f"\n{'#' * min(name.count(' ') + 1, 3)} {name}\n\n```text\n{parser.format_help()}```"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, subparser in action.choices.items():
                yield from _helps(f"{name} {word}", subparser)


class _Help(argparse.RawDescriptionHelpFormatter):
    """As in a terminal of 100 columns, whatever the terminal of the one who builds the site."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=100)


def sections(model: type[BaseModel], name: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """A class of settings and all classes of its sections, each with its dotted name."""
    yield name, model
    for key, field in model.model_fields.items():
        if (section := _section(field)) is not None:
            yield from sections(section, f"{name}.{key}" if name else key)


def settings(model: type[BaseModel]) -> Iterator[Setting]:
    """The fields of a class that are no sections."""
    for key, field in model.model_fields.items():
        if _section(field) is None:
            default = "required" if field.is_required() else f"`{_yaml(field.default)}`"
            yield Setting(key, describe_type(field), default, _cell(field.description or ""))


def describe_type(field: FieldInfo) -> str:
    """The type and range of a field in words, such as ``integer, 1 to 256``."""
    return _cell(_type(field.annotation, field.metadata))


def _type(annotation: Any, metadata: list[Any]) -> str:
    if hasattr(annotation, "__metadata__"):
        return _type(annotation.__origin__, [*annotation.__metadata__[0].metadata])
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{_yaml(value)}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join("`null`" if part is type(None) else _type(part, metadata) for part in inner)
    if origin is tuple:
        return f"list of {_type(inner[0], [])}".replace("number", "numbers").replace("integer", "integers")
    names = {bool: "`true`, `false`", int: "integer", float: "number", str: "text"}
    name = names.get(annotation, "mapping")
    return f"{name}{_range(metadata)}" if annotation in (int, float) else name


def _range(metadata: list[Any]) -> str:
    bounds = {
        name: getattr(item, name) for item in metadata for name in ("ge", "gt", "le", "lt") if hasattr(item, name)
    }
    low = f"{_number(bounds['ge'])}" if "ge" in bounds else f"above {_number(bounds['gt'])}" if "gt" in bounds else ""
    high = f"{_number(bounds['le'])}" if "le" in bounds else f"below {_number(bounds['lt'])}" if "lt" in bounds else ""
    if low and high:
        return f", {low} to {high}"
    if low:
        return f", {low if 'gt' in bounds else 'at least ' + low}"
    return f", {high if 'lt' in bounds else 'at most ' + high}" if high else ""


def _number(value: float) -> str:
    exponent = round(math.log2(value)) if value >= 2**31 else 0
    return f"2^{exponent}" if exponent and value == 2**exponent else f"{value}"


def _yaml(value: Any) -> str:
    plain = {None: "null", True: "true", False: "false"}
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return plain[value] if value is None or isinstance(value, bool) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _summary(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").partition("\n\n")[0].strip()


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _presets() -> str:
    """The settings of MoCrop in which its presets differ."""
    presets = {name: MoCropSettings.model_validate({"preset": name}) for name in ("default", "paper_v1", "paper_v2")}
    lines = ["\nThe presets differ in these settings:\n", f"| setting | {' | '.join(presets)} |", "|---|---|---|---|"]
    for key in MoCropSettings.model_fields:
        values = [_yaml(getattr(settings, key)) for settings in presets.values()]
        if key != "preset" and len(set(values)) > 1:
            lines.append(f"| `{key}` | {' | '.join(values)} |")
    return "\n".join(lines)
