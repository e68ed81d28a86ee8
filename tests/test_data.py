"""Lists, segments, transforms, the dataset."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demo import demo_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from coviar_mocrop.bitstream import Gop, open_video
from coviar_mocrop.bitstream.transcode import encode
from coviar_mocrop.clips.loading import create_testing_loader, create_training_loader, open_clips
from coviar_mocrop.clips.sampling import middle_frames, places, random_frames, strided_frames
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.demo import make_demo, render
from coviar_mocrop.datasets.lists import Clip, read_classes, read_list, write_list
from coviar_mocrop.errors import DataError, ListError, VideoError
from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.networks import transforms as tf

CLASSES = ("jump", "run")


# -- lists -----------------------------------------------------------------------------------------------


def test_lists_come_back_as_written(tmp_path: Path) -> None:
    clips = [Clip("a folder/b c.mp4", "jump", 0), Clip("d.mp4", "run", 1)]
    write_list(tmp_path / "l.txt", clips)
    assert read_list(tmp_path / "l.txt", CLASSES).clips == tuple(clips)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a.mp4 jump", "path class label"),
        ("a.mp4 jump x", "path class label"),
        ("a.mp4 jump 2", "not one of 0..1"),
        ("a.mp4 jump -1", "not one of 0..1"),
        ("a.mp4 jump 1", "is class 'run'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "l.txt").write_text(f"# a comment\n\nok.mp4 run 1\n{line}\n")
    with pytest.raises(ListError, match=f"l.txt, line 4: .*{says}"):
        read_list(tmp_path / "l.txt", CLASSES)


def test_missing_empty_and_binary_lists(tmp_path: Path) -> None:
    with pytest.raises(ListError, match="no such list"):
        read_list(tmp_path / "none.txt", CLASSES)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ListError, match="holds no clip"):
        read_list(tmp_path / "empty.txt", CLASSES)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ListError, match="cannot be read as text"):
        read_list(tmp_path / "binary.txt", CLASSES)
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    with pytest.raises(ListError, match="line 1: 'a' stands twice"):
        read_classes(tmp_path / "twice.txt")


# -- segments --------------------------------------------------------------------------------------------


def test_middle_frames_by_hand() -> None:
    # round((n - 1) / S * (s + 0.5)), n = 101, S = 4; motion: n - 1 frames, then + 1
    assert middle_frames(101, 4, "iframe") == [12, 38, 62, 88]
    assert middle_frames(102, 4, "mv") == [13, 39, 63, 89]


@settings(max_examples=200, derandomize=True, deadline=None)
@given(frames=st.integers(1, 300), segments=st.integers(1, 30), kind=st.sampled_from(["iframe", "mv", "residual"]))
def test_segments_stay_inside_and_in_order(frames: int, segments: int, kind: Any) -> None:
    generator = np.random.default_rng(frames)
    for drawn in (middle_frames(frames, segments, kind), random_frames(frames, segments, kind, generator)):
        assert len(drawn) == segments
        assert drawn == sorted(drawn)
        first = 1 if kind != "iframe" and frames > 1 else 0
        assert all(first <= frame < frames for frame in drawn)


@given(seed=st.integers(0, 50))
def test_random_frames_stay_in_their_segment(seed: int) -> None:
    drawn = random_frames(101, 4, "iframe", np.random.default_rng(seed))
    assert all(25 * s <= frame < 25 * (s + 1) for s, frame in enumerate(drawn))


@given(seed=st.integers(0, 50))
def test_strided_frames_keep_their_stride_where_the_clip_is_long_enough(seed: int) -> None:
    generator = np.random.default_rng(seed)
    assert strided_frames(48, 8, 3, "frame") == list(range(13, 35, 3))
    drawn = strided_frames(48, 8, 3, "frame", generator)
    assert np.diff(drawn).tolist() == [3] * 7
    assert 0 <= drawn[0] <= 26
    assert strided_frames(10, 4, 5, "frame", generator) == [0, 3, 6, 9]
    assert strided_frames(1, 3, 2, "frame", generator) == [0, 0, 0]
    assert strided_frames(5, 2, 9, "mv") == [1, 4]


def test_frames_on_an_iframe() -> None:
    gops = [Gop(0, 12), Gop(12, 12), Gop(24, 5)]
    assert places(gops, [0, 5, 12, 28], "iframe") == [(0, 0), (0, 0), (1, 0), (2, 0)]
    assert places(gops, [1, 11, 12, 13, 28], "mv") == [(0, 1), (0, 11), (0, 11), (1, 1), (2, 4)]


# -- transforms ------------------------------------------------------------------------------------------


def test_scaling_is_coviars() -> None:
    motion = np.array([-40, -20, 0, 5, 20, 40], dtype=np.int16).reshape(1, 1, 3, 2)
    expected = np.clip(motion.astype(float) * 127.5 / 20 + 128, 0, 255) / 255 - 0.5
    np.testing.assert_allclose(tf.scale("mv", motion).permute(0, 2, 3, 1), expected, atol=1e-6)
    residual = np.array([-200, -10, 0, 10, 100, 200], dtype=np.int16).reshape(1, 1, 2, 3)
    expected = (np.clip(residual.astype(float) + 128, 0, 255) / 255 - 0.5) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(tf.scale("residual", residual).permute(0, 2, 3, 1), expected, atol=1e-6)
    picture = np.array([0, 128, 255], dtype=np.uint8).reshape(1, 1, 1, 3)
    expected = (picture / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(tf.scale("iframe", picture).permute(0, 2, 3, 1), expected, atol=1e-6)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["iframe", "mv", "residual"]),
    edges=st.tuples(st.integers(0, 20), st.integers(0, 20)),
)
def test_mirroring_turns_the_picture_and_negates_x_motion_alone(seed: int, kind: Any, edges: tuple[int, int]) -> None:
    generator = np.random.default_rng(seed)
    channels = 2 if kind == "mv" else 3
    raw = generator.integers(0, 19, (2, 40, 40, channels)).astype(np.uint8 if kind == "iframe" else np.int16)
    window = tf.Window(edges[0], edges[1], edges[0] + 20, edges[1] + 20)
    plain = tf.cut(kind, raw, window, 20)
    mirrored = tf.cut(kind, raw, window._replace(mirrored=True), 20)
    assert torch.equal(mirrored[:, 1:].flip(-1), plain[:, 1:])
    if kind == "mv":
        zero = tf.scale("mv", np.zeros((1, 1, 1, 2), np.int16))[0, 0, 0, 0]
        torch.testing.assert_close(mirrored[:, 0].flip(-1) - zero, zero - plain[:, 0])
    else:
        assert torch.equal(mirrored[:, 0].flip(-1), plain[:, 0])
    # mirroring by hand: content first, then the sign
    flipped = raw[:, :, ::-1].copy()
    if kind == "mv":
        flipped[..., 0] *= -1
    opposite = tf.Window(window.top, 40 - window.right, window.bottom, 40 - window.left)
    assert torch.equal(tf.cut(kind, flipped, opposite, 20), mirrored)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    corner=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
    share=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    boxed=st.booleans(),
    seed=st.integers(0, 100),
)
def test_windows_stay_inside_the_box(
    size: tuple[int, int], corner: tuple[float, float], share: tuple[float, float], boxed: bool, seed: int
) -> None:
    (x0, y0), (w, h) = corner, share
    box = CropBox(x0, y0, min(x0 + w, 1.0), min(y0 + h, 1.0)) if boxed else None
    top, left, bottom, right = (box or CropBox(0, 0, 1, 1)).to_pixels(*size)
    scales = (1.0, 0.875, 0.75, 0.66)
    windows = [tf.training_window(size, box, scales, True, np.random.default_rng(seed))]
    windows += tf.testing_windows(size, box, 1) + tf.testing_windows(size, box, 10)
    assert len(windows) == 12
    for window in windows:
        assert top <= window.top < window.bottom <= bottom
        assert left <= window.left < window.right <= right


def test_test_windows_are_coviars() -> None:
    assert tf.testing_windows((256, 340), None, 1) == [tf.Window(16, 58, 240, 282)]
    ten = tf.testing_windows((256, 340), None, 10)
    assert ten[0] == tf.Window(0, 0, 224, 224)
    assert ten[3] == tf.Window(32, 116, 256, 340)
    assert [window.mirrored for window in ten] == [False] * 5 + [True] * 5
    box = CropBox(0.25, 0.0, 1.0, 0.5)
    assert tf.testing_windows((256, 340), box, 1) == [tf.Window(0, 85, 128, 340)]


# -- clips on disk ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder / "videos", folder / "lists", train_clips=8, test_clips=4, progress=False)
    return folder


def config_of(demo: Path, **changes: Any) -> Config:
    return Config.model_validate(demo_settings(demo, demo / "run", **{"setting": "efficiency", **changes}))


def test_demo_clips_are_canonical_seeded_and_of_both_codecs(demo: Path, tmp_path: Path) -> None:
    codecs = set()
    paths = sorted((demo / "videos").rglob("*.mp4"))
    assert len(paths) == 12
    for path in paths:
        with open_video(path) as video:
            codecs.add(video.info.codec)
            assert [gop.length for gop in video.gops] == [12] * 4
            assert not video.info.has_b_frames
    assert codecs == {"h264", "mpeg4"}
    again = tmp_path / "again"
    make_demo(again, tmp_path / "lists", train_clips=8, test_clips=4, workers=1, progress=False)
    for path in paths:
        assert (again / path.relative_to(demo / "videos")).read_bytes() == path.read_bytes()


def test_demo_motion_is_where_the_object_is_and_the_scene_is_still() -> None:
    frames = render("rows_left_right", np.random.default_rng(0)).astype(int)
    changed = (frames != frames[0]).any(axis=(0, 3))
    assert 0.02 < changed.mean() < 0.3
    assert not np.array_equal(render("rows_spin", np.random.default_rng(1))[0], frames[0])


def test_all_streams_share_the_box(demo: Path) -> None:
    boxes = []
    for stream in ("iframe", "mv", "residual"):
        dataset, _ = open_clips(config_of(demo, stream=stream), "test")
        boxes.append(dataset.boxes)
        frames = dataset[0, 0].frames
        assert frames is not None
        assert frames.shape == (3, 2 if stream == "mv" else 3, 48, 48)
    assert boxes[0] == boxes[1] == boxes[2]
    assert boxes[0]
    assert open_clips(config_of(demo, setting="baseline"), "test")[0].boxes is None


def test_decoded_frames_come_in_order_of_time_at_their_stride(demo: Path) -> None:
    inputs = {"frames": "decoded", "stride": 3, "test_segments": 5, "segments": 5, "scales": (1.0,), "flip": True}
    config = config_of(demo, stream="iframe", setting="baseline", input=inputs)
    dataset, _ = open_clips(config, "test")
    with open_video(demo / "videos" / dataset.videos.clips[0].path) as video:
        every = [(gop, pos) for gop, span in enumerate(video.gops) for pos in range(span.length)]
        pictures = video.read("frame", every)
    (window,) = tf.testing_windows(pictures.shape[1:3], None, 1)
    frames = dataset[0, 0].frames
    assert frames is not None
    middle = (len(every) - 13) // 2
    assert torch.equal(frames, tf.cut("frame", pictures[middle : middle + 13 : 3], window, 64))
    # in training all frames of a clip share one crop and one flip
    training, _ = open_clips(config, "train")
    mirrored = set()
    for epoch in range(6):
        frames = training[epoch, 0].frames
        assert frames is not None
        still = frames.std(dim=0).mean(dim=0) < 1e-3  # what no motion touches is the same in every frame
        assert still.float().mean() > 0.2
        mirrored.add(frames[0].numpy().tobytes())
    assert len(mirrored) > 1


def test_ten_crops_are_views_of_their_own(demo: Path) -> None:
    config = config_of(demo, stream="mv", input={"test_crops": 10, "test_segments": 3})
    dataset, _ = open_clips(config, "test")
    frames = dataset[0, 0].frames
    assert frames is not None
    assert frames.shape == (10, 3, 2, 48, 48)
    mirrored = frames[0].flip(-1) * torch.tensor([-1.0, 1.0]).view(2, 1, 1)
    assert (frames[5] - mirrored).abs().max() < 0.01  # zero motion is scaled to 128/255 - 0.5


def test_cropping_happens_before_resizing(demo: Path) -> None:
    """The dataset's input is the box's part of the frame, and nothing else."""
    config = config_of(demo, stream="iframe", input={"test_segments": 1})
    dataset, _ = open_clips(config, "test")
    clip = dataset.videos.clips[0]
    assert dataset.boxes is not None
    with open_video(demo / "videos" / clip.path) as video:
        (place,) = places(video.gops, middle_frames(video.info.num_frames, 1, "iframe"), "iframe")
        picture = video.iframe(place[0])
    top, left, bottom, right = dataset.boxes[clip.path].to_pixels(*picture.shape[:2])
    part = torch.from_numpy(picture[top:bottom, left:right].copy()).permute(2, 0, 1)[None].float() / 255
    part = (part - torch.tensor(tf.IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(tf.IMAGENET_STD).view(3, 1, 1)
    expected = torch.nn.functional.interpolate(part, (48, 48), mode="bilinear", antialias=True)
    torch.testing.assert_close(dataset[0, 0].frames, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_same_bits_whatever_the_number_of_workers(demo: Path) -> None:
    seen = []
    for workers in (0, 1, 3):
        config = config_of(demo, stream="residual", data={"workers": workers}, train={"batch_size": 3})
        loader, batches = create_training_loader(open_clips(config, "train")[0], config)
        rows = []
        for epoch in (0, 1):
            batches.epoch = epoch
            rows += [(batch.numbers.tolist(), batch.frames.numpy().tobytes()) for batch in loader]
        seen.append(rows)
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][0] != seen[0][3]  # another epoch, other order and crops


def test_unusable_clips_are_skipped_once_or_raised(demo: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = demo / "videos"
    (root / "broken.mp4").write_bytes(b"this is no video")
    lines = (demo / "lists/test_split1.txt").read_text()
    name = lines.split()[1]
    broken_list = demo / "lists/broken.txt"
    broken_list.write_text(f"{lines}broken.mp4 {name} 0\nmissing.mp4 {name} 0\n")
    for setting in ("baseline", "attention"):
        config = config_of(demo, setting=setting, data={"test_list": str(broken_list), "on_error": "skip"})
        caplog.clear()
        dataset, skipped = open_clips(config, "test")
        loader = create_testing_loader(dataset, config)
        for _ in range(2):
            for batch in loader:
                skipped.add(batch.errors)
        skipped.summarise()
        assert set(skipped.reasons) == {"broken.mp4", "missing.mp4"}
        messages = [record.message for record in caplog.records]
        assert sum("broken.mp4" in message for message in messages) == 1
        assert any("2 of" in message and "skipped" in message for message in messages)
        config = config_of(demo, setting=setting, data={"test_list": str(broken_list)})
        config = config.model_copy(update={"data": config.data.model_copy(update={"workers": 1})})
        with pytest.raises(VideoError, match=r"broken\.mp4|missing\.mp4") as caught:
            dataset, skipped = open_clips(config, "test")
            for batch in create_testing_loader(dataset, config):
                skipped.add(batch.errors)
        assert "\n" not in str(caught.value)  # no traceback of a worker


@pytest.mark.parametrize("entry", ["../outside.mp4", "/etc/passwd", "link/outside.mp4"])
def test_list_entries_stay_below_the_root(demo: Path, tmp_path: Path, entry: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "l.txt").write_text(f"{entry} jump 0\n")
    (tmp_path / "c.txt").write_text("jump\n")
    data = {"root": str(root), "test_list": str(tmp_path / "l.txt"), "classes": str(tmp_path / "c.txt")}
    for setting in ("baseline", "attention"):
        config = config_of(demo, setting=setting, data=data)
        with pytest.raises(DataError, match="leaves the data root"):
            dataset, skipped = open_clips(config, "test")
            for batch in create_testing_loader(dataset, config):
                skipped.add(batch.errors)


def test_single_frame_clip_feeds_every_stream(tmp_path: Path, demo: Path) -> None:
    picture = np.full((48, 64, 3), 90, np.uint8)
    encode([picture], tmp_path / "one.mp4")
    (tmp_path / "l.txt").write_text("one.mp4 jump 0\n")
    (tmp_path / "c.txt").write_text("jump\n")
    data = {"root": str(tmp_path), "test_list": str(tmp_path / "l.txt"), "classes": str(tmp_path / "c.txt")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for stream in ("iframe", "mv", "residual"):
            dataset, _ = open_clips(config_of(demo, stream=stream, setting="attention", data=data), "test")
            frames = dataset[0, 0].frames
            assert frames is not None
            assert torch.isfinite(frames).all()
