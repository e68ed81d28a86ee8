"""Pictures and predictions: written, whole, and the same numbers as testing gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from clips import read_packets, record, wandering
from matplotlib.image import imread
from small_streams import write_streams
from tool import run_coviar, run_tool
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from web import serving

from coviar_mocrop.bitstream import MOTION_VECTOR_DTYPE, Video, open_video, transcode
from coviar_mocrop.checkpoint import load_checkpoint, save_checkpoint
from coviar_mocrop.cli import FrameBar
from coviar_mocrop.clips.batch import Batch
from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.clips.reader import read_streams
from coviar_mocrop.commands import predict
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import Clip, VideoList
from coviar_mocrop.datasets.transcoding import find_videos
from coviar_mocrop.errors import CheckpointError, ConfigError, DataError, ScoreError
from coviar_mocrop.inference import torch_backend
from coviar_mocrop.inference.predictor import Predictor
from coviar_mocrop.inference.torch_backend import TorchBackend
from coviar_mocrop.mocrop import CropBox, MoCropSettings, estimate_box, frames_to_read
from coviar_mocrop.runtime import Runtime
from coviar_mocrop.streams.base import create_stream
from coviar_mocrop.viz import show
from coviar_mocrop.viz.clip_figures import ClipView, prediction_figure, short_name
from coviar_mocrop.viz.drawing import block_motion, draw_box, flow_colours, visible
from coviar_mocrop.viz.result_figures import accuracy_flops_figure, confusion_figure
from coviar_mocrop.viz.show import annotate_video, inspect_clip, log_pictures, peak_motion_frame
from coviar_mocrop.viz.tables import markdown_table

CLASSES = ("run", "sit", "walk")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(wandering(20, 96, 64, 5, seed=3), tmp_path_factory.mktemp("clips") / "clip.mp4")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_streams(tmp_path_factory.mktemp("streams"), CLASSES)


def test_flow_colours_tell_direction_and_length() -> None:
    right, left, still, far = flow_colours(np.array([[20, 0], [-20, 0], [0, 0], [400, 0]]))
    assert still.tolist() == [255, 255, 255]
    assert right.tolist() == far.tolist() == [255, 0, 0]
    assert left.tolist() == [0, 255, 255]


def test_visible_is_rgb() -> None:
    motion = np.array([[[128, 128], [255, 128], [0, 128]]], dtype=np.uint8)
    assert visible(motion).tolist() == [[[255, 255, 255], [255, 1, 1], [0, 255, 255]]]
    picture = np.arange(12, dtype=np.uint8).reshape(1, 4, 3)
    assert visible(picture) is picture


def test_blocks_move_against_vectors_into_the_past() -> None:
    vectors = np.zeros(2, MOTION_VECTOR_DTYPE)
    vectors["motion_x"], vectors["motion_y"], vectors["motion_scale"], vectors["source"] = 8, -4, 4, [-1, 1]
    assert block_motion(vectors).tolist() == [[-2, 1], [2, -1]]


def test_box_is_outlined_and_the_outside_darkened() -> None:
    picture = np.full((20, 40, 3), 200, np.uint8)
    drawn = draw_box(picture, CropBox(0.5, 0.0, 1.0, 0.5))
    assert (drawn[1:9, 21:39] == 200).all()
    outline = [drawn[0, 20:], drawn[9, 20:], drawn[:10, 20], drawn[:10, 39]]
    assert all((side == [255, 176, 0]).all() for side in outline)
    assert (drawn[10:] == 80).all()
    assert (drawn[:, :20] == 80).all()
    assert (picture == 200).all()


def test_markdown_table() -> None:
    assert markdown_table([["a", "b", "c"], [1, 2, 3]]) == "| a | b | c |\n|---|---:|---:|\n| 1 | 2 | 3 |"
    assert markdown_table([["a", "b", "c"]], align="llr") == "| a | b | c |\n|---|---|---:|"
    assert markdown_table([["a", "b"]], align="r").endswith("|---:|---:|")


def test_any_streams_are_drawn_in_the_order_given() -> None:
    cost = {"gflops_per_clip": 1.0, "top1": 0.5}
    names = ["residual", "sound", "iframe", *"abcdefghi"]
    figure = accuracy_flops_figure({"mine": {"streams": dict.fromkeys(names, cost), "fused": cost}})
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["mine", *names, "fused"]
    seen = {"sound": np.zeros((8, 8, 3), np.uint8), "motion": np.full((8, 8, 2), 128, np.uint8)}
    shares = {name: np.array([0.25, 0.75]) for name in (*seen, "fused")}
    panels = prediction_figure([], None, seen, ["run", "sit"], shares, "title", "footer").axes
    assert [panel.get_title() for panel in panels[:2]] == ["sound stream sees", "motion stream sees"]


def test_names_with_dollars_are_drawn_as_they_are(clip: Path, tmp_path: Path) -> None:
    """To matplotlib, they begin a formula."""
    name = "from $5 50% to $6"
    with open_video(clip) as video:
        figures = [inspect_clip(video).figure(name)]
    shares = {"mv": np.array([0.25, 0.75]), "fused": np.array([0.25, 0.75])}
    figures.append(prediction_figure([], None, {"mv": np.zeros((8, 8, 2), np.uint8)}, [name, "b"], shares, name, name))
    figures.append(confusion_figure(np.eye(2, dtype=np.int64), [name, "b"], name))
    cost = {"gflops_per_clip": 1.0, "top1": 0.5}
    figures.append(accuracy_flops_figure({"$a^$": {"streams": {"mv": cost}, "fused": cost}}))
    for figure in figures:
        figure.savefig(tmp_path / "out.png")


def test_clip_view(clip: Path) -> None:
    with open_video(clip) as video:
        view = inspect_clip(video)
        vectors = dict(enumerate(video.get_motion_vectors_at()))
        peak, most = peak_motion_frame(vectors.items(), video.gops)
        np.testing.assert_array_equal(most, vectors[peak])
        np.testing.assert_array_equal(view.vectors, most)
        assert view.box == estimate_box(list(vectors.values()), (64, 96))
        with pytest.raises(ConfigError, match="iframes is 0"):
            inspect_clip(video, iframes=0)
        start, length = video.gop_at(peak)
    assert peak >= start + length // 2
    with av.open(str(clip)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    np.testing.assert_array_equal(view.frame, frames[peak])
    np.testing.assert_array_equal(view.iframes, [frames[0], frames[12]])  # the clip has no more
    top, left, bottom, right = view.box.to_pixels(64, 96)
    np.testing.assert_array_equal(view.seen["I-frame"], frames[start][top:bottom, left:right])
    assert {title: seen.shape for title, seen in view.seen.items()} == {
        title: (bottom - top, right - left, channels)
        for title, channels in (("I-frame", 3), ("motion", 2), ("residual", 3))
    }
    assert len(most)


def test_tensorboard_shows_the_box_that_sparse_settings_find(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sparse = MoCropSettings(area_ratio=0.3, sparse=True, sparse_frames=2)
    with open_video(clip) as video:
        chosen = frames_to_read(video.gops, sparse)
        assert chosen is not None
        box = estimate_box(video.get_motion_vectors_at(chosen), (64, 96), sparse)
        assert inspect_clip(video, sparse).box == box
        assert estimate_box(video.get_motion_vectors_at(), (64, 96), sparse) != box
    values = {"stream": "mv", "data": {"root": str(clip.parent), "classes": "none"}, "mocrop": sparse}
    config = Config.model_validate(values)
    names = ("missing.mp4", "../outside.mp4", clip.name)
    videos = VideoList(clips=tuple(Clip(name, "run", 0) for name in names), classes=CLASSES)
    used: list[MoCropSettings | None] = []

    def inspect(video: Video, settings: MoCropSettings | None = None) -> ClipView:
        used.append(settings)
        return inspect_clip(video, settings)

    monkeypatch.setattr(show, "inspect_clip", inspect)
    with SummaryWriter(str(tmp_path)) as writer:
        log_pictures(writer, create_stream(config, CLASSES, weights=False), ClipDataset(videos, [], config.data), 0)
    assert used == [sparse]
    tags = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload().Tags()["images"]
    assert tags == [f"crops/{clip.name}"]


def test_annotated_video_keeps_every_frame_and_dims_the_outside(clip: Path, tmp_path: Path) -> None:
    with open_video(clip) as video:
        assert annotate_video(video, tmp_path / "out.mp4", CropBox(0.0, 0.0, 0.5, 1.0)) == 20
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 20
    assert frames[9][:, 52:].mean() < 0.6 * frames[9][:, :44].mean()


def test_show_crop_writes_picture_and_video(clip: Path, tmp_path: Path) -> None:
    picture, video = tmp_path / "crop.png", tmp_path / "crop.mp4"
    done = run_tool("show_crop", clip, "--output", picture, "--video", video, "--area-ratio", "0.4")
    assert "wrote" in done.stdout
    assert imread(picture).std() > 0.1
    assert video.stat().st_size > 1000
    failed = run_tool("show_crop", clip, "--set", "area_ratio=1.5", "--output", picture, check=False)
    assert failed.returncode == 2
    assert "'area_ratio' is '1.5'" in failed.stderr
    assert failed.stderr.count("\n") == 1


def test_prediction_equals_testing(clip: Path, checkpoints: list[Path]) -> None:
    """The prediction gives the logits that the networks give for the clip as testing reads it."""
    predictor = Predictor(checkpoints)
    prediction = predictor(clip)
    assert prediction.box is not None
    assert list(prediction.milliseconds) == ["read", "iframe", "mv", "residual"]
    assert isinstance(predictor.backend, TorchBackend)
    for name, stream in predictor.backend.streams.items():
        with open_video(clip) as video, torch.inference_mode():
            read, _ = read_streams(video, [stream], prediction.box)
            logits = stream.network(stream.encode(read[name]))[0].numpy()
        np.testing.assert_allclose(prediction.scores[name], logits, atol=1e-4)
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


def test_predicting_copies_the_next_stream_while_one_is_computed(
    clip: Path, checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is a GPU; here it is looked at what would be pinned, and who brings it."""
    backend = TorchBackend(checkpoints)
    brought: list[tuple[str, list[str]]] = []

    def bring(device: torch.device, batches: Iterator[Batch]) -> Iterator[Batch]:
        found = list(batches)
        brought.append((device.type, [name for batch in found for name in batch.streams]))
        return iter(found)

    monkeypatch.setattr(torch_backend, "brought_to", bring)
    with open_video(clip) as video:
        read, _ = read_streams(video, backend.streams.values(), None)
    assert [name for name, _ in backend.logits([read])] == list(backend.streams)
    assert brought == [("cpu", list(backend.streams))]
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    backend.runtime = replace(backend.runtime, device=torch.device("cuda"))
    assert len(list(backend._batches([read]))) == len(backend.streams)
    assert len(pinned) == 3 * len(backend.streams)  # pixels, which are mirrored, and the label


def test_weights_in_half_precision_change_no_bit(
    clip: Path, checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    halved = Predictor(checkpoints, ["train.precision=bf16"])
    assert torch.bfloat16 in _types(halved)
    monkeypatch.setattr(Runtime, "halve_weights", lambda *given: None)
    whole = Predictor(checkpoints, ["train.precision=bf16"])
    assert torch.bfloat16 not in _types(whole)
    for name, row in whole(clip).scores.items():
        np.testing.assert_array_equal(halved(clip).scores[name], row)


def _types(predictor: Predictor) -> set[torch.dtype]:
    """Of the weights of the motion network."""
    assert isinstance(predictor.backend, TorchBackend)
    return {tensor.dtype for tensor in predictor.backend.streams["mv"].network.state_dict().values()}


def test_predict_one_video(clip: Path, checkpoints: list[Path], tmp_path: Path) -> None:
    done = run_tool("predict", clip, "--checkpoints", *checkpoints, "--output", tmp_path / "p.png")
    assert "█" in done.stdout
    assert all(word in done.stdout for word in ("read", "iframe", "mv", "residual", *CLASSES))
    assert imread(tmp_path / "p.png").std() > 0.1


def test_show_transcodes_first(tmp_path: Path) -> None:
    """HEVC has no vectors. The box is that of the transcoded copy."""
    hevc = record(wandering(20, 96, 64, 5, seed=3), tmp_path / "phone.mp4", codec="libx265")
    failed = run_tool("show_crop", hevc, "--output", tmp_path / "box.png", check=False)
    assert failed.returncode == 2
    assert failed.stderr == f"error: {hevc}: the decoder of hevc exports no motion vectors; add --transcode\n"
    done = run_tool("show_crop", hevc, "--transcode", "--output", tmp_path / "box.png")
    transcode(hevc, tmp_path / "by_hand.mp4")
    by_hand = run_tool("show_crop", tmp_path / "by_hand.mp4", "--output", tmp_path / "other.png")
    assert done.stdout.partition(";")[0] == by_hand.stdout.partition(";")[0]
    assert imread(tmp_path / "box.png").std() > 0.1


def test_transcode_before_predicting(checkpoints: list[Path], tmp_path: Path) -> None:
    """HEVC has no vectors; and what streams learned from a folder of transcodes is said, once."""
    hevc = record(wandering(20, 96, 64, 5, seed=3), tmp_path / "phone.mp4", codec="libx265")
    failed = run_tool("predict", hevc, "--checkpoints", *checkpoints, check=False)
    assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)
    assert failed.stderr == f"error: {hevc}: the decoder of hevc exports no motion vectors; add --transcode\n"
    form = {"codec": "mpeg4", "size": [64, 48], "gop": 12}
    content = load_checkpoint(checkpoints[0])
    save_checkpoint(tmp_path / "iframe.pt", {**content, "rules": {"videos": form}})
    told = ["--checkpoints", tmp_path / "iframe.pt", *checkpoints[1:], "--json"]
    done = run_tool("predict", hevc, "--transcode", *told)
    assert done.stderr == ""
    row = json.loads(done.stdout)
    assert row["video"] == str(hevc)
    assert list(row["ms"]) == ["transcode", "read", "iframe", "mv", "residual"]
    by_hand = tmp_path / "by_hand.mp4"
    transcode(hevc, by_hand, codec="mpeg4", size=(64, 48))
    again = run_tool("predict", by_hand, *told)
    assert again.stderr == ""
    for first, second in zip(json.loads(again.stdout)["top"], row["top"], strict=True):
        assert first["class"] == second["class"]
        assert first["probability"] == pytest.approx(second["probability"], abs=1e-5)  # last bits depend on memory
    other = record(wandering(20, 96, 64, 5, seed=3), tmp_path / "other.mp4")
    noted = run_tool("predict", other, other, *told)
    assert noted.stderr == (
        f"note: {other}: the streams were trained on transcoded videos (mpeg4 at 64x48, a key frame every 12 frames, "
        "no B-frames); this one is not: add --transcode\n"
    )


@pytest.mark.parametrize("transcoding", [[], ["--transcode"]])
def test_predict_warns_of_damaged_frames(checkpoints: list[Path], tmp_path: Path, transcoding: list[str]) -> None:
    """The decoder conceals damage, so the classes alone would not tell."""
    clip = record(wandering(20, 96, 64, 5, seed=3), tmp_path / "clip.mp4", gop=5)
    data, lost = clip.read_bytes(), read_packets(clip)[7]
    for damage, count in ((lost, 0), (bytes([*lost[:40], *bytes(len(lost) - 40)]), 1)):
        clip.write_bytes(data.replace(lost, damage))
        done = run_tool("predict", clip, "--checkpoints", checkpoints[1], "--json", *transcoding)
        assert json.loads(done.stdout)["damaged_frames"] == count
        assert done.stderr == count * (
            f"warning: {clip}: 1 frame is damaged, and others may show the same errors, so the prediction may be "
            "wrong; copy or download the file again\n"
        )


def test_predict_reads_addresses(clip: Path, checkpoints: list[Path], tmp_path: Path) -> None:
    """An address is not taken for a path, which would lose one of two slashes."""
    address = "http://127.0.0.1:9//clip.mp4"
    failed = run_tool("predict", address, "--checkpoints", checkpoints[1], check=False)
    assert failed.stderr.startswith(f"error: {address}: cannot be reached")
    table = run_tool("predict", address, clip, "--checkpoints", checkpoints[1], "--output", tmp_path, check=False)
    assert table.stderr.startswith(f"skipped {address}: cannot be reached")


def test_predict_shows_no_password_and_tells_addresses_apart(
    clip: Path, checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = list[str]()

    class Bar(FrameBar):
        def __init__(self, title: str) -> None:
            titles.append(title)
            super().__init__(title)

    monkeypatch.setattr(predict, "FrameBar", Bar)
    with serving(clip.parent) as server:
        given = [
            f"{server.address}/{name}?token=geheim{number}"
            for number, name in enumerate(("clip.mp4",) * 2 + ("no.mp4",) * 2)
        ]
        shown = [f"{server.address}/clip.mp4?token=***", f"{server.address}/clip.mp4?token=*** (2)"]
        table = run_coviar("predict", *given, "--checkpoints", checkpoints[1], check=False)
        lines = run_coviar("predict", *given, "--checkpoints", checkpoints[1], "--json", check=False)
    assert [line.partition("  ")[0] for line in table.stdout.splitlines()[1:]] == shown
    assert table.stdout.splitlines()[0].index("share") == len(shown[1]) + 2 + 1
    assert [json.loads(line)["video"] for line in lines.stdout.splitlines()] == shown
    assert f"skipped {server.address}/no.mp4?token=*** (2): " in table.stderr
    assert titles[:2] == ["clip.mp4?token=***", "clip.mp4?token=*** (2)"]
    assert "geheim" not in "".join([*titles, *table[1:], *lines[1:]])


def test_predict_tells_pictures_apart(clip: Path, checkpoints: list[Path], tmp_path: Path) -> None:
    names = ["a/clip.mp4", "b/clip.mp4", "b/clip_2.mp4", "c/CLIP.mp4"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(clip, tmp_path / name)
    given = [tmp_path / name for name in names]
    run_tool("predict", *given, "--checkpoints", checkpoints[1], "--output", tmp_path / "pictures")
    made = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert made == ["CLIP_3.png", "clip.png", "clip_2.png", "clip_2_2.png"]
    run_tool("predict", clip, "--checkpoints", checkpoints[1], "--output", tmp_path / "pictures")
    refused = run_tool("predict", *given, "--checkpoints", checkpoints[1], "--output", tmp_path / "p.png", check=False)
    assert refused.returncode == 2
    assert refused.stderr == f"error: --output {tmp_path / 'p.png'}: names one file for 4 inputs; give a folder\n"


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
    table = run_tool("predict", *given, check=False)
    assert table.returncode == 1
    assert table.stderr.endswith("1 of 3 videos could not be read\n")
    assert table.stdout.count(str(clip)) == 2
    assert "skipped" in table.stderr
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["clip.png", "clip_2.png"]
    lines = run_tool(
        "predict",
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
    assert set(row["ms"]) == {"read", "mv"}
    failed = run_tool("predict", broken, "--checkpoints", checkpoints[0], check=False)
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
