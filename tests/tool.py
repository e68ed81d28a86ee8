"""The commands, called in this process as a shell would call them: ``coviar``, and the files of ``tools/``."""

from __future__ import annotations

import io
import runpy
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from coviar_mocrop.__main__ import main

TOOLS = Path(__file__).parent.parent / "tools"


class Done(NamedTuple):
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def run_tool(name: str, *arguments: object, check: bool = True) -> Done:
    """Run ``tools/NAME.py``; unless ``check`` is False, it must succeed."""
    path = str(TOOLS / f"{name}.py")
    return _run([path, *map(str, arguments)], lambda: runpy.run_path(path, run_name="__main__"), check)


def run_coviar(*words: object, check: bool = True) -> Done:
    """Run ``coviar WORDS``; unless ``check`` is False, it must succeed."""
    return _run(["coviar", *map(str, words)], main, check)


def _run(command: list[str], call: Callable[[], object], check: bool) -> Done:
    out, errors, code = io.StringIO(), io.StringIO(), 0
    with patch.object(sys, "argv", command), redirect_stdout(out), redirect_stderr(errors):
        try:
            call()
        except SystemExit as end:
            code = int(end.code or 0)
    done = Done(code, out.getvalue(), errors.getvalue())
    assert not check or code == 0, done
    return done


def tool(name: str, *arguments: object, ok: bool = True) -> str:
    """Run ``tools/NAME.py``.

    Args:
        name: of the tool.
        arguments: of its command line.
        ok: whether it succeeds; else it must end in one line of error and exit code 2.

    Returns:
        What it printed to stdout, or its line of error.
    """
    return _said(run_tool(name, *arguments, check=ok), ok)


def coviar(*words: object, ok: bool = True) -> str:
    """Run ``coviar WORDS``; as :func:`tool`."""
    return _said(run_coviar(*words, check=ok), ok)


def _said(done: Done, ok: bool) -> str:
    if ok:
        return done.stdout
    assert done.returncode == 2, done
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done
    return lines[0]
