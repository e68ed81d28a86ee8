"""Running the commands of tools/ in the test's own process, which saves their start."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

TOOLS = Path(__file__).parent.parent / "tools"


class Done(NamedTuple):
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


def command_runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs ``tools/<name>`` with arguments; unless ``check=False``, the command must succeed."""

    def run(name: str, *arguments: Any, check: bool = True) -> Done:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        code: Any = 0
        try:
            runpy.run_path(str(TOOLS / name), run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        done = Done(code, *capsys.readouterr())
        assert not check or done.returncode == 0, done
        return done

    return run
