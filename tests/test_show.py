"""Pictures and predictions: written, whole, and the same numbers as testing gives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from clips import record, wandering
from matplotlib.image import imread

from coviar_mocrop.bitstream import transcode
from coviar_mocrop.checkpoint import save_checkpoint
from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.config import build_config
from coviar_mocrop.datasets.lists import Clip, VideoList
from coviar_mocrop.datasets.transcoding import find_videos
from coviar_mocrop.errors import CheckpointError, ConfigError, DataError, ScoreError
from coviar_mocrop.files import write_json
from coviar_mocrop.inference.predictor import Predictor
from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.networks.stream_net import create_stream
from coviar_mocrop.viz.crop_picture import dim_outside, flow_colours, short_name, visible
from coviar_mocrop.viz.crop_view import look_at, write_annotated

TOOLS = Path(__file__).parent.parent / "tools"
CLASSES = ("run", "sit", "walk")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(wandering(20, 96, 64, 5, seed=3), tmp_path_factory.mktemp("clips") / "clip.mp4")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    torch.manual_seed(0)
    folder, written = tmp_path_factory.mktemp("streams"), []
    for kind in ("iframe", "mv", "residual"):
        config = build_config(
            {
                "stream": kind,
                "setting": "attention",
                "data": {"classes": "none"},
                "input": {"full_size": 32, "reduced_size": 32, "test_segments": 3},
                "train": {"device": "cpu", "precision": "fp32"},
            },
            [],
            "test",
        )
        model = create_stream(kind, len(CLASSES), config.model)  # type: ignore[arg-type]
        written.append(folder / f"{kind}.pt")
        content = {"model": model.state_dict(), "config": config.model_dump(mode="json"), "classes": list(CLASSES)}
        save_checkpoint(written[-1], content)
    return written


def run(tool: str, *arguments: Any, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / tool), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=check)


def test_flow_colours_tell_direction_and_length() -> None:
    right, left, still, far = flow_colours(np.array([[20, 0], [-20, 0], [0, 0], [400, 0]]))
    assert still.tolist() == [255, 255, 255]
    assert right.tolist() == far.tolist() == [255, 0, 0]
    assert left.tolist() == [0, 255, 255]


def test_visible_residual_is_grey_where_nothing_changed() -> None:
    assert visible("residual", np.array([[[0, -300, 300]]], dtype=np.int16)).tolist() == [[[128, 0, 255]]]


def test_dimmed_outside_only() -> None:
    picture = np.full((10, 20, 3), 200, np.uint8)
    dimmed = dim_outside(picture, CropBox(0.5, 0.0, 1.0, 0.5))
    assert (dimmed[:5, 10:] == 200).all()
    assert (dimmed[5:] < 100).all()
    assert (dimmed[:, :10] < 100).all()


def test_view_rebuilds_the_frame_it_shows(clip: Path) -> None:
    view = look_at(clip)
    with av.open(str(clip)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert any(np.array_equal(view.frame, frame) for frame in frames)
    assert len(view.iframes) == 2  # the clip has no more
    assert set(view.seen) == {"iframe", "mv", "residual"}
    assert len(view.vectors)
    with pytest.raises(ConfigError, match="iframes is 0"):
        look_at(clip, iframes=0)


def test_annotated_video_keeps_every_frame_and_dims_the_outside(clip: Path, tmp_path: Path) -> None:
    assert write_annotated(clip, tmp_path / "out.mp4", CropBox(0.0, 0.0, 0.5, 1.0)) == 20
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 20
    assert frames[9][:, 52:].mean() < 0.6 * frames[9][:, :44].mean()


def test_show_crop_writes_picture_and_video(clip: Path, tmp_path: Path) -> None:
    picture, video = tmp_path / "crop.png", tmp_path / "crop.mp4"
    done = run("show_crop.py", clip, "--output", picture, "--video", video, "--area-ratio", "0.4")
    assert "wrote" in done.stdout
    assert imread(picture).std() > 0.1
    assert video.stat().st_size > 1000
    failed = run("show_crop.py", clip, "--set", "area_ratio=1.5", "--output", picture, check=False)
    assert failed.returncode == 2
    assert "'area_ratio' is '1.5'" in failed.stderr
    assert failed.stderr.count("\n") == 1


def test_prediction_equals_testing(clip: Path, checkpoints: list[Path]) -> None:
    """Same frames, same box, same logits as the test loop's data set gives."""
    predictor = Predictor(checkpoints)
    prediction = predictor(clip)
    assert prediction.box is not None
    assert list(prediction.milliseconds) == ["read", "box", "iframe", "mv", "residual"]
    for kind, stream in predictor._streams.items():
        config = stream.config
        videos = VideoList(clips=(Clip(clip.name, "run", 0),), classes=CLASSES)
        data = config.data.model_copy(update={"root": str(clip.parent)})
        dataset = ClipDataset(videos, kind, config.size, data, config.input, boxes={clip.name: prediction.box})
        frames = dataset[0, 0].frames
        assert frames is not None
        with torch.inference_mode():
            logits = stream.model(frames[None])[0].numpy()
        np.testing.assert_allclose(prediction.scores[kind], logits, atol=1e-4)
    weighted = (2 * prediction.scores["iframe"] + prediction.scores["mv"] + prediction.scores["residual"]) / 4
    np.testing.assert_allclose(prediction.scores["fused"], weighted, atol=1e-5)
    for shares in prediction.probabilities.values():
        assert shares.sum() == pytest.approx(1)


def test_streams_that_do_not_belong_together(checkpoints: list[Path]) -> None:
    with pytest.raises(CheckpointError, match="second iframe"):
        Predictor([checkpoints[0], checkpoints[0]])
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Predictor([])
    with pytest.raises(ScoreError, match="clip"):
        Predictor(checkpoints[:1], weights={"clip": 1})


def test_predict_one_video(clip: Path, checkpoints: list[Path], tmp_path: Path) -> None:
    done = run("predict.py", clip, "--checkpoints", *checkpoints, "--output", tmp_path / "p.png")
    assert "█" in done.stdout
    assert all(word in done.stdout for word in ("read", "box", "iframe", "mv", "residual", *CLASSES))
    assert imread(tmp_path / "p.png").std() > 0.1


def test_transcode_before_predicting(checkpoints: list[Path], tmp_path: Path) -> None:
    """HEVC has no vectors; and what streams learned from a folder of transcodes is said, once."""
    hevc = record(wandering(20, 96, 64, 5, seed=3), tmp_path / "phone.mp4", codec="libx265")
    failed = run("predict.py", hevc, "--checkpoints", *checkpoints, check=False)
    assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)
    assert "--transcode" in failed.stderr
    write_json(tmp_path / "data" / "transcode.json", {"source": "x", "codec": "mpeg4", "size": [64, 48], "gop": 12})
    told = ["--checkpoints", *checkpoints, "--json", "--set", f"data.root={tmp_path / 'data'}"]
    done = run("predict.py", hevc, "--transcode", *told)
    assert done.stderr == ""
    row = json.loads(done.stdout)
    assert row["video"] == str(hevc)
    assert list(row["ms"]) == ["transcode", "read", "box", "iframe", "mv", "residual"]
    by_hand = tmp_path / "by_hand.mp4"
    transcode(hevc, by_hand, codec="mpeg4", size=(64, 48))
    again = run("predict.py", by_hand, *told)
    assert again.stderr == ""
    assert json.loads(again.stdout)["top"] == row["top"]
    other = record(wandering(20, 96, 64, 5, seed=3), tmp_path / "other.mp4")
    noted = run("predict.py", other, other, *told)
    assert noted.stderr == (
        f"note: {other}: the streams learned from transcodes (mpeg4 at 64x48, no B-frames), and this is none; "
        "--transcode makes it one\n"
    )


def test_predict_tells_pictures_apart(clip: Path, checkpoints: list[Path], tmp_path: Path) -> None:
    names = ["a/clip.mp4", "b/clip.mp4", "b/clip_2.mp4", "c/CLIP.mp4"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(clip, tmp_path / name)
    given = [tmp_path / name for name in names]
    run("predict.py", *given, "--checkpoints", checkpoints[1], "--output", tmp_path / "pictures")
    made = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert made == ["CLIP_3.png", "clip.png", "clip_2.png", "clip_2_2.png"]
    run("predict.py", clip, "--checkpoints", checkpoints[1], "--output", tmp_path / "pictures")
    refused = run("predict.py", *given, "--checkpoints", checkpoints[1], "--output", tmp_path / "p.png", check=False)
    assert refused.returncode == 2
    assert refused.stderr == f"error: --output {tmp_path / 'p.png'}: names one picture for 4 videos; give a folder\n"


def test_long_names_leave_room_for_the_title() -> None:
    assert short_name("folder/clip.mp4") == "clip.mp4"
    short = short_name("x" * 200 + "_take7.mp4")
    assert len(short) <= 60
    assert short.startswith("xxx")
    assert short.endswith("_take7.mp4")


def test_predict_many_as_table_and_json(clip: Path, checkpoints: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    given = (clip, clip, broken, "--checkpoints", *checkpoints[:2], "--output", tmp_path / "pictures")
    table = run("predict.py", *given, check=False)
    assert table.returncode == 1
    assert table.stderr.endswith("1 of 3 videos could not be read\n")
    assert table.stdout.count(str(clip)) == 2
    assert "skipped" in table.stderr
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["clip.png", "clip_2.png"]
    lines = run(
        "predict.py",
        clip.parent,
        "--checkpoints",
        checkpoints[1],
        "--json",
        "--weights",
        "mv=3",
        "--output",
        tmp_path / "mv.png",
    ).stdout
    assert (tmp_path / "mv.png").stat().st_size  # without I-frames, what motion sees and the bars
    row = json.loads(lines)
    assert row["video"] == str(clip)
    assert row["class"] == row["top"][0]["class"] == row["streams"]["mv"]
    assert set(row["ms"]) == {"read", "box", "mv"}
    failed = run("predict.py", broken, "--checkpoints", checkpoints[0], check=False)
    assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)


def test_find_videos(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no video"):
        find_videos([tmp_path])
    for name in ("b.MP4", "a.avi", "c.m2ts", "._b.MP4", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_videos([tmp_path, tmp_path / "other.xyz"])] == [
        "a.avi",
        "b.MP4",
        "c.m2ts",
        "other.xyz",
    ]
