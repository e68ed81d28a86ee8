"""docs/howto/adding_a_stream.md to the letter: one new file, and a stream is trained, tested, fused and used."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demo import BACKBONE, demo_settings
from tool import run_coviar

from coviar_mocrop import streams
from coviar_mocrop.bitstream import Gop, open_video
from coviar_mocrop.clips.reader import read_streams
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.demo import make_demo
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.inference.predictor import Predictor
from coviar_mocrop.scores import load_scores
from coviar_mocrop.streams import base
from coviar_mocrop.streams.mv import MotionStream

PROJECT = Path(__file__).parent.parent
PAGE = (PROJECT / "docs/howto/adding_a_stream.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The page's only code block in a language."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(text)


@pytest.fixture(autouse=True)
def _forget_new_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    base.stream_names()
    monkeypatch.setattr(base, "_registry", dict(base._registry))
    for name in ("coviar_mocrop.streams.difference", "my_package.difference"):
        monkeypatch.setitem(sys.modules, name, None)  # so that what the test imports is taken out again
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's file, in a folder that is searched like coviar_mocrop/streams."""
    folder = tmp_path / "streams"
    folder.mkdir()
    (folder / "difference.py").write_text(block("python"))
    monkeypatch.setattr(streams, "__path__", [*streams.__path__, str(folder)])


@pytest.mark.usefixtures("difference", "no_figures", "small_clips")
def test_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def follow(line: str, *more: str) -> str:
        command, *words = shlex.split(line)
        assert command == "coviar"
        return run_coviar(*words, *more).stdout

    before = base.stream_class("mv")
    assert base.stream_names()[-1] == "difference"
    make_demo(tmp_path / "data/demo", tmp_path / "data_lists/demo", train_clips=4, test_clips=4, progress=False)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/demo.yaml").write_bytes((PROJECT / "configs/demo.yaml").read_bytes())
    (tmp_path / "configs/difference.yaml").write_text(block("yaml"))
    monkeypatch.chdir(tmp_path)
    prepare, train, test, fuse, predict = block("sh").splitlines()
    assert prepare == "coviar prepare demo"  # done above, with fewer clips
    clip = tmp_path / predict.split()[2]  # one that there is with as many clips as the page makes
    clip.write_bytes(next((tmp_path / "data/demo").rglob("*.mp4")).read_bytes())
    small = ["input.full_size=48", "data.workers=0", "train.epochs=1", "train.batch_size=4", "train.precision=fp32"]
    small.append(f"model.backbone={BACKBONE}")
    follow(train, "--set", *small)
    assert (tmp_path / "runs/difference/difference/best.pt").exists()
    follow(test)
    follow(fuse)
    table = json.loads((tmp_path / "runs/difference/fused/results.json").read_text())["settings"]["attention"]
    assert set(table["streams"]) == {"difference", "mv"}
    assert table["streams"]["difference"]["gflops_per_clip"] > table["streams"]["mv"]["gflops_per_clip"] > 0
    alone = load_scores(tmp_path / "runs/difference/alone.npz")
    together = load_scores(tmp_path / "runs/difference/fused/scores/difference_attention.npz")
    np.testing.assert_array_equal(alone.scores, together.scores)
    assert np.ptp(alone.scores, axis=0).max() > 0
    assert set(json.loads(follow(predict, "--json"))["streams"]) == {"difference", "mv"}
    prediction = Predictor(["runs/difference"])(clip)
    fused = (prediction.scores["difference"] + prediction.scores["mv"]) / 2
    np.testing.assert_allclose(prediction.scores["fused"], fused, rtol=1e-6)
    assert base.stream_class("mv") is before


@pytest.mark.usefixtures("difference")
def test_the_stream_sees_what_the_page_says(tmp_path: Path) -> None:
    make_demo(tmp_path / "videos", tmp_path / "lists", train_clips=1, test_clips=1, progress=False)
    changes: dict[str, Any] = {"stream": "difference", "input": {"full_size": 32, "test_segments": 4}}
    config = Config.model_validate(demo_settings(tmp_path, tmp_path / "run", **changes))
    stream = base.create_stream(config, ("a", "b"), weights=True)
    with open_video(next((tmp_path / "videos").rglob("*.mp4"))) as video:
        (view,) = stream.views(video.info.num_frames, video.gops).values()
        read, _ = read_streams(video, [stream], None)
    assert view.frames == [0, 12, 0, 12, 12, 24, 24, 36]  # 4 GOPs of 12
    pixels = read["difference"].pixels["frames"].astype(np.float32)[0]
    inputs = stream.encode(read["difference"])[0, 0]
    assert torch.equal(inputs, torch.from_numpy(pixels[1::2] / 255 - pixels[::2] / 255))
    assert inputs[0].abs().max() > 0.1
    (single,) = stream.views(7, [Gop(0, 7)]).values()
    assert single.frames == [0] * 8


def test_another_package_brings_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group, line = re.findall(r'entry-points\."(.*)"\]\n(.*)\n', block("toml"))[0]
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/__init__.py").touch()
    (tmp_path / "my_package/difference.py").write_text(block("python"))
    (tmp_path / "my_package-1.0.dist-info").mkdir()
    (tmp_path / "my_package-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1\n")
    entry = line.replace('"', "")
    (tmp_path / "my_package-1.0.dist-info/entry_points.txt").write_text(f"[{group}]\n{entry}\n")
    assert "difference" not in base.stream_names()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "difference" in base.stream_names()
    assert base.stream_class("difference").__module__ == "my_package.difference"


def test_a_name_is_taken_once() -> None:
    assert base.register(MotionStream) is MotionStream  # imported anew, for example
    with pytest.raises(ConfigError, match=r"'mv' is defined twice, in coviar_mocrop\.streams\.mv and .*; rename"):
        base.register(type("OtherStream", (MotionStream,), {}))


def test_an_unknown_stream_is_told() -> None:
    with pytest.raises(ConfigError, match="did you mean residual"):
        base.stream_class("residuals")
    with pytest.raises(ConfigError, match="choose from clip, iframe, mv, residual, zero_shot"):
        base.stream_class("difference")
