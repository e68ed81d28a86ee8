"""A MotionSqueeze stream from end to end: trained, tested, predicted with, and its motion shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import record, sliding
from demo import demo_settings
from matplotlib.image import imread
from tool import run_tool

from benchmarks import squeeze
from coviar_mocrop.bitstream import open_video
from coviar_mocrop.checkpoint import load_checkpoint
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.demo import make_demo
from coviar_mocrop.errors import ConfigError, ModelError
from coviar_mocrop.flops import count_flops
from coviar_mocrop.inference.predictor import Predictor
from coviar_mocrop.inference.testing import load_stream, score_checkpoint
from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.streams.base import Stream, create_stream
from coviar_mocrop.training.trainer import train
from coviar_mocrop.viz.show import inspect_motion, log_pictures


def stream_of(name: str = "iframe", **model: Any) -> Stream:
    inputs: dict[str, Any] = {"segments": 4, "test_segments": 4, "stride": 3, "full_size": 64}
    if name == "iframe":
        inputs["frames"] = "decoded"
    config = Config.model_validate({"stream": name, "data": {"classes": "none"}, "input": inputs, "model": model})
    return create_stream(config, ["run", "sit", "walk"], weights=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder / "videos", folder / "lists", train_clips=8, test_clips=8, progress=False)
    return folder


def config_of(demo: Path, output: Path) -> Config:
    settings = demo_settings(
        demo,
        output,
        stream="iframe",
        setting="attention",
        input={"segments": 3, "test_segments": 3, "frames": "decoded", "stride": 4, "full_size": 48},
        model={"motion_squeeze": True, "temporal": "shift"},
        train={"epochs": 2, "batch_size": 4, "precision": "fp32", "device": "cpu", "optimizer": "sgd", "momentum": 0},
    )
    return Config.model_validate(settings)


@pytest.fixture(scope="module")
def trained(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train({"iframe": config_of(demo, tmp_path_factory.mktemp("run"))}, draw=log_pictures)["iframe"]


@pytest.mark.slow  # a long training
def test_training_learns_the_module_and_shows_its_motion(demo: Path, trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained.parent), size_guidance={"images": 0}).Reload()
    tags = [tag for tag in events.Tags()["images"] if tag.startswith("displacement/")]
    assert len(tags) == 2
    assert [image.step for image in events.Images(tags[0])] == [1, 2]
    torch.manual_seed(0)
    fresh = create_stream(config_of(demo, trained.parent), list("abcdefgh"), weights=True).network.state_dict()
    learned = load_checkpoint(trained)["model"]
    assert learned.keys() == fresh.keys()
    name = "motion_squeeze.reduce.0.weight"
    assert not torch.equal(learned[name], fresh[name])


@pytest.mark.slow  # a long training
def test_scores_carry_the_cost_of_whole_clips_and_predictions_agree(demo: Path, trained: Path) -> None:
    scores = score_checkpoint(trained, ["input.test_crops=10"])
    clip = count_flops(load_stream(trained).network, (1, 3, 3, 48, 48))
    assert scores.settings["gflops_per_frame"] == clip // 3 / 1e9
    assert scores.settings["gflops_per_clip"] == pytest.approx(10 * clip / 1e9, rel=1e-6)
    prediction = Predictor([trained], ["input.test_crops=10"])(demo / "videos" / scores.names[2])
    np.testing.assert_allclose(prediction.scores["iframe"], scores.scores[2], atol=1e-4)


def test_the_codecs_motion_is_the_clips(tmp_path: Path) -> None:
    """Everything slides by (3, -2) a frame, so by three times that a step of three frames."""
    path = record(sliding(24, 96, 64, (3, -2)), tmp_path / "slide.mp4", gop=24)
    stream = stream_of(motion_squeeze=True)
    stream.network.train()
    with open_video(path) as video:
        view = inspect_motion(video, stream, CropBox(0.25, 0.25, 0.75, 0.75))
    assert stream.network.training
    assert view.numbers == [7, 10, 13, 16]
    assert view.frames.shape == (4, 64, 64, 3)
    assert view.displacement.shape == (3, 8, 8, 2)
    assert view.confidence.shape == (3, 8, 8)
    assert view.codec.shape == (3, 32, 48, 2)
    middle = np.median(view.codec[:, 8:-8, 8:-8].reshape(-1, 2), axis=0)
    assert middle.tolist() == pytest.approx([9, -6], abs=1)
    # a cell of the crop is 6 x 4 pixels, and none goes farther than the window reaches
    assert np.abs(view.displacement[..., 0]).max() <= 7 * 6 + 1e-3
    assert np.abs(view.displacement[..., 1]).max() <= 7 * 4 + 1e-3
    assert len(view.figure("a clip").axes) == 12


def test_any_stream_with_the_module_shows_its_motion(tmp_path: Path) -> None:
    path = record(sliding(24, 96, 64, (3, -2)), tmp_path / "slide.mp4", gop=24)
    with open_video(path) as video:
        view = inspect_motion(video, stream_of("mv", motion_squeeze=True))
        assert (view.frames.shape, view.numbers) == ((4, 64, 64, 3), [7, 10, 13, 16])
        with pytest.raises(ModelError, match="motion_squeeze=true"):
            inspect_motion(video, stream_of())


@pytest.mark.slow  # a long training
def test_show_crop_writes_the_motion_beside_the_box(demo: Path, trained: Path, tmp_path: Path) -> None:
    clip = next((demo / "videos").rglob("*.mp4"))
    done = run_tool("show_crop", clip, "--output", tmp_path / "crop.png", "--checkpoint", trained)
    assert "crop_motion.png: 2 steps" in done.stdout
    assert imread(tmp_path / "crop_motion.png").std() > 0.1


@pytest.mark.slow
def test_benchmark_measures_both_forms_and_marks_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"pairs on 4 x 4 cells does not run here: .*nowhere") as caught:
        squeeze.run_cases([4], device="nowhere")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(squeeze, "_elsewhere", lambda wanted, environment=None: squeeze._measured(wanted))
    report = squeeze.run_cases([4, 12], channels=8, window=3, frames=2, repeats=1)
    rows = [(row["side"], row["form"], row["default"]) for row in report["cases"]]
    assert rows == [(4, "pairs", True), (4, "window", False), (12, "pairs", False), (12, "window", True)]
    assert all(row["milliseconds"] > 0 for row in report["cases"])
    assert "| 4 x 4 | **pairs** |" in squeeze.markdown(report)
    for wrong in ({"window": 4}, {"frames": 1}, {"sides": [0]}):
        with pytest.raises(ConfigError, match=next(iter(wrong)).rstrip("s")):
            squeeze.run_cases(**{"sides": [4], **wrong})  # type: ignore[arg-type]
