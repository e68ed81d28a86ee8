"""What the package needs of the operating system, tried with the parts taken away that Windows lacks."""

from __future__ import annotations

import os
import pkgutil
import runpy
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from clips import every_frame, record, wandering

import coviar_mocrop
from coviar_mocrop.files import write_text

ROOT = Path(__file__).parent.parent
MODULES = ("fcntl", "grp", "pwd", "resource", "termios")
SIGNALS = ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2")
FUNCTIONS = ("fork", "getpgid", "getuid", "killpg", "register_at_fork", "sched_getaffinity", "setsid")


def modules_of_the_package() -> list[str]:
    return [item.name for item in pkgutil.walk_packages(coviar_mocrop.__path__, "coviar_mocrop.")]


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Without the modules, signals and functions that Windows lacks, and with the package not imported yet."""
    names = modules_of_the_package()
    for name in names:  # what other packages need of the system, they have found by now
        import_module(name)
    loaded = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "coviar_mocrop"}
    for name in loaded:
        del sys.modules[name]
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    for name in SIGNALS:
        monkeypatch.delattr(signal, name)
    for name in FUNCTIONS:
        monkeypatch.delattr(os, name)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "coviar_mocrop"]:
        del sys.modules[name]
    sys.modules.update(loaded)


def fresh(name: str) -> ModuleType:
    """A module of the package, imported anew."""
    module = import_module(name)
    assert module is not coviar_mocrop
    return module


def test_every_module_can_be_imported(windows: None) -> None:
    names = modules_of_the_package()
    assert len(names) > 50
    for name in names:
        fresh(name)


@pytest.mark.parametrize("tool", sorted(path.name for path in (ROOT / "tools").glob("*.py")))
def test_every_tool_can_be_imported(windows: None, tool: str) -> None:
    runpy.run_path(str(ROOT / "tools" / tool), run_name="imported")


def test_reading_a_video(windows: None, tmp_path: Path) -> None:
    path = record(wandering(6, 64, 48, 3), tmp_path / "clip.mp4")
    with fresh("coviar_mocrop.bitstream").open_video(path, index_cache=tmp_path / "cache") as video:
        assert len(video.get_motion_at(every_frame(video))) == 6


def test_loading_and_measuring(windows: None) -> None:
    fresh("coviar_mocrop.clips.loading")._look_for_the_dead_in_next(SimpleNamespace(num_workers=2))
    assert fresh("coviar_mocrop.training.dry_run")._memory(torch.device("cpu")) == "not measured on this system"


def test_files_are_synchronised_on_a_handle_that_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to synchronise any other."""
    synchronised: list[int] = []

    def fsync(handle: int) -> None:
        synchronised.append(os.write(handle, b""))  # fails on a handle that is open for reading alone

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "a.txt", "text")
    assert (tmp_path / "a.txt").read_text() == "text"
    assert synchronised == [0]
