"""What ``import coviar_mocrop`` offers, and what it costs."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from clips import record, sliding

import coviar_mocrop
from coviar_mocrop.messages import pip_install

NAMES = ("open_video", "load_clip", "estimate_box", "CropBox", "MoCropSettings", "Predictor")


def heavy_modules_after(code: str) -> set[str]:
    """Those of torch and numpy that a fresh Python has loaded after ``code``."""
    report = "import sys; print(*(name for name in ('torch', 'numpy') if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_contract_is_offered() -> None:
    assert sorted(NAMES) == sorted(coviar_mocrop.__all__)
    assert set(NAMES) <= set(dir(coviar_mocrop))
    for name in NAMES:
        assert getattr(coviar_mocrop, name).__name__ == name
    assert coviar_mocrop.Predictor is vars(coviar_mocrop)["Predictor"]
    with pytest.raises(AttributeError, match="module 'coviar_mocrop' has no attribute 'predictor'"):
        _ = coviar_mocrop.predictor
    with pytest.raises(ImportError, match="cannot import name 'open_clip'"):
        exec("from coviar_mocrop import open_clip")


def test_the_contract_names_its_arguments() -> None:
    from coviar_mocrop.flops import count_flops
    from coviar_mocrop.mocrop import best_rectangle

    for function, names in {
        coviar_mocrop.open_video: "source backend anchor_every",
        coviar_mocrop.load_clip: "path streams segments size box",
        coviar_mocrop.estimate_box: "vectors frame_size settings",
        coviar_mocrop.CropBox: "x0 y0 x1 y1",
        best_rectangle: "density area_ratio tolerance objective",
        count_flops: "module input_shape",
    }.items():
        assert list(inspect.signature(function).parameters)[: len(names.split())] == names.split(), function


def test_the_package_by_itself_loads_nothing() -> None:
    assert heavy_modules_after("import coviar_mocrop; dir(coviar_mocrop)") == set()


@pytest.mark.slow  # processes of their own
def test_reading_videos_needs_no_torch(tmp_path: Path) -> None:
    clip = record(sliding(14, 64, 48, (1, 0)), tmp_path / "clip.mp4")
    names = ", ".join(name for name in NAMES if name != "Predictor")
    modules = "coviar_mocrop.bitstream, coviar_mocrop.mocrop, coviar_mocrop.clips.reader, coviar_mocrop.clips.resize"
    code = f"import {modules}\nfrom coviar_mocrop import {names}\nload_clip({str(clip)!r}, size=32, box='mocrop')"
    assert heavy_modules_after(code) == {"numpy"}
    backend = "coviar_mocrop.inference.onnx_backend, coviar_mocrop.inference.watching"
    assert heavy_modules_after(f"import {backend}; coviar_mocrop.Predictor") == {"numpy"}  # torch with checkpoints


@pytest.mark.parametrize(
    ("origin", "extra", "plain"),
    [
        (None, "pip install 'coviar_mocrop[clip]'", "pip install coviar_mocrop"),
        (
            {"url": "file:///a%20b/clone", "dir_info": {"editable": True}},
            *("pip install -e '/a b/clone[clip]'", "pip install -e '/a b/clone'"),
        ),
        ({"url": "file:///clone", "dir_info": {}}, "pip install '/clone[clip]'", "pip install /clone"),
    ],
)
def test_an_extra_is_installed_from_where_the_package_came(
    origin: dict[str, Any] | None, extra: str, plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [SimpleNamespace(read_text=lambda name, text=text: text) for text in (None, origin and json.dumps(origin))]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda name: found)
    monkeypatch.setattr("coviar_mocrop.messages.__file__", "/site-packages/coviar_mocrop/messages.py")
    assert (pip_install("clip"), pip_install()) == (extra, plain)


def test_a_clone_that_is_not_installed_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "distributions", lambda name: [])
    clone = Path(coviar_mocrop.__file__).parents[1]
    assert pip_install("export") == f"pip install -e '{clone}[export]'"
