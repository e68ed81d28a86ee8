"""Transcoding to the canonical format, and encoding from pictures."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from clips import (
    Picture,
    decode,
    decode_vectors,
    read_packets,
    record,
    sliding,
    texture,
    turn_clockwise,
    wandering,
    write_sound,
)

from coviar_mocrop.bitstream import open_video, transcode
from coviar_mocrop.bitstream.transcode import CANONICAL_SIZE, encode
from coviar_mocrop.errors import CoviarMocropError, VideoError


@pytest.fixture(scope="module")
def web_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """B-frames, several references, one key frame."""
    path = tmp_path_factory.mktemp("transcode") / "web.mp4"
    return record(wandering(30, 98, 66, 6), path, gop=250, b_frames=3, refs=4)


def key_frames(path: Path) -> list[int]:
    """Numbers of the packets that are marked as key frames."""
    with av.open(os.fspath(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    return [number for number, packet in enumerate(packets) if packet.is_keyframe]


def likeness(one: Picture, other: Picture) -> float:
    """Peak signal-to-noise ratio, decibel."""
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


@pytest.mark.parametrize(
    ("codec", "suffix"), [("h264", ".mp4"), ("h264", ".mkv"), ("mpeg4", ".mp4"), ("mpeg4", ".m4v")]
)
def test_canonical_form(web_clip: Path, tmp_path: Path, codec: Any, suffix: str) -> None:
    path = tmp_path / f"canonical{suffix}"
    assert transcode(web_clip, path, codec=codec).num_frames == 30
    assert key_frames(path) == [0, 12, 24]
    frames = decode_vectors(path)
    assert len(frames) == 30
    assert not any(is_b for is_b, _ in frames)
    with open_video(path, anchor_every=None) as video:
        info = video.info
        assert (info.codec, info.width, info.height, info.num_frames) == (codec, *CANONICAL_SIZE, 30)
        assert not info.has_b_frames
        assert list(video.gops) == [(0, 12), (12, 12), (24, 6)]
        if suffix != ".m4v":
            assert info.frame_rate == 25
        assert video.get_motion_at([11]).any()
    assert os.listdir(tmp_path) == [path.name]


def test_scene_cuts_make_no_key_frame(tmp_path: Path) -> None:
    source = record([texture(64, 96, seed) for seed in range(26)], tmp_path / "cuts.mkv")
    for codec in ("h264", "mpeg4"):
        path = tmp_path / f"{codec}.mp4"
        transcode(source, path, codec=codec, size=None)  # type: ignore[arg-type]
        assert key_frames(path) == [0, 12, 24]


def test_size_gop_and_quality(web_clip: Path, tmp_path: Path) -> None:
    transcode(web_clip, tmp_path / "same.mp4", size=None, gop=7, quality=15)
    transcode(web_clip, tmp_path / "odd.mp4", size=(63, 47), quality=15)
    transcode(web_clip, tmp_path / "poor.mp4", size=None, quality=45)
    source = decode(web_clip)
    same, poor = decode(tmp_path / "same.mp4"), decode(tmp_path / "poor.mp4")
    assert key_frames(tmp_path / "same.mp4") == [0, 7, 14, 21, 28]
    assert all(likeness(a, b) > 30 for a, b in zip(source, same, strict=True))
    assert all(likeness(a, b) < 25 for a, b in zip(source, poor, strict=True))
    assert decode(tmp_path / "odd.mp4")[0].shape == (48, 64, 3)


@pytest.mark.parametrize("codec", ["libx265", "libvpx-vp9"])
def test_codecs_without_vectors_gain_them(tmp_path: Path, codec: str) -> None:
    source = record(sliding(15, 112, 96, (3, -2)), tmp_path / "source.mkv", codec=codec)
    path = tmp_path / "target.mp4"
    assert transcode(source, path, size=None, quality=15).num_frames == 15
    assert all(likeness(a, b) > 30 for a, b in zip(decode(source), decode(path), strict=True))
    with open_video(path) as video:
        motion = video.get_motion_at([11])[0, 36:-36, 36:-36]
        assert np.median(motion, axis=(0, 1)).tolist() == [33, -22]


def test_source_whose_display_order_is_not_its_packet_order(tmp_path: Path) -> None:
    source = record(wandering(23, 64, 48, 6), tmp_path / "b.avi", codec="mpeg4", gop=6, b_frames=2, quality=10)
    path = tmp_path / "target.mp4"
    assert transcode(source, path, size=None, quality=10).num_frames == 23
    assert all(likeness(a, b) > 30 for a, b in zip(decode(source), decode(path), strict=True))


def test_rotation_is_applied(tmp_path: Path) -> None:
    coded = record(wandering(8, 96, 64, 5), tmp_path / "coded.mp4", quality=10)
    source = turn_clockwise(coded, tmp_path / "turned.mp4", 1)
    path = tmp_path / "target.mp4"
    transcode(source, path, size=None, quality=10)
    pictures = decode(path)
    assert pictures[0].shape == (96, 64, 3)
    assert all(likeness(np.rot90(a, -1), b) > 30 for a, b in zip(decode(coded), pictures, strict=True))
    with open_video(path) as video:
        assert video.info.rotation == 0


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
def test_encode_gives_the_same_packets_again(tmp_path: Path, codec: Any) -> None:
    """Whatever unset memory holds: with AVX-512, x264's faster routines differed once in twenty encodings."""
    pictures = wandering(20, 64, 48, 5, noise=3)
    rng = np.random.default_rng(0)
    first, rubbish = None, []
    for number in range(80 if codec == "h264" else 5):
        rubbish.append(np.full(rng.integers(1, 400_000), number, np.uint8))
        del rubbish[: rng.integers(0, 2) * len(rubbish) // 2]
        assert encode(iter(pictures), tmp_path / "clip.mkv", codec=codec) == 20
        packets = read_packets(tmp_path / "clip.mkv")
        first = first or packets
        assert packets == first, number


def test_encode_gives_the_same_packets_on_other_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """x264 without any routine for this processor in particular gives what it gives with them."""
    pictures = wandering(30, 160, 120, 5, noise=6)
    encode(pictures, tmp_path / "ours.mkv")
    module = importlib.import_module("coviar_mocrop.bitstream.transcode")  # the package's name is the function's
    plain = module.prepare_encoder

    def slowly(*how: Any, **rest: Any) -> dict[str, str]:
        options = plain(*how, **rest)
        return {**options, "x264-params": options["x264-params"] + ":asm=0"}

    monkeypatch.setattr(module, "prepare_encoder", slowly)
    encode(pictures, tmp_path / "theirs.mkv")
    assert read_packets(tmp_path / "ours.mkv") == read_packets(tmp_path / "theirs.mkv")


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
def test_frames_of_another_video_do_not_bring_their_key_frames(tmp_path: Path, codec: Any) -> None:
    source = record(wandering(26, 64, 48, 5), tmp_path / "source.mp4", gop=5)
    path = tmp_path / "target.mp4"
    with av.open(os.fspath(source)) as container:
        assert encode(container.decode(video=0), path, codec=codec) == 26
    assert key_frames(path) == [0, 12, 24]


def broken_source(kind: str, folder: Path) -> Path:
    """A file that cannot be transcoded."""
    path = folder / f"{kind}.mp4"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no video\n" * 100)
    elif kind == "sound":
        write_sound(path)
    return path


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "sound"])
def test_a_source_that_cannot_be_read_leaves_no_file(tmp_path: Path, kind: str) -> None:
    (tmp_path / "out").mkdir()
    source = broken_source(kind, tmp_path)
    with pytest.raises(VideoError) as error:
        transcode(source, tmp_path / "out" / "target.mp4")
    assert str(source) in str(error.value)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path / "out") == []


def failing(pictures: list[Picture]) -> Iterator[Picture]:
    """Pictures that stop with an error half-way."""
    yield from pictures[:5]
    raise VideoError("clip.mp4: is damaged half-way")


def test_a_source_that_fails_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "target.mp4"
    pictures = wandering(10, 64, 48, 5)
    with pytest.raises(VideoError, match="half-way"):
        encode(failing(pictures), target)
    assert os.listdir(tmp_path) == []
    encode(pictures, target)
    before = target.read_bytes()
    with pytest.raises(VideoError, match="half-way"):
        encode(failing(pictures), target)
    assert target.read_bytes() == before
    assert os.listdir(tmp_path) == ["target.mp4"]


@pytest.mark.parametrize(
    ("target", "how"),
    [
        ("target.mp4", {"pictures": 0}),
        ("target.xyz", {}),
        ("target", {}),
        ("target.m4v", {"codec": "h264"}),
        ("target.mp4", {"size": (0, 0)}),
        ("target.mp4", {"size": (40000, 40000)}),
        ("target.mp4", {"codec": "vp9"}),
        ("file/target.mp4", {}),
    ],
)
def test_a_target_that_cannot_be_written_leaves_no_file(tmp_path: Path, target: str, how: dict[str, Any]) -> None:
    (tmp_path / "file").touch()
    pictures = wandering(how.pop("pictures", 3), 64, 48, 5)
    with pytest.raises(CoviarMocropError) as error:
        encode(pictures, tmp_path / target, **how)
    assert str(tmp_path / target) in str(error.value)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
@pytest.mark.parametrize(
    ("how", "says"),
    [
        *(({"frame_rate": rate}, "give 0.001 to 65535") for rate in (float("nan"), float("inf"), 0, -25, 0.0004, 1e12)),
        ({"frame_rate": Fraction(90000)}, "give 0.001 to 65535"),
        *(({"gop": gop}, "give 1 to") for gop in (0, -1, 2**40)),
        *(({"quality": quality}, "give (0 to 51|1 to 31)$") for quality in (-1, 52)),
    ],
)
def test_numbers_out_of_range(tmp_path: Path, codec: Any, how: dict[str, Any], says: str) -> None:
    (name,) = how
    with pytest.raises(VideoError, match=rf"target\.mp4: {name} is .*; {says}"):
        encode(wandering(3, 64, 48, 5), tmp_path / "target.mp4", codec=codec, **how)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
@pytest.mark.parametrize("rate", [Fraction(120000, 1001), 239.8765, 999.999, 65535.0])
def test_frame_rates_of_fast_cameras(tmp_path: Path, codec: Any, rate: float) -> None:
    assert encode(wandering(4, 64, 48, 5), tmp_path / "clip.mp4", codec=codec, frame_rate=rate) == 4
    with open_video(tmp_path / "clip.mp4") as video:
        assert video.info.frame_rate == pytest.approx(float(rate), rel=1e-4)


@pytest.mark.parametrize(("step", "unit"), [(1, Fraction(1, 90000)), (3000, Fraction(1))])
def test_an_impossible_frame_rate_of_the_source_is_replaced(tmp_path: Path, step: int, unit: Fraction) -> None:
    """90000 frames per second, and one in 50 minutes."""
    encode(wandering(3, 64, 48, 5), tmp_path / "clip.mp4")
    with av.open(os.fspath(tmp_path / "clip.mp4")) as clip, av.open(os.fspath(tmp_path / "source.mp4"), "w") as source:
        stream = source.add_stream_from_template(clip.streams.video[0])
        stream.time_base = unit
        for number, packet in enumerate(packet for packet in clip.demux(video=0) if packet.size):
            packet.stream, packet.time_base = stream, unit
            packet.pts = packet.dts = number * step
            packet.duration = step
            source.mux(packet)
    with open_video(tmp_path / "source.mp4") as video:
        assert not 0.001 <= video.info.frame_rate <= 65535
    assert transcode(tmp_path / "source.mp4", tmp_path / "target.mp4", size=None) == (3, 0)
    with open_video(tmp_path / "target.mp4") as video:
        assert video.info.frame_rate == 25


def test_the_best_quality_of_all_is_lossless(tmp_path: Path) -> None:
    """0 is not None."""
    pictures = wandering(3, 64, 48, 5, noise=20)
    plane = [VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p") for picture in pictures]
    encode(plane, tmp_path / "target.mkv", quality=0)
    with av.open(os.fspath(tmp_path / "target.mkv")) as container:
        for frame, expected in zip(container.decode(video=0), plane, strict=True):
            np.testing.assert_array_equal(frame.to_ndarray(), expected.to_ndarray())


def test_a_missing_folder_is_made(web_clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "some" / "folder" / "target.mp4"
    assert transcode(web_clip, target, size=(64, 48)).num_frames == 30
    assert len(decode(target)) == 30


def test_a_name_that_is_too_long_is_a_fault_of_that_video_alone(tmp_path: Path) -> None:
    """What goes through many videos can leave this one out; a full disk ends it."""
    with pytest.raises(VideoError, match="too long"):
        encode(wandering(3, 64, 48, 5), tmp_path / f"{'n' * 252}.mp4")
    with pytest.raises(CoviarMocropError, match="cannot be written") as error:
        encode(wandering(3, 64, 48, 5), "/dev/null/target.mp4")
    assert not isinstance(error.value, VideoError)
