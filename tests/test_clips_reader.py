"""One pass over a video for all that is wanted of a clip: read_views, read_streams, load_clip."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import record, sliding, turn_clockwise, wandering
from numpy.typing import NDArray
from PIL import Image

from coviar_mocrop.bitstream import Gop, open_video
from coviar_mocrop.bitstream.pyav_reader import PyavReader
from coviar_mocrop.clips import windows as windowing
from coviar_mocrop.clips.reader import View, load_clip, read_streams, read_views
from coviar_mocrop.clips.sampling import middle_frames
from coviar_mocrop.clips.windows import Window, training_window, whole_frame
from coviar_mocrop.errors import ConfigError, NoMotionVectorsError, VideoError
from coviar_mocrop.mocrop import CropBox, MoCropSettings, estimate_box, frames_to_read

BOX = CropBox(0.2, 0.1, 0.7, 0.9)
STREAMS: Any = ("iframe", "mv", "residual")
CHANNELS = {"iframe": 3, "frame": 3, "mv": 2, "residual": 3}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Videos of many kinds."""
    folder = tmp_path_factory.mktemp("clips")
    pictures = wandering(48, 96, 64, 6, seed=1)  # of 3 segments, one has its frame on an I-frame: 24
    found = {
        "mpeg4": record(pictures, folder / "mpeg4.mp4", codec="mpeg4"),
        "h264": record(pictures, folder / "h264.mp4"),
        "b_frames": record(pictures, folder / "b_frames.mp4", b_frames=2, gop=30),
        "odd": record(wandering(20, 75, 51, 4, seed=2), folder / "odd.mp4"),
        "still": record(pictures[:1] * 15, folder / "still.mp4"),
        "one": record(pictures[:1], folder / "one.mp4"),
        "two": record(pictures[:2], folder / "two.mp4", codec="mpeg4"),
        "hevc": record(pictures[:8], folder / "hevc.mp4", codec="libx265"),
    }
    return {**found, "turned": turn_clockwise(found["h264"], folder / "turned.mp4", 1)}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The numbers of the frames that are decoded, one list for each pass over the file."""
    passes: list[list[int]] = []
    original = PyavReader.frames

    def frames(self: PyavReader, spans: Any) -> Iterator[Any]:
        passes.append([])
        for frame in original(self, spans):
            passes[-1].append(frame.number)
            yield frame

    monkeypatch.setattr(PyavReader, "frames", frames)
    return passes


def by_hand(path: Path, stream: Any, segments: int, size: int, box: CropBox | None) -> NDArray[np.uint8]:
    """A stream as the contract defines it: TSN's frames, coded in 8 bits, cropped, then resized by Pillow."""
    with open_video(path) as video:
        frames, starts = video.info.num_frames, {gop.start for gop in video.gops}
        shift = int(stream != "iframe" and frames > 1)
        numbers = [shift + round((frames - shift - 1) / segments * (s + 0.5)) for s in range(segments)]
        numbers = [n - 1 if shift and n in starts else n for n in numbers]
        values = video.get({stream: numbers})[stream]
    if stream == "mv":
        values = np.rint(np.clip(values * (127.5 / 20) + 128, 0, 255)).astype(np.uint8)
    elif stream == "residual":
        values = np.clip(values.astype(int) + 128, 0, 255).astype(np.uint8)
    height, width = values.shape[1:3]
    side = round(min(height, width) * 224 / 256)
    top, left = round((height - side) / 2), round((width - side) / 2)
    top, left, bottom, right = box.to_pixels(height, width) if box else (top, left, top + side, left + side)
    return pillow(values[:, top:bottom, left:right], size)


def pillow(pictures: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """uint8 [T, C, size, size]: each channel by Pillow, the width first (Pillow 13 may begin with the height)."""
    planes = [
        [
            np.asarray(
                Image.fromarray(np.ascontiguousarray(channel))
                .resize((size, len(picture)), Image.Resampling.BILINEAR)
                .resize((size, size), Image.Resampling.BILINEAR)
            )
            for channel in np.moveaxis(picture, 2, 0)
        ]
        for picture in pictures
    ]
    return np.array(planes)


def own_box(path: Path) -> CropBox:
    with open_video(path) as video:
        return estimate_box(video.get_motion_vectors_at(), (video.info.height, video.info.width))


# -- load_clip -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mpeg4", "h264", "b_frames", "odd", "turned", "still", "one", "two"])
@pytest.mark.parametrize("box", [None, BOX, "mocrop"], ids=["square", "box", "mocrop"])
def test_load_clip_keeps_its_contract(clips: dict[str, Path], name: str, box: Any, decoded: list[list[int]]) -> None:
    path = clips[name]
    crop = own_box(path) if box == "mocrop" else box
    decoded.clear()
    loaded = load_clip(path, segments=3, size=32, box=box)
    assert len(decoded) == 1  # one pass, and no frame twice
    assert decoded[0] == sorted(set(decoded[0]))
    assert tuple(loaded) == STREAMS
    for stream, pixels in loaded.items():
        assert pixels.dtype == np.uint8
        assert pixels.shape == (3, CHANNELS[stream], 32, 32)
        assert pixels.flags.c_contiguous
        np.testing.assert_array_equal(pixels, by_hand(path, stream, 3, 32, crop))


def test_the_clips_tested_show_something(clips: dict[str, Path]) -> None:
    """The comparison above would be empty on a clip in which nothing moves, or whose box is the frame."""
    loaded = load_clip(clips["b_frames"], size=32)
    assert all(np.ptp(pixels) > 50 for pixels in loaded.values())
    assert own_box(clips["mpeg4"]).area < 0.9
    assert own_box(clips["still"]) == CropBox(0, 0, 1, 1)
    assert 24 in middle_frames(48, 3, "mv")


@pytest.mark.parametrize("segments", [1, 4, 25])
def test_any_number_of_segments(clips: dict[str, Path], segments: int) -> None:
    loaded = load_clip(clips["two"], segments=segments, size=17)
    for stream, pixels in loaded.items():
        np.testing.assert_array_equal(pixels, by_hand(clips["two"], stream, segments, 17, None))


def test_streams_alone_and_in_any_order_are_the_same(clips: dict[str, Path]) -> None:
    path = clips["b_frames"]
    together = load_clip(path, size=24, box="mocrop")
    turned_round = load_clip(path, ("residual", "iframe"), size=24, box="mocrop")
    assert list(turned_round) == ["residual", "iframe"]
    for stream in STREAMS:
        alone = load_clip(path, (stream,), size=24, box="mocrop")
        np.testing.assert_array_equal(alone[stream], together[stream])
    np.testing.assert_array_equal(turned_round["residual"], together["residual"])
    with path.open("rb") as file:
        for source in (str(path), file, io.BytesIO(path.read_bytes())):
            np.testing.assert_array_equal(load_clip(source, ("mv",), size=24, box="mocrop")["mv"], together["mv"])


def test_iframes_need_no_motion_vectors(clips: dict[str, Path]) -> None:
    path = clips["hevc"]
    np.testing.assert_array_equal(load_clip(path, ("iframe",), size=16)["iframe"], by_hand(path, "iframe", 3, 16, None))
    for streams, box in ((("iframe", "mv"), None), (("residual",), BOX), (("iframe",), "mocrop")):
        with pytest.raises(NoMotionVectorsError, match=r"hevc\.mp4: the decoder of hevc exports no motion vectors"):
            load_clip(path, streams, size=16, box=box)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"streams": ("iframe", "sound")}, "unknown stream 'sound'; choose from iframe, mv, residual"),
        ({"streams": ("frame",)}, "unknown stream 'frame'"),
        ({"segments": 0}, "segments is 0 and size 224; give 1 or more"),
        ({"size": -1}, "size -1"),
        ({"box": "auto"}, "box is 'auto'; give a CropBox, 'mocrop' or None"),
        ({"box": (0.0, 0.0, 1.0, 1.0)}, "box is .*; give a CropBox"),
        ({"box": CropBox(40, 30, 200, 150)}, "is not a part of the frame"),
        ({"box": CropBox(0.8, 0.1, 0.2, 0.9)}, "is not a part of the frame"),
        ({"box": CropBox(0.1, 0.1, float("nan"), 0.9)}, "is not a part of the frame"),
    ],
)
def test_wrong_arguments_are_told(clips: dict[str, Path], arguments: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=f"load_clip: .*{says}") as caught:
        load_clip(clips["one"], **arguments)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_video_are_told(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"none\.mp4: no such file"):
        load_clip(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("this is not a video")
    with pytest.raises(VideoError, match=r"text\.mp4: "):
        load_clip(tmp_path / "text.mp4")


# -- read_views ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [MoCropSettings(), MoCropSettings(sparse=True), MoCropSettings(preset="paper_v1")])
def test_the_box_of_the_same_pass_is_that_of_estimate_box(
    clips: dict[str, Path], settings: MoCropSettings, decoded: list[list[int]]
) -> None:
    def windows(size: tuple[int, int], box: CropBox | None) -> list[Window]:
        return windowing.testing_windows(size, box, 10)

    with open_video(clips["b_frames"]) as video:
        vectors = video.get_motion_vectors_at(frames_to_read(video.gops, settings))
        box = estimate_box(vectors, (64, 96), settings)
        views = {kind: View(kind, [38, 3, 14], windows, 24) for kind in (*STREAMS, "frame")}
        given = read_views(video, views, box)
        decoded.clear()
        estimated = read_views(video, views, settings)
    assert len(decoded) == 1
    assert estimated.box == given.box == box
    assert estimated.windows == given.windows
    for name in views:
        np.testing.assert_array_equal(estimated.pixels[name], given.pixels[name])


def test_views_come_in_the_order_asked_for_repeats_included(clips: dict[str, Path]) -> None:
    frames = [38, 3, 3, 14, 0, 38]
    with open_video(clips["h264"]) as video:
        views = {f"my {kind}": View(kind, frames, whole_frame, None) for kind in (*STREAMS, "frame")}
        read = read_views(video, views)
        exact = video.get(dict.fromkeys((*STREAMS, "frame"), frames))
    assert list(read.pixels) == list(views)
    assert read.kinds == {f"my {kind}": kind for kind in (*STREAMS, "frame")}
    assert read.box is None
    for kind in ("iframe", "frame"):
        np.testing.assert_array_equal(read.pixels[f"my {kind}"][0], exact[kind].transpose(0, 3, 1, 2))
    moved = np.abs(exact["mv"]).max(axis=(1, 2, 3))
    assert (read.pixels["my mv"][0].transpose(0, 2, 3, 1) != 128).any(axis=(1, 2, 3)).tolist() == (moved > 0).tolist()
    assert read.pixels["my residual"].shape == (1, 6, 3, 64, 96)


def test_a_window_that_is_only_mirrored_has_no_pixels_of_its_own(clips: dict[str, Path]) -> None:
    def ten(size: tuple[int, int], box: CropBox | None) -> list[Window]:
        return windowing.testing_windows(size, box, 10)

    with open_video(clips["h264"]) as video:
        for box in (None, BOX):
            read = read_views(video, {"a": View("residual", [8, 20], ten, 24)}, box)
            twice = read_views(video, {"a": View("residual", [8, 8], ten, 24)}, box)
            assert twice.pixels["a"].flags.c_contiguous
            assert read.pixels["a"].shape == (5, 2, 3, 24, 24)
            assert read.mirrored("a").tolist() == [False] * 5 + [True] * 5
            for pixels, window in zip(read.pixels["a"], ten((64, 96), box), strict=False):
                one = View("residual", [8, 20], lambda size, box, window=window: [window], 24)  # type: ignore[misc]
                np.testing.assert_array_equal(read_views(video, {"a": one}).pixels["a"][0], pixels)


def test_windows_that_coincide_are_all_there(clips: dict[str, Path]) -> None:
    """As in a box of few pixels: batches and networks expect as many windows of every clip."""
    one = Window(0, 0, 1, 1)

    def windows(size: tuple[int, int], box: CropBox | None) -> list[Window]:
        return [*[one] * 5, *[one._replace(mirrored=True)] * 5]

    with open_video(clips["h264"]) as video:
        read = read_views(video, {"a": View("iframe", [8], windows, 24)})
    assert read.pixels["a"].shape == (5, 1, 3, 24, 24)
    assert (read.pixels["a"] == read.pixels["a"][0]).all()
    assert read.mirrored("a").tolist() == [False] * 5 + [True] * 5


def test_only_the_gops_that_are_wanted_are_decoded(tmp_path: Path, decoded: list[list[int]]) -> None:
    path = record(sliding(36, 64, 48, (1, 0)), tmp_path / "three_gops.mp4", codec="mpeg4")
    with open_video(path) as video:
        read_views(video, {"i": View("iframe", [30], whole_frame, 16), "m": View("mv", [14], whole_frame, 16)})
    assert decoded == [[12, 13, 14, 24]]


# -- read_streams ----------------------------------------------------------------------------------------


class RandomStream:
    """Wants random frames and windows, as in training."""

    def __init__(self, name: str, kind: Any, draws: int) -> None:
        self.name, self.kind, self.draws = name, kind, draws

    def views(self, num_frames: int, gops: Any, generator: np.random.Generator | None = None) -> dict[str, View]:
        assert generator is not None
        assert gops[0] == Gop(0, 12)
        frames = generator.integers(num_frames, size=self.draws).tolist()

        def windows(size: tuple[int, int], box: CropBox | None) -> list[Window]:
            return [training_window(size, box, (1.0, 0.75, 0.5), True, generator)]

        return {"frames": View(self.kind, frames, windows, 16), "more": View("iframe", frames, windows, 16)}


def test_a_stream_sees_the_same_whatever_is_read_beside_it(clips: dict[str, Path]) -> None:
    streams = [RandomStream("a", "mv", 3), RandomStream("b", "frame", 7), RandomStream("c", "residual", 1)]
    extra = {"picture": View("frame", [5], whole_frame, None)}
    with open_video(clips["mpeg4"]) as video:
        for box in (None, BOX, MoCropSettings()):
            together, pictures = read_streams(video, streams, box, [1, 2, 3], extra)
            assert set(together) == {"a", "b", "c"}
            np.testing.assert_array_equal(pictures.pixels["picture"][0].transpose(0, 2, 3, 1), video.get_frames_at([5]))
            for stream in streams:
                alone, nothing = read_streams(video, [stream], box, [1, 2, 3])
                assert not nothing.pixels
                assert alone[stream.name].windows == together[stream.name].windows
                for view in ("frames", "more"):
                    np.testing.assert_array_equal(alone[stream.name].pixels[view], together[stream.name].pixels[view])
        other, _ = read_streams(video, streams, None, [1, 2, 4])
        first, _ = read_streams(video, streams, None, [1, 2, 3])
        assert any(other[name].windows != first[name].windows for name in "abc")
