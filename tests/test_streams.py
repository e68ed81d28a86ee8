"""Streams of frames: what they read, how they normalise and mirror it on the device, what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import record, wandering
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from coviar_mocrop.bitstream import Gop, open_video
from coviar_mocrop.clips import windows as windowing
from coviar_mocrop.clips.batch import Frames
from coviar_mocrop.clips.reader import ReadViews, read_streams
from coviar_mocrop.clips.resize import resize
from coviar_mocrop.clips.sampling import middle_frames, motion_frames
from coviar_mocrop.config import Config
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.flops import count_flops
from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.streams.base import Stream, create_stream, stream_class, stream_names
from coviar_mocrop.streams.frames import both_ways
from coviar_mocrop.streams.mv import mirror_motion

STREAMS = ("iframe", "mv", "residual")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def stream_of(name: str, **changes: Any) -> Stream:
    values = {
        "input": {"full_size": 32, "reduced_size": 24, "segments": 2, "test_segments": 3},
        "model": {"backbone": "mobilenet_v3_small"},
        **changes,
    }
    config = Config.model_validate({"stream": name, "data": {"classes": "classes.txt"}, **values})
    return create_stream(config, ("jump", "run"), weights=False)


def inputs_of(stream: Stream, pixels: NDArray[np.uint8], mirrored: Any = None) -> NDArray[np.float32]:
    """The network's input for uint8 [N, W, T, C, H, W]."""
    flags = torch.zeros(pixels.shape[:2], dtype=torch.bool) if mirrored is None else torch.tensor(mirrored)
    return stream.inputs({"frames": Frames(torch.from_numpy(pixels), flags)}).numpy()


def code(motion: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Motion in 8 bits (CoViAR)."""
    return np.rint(np.clip(motion * (127.5 / 20) + 128, 0, 255)).astype(np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    return record(wandering(48, 96, 64, 6, seed=1), folder / "clip.mp4")  # of 3 segments, one begins a GOP: 24


def test_streams_come_in_the_order_of_tables() -> None:
    assert stream_names() == ("iframe", "mv", "residual", "clip", "zero_shot")
    weights = [stream_class(name).fusion_weight for name in stream_names()]
    assert weights == [2, 1, 1, 1, 1]


# -- on the device ---------------------------------------------------------------------------------------


def test_scaling_is_coviars() -> None:
    values = np.arange(256)
    motion = np.stack([values, values[::-1]]).reshape(1, 1, 1, 2, 16, 16).astype(np.uint8)
    colours = np.stack([values, values[::-1], values]).reshape(1, 1, 1, 3, 16, 16).astype(np.uint8)
    mean, std = MEAN.reshape(3, 1, 1), STD.reshape(3, 1, 1)
    for name, pixels, expected in (
        ("iframe", colours, (colours / 255 - mean) / std),
        ("mv", motion, motion / 255 - 0.5),
        ("residual", colours, (colours / 255 - 0.5) / std),
    ):
        found = inputs_of(stream_of(name), pixels)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@given(arrays(np.int16, (2, 3, 2, 4, 5), elements=st.integers(-40, 40)))
def test_mirroring_coded_motion_is_mirroring_the_motion(motion: NDArray[np.int16]) -> None:
    turned = motion[..., ::-1].copy()
    turned[..., 0, :, :] *= -1
    assert np.array_equal(mirror_motion(torch.from_numpy(code(motion))).numpy(), code(turned))


def test_every_motion_is_mirrored_exactly_and_back() -> None:
    motion = np.arange(-40, 41)
    field = np.zeros((2, 1, 81), np.int64)
    field[0, 0], field[1, 0] = motion, motion
    coded = torch.from_numpy(code(field))
    mirrored = mirror_motion(coded)
    assert mirrored[0, 0].tolist() == code(-motion[::-1]).tolist()
    assert mirrored[1, 0].tolist() == code(motion[::-1]).tolist()
    assert torch.equal(mirror_motion(mirrored), coded)


@pytest.mark.parametrize("name", STREAMS)
def test_each_clip_of_a_batch_is_mirrored_or_not(name: str) -> None:
    stream = stream_of(name)
    channels = 2 if name == "mv" else 3
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 2, channels, 8, 9), dtype=np.uint8)
    plain = inputs_of(stream, pixels)
    mixed = inputs_of(stream, pixels, [[False], [True], [False]])
    np.testing.assert_array_equal(mixed[::2], plain[::2])
    turned = pixels[1:2, ..., ::-1].copy()
    if name == "mv":
        turned[:, :, :, 0] = mirror_motion(torch.from_numpy(pixels[1:2])).numpy()[:, :, :, 0]
    np.testing.assert_array_equal(mixed[1:2], inputs_of(stream, turned))
    whole = both_ways(Frames(torch.from_numpy(pixels), torch.tensor([[False, True]] * 3)), lambda x: x + 1)
    np.testing.assert_array_equal(whole.numpy(), np.concatenate([pixels, pixels + 1], axis=1))


# -- from a file -----------------------------------------------------------------------------------------


def read(clip: Path, stream: Stream, box: CropBox | None = None, seed: list[int] | None = None) -> ReadViews:
    with open_video(clip) as video:
        found, _ = read_streams(video, [stream], box, seed)
    return found[stream.name]


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("box", [None, CropBox(0.25, 0.0, 1.0, 0.75)])
def test_ten_crops_are_five_windows_and_their_mirror_images(clip: Path, name: str, box: CropBox | None) -> None:
    stream = stream_of(name, input={"full_size": 32, "test_segments": 3, "test_crops": 10})
    found = stream.encode(read(clip, stream, box)).numpy()
    assert found.shape == (1, 10, 3, 2 if name == "mv" else 3, 32, 32)
    with open_video(clip) as video:
        numbers = middle_frames(video.info.num_frames, 3, name)  # type: ignore[arg-type]
        numbers = numbers if name == "iframe" else motion_frames(video.gops, numbers)
        frames = video.get({name: numbers})[name]  # type: ignore[dict-item,index]
    if name == "mv":
        frames = code(frames)
    elif name == "residual":
        frames = np.clip(frames + 128, 0, 255).astype(np.uint8)
    five = windowing.testing_windows((64, 96), box, 10)[:5]
    crops = np.stack([resize(frames, window[:4], 32) for window in five])[None]
    np.testing.assert_array_equal(found[:, :5], inputs_of(stream, crops))
    np.testing.assert_array_equal(found[:, 5:], inputs_of(stream, crops, [[True] * 5]))
    turned_back = found[0, 5:, ..., ::-1].copy()
    if name == "mv":  # no motion is coded as 128, so -x becomes 256 - x; 0 and 255 change places
        turned_back[:, :, 0] = 1 / 255 - turned_back[:, :, 0]
    np.testing.assert_allclose(found[0, :5], turned_back, atol=1.01 / 255)


def test_training_sees_one_window_and_one_flip_for_all_frames_of_a_clip(clip: Path) -> None:
    stream = stream_of("iframe", input={"full_size": 32, "segments": 4, "frames": "decoded"})
    views = [read(clip, stream, seed=[0, epoch, 7]) for epoch in range(20)]
    assert all(view.pixels["frames"].shape == (1, 4, 3, 32, 32) for view in views)
    assert {len(view.windows["frames"]) for view in views} == {1}
    assert {view.windows["frames"][0].mirrored for view in views} == {False, True}
    assert len({view.windows["frames"][0] for view in views}) > 5
    mirrored = next(view for view in views if view.windows["frames"][0].mirrored)
    plain = inputs_of(stream, mirrored.pixels["frames"][None])
    np.testing.assert_array_equal(stream.encode(mirrored).numpy(), plain[..., ::-1])


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("setting", ["baseline", "efficiency", "attention"])
def test_the_setting_chooses_the_size(clip: Path, name: str, setting: str) -> None:
    stream = stream_of(name, setting=setting)
    side = 24 if setting == "efficiency" else 32
    assert stream.encode(read(clip, stream.without_network())).shape[-2:] == (side, side)
    assert stream.network(stream.encode(read(clip, stream)))[0].shape == (2,)


# -- settings and cost -----------------------------------------------------------------------------------


def test_decoded_frames_are_for_the_iframe_stream() -> None:
    inputs = {"frames": "decoded", "stride": 3, "test_segments": 4}
    (view,) = stream_of("iframe", input=inputs).views(60, [Gop(0, 60)]).values()
    assert (view.kind, view.frames) == ("frame", [25, 28, 31, 34])
    for name in ("mv", "residual"):
        with pytest.raises(ConfigError, match=f"input.frames=decoded is for the I-frame stream; this is the {name}"):
            stream_of(name, input={"frames": "decoded"})


@pytest.mark.parametrize("key", ["segments", "test_segments"])
def test_motion_squeeze_needs_two_frames(key: str) -> None:
    with pytest.raises(ConfigError, match="compares neighbouring frames"):
        stream_of("iframe", model={"motion_squeeze": True}, input={"segments": 2, "test_segments": 2, key: 1})


def test_a_norm_over_the_input_is_for_motion_and_residual_alone() -> None:
    assert not list(stream_of("iframe").network.data_bn.parameters())  # type: ignore[union-attr]
    for name, channels in (("mv", 2), ("residual", 3)):
        assert stream_of(name).network.data_bn.weight.shape == (channels,)  # type: ignore[union-attr]


@pytest.mark.parametrize(("options", "length"), [({}, 1), ({"temporal": "shift"}, 4), ({"motion_squeeze": True}, 4)])
def test_cost_of_a_clip(options: dict[str, Any], length: int) -> None:
    inputs = {"full_size": 32, "segments": 2, "test_segments": 4, "test_crops": 10}
    stream = stream_of("mv", model={"backbone": "resnet18", **options}, input=inputs)
    cost = stream.cost()
    assert cost.frames_per_clip == 40
    assert cost.per_frame == count_flops(stream.network, (1, length, 2, 32, 32)) // length
    assert stream.description()["gflops_per_clip"] == 40 * cost.per_frame / 1e9
