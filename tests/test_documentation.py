"""README and docs say what is there: settings, commands, links and code."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
import shlex
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from pydantic import Field

import coviar_mocrop
from coviar_mocrop import commands, config
from coviar_mocrop.base_config import BaseConfig

PROJECT = Path(__file__).parent.parent
PAGES = sorted(
    [
        *PROJECT.glob("*.md"),
        *PROJECT.glob("docs/**/*.md"),
        PROJECT / "data_lists/README.md",
    ]
)


def _load_generator() -> ModuleType:
    spec = spec_from_file_location("generate", PROJECT / "docs/generate.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    sys.modules["generate"] = module
    spec.loader.exec_module(module)
    return module


generate = _load_generator()


def config_classes(base: type[BaseConfig] = BaseConfig) -> Iterator[type[BaseConfig]]:
    """All classes of settings of the package."""
    for path in (PROJECT / "coviar_mocrop").rglob("*.py"):
        if "BaseConfig" in path.read_text(encoding="utf-8"):
            importlib.import_module(".".join(path.relative_to(PROJECT).with_suffix("").parts))
    for kind in base.__subclasses__():
        if kind.__module__.startswith("coviar_mocrop"):
            yield kind
            yield from config_classes(kind)


def without_range(kind: str) -> bool:
    """Whether a type in the words of the reference is a number of any size."""
    return re.search(r"\b(integer|number)s?\b(?!,)", kind) is not None


CLASSES = list(config_classes())


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_setting_is_described_and_every_number_has_a_range(kind: type[BaseConfig]) -> None:
    for name, field in kind.model_fields.items():
        text = field.description or ""
        assert re.match(r"[A-Z].*\.$", text), f"{kind.__name__}.{name}: {text!r} is no sentence"
        assert not without_range(generate.describe_type(field)), f"{kind.__name__}.{name}: a number without a range"


def test_a_number_without_a_range_is_found() -> None:
    class Example(BaseConfig):
        good: int | None = Field(1, ge=0)
        bad: float | None = 1.0
        worse: tuple[int, ...] = (1,)
        most: int = Field(1, le=9)
        less: float = Field(1, lt=9)

    kinds = {name: generate.describe_type(field) for name, field in Example.model_fields.items()}
    told = {"good": "integer, at least 0 or `null`", "bad": "number or `null`", "worse": "list of integers"}
    assert kinds == {**told, "most": "integer, at most 9", "less": "number, below 9"}
    assert [name for name, kind in kinds.items() if without_range(kind)] == ["bad", "worse"]


def on_the_site(page: Path) -> str:
    """A page as the site has it, Markdown."""
    docs = PROJECT / "docs"
    text = page.read_text(encoding="utf-8")
    if not page.is_relative_to(docs):
        return text
    uri = page.relative_to(docs).as_posix()
    completed: str = generate.on_page_markdown(text, page=SimpleNamespace(file=SimpleNamespace(src_uri=uri)))
    return completed


def test_pages_are_completed_on_the_site_and_say_so_elsewhere() -> None:
    reference = PROJECT / "docs/reference"
    for name, there in (("settings", "## mocrop"), ("commands", "## coviar watch"), ("lists", "## Format")):
        plain, page = (reference / f"{name}.md").read_text(encoding="utf-8"), on_the_site(reference / f"{name}.md")
        assert "`make docs` builds" in plain and "`make docs` builds" not in page
        assert f"\n{there}\n" in page and there not in plain
        assert page.startswith("# ") and page.count("\n# ") == 0
    assert on_the_site(reference / "mocrop.md") == (reference / "mocrop.md").read_text(encoding="utf-8")


def test_the_reference_holds_every_setting() -> None:
    page = generate.settings_page()
    sections = dict(generate.sections(config.Config))
    assert set(sections.values()) == set(CLASSES)
    for section, kind in sections.items():
        for row in generate.settings(kind):
            assert f"| `{f'{section}.{row.key}'.lstrip('.')}` | {row.kind} | {row.default} |" in page
    for default in ("`[1.0, 0.875, 0.75, 0.66]`", "`null`", "required", "above 0 to 1", "0 to below 2^63"):
        assert default in page


def test_the_reference_holds_every_command_and_option() -> None:
    page = generate.commands_page()
    for name in commands.NAMES:
        assert f"\n## coviar {name}\n" in page
        for action in commands.build_parser(name, f"coviar {name}")._actions:
            assert all(option in page for option in action.option_strings)


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def command_lines() -> Iterator[tuple[str, str]]:
    """Every line of README and docs that calls ``coviar``: (page, line)."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if re.search(r"(^|\s)(coviar|-m coviar_mocrop) ", line.partition("#")[0]):
                    yield str(page.relative_to(PROJECT)), line


def words_of(line: str) -> list[str]:
    """The words after ``coviar`` in a line of shell."""
    words = shlex.split(line, comments=True)
    first = next(at for at, word in enumerate(words) if word in ("coviar", "coviar_mocrop"))
    words = words[first + 1 :]
    return words[: next((at for at, word in enumerate(words) if word in ("|", ">", "&&")), len(words))]


@pytest.mark.parametrize(
    ("page", "line"),
    [
        pytest.param(page, line, marks=[pytest.mark.slow] if " benchmark " in line else [])  # they import everything
        for page, line in command_lines()
    ],
)
def test_every_command_that_is_printed_is_understood(page: str, line: str) -> None:
    words = words_of(line)
    name = words.pop(0)
    if name.startswith("-"):
        return
    given = commands.build_parser(name, f"coviar {name}").parse_args(words)
    if name == "benchmark":  # its options are added when it runs
        parser = argparse.ArgumentParser()
        importlib.import_module(f"benchmarks.{given.name}").add_arguments(parser)
        parser.add_argument("--json")
        parser.parse_args(given.options)
    settings = getattr(given, "config", None)
    if settings and "difference" not in settings:  # which the page has its reader write
        one = [given.streams] if isinstance(given.streams, str) else given.streams
        assert config.load_configs(settings, one, given.set)


def test_commands_are_found_in_the_pages() -> None:
    found = [words_of(line)[0] for _, line in command_lines()]
    assert {"prepare", "train", "test", "fuse", "show", "predict", "watch", "export"} <= set(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_python_on_a_page_uses_what_is_there(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("coviar_mocrop"):
                module: Any = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            heads = re.findall(r"^#+ (.*)$", on_the_site(file), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads]
            assert anchor in slugs, target


def test_the_readme_is_short_and_its_picture_is_there() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert "](docs/crop.png)" in text


def test_the_contract_is_documented() -> None:
    page = (PROJECT / "docs/reference/api.md").read_text(encoding="utf-8")
    for name in coviar_mocrop.__all__:
        assert re.search(rf"^::: coviar_mocrop\.[\w.]*\b{name}$", page, re.MULTILINE), name
        assert inspect.getdoc(getattr(coviar_mocrop, name))
