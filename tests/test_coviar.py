"""The command ``coviar``: its subcommands, what they cost before they run, and the files that come with the package."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from clips import record, sliding
from tool import coviar, run_coviar

import coviar_mocrop
from coviar_mocrop.bitstream.transcode import CANONICAL_SIZE
from coviar_mocrop.clips.lists import Part
from coviar_mocrop.commands import NAMES, benchmark, build_parser, load, prepare
from coviar_mocrop.config import load_config, load_configs
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.inference import export
from coviar_mocrop.mocrop import MoCropSettings
from coviar_mocrop.mocrop.density import GATE
from coviar_mocrop.networks.prompts import read_prompts
from coviar_mocrop.shipped import find_config, shipped

ALL = (*(name for name in NAMES if name != "prepare"), *(f"prepare {kind}" for kind in prepare.KINDS))
HEAVY = ("torch", "torchvision", "av", "matplotlib", "numba", "numpy", "pydantic", "tqdm")


def python(code: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh Python."""
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)


def test_the_overview_has_a_line_for_each_command() -> None:
    said = coviar()
    assert said == coviar("--help") == coviar("-h")
    assert re.findall(r"^  ([a-z]+) +[A-Z].*\.$", said, re.MULTILINE) == list(NAMES)
    assert coviar("--version") == f"coviar_mocrop {coviar_mocrop.__version__}\n"


def test_an_unknown_command_is_told_in_one_line() -> None:
    assert coviar("trian", ok=False) == "error: no command 'trian'; did you mean 'train'?"
    assert coviar("zzz", ok=False) == f"error: no command 'zzz'; there are {', '.join(NAMES)}"


@pytest.mark.parametrize("name", ALL)
def test_help_says_what_is_done_and_shows_examples(name: str) -> None:
    said = coviar(*name.split(), "--help")
    assert said.startswith(f"usage: coviar {name} ")
    assert (load(name).__doc__ or "?").splitlines()[0] in said
    assert f"coviar {name} " in said[said.index("examples:") :] or f"coviar {name}\n" in said


def test_help_waits_for_nothing() -> None:
    """No parser imports what takes long, so that a mistake in the command line is told at once, too."""
    code = f"""\
import sys
from coviar_mocrop.__main__ import overview
from coviar_mocrop.commands import build_parser
overview("coviar")
for name in {ALL}:
    build_parser(name, "coviar").format_help()
print(*(name for name in {HEAVY} if name in sys.modules))"""
    done = python(code)
    assert (done.returncode, done.stdout.split()) == (0, []), done


def test_what_parsers_repeat_is_what_the_package_means() -> None:
    def options(name: str) -> dict[str, argparse.Action]:
        return {action.dest: action for action in build_parser(name, "coviar")._actions}

    assert options("watch")["gate"].default == GATE
    assert options("prepare transcode")["size"].default == CANONICAL_SIZE
    assert options("prepare boxes")["part"].choices == options("prepare features")["part"].choices == get_args(Part)
    assert set(options("export")["format"].choices or ()) == set(export.FORMATS)
    assert f"(default: {MoCropSettings().area_ratio})" in str(options("show")["area_ratio"].help)


def test_benchmarks_need_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_CLONE", tmp_path)
    for command in (("benchmark",), ("benchmark", "reading", "clip.mp4"), ("compute",)):
        assert "not installed with the package; clone the project" in coviar(*command, ok=False)


def test_options_of_a_benchmark_are_its_own() -> None:
    said = coviar("benchmark", "scale", "--help")
    assert said.startswith("usage: coviar benchmark scale ")
    assert "--entries" in said and "--json" in said
    assert run_coviar("benchmark", "raeding", check=False).returncode == 2


# -- without torch ---------------------------------------------------------------------------------------

_WITHOUT = """\
import sys

class Missing:
    def find_spec(self, name, *others):
        if name.partition(".")[0] in ("torch", "torchvision", "tensorboard"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


def coviar_without_torch(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``coviar WORDS`` in ``folder`` as on a machine that has no torch, torchvision or tensorboard."""
    code = f"{_WITHOUT}sys.argv = {['coviar', *words]}\nfrom coviar_mocrop.__main__ import main\nmain()"
    return python(code, cwd=folder)


@pytest.mark.slow  # a process of its own
def test_a_box_is_shown_without_torch(tmp_path: Path) -> None:
    record(sliding(30, 96, 64, (2, 0)), tmp_path / "clip.mp4")
    done = coviar_without_torch(tmp_path, "show", "clip.mp4", "--video", "box.mp4")
    assert done.returncode == 0, done
    assert done.stdout.startswith("box: x 0.") and "wrote box.mp4: 30 frames" in done.stdout
    assert (tmp_path / "clip_crop.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "words", [["train", "--config", "demo"], ["test", "--checkpoint", "best.pt", "--scores", "s.npz"]]
)
def test_without_torch_one_line_says_what_is_missing(tmp_path: Path, words: list[str]) -> None:
    done = coviar_without_torch(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"error: this needs (torch|tqdm|tensorboard), which is not installed; pip install \S.* installs it\n",
        done.stderr,
    )


# -- files that come with the package --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["demo", "demo.yaml", "configs/demo.yaml", "configs/demo", "recipes/coviar.yaml"])
def test_settings_are_found_from_any_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = shipped("configs") / ("recipes/coviar.yaml" if "coviar" in name else "demo.yaml")
    assert find_config(name) == expected
    assert expected.is_file()


def test_the_working_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # a folder is no file of settings
    assert find_config("demo") == shipped("configs") / "demo.yaml"
    (tmp_path / "configs").mkdir()
    Path("configs/demo.yaml").touch()
    assert (
        find_config("demo") == find_config("demo.yaml") == find_config("configs/demo.yaml") == Path("configs/demo.yaml")
    )
    Path("demo.yaml").touch()
    assert find_config("demo") == find_config("demo.yaml") == Path("demo.yaml")
    assert find_config(tmp_path / "none.yaml") == tmp_path / "none.yaml"


def test_settings_of_ones_own_build_on_those_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("base: demo\nseed: 3\n")
    configs = load_configs("mine", ["iframe", "mv"])
    plain = load_configs("demo", ["iframe", "mv"])
    assert {name: c.model_copy(update={"seed": 0}) for name, c in configs.items()} == plain
    assert {c.seed for c in configs.values()} == {3}


def test_prompts_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = (shipped("data_lists") / "ucf101/classes.txt").read_text().split()
    expected = read_prompts(shipped("configs") / "prompts/ucf101.yaml", classes)
    monkeypatch.chdir(tmp_path)
    prompts = load_config("ucf101", stream="zero_shot").clip.prompts
    assert prompts is not None
    assert read_prompts(prompts, classes) == expected != read_prompts(None, classes)
    with pytest.raises(ConfigError, match=r"none: no such prompt file.* prompts/hmdb51\.yaml, prompts/ucf101\.yaml"):
        read_prompts("none", classes)


def test_a_wrong_name_lists_what_there_is() -> None:
    done = run_coviar("train", "--config", "fodler", check=False)
    assert done.stderr == (
        "error: fodler: no such configuration file; did you mean 'folder'? "
        "With the package come demo, folder, hmdb51, kinetics400, kinetics600, kinetics700, ssv1, ssv2, ucf101\n"
    )
