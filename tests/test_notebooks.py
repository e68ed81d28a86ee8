"""The notebooks of the documentation run from top to bottom."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "docs/notebooks"
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.ipynb")))
def test_a_notebook_runs(name: str) -> None:
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    kept = [len(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}})
    client.execute()  # an error in a cell is raised
    made = [
        sum(output.output_type != "stream" or output.name == "stdout" for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    assert len(made) > 3
    assert [count > 0 for count in made] == [count > 0 for count in kept], "kept outputs are of another version"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_small_and_names_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) < 200_000
    here = {Path.home(), Path(tempfile.gettempdir()), FOLDER.parents[1], Path(sys.prefix)}
    for place in (*(f"{folder}/" for folder in here), "Traceback"):
        assert place not in text
