"""The commands of ``tools/``, called in this process as a shell would call them."""

from __future__ import annotations

import io
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

TOOLS = Path(__file__).parent.parent / "tools"


class Done(NamedTuple):
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def run_tool(name: str, *arguments: object, check: bool = True) -> Done:
    """Run ``tools/NAME.py``; unless ``check`` is False, it must succeed."""
    path = str(TOOLS / f"{name}.py")
    out, errors, code = io.StringIO(), io.StringIO(), 0
    with (
        patch.object(sys, "argv", [path, *map(str, arguments)]),
        redirect_stdout(out),
        redirect_stderr(errors),
    ):
        try:
            runpy.run_path(path, run_name="__main__")
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
    done = run_tool(name, *arguments, check=ok)
    if ok:
        return done.stdout
    assert done.returncode == 2, done
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done
    return lines[0]
