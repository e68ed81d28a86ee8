"""The subcommands of ``coviar``. Each is a module of one shape.

- The docstring says in its first line what the command does, and then what comes out. ``coviar --help`` shows the
  first line, ``coviar COMMAND --help`` all of it.
- ``EXAMPLES`` are command lines, which stand at the end of ``--help``.
- ``add_arguments(parser)`` adds the options.
- ``main(given)`` does the work. ``given.words`` are the words of the command line after the command's name.

What takes long to import (torch, torchvision, numpy, PyAV, matplotlib, pydantic) is imported in the functions that use
it, after the command line is parsed. So ``--help`` answers at once, and a mistake in the command line is told at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from coviar_mocrop.cli import parser, run

NAMES = (
    "demo",
    "prepare",
    "train",
    "test",
    "fuse",
    "predict",
    "watch",
    "show",
    "export",
    "import",
    "compute",
    "benchmark",
)
"""The subcommands, in the order in which people use them."""
_MODULES = {"import": "import_weights"}  # a module cannot be called import


def load(name: str) -> ModuleType:
    """The module of a subcommand. ``prepare boxes`` is ``prepare_boxes``."""
    return import_module(f"{__name__}.{_MODULES.get(name, name.replace(' ', '_'))}")


def summary(module: ModuleType) -> str:
    """What the command does, in one line."""
    return (module.__doc__ or "").partition("\n")[0]


def description(module: ModuleType) -> str:
    """What the command does and what comes out, for ``--help``."""
    return (module.__doc__ or "").strip()


def build_parser(name: str, program: str) -> argparse.ArgumentParser:
    """The arguments of a subcommand.

    Args:
        name: as for :func:`load`.
        program: what was called, for the line ``usage:``.
    """
    module = load(name)
    arguments = parser(description(module), module.EXAMPLES, program)
    module.add_arguments(arguments)
    return arguments


def run_command(name: str, words: Sequence[str], program: str) -> None:
    """Parse the command line of a subcommand and run it.

    Args:
        name: as for :func:`load`.
        words: the command line after the name.
        program: what was called, for the line ``usage:``.
    """

    def parse_and_run() -> None:
        given = build_parser(name, program).parse_args(words)
        given.words = list(words)
        load(name).main(given)

    run(parse_and_run)


def run_tool(name: str) -> None:
    """Run a subcommand for the file of ``tools/`` that stands for it."""
    run_command(name, sys.argv[1:], f"python {sys.argv[0]}")
