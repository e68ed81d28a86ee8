"""The commands of ``tools/``, called in this process as a shell would call them."""

from __future__ import annotations

import importlib.util
import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from coviar_mocrop.cli import run

TOOLS = Path(__file__).parent.parent / "tools"


def tool(name: str, *arguments: object, ok: bool = True) -> str:
    """Run ``tools/NAME.py``.

    Args:
        name: of the tool.
        arguments: of its command line.
        ok: whether it succeeds; else it must end in one line of error and exit code 2.

    Returns:
        What it printed to stdout, or its line of error.
    """
    path = TOOLS / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"tools_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out, errors, code = io.StringIO(), io.StringIO(), 0
    with (
        patch.object(sys, "argv", [str(path), *map(str, arguments)]),
        redirect_stdout(out),
        redirect_stderr(errors),
    ):
        try:
            run(module.main)
        except SystemExit as end:
            code = int(end.code or 0)
    if ok:
        assert code == 0, errors.getvalue()
        return out.getvalue()
    assert code == 2, (out.getvalue(), errors.getvalue())
    lines = [line for line in errors.getvalue().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, errors.getvalue()
    return lines[0]
