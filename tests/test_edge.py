"""A small installation, as a camera box has it: no PyTorch, under 500 MB, and all that prediction needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from clips import record, wandering
from small_streams import write_streams

from coviar_mocrop.inference.export import export_run
from coviar_mocrop.inference.predictor import Predictor

pytestmark = pytest.mark.slow  # installs packages
ROOT = Path(__file__).parent.parent
MOST_BYTES = 500e6


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a virtual environment, made by the two commands of requirements-edge.txt."""
    folder = tmp_path_factory.mktemp("edge") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    source = folder.parent / "source"  # a copy, as building leaves files behind
    kept = shutil.ignore_patterns(".*", "runs", "data", "build", "*.egg-info", "docs", "tests")
    shutil.copytree(ROOT, source, ignore=kept)
    for words in (["--no-deps", source], ["-r", ROOT / "requirements-edge.txt"]):
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", *words], check=True)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    checkpoints = write_streams(folder, ["run", "sit", "jump"])
    export_run(checkpoints, folder / "exported", ["onnx"])
    return folder


def test_it_is_small(small: Path) -> None:
    size = sum(path.stat().st_size for path in small.rglob("*") if path.is_file() and not path.is_symlink())
    assert size < MOST_BYTES, f"{size / 1e6:.0f} MB"
    assert not list(small.rglob("site-packages/torch"))


def test_it_shows_predicts_and_watches(small: Path, exported: Path, tmp_path: Path) -> None:
    clip = record(wandering(100, 96, 64, 5, seed=3), tmp_path / "clip.mp4")

    def coviar(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = list(map(str, [small / "bin/coviar", *words]))
        environment = {**os.environ, "PYTHONPATH": ""}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
        assert done.returncode == code, done
        return done

    assert "predict" in coviar("--help").stdout
    coviar("show", clip, "--output", "show.png")
    assert (tmp_path / "show.png").stat().st_size > 1000
    done = coviar("predict", clip, "--onnx", exported / "exported", "--output", "clip.png", "--json")
    expected = Predictor([exported / f"{name}.pt" for name in ("iframe", "mv", "residual")])(clip)
    assert json.loads(done.stdout)["class"] == expected.best(1)[0][0]
    assert json.loads(done.stdout)["top"][0]["probability"] == pytest.approx(expected.best(1)[0][1], abs=1e-4)
    seen = coviar("watch", clip, "--onnx", exported / "exported", "--timeline", "time.png", "--csv", "seen.csv")
    assert "3 windows" in seen.stderr and (tmp_path / "time.png").exists()
    told = coviar("train", "--config", "demo", code=2).stderr
    assert told.count("\n") == 1 and "pip install" in told
