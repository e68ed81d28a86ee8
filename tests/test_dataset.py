"""The clips of a list as several streams see them: batches, determinism, errors; and the demo's clips."""

from __future__ import annotations

import gc
import pickle
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from clips import read_packets, record, wandering
from demo import SMALL, demo_settings, make_small_demo, open_list

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.bitstream.transcode import encode
from coviar_mocrop.bitstream.video import Video
from coviar_mocrop.clips import loading, reader
from coviar_mocrop.clips import windows as windowing
from coviar_mocrop.clips.batch import Batch, Frames, Sample, collate
from coviar_mocrop.clips.boxes import boxes_of_list
from coviar_mocrop.clips.lists import read_videos
from coviar_mocrop.clips.loading import ClipLoader, copied_ahead, create_testing_loader, create_training_loader
from coviar_mocrop.clips.reader import ReadViews
from coviar_mocrop.clips.resize import resize
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.demo import make_demo, render
from coviar_mocrop.errors import ConfigError, DataError, NoMotionVectorsError, VideoError
from coviar_mocrop.mocrop import BoxEstimator, CropBox, MoCropSettings, estimate_box
from coviar_mocrop.shared_settings import require_shared
from coviar_mocrop.streams.base import Stream, create_stream

STREAMS = ("iframe", "mv", "residual")


def streams_of(demo: Path, names: Sequence[str] = STREAMS, **changes: Any) -> list[Stream]:
    settings = {"setting": "efficiency", "model": {"backbone": "squeezenet1_1"}, **changes}
    configs = [Config.model_validate(demo_settings(demo, demo / "run", stream=name, **settings)) for name in names]
    return [create_stream(config, ("jump",), weights=False) for config in configs]


def pixels_of(sample: Sample, stream: str) -> np.ndarray:
    read = sample.inputs[stream]
    assert isinstance(read, ReadViews)
    return read.pixels["frames"]


def list_of(folder: Path, *names: str) -> dict[str, str]:
    """Settings of a data set of these clips, of one class, all of it in ``folder``."""
    (folder / "list.txt").write_text("".join(f"{name} jump 0\n" for name in names))
    (folder / "classes.txt").write_text("jump\n")
    both = dict.fromkeys(("train_list", "test_list"), str(folder / "list.txt"))
    return {"root": str(folder), "classes": str(folder / "classes.txt"), "cache": str(folder / "cache"), **both}


# -- the demo's clips ------------------------------------------------------------------------------------


def test_demo_clips_are_canonical_seeded_and_of_both_codecs(demo: Path, tmp_path: Path) -> None:
    codecs = set()
    paths = sorted((demo / "videos").rglob("*.mp4"))
    assert len(paths) == 16
    for path in paths:
        with open_video(path) as video:
            codecs.add(video.info.codec)
            assert [gop.length for gop in video.gops] == [12, 12]
            assert not video.info.has_b_frames
    assert codecs == {"h264", "mpeg4"}
    make_small_demo(tmp_path, workers=1)
    for path in paths:
        assert (tmp_path / "videos" / path.relative_to(demo / "videos")).read_bytes() == path.read_bytes()


@pytest.mark.usefixtures("small_clips")
def test_demo_clips_of_another_seed_or_number_are_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(train_clips: int = 2, **options: Any) -> dict[str, bytes]:
        lists = tmp_path / f"lists{train_clips}"
        make_demo(tmp_path, lists, train_clips=train_clips, test_clips=1, progress=False, **options)
        return {path.name: path.read_bytes() for path in tmp_path.rglob("*.mp4")}

    first = make()
    with pytest.raises(DataError, match=r"another demo \(seed 0\).*--overwrite"):
        make(seed=1)
    with pytest.raises(DataError, match=r"another demo \(train clips 2\).*--overwrite"):
        make(train_clips=1)
    assert make() == first

    def stop(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("coviar_mocrop.datasets.demo.write_json", stop)
        make(seed=1, overwrite=True)
    assert make() == first  # what was interrupted does not pass for these
    for damaged in ("{", "[]"):
        (tmp_path / "demo.json").write_text(damaged)
        next(tmp_path.rglob("*.mp4")).write_bytes(b"")
        assert make() == first


def test_demo_motion_is_where_the_object_is_and_the_scene_is_still() -> None:
    frames = render("rows_left_right", np.random.default_rng(0)).astype(int)
    changed = (frames != frames[0]).any(axis=(0, 3))
    assert 0.02 < changed.mean() < 0.3
    assert not np.array_equal(render("rows_spin", np.random.default_rng(1))[0], frames[0])


# -- one clip --------------------------------------------------------------------------------------------


def box_of(path: Path) -> CropBox:
    with open_video(path) as video:
        return estimate_box(video.get_motion_vectors_at(), (video.info.height, video.info.width))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the videos that are gone through, one for each pass."""
    found: list[str] = []
    original = Video.visit

    def visit(self: Video, *arguments: Any, **options: Any) -> Any:
        found.append(self.path)
        return original(self, *arguments, **options)

    monkeypatch.setattr(Video, "visit", visit)
    return found


def test_streams_share_one_decode_and_one_box(demo: Path, tmp_path: Path, passes: list[str]) -> None:
    dataset, _ = open_list(streams_of(demo, data={"cache": str(tmp_path)}), "test")
    assert not passes
    sample = dataset[0, 0, None]
    assert len(passes) == 1  # the box is estimated in the same pass
    again = dataset[0, 0, None]
    box = box_of(Path(passes[0]))
    for name in STREAMS:
        read, repeated = sample.inputs[name], again.inputs[name]
        assert isinstance(read, ReadViews)
        assert isinstance(repeated, ReadViews)
        assert read.box == repeated.box == box
        assert read.windows == {"frames": windowing.testing_windows((SMALL["HEIGHT"], SMALL["WIDTH"]), box, 1)}
        assert read.pixels["frames"].shape == (1, 3, 2 if name == "mv" else 3, 48, 48)
        np.testing.assert_array_equal(read.pixels["frames"], repeated.pixels["frames"])
    uncropped = open_list(streams_of(demo, setting="baseline"), "test")[0][0, 0, None].inputs["iframe"]
    assert isinstance(uncropped, ReadViews)
    assert uncropped.box is None


def test_boxes_are_estimated_once(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimated = Mock(side_effect=BoxEstimator)
    monkeypatch.setattr(reader, "BoxEstimator", estimated)
    streams = streams_of(demo, data={"cache": str(tmp_path)})
    dataset, _ = open_list(streams, "test")
    samples = [dataset[0, 3, None], dataset[0, 3, None], dataset[0, 5, None]]
    assert estimated.call_count == 2
    dataset.keep_boxes()
    other, _ = open_list(streams, "test")
    samples += [other[0, 3, None], other[0, 5, None]]
    assert estimated.call_count == 2
    boxes = [sample.inputs["mv"].box for sample in samples]  # type: ignore[union-attr]
    paths = [demo / "videos" / dataset.videos.clips[sample.number].path for sample in samples]
    assert boxes == [box_of(path) for path in paths]


def test_a_video_that_is_replaced_gets_a_box_of_its_own(tmp_path: Path) -> None:
    """At once, by whatever process reads it next."""
    path = tmp_path / "clip.mp4"
    boxes = []
    for seed in (0, 1):
        record(wandering(24, 96, 64, 4, seed=seed), path, gop=12)
        if not seed:
            dataset, _ = open_list(streams_of(tmp_path, ["mv"], data=list_of(tmp_path, "clip.mp4")), "test")
        boxes += [dataset[0, 0, None].inputs["mv"].box for _ in range(2)]  # type: ignore[union-attr]
        assert boxes[-2:] == [box_of(path)] * 2
    assert boxes[0] != boxes[-1]


def test_boxes_that_workers_found_are_kept(demo: Path, tmp_path: Path, passes: list[str]) -> None:
    streams = streams_of(demo, data={"cache": str(tmp_path), "workers": 2})
    _, loader = read_all(streams)
    dataset = loader.clips
    dataset.keep_boxes()
    found = boxes_of_list([clip.path for clip in dataset.videos.clips], streams[0].config.data, MoCropSettings())
    assert not passes
    assert not found.computed
    assert found.boxes == {clip.path: box_of(demo / "videos" / clip.path) for clip in dataset.videos.clips}


def test_a_process_that_is_not_forked_gets_what_it_needs_and_no_list(demo: Path) -> None:
    dataset, _ = open_list(streams_of(demo), "train")
    sent = pickle.loads(pickle.dumps(dataset))
    assert not sent.videos.clips
    for stream in STREAMS:
        assert pixels_of(sent[2, 1, None], stream).tobytes() == pixels_of(dataset[2, 1, None], stream).tobytes()


def test_cropping_happens_before_resizing(demo: Path) -> None:
    """What a stream sees is the box's part of the frame, and nothing else."""
    dataset, _ = open_list(streams_of(demo, ["iframe"], input={"test_segments": 1}), "test")
    path = demo / "videos" / dataset.videos.clips[0].path
    with open_video(path) as video:
        picture = video.get_iframes_at([round((video.info.num_frames - 1) / 2)])
    window = box_of(path).to_pixels(*picture.shape[1:3])
    assert window != (0, 0, *picture.shape[1:3])
    np.testing.assert_array_equal(pixels_of(dataset[0, 0, None], "iframe")[0], resize(picture, window, 48))


def test_decoded_frames_come_in_order_of_time_at_their_stride(demo: Path) -> None:
    inputs = {"frames": "decoded", "stride": 3, "test_segments": 5, "segments": 5, "scales": (1.0,), "flip": True}
    streams = streams_of(demo, ["iframe"], setting="baseline", input=inputs)
    dataset, _ = open_list(streams, "test")
    with open_video(demo / "videos" / dataset.videos.clips[0].path) as video:
        middle = (video.info.num_frames - 13) // 2
        pictures = video.get_frames_at(range(middle, middle + 13, 3))
    (window,) = windowing.testing_windows(pictures.shape[1:3], None, 1)
    np.testing.assert_array_equal(pixels_of(dataset[0, 0, None], "iframe")[0], resize(pictures, window[:4], 64))
    # in training all frames of a clip share one crop and one flip
    training, _ = open_list(streams, "train")
    seen = set()
    for epoch in range(6):
        frames = pixels_of(training[epoch, 0, None], "iframe")[0].astype(np.float32)
        still = frames.std(axis=0).mean(axis=0) < 1  # what no motion touches is the same in every frame
        assert still.mean() > 0.2
        seen.add(frames[0].tobytes())
    assert len(seen) > 1


def test_a_single_frame_feeds_every_stream(tmp_path: Path, demo: Path) -> None:
    encode([np.full((48, 64, 3), 90, np.uint8)], tmp_path / "one.mp4")
    streams = streams_of(demo, setting="attention", data=list_of(tmp_path, "one.mp4"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample = open_list(streams, "test")[0][0, 0, None]
    assert not sample.errors
    for stream in streams:
        read = sample.inputs[stream.name]
        assert isinstance(read, ReadViews)
        assert torch.isfinite(stream.encode(read)).all()


# -- determinism -----------------------------------------------------------------------------------------


def contents(loader: ClipLoader, names: Sequence[str]) -> list[Any]:
    """All batches as bytes."""
    rows: list[Any] = []
    for batch in loader:
        for name in names:
            part = batch.streams[name]
            frames = part.inputs["frames"]
            assert isinstance(frames, Frames)
            rows.append((name, part.numbers.tolist(), part.labels.tolist(), frames.pixels.numpy().tobytes()))
            rows.append(frames.mirrored.tolist())
    return rows


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("how", [[(1, None), (4, "fork")], pytest.param([(1, "spawn")], marks=pytest.mark.slow)])
def test_same_bytes_on_any_number_of_workers(demo: Path, how: list[tuple[int, str | None]]) -> None:
    seen = []
    for workers, method in [(0, None), *how]:
        streams = streams_of(demo, data={"workers": workers, "start_method": method}, train={"batch_size": 3})
        data = streams[0].config.data
        loader, sampler = create_training_loader(streams, read_videos(data, "train"))
        rows = []
        for epoch in (0, 1):
            sampler.epoch = epoch
            rows.append(contents(loader, STREAMS))
        tested = create_testing_loader(streams, read_videos(data, "test"))
        seen.append([*rows, contents(tested, STREAMS)])
    assert all(found == seen[0] for found in seen)
    assert seen[0][0] != seen[0][1]  # another epoch, other order and crops


def test_streams_are_tested_together_in_batches_that_suit_each(demo: Path) -> None:
    streams = [
        streams_of(demo, [name], train={"test_batch_size": size})[0] for name, size in (("iframe", 3), ("mv", 5))
    ]
    for order in (streams, streams[::-1]):
        loader = create_testing_loader(order, read_videos(order[0].config.data, "test"))
        assert [len(keys) for keys in loader.sampler] == [3, 3, 2]


def test_on_a_gpu_each_batch_is_copied_while_the_one_before_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Copied:
        def __init__(self, name: str) -> None:
            self.name = name

        def to(self, device: Any) -> Copied:
            done.append(f"copy {self.name}")
            return self

        def record(self, stream: Any) -> None:
            done.append(f"keep {self.name}")

    class Side:
        def __init__(self, *_: Any) -> None: ...

        def wait_stream(self, side: Any) -> None:
            done.append("wait")

    monkeypatch.setattr(torch.cuda, "Stream", Side)
    monkeypatch.setattr(torch.cuda, "stream", lambda side: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", Side)
    for batch in copied_ahead(map(Copied, "abc"), torch.device("cpu")):  # type: ignore[arg-type]
        done.append(f"compute {batch.name}")  # type: ignore[attr-defined]
    expected = "copy a, wait, keep a, copy b, compute a, wait, keep b, copy c, compute b, wait, keep c, compute c"
    assert ", ".join(done) == expected


@pytest.mark.parametrize("method", [None, "fork", "forkserver", "spawn"])
def test_the_start_method_of_reading_processes_is_a_setting(demo: Path, method: str | None) -> None:
    streams = streams_of(demo, ["mv"], data={"workers": 1, "start_method": method})
    loader = create_testing_loader(streams, read_videos(streams[0].config.data, "test"))
    context = loader._batches.multiprocessing_context
    assert (context and context.get_start_method()) == method


@pytest.mark.filterwarnings("ignore:'pin_memory':UserWarning")
def test_batches_for_a_gpu_are_pinned_and_copied_ahead(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead: list[torch.device] = []

    def copied(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
        ahead.append(device)
        return batches

    monkeypatch.setattr(loading, "copied_ahead", copied)
    streams = streams_of(demo, ["mv"])
    plain = create_testing_loader(streams, read_videos(streams[0].config.data, "test"))
    for name in ("cpu", "cuda"):
        loader = ClipLoader(plain.clips, plain.skipped, plain.sampler, streams[0].config, torch.device(name))
        assert loader._batches.pin_memory is (name == "cuda")
        assert sum(batch.size for batch in loader) == 8
    assert ahead == [torch.device("cuda")]


def test_same_bytes_beside_any_other_streams(demo: Path) -> None:
    together, _ = open_list(streams_of(demo), "train")
    for names in (("iframe",), ("mv",), ("residual",), ("residual", "iframe")):
        some, _ = open_list(streams_of(demo, names), "train")
        for epoch, clip in ((0, 0), (0, 5), (3, 5)):
            everything, chosen, few = together[epoch, clip, None], together[epoch, clip, names], some[epoch, clip, None]
            assert set(chosen.inputs) == set(few.inputs) == set(names)
            for name in names:
                np.testing.assert_array_equal(pixels_of(few, name), pixels_of(everything, name))
                np.testing.assert_array_equal(pixels_of(chosen, name), pixels_of(everything, name))
                assert few.inputs[name].windows == everything.inputs[name].windows  # type: ignore[union-attr]


def test_a_seed_changes_what_training_sees_and_nothing_in_testing(demo: Path) -> None:
    first, second = (open_list(streams_of(demo, seed=seed), "train")[0] for seed in (0, 1))
    assert any(
        not np.array_equal(pixels_of(first[0, 0, None], name), pixels_of(second[0, 0, None], name)) for name in STREAMS
    )
    first, second = (open_list(streams_of(demo, seed=seed), "test")[0] for seed in (0, 1))
    for name in STREAMS:
        np.testing.assert_array_equal(pixels_of(first[0, 0, None], name), pixels_of(second[7, 0, None], name))


def test_batches_hold_bytes(demo: Path) -> None:
    streams = streams_of(demo, input={"test_crops": 10, "test_segments": 2})
    dataset, _ = open_list(streams, "test")
    batch = collate([dataset[0, 3, None], dataset[0, 1, None]])
    assert batch.size == 2
    assert not batch.errors
    assert list(batch.streams) == list(STREAMS)
    for name, part in batch.streams.items():
        frames = part.to(torch.device("cpu")).inputs["frames"]
        assert isinstance(frames, Frames)
        assert frames.pixels.dtype == torch.uint8
        assert frames.pixels.shape == (2, 5, 2, 2 if name == "mv" else 3, 48, 48)
        assert frames.mirrored.tolist() == [[False] * 5 + [True] * 5] * 2
        assert part.numbers.tolist() == [3, 1]
        assert part.labels.tolist() == [dataset.videos.clips[3].label, dataset.videos.clips[1].label]


# -- clips that cannot be used ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips, of which the second has no motion vectors."""
    folder = tmp_path_factory.mktemp("mixed")
    record(wandering(14, 64, 48, 4), folder / "good.mp4")
    record(wandering(14, 64, 48, 4), folder / "hevc.mp4", codec="libx265")
    return folder


def test_a_clip_without_vectors_reaches_the_streams_that_can_do_without(mixed: Path, demo: Path) -> None:
    data = {**list_of(mixed, "good.mp4", "hevc.mp4"), "on_error": "skip"}
    streams = streams_of(demo, setting="baseline", data=data)
    for part in ("train", "test"):
        dataset, skipped = open_list(streams, part)
        alone, _ = open_list(streams[:1], part)
        sample = dataset[0, 1, None]
        assert set(sample.inputs) == {"iframe"}
        assert {name: type(error) for name, error in sample.errors.items()} == {
            "mv": NoMotionVectorsError,
            "residual": NoMotionVectorsError,
        }
        np.testing.assert_array_equal(pixels_of(sample, "iframe"), pixels_of(alone[0, 1, None], "iframe"))
        batch = collate([dataset[0, 0, None], sample])
        assert {name: stream.numbers.tolist() for name, stream in batch.streams.items()} == {
            "iframe": [0, 1],
            "mv": [0],
            "residual": [0],
        }
        assert batch.size == 2
        skipped.add(batch.errors)
        assert list(skipped.reasons) == ["hevc.mp4"]
    only = collate([sample])
    assert {name: len(part.labels) for name, part in only.streams.items()} == {"iframe": 1, "mv": 0, "residual": 0}
    _, strict = open_list(streams_of(demo, setting="baseline", data={**data, "on_error": "raise"}), "test")
    with pytest.raises(NoMotionVectorsError, match=r"hevc\.mp4"):
        strict.add(only.errors)


def test_without_vectors_there_is_no_box(mixed: Path, demo: Path) -> None:
    data = {**list_of(mixed, "good.mp4", "hevc.mp4"), "on_error": "skip"}
    streams = streams_of(demo, setting="attention", data=data)
    dataset, _ = open_list(streams, "test")
    assert set(dataset[0, 0, None].inputs) == set(STREAMS)
    sample = dataset[0, 1, None]
    assert not sample.inputs
    assert {type(error) for error in sample.errors.values()} == {NoMotionVectorsError}
    batches, loader = read_all(streams)
    assert [part.numbers.tolist() for batch in batches for part in batch.streams.values()] == [[0], [0], [0]]
    assert list(loader.skipped.reasons) == ["hevc.mp4"]


def read_all(streams: Sequence[Stream]) -> tuple[list[Batch], ClipLoader]:
    loader = create_testing_loader(streams, read_videos(streams[0].config.data, "test"))
    return list(loader), loader


@pytest.mark.parametrize("setting", ["baseline", "attention"])
def test_unusable_clips_are_skipped_once_or_raised(
    tmp_path: Path, demo: Path, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    record(wandering(14, 64, 48, 4), tmp_path / "good.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"this is not a video")
    data = {**list_of(tmp_path, "good.mp4", "broken.mp4", "missing.mp4"), "on_error": "skip"}
    streams = streams_of(demo, setting=setting, data=data)
    loader = create_testing_loader(streams, read_videos(streams[0].config.data, "test"))
    for _ in range(2):
        assert sum(batch.size for batch in loader) == len(loader.clips) == 3
    skipped = loader.skipped
    skipped.summarise()
    assert set(skipped.reasons) == {"broken.mp4", "missing.mp4"}
    messages = [record.message for record in caplog.records]
    assert sum("broken.mp4" in message for message in messages) == 1
    assert any("2 of 3 clips were skipped" in message for message in messages)
    skipped.reasons.popitem()
    skipped.summarise()
    assert "1 of 3 clips was skipped" in caplog.messages
    streams = streams_of(demo, setting=setting, data={**data, "on_error": "raise", "workers": 1})
    with pytest.raises(VideoError, match=r"(broken|missing)\.mp4: .*--set data\.on_error=skip") as caught:
        read_all(streams)
    assert "\n" not in str(caught.value)  # no traceback of a worker
    del caught
    gc.collect()  # ends the processes that read, which the error's traceback holds; later that takes 10 seconds


def test_more_processes_than_processors_are_nothing_to_warn_of(demo: Path, tmp_path: Path) -> None:
    data = {**list_of(tmp_path, "any.mp4"), "workers": 512}
    streams = streams_of(demo, setting="baseline", data=data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_testing_loader(streams, read_videos(streams[0].config.data, "test"))


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_frames_are_counted_wherever_they_are_read(
    tmp_path: Path, demo: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The decoder conceals damage, so scores alone would not tell. However often a clip is read, it counts once."""
    names = [f"{letter}.mp4" for letter in "abcdefgh"]
    for seed, name in enumerate(names):
        path = record(wandering(10, 96, 64, 4, seed=seed), tmp_path / name, gop=5)
        lost = read_packets(path)[7]
        damage = lost if name in "b.mp4" else bytes([*lost[:40], *bytes(len(lost) - 40)])
        path.write_bytes(path.read_bytes().replace(lost, damage))
    data = {**list_of(tmp_path, *names), "workers": workers}
    streams = streams_of(demo, data=data, setting="baseline", input={"test_segments": 9})
    loader = create_testing_loader(streams, read_videos(streams[0].config.data, "test"))
    loader.summarise()
    assert not caplog.text  # nothing was read
    for _ in range(2):
        list(loader)
    loader.summarise(what="test clips")
    (line,) = [record.message for record in caplog.records]
    assert line == ("7 of 8 test clips have damaged frames (7 frames): a.mp4, c.mp4, d.mp4, e.mp4, f.mp4 and 2 more")


@pytest.mark.parametrize("entry", ["../outside.mp4", "/etc/passwd", "link/outside.mp4"])
@pytest.mark.parametrize("setting", ["baseline", "attention"])
def test_list_entries_stay_below_the_root(demo: Path, tmp_path: Path, entry: str, setting: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    streams = streams_of(demo, ["mv"], setting=setting, data=list_of(root, entry))
    with pytest.raises(DataError, match="leaves the data root"):
        read_all(streams)


def test_lists_and_roots_that_are_not_there_are_told(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.train_list is not set"):
        open_list(streams_of(demo, ["mv"], data={"train_list": None}), "train")
    with pytest.raises(DataError, match=r"is not a folder; make it with coviar prepare, or set data\.root"):
        open_list(streams_of(demo, ["mv"], data={"root": str(tmp_path / "none")}), "test")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"setting": "baseline"}, "differ in setting (efficiency against baseline)"),
        ({"mocrop": {"area_ratio": 0.5}}, "differ in mocrop ("),
        ({"data": {"anchor_every": 6}}, "differ in data.anchor_every (12 against 6)"),
    ],
)
def test_streams_read_together_share_the_clip(demo: Path, changes: Any, says: str) -> None:
    streams = [*streams_of(demo, ["iframe"]), *streams_of(demo, ["mv"], **changes)]
    with pytest.raises(ConfigError) as caught:
        open_list(streams, "test")
    assert says in str(caught.value)
    assert "--set" in str(caught.value)


def test_streams_may_differ_in_all_that_is_their_own(demo: Path) -> None:
    own = {"input": {"full_size": 32, "reduced_size": 16, "test_segments": 2}, "train": {"lr": 1.0}}
    streams = [*streams_of(demo, ["iframe"]), *streams_of(demo, ["mv"], **own)]
    require_shared({stream.name: stream.config for stream in streams})
    sample = open_list(streams, "test")[0][0, 0, None]
    assert pixels_of(sample, "iframe").shape == (1, 3, 3, 48, 48)
    assert pixels_of(sample, "mv").shape == (1, 2, 2, 16, 16)


def test_a_shard_is_every_nth_clip(demo: Path) -> None:
    streams = streams_of(demo, ["mv"])
    whole = open_list(streams, "test")[0].videos
    parts = [open_list(streams, "test", shard=(k, 3))[0].videos for k in range(3)]
    assert parts[1] == replace(whole, clips=whole.clips[1::3])
    assert sorted(clip.path for part in parts for clip in part.clips) == sorted(clip.path for clip in whole.clips)
