"""Where decoding can begin: what a container calls a key frame is not always one."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import RAW_FORMATS, decode, every_frame, wandering, warp
from hypothesis import given
from hypothesis import strategies as st

from coviar_mocrop.bitstream import open_video, packets
from coviar_mocrop.bitstream.h264 import crop_offset, is_whole, nal_length_size
from coviar_mocrop.bitstream.stream import VideoStream


def write(path: Path, *, codec: str = "libx264", x264: str = "", b_frames: int = 0, size: Any = (96, 64)) -> Path:
    pictures = wandering(40, *size, 5, noise=3)
    with av.open(str(path), "w", format=RAW_FORMATS.get(path.suffix)) as container:
        stream: Any = container.add_stream(codec, rate=25, options={"x264-params": x264} if x264 else {})
        stream.width, stream.height = size
        stream.codec_context.gop_size = 12
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def check(path: Path) -> list[int]:
    """Every frame is what a plain pass decodes, and the round trip holds; the stream's own GOPs."""
    plain = decode(path)
    with open_video(path) as video:
        assert video.info.num_frames == len(plain) == 40
        for frame in every_frame(video):  # each by itself: no read may depend on another
            arrays = video.get({"iframe": [frame], "mv": [frame], "residual": [frame]})
            iframe, motion, residual = arrays["iframe"][0], arrays["mv"][0], arrays["residual"][0]
            np.testing.assert_array_equal(iframe, plain[video.gop_at(frame).start])
            np.testing.assert_array_equal(warp(iframe, motion) + residual, plain[frame])
    with open_video(path, anchor_every=None) as video:
        return [gop.length for gop in video.gops]


@pytest.mark.parametrize("limit", [packets.KEEP_BYTES, 0])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.h264", "a.ts"])
def test_intra_refresh_has_one_key_frame(
    tmp_path: Path, name: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x264 marks the start of every refresh; the picture is whole only when it is through."""
    monkeypatch.setattr(packets, "KEEP_BYTES", limit)
    path = write(tmp_path / name, x264="intra-refresh=1:keyint=10:bframes=0")
    with av.open(str(path)) as container:
        assert sum(packet.is_keyframe for packet in container.demux(video=0) if packet.size) > 2
    assert check(path) == [40]


def test_intra_refresh_with_b_frames(tmp_path: Path) -> None:
    assert check(write(tmp_path / "a.mp4", x264="intra-refresh=1:keyint=10:bframes=2", b_frames=2)) == [40]


@pytest.mark.parametrize("name", ["a.mp4", "a.h264"])
def test_open_gops_keep_their_key_frames(tmp_path: Path, name: str) -> None:
    """These are recovery points too, but whole at once."""
    parameters = "open-gop=1:keyint=10:min-keyint=10:scenecut=0:bframes=2:b-adapt=0"
    lengths = check(write(tmp_path / name, x264=parameters, b_frames=2))
    assert len(lengths) == 4


@pytest.mark.parametrize("codec", ["h263", "h263p"])
def test_where_every_packet_is_called_a_key_frame(tmp_path: Path, codec: str) -> None:
    path = write(tmp_path / "a.avi", codec=codec, size=(176, 144))
    with av.open(str(path)) as container:
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)
    assert check(path) == [12, 12, 12, 4]


def test_where_every_frame_is_a_key_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", x264="keyint=1")
    with open_video(path, anchor_every=None) as video:
        assert [gop.length for gop in video.gops] == [1] * 40


# -- the bytes ---------------------------------------------------------------------------------------------

IDR, SLICE = b"\x65\x88\x84", b"\x41\x9a\x02"


def recovery_point(frames: int, before: bytes = b"") -> bytes:
    """A supplemental unit, with other messages in front."""
    bits = f"{frames + 1:b}"
    bits = "0" * (len(bits) - 1) + bits + "1000"
    payload = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    return b"\x06" + before + bytes([6, len(payload)]) + payload + b"\x80"


def joined(units: list[bytes], length_size: int) -> memoryview:
    if not length_size:
        return memoryview(b"".join(b"\0\0\0\1" + unit for unit in units))
    return memoryview(b"".join(struct.pack(">I", len(unit))[4 - length_size :] + unit for unit in units))


@given(frames=st.integers(0, 2000), long=st.integers(0, 600), length_size=st.sampled_from([0, 1, 2, 4]))
def test_what_a_recovery_point_says(frames: int, long: int, length_size: int) -> None:
    other = bytes([5] + [255] * (long // 255) + [long % 255]) + b"\x55" * long
    if length_size == 1 and long > 200:
        return
    unit = recovery_point(frames, other)
    assert is_whole(joined([unit, SLICE], length_size), length_size) == (frames == 0)
    assert is_whole(joined([b"\x09\x10", unit, IDR], length_size), length_size)
    assert is_whole(joined([SLICE, unit], length_size), length_size)


@given(data=st.binary(max_size=60), length_size=st.integers(0, 4), extradata=st.none() | st.binary(max_size=8))
def test_whatever_the_bytes(data: bytes, length_size: int, extradata: bytes | None) -> None:
    assert isinstance(is_whole(memoryview(data), length_size), bool)
    assert isinstance(is_whole(joined([b"\x06" + data, SLICE], length_size), length_size), bool)
    assert 0 <= nal_length_size(extradata) <= 4


# -- pictures that are cropped ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".h264"])
@pytest.mark.parametrize("crop", [(16, 0, 0, 0), (2, 0, 4, 0), (0, 16, 0, 0), (18, 20, 2, 8), (0, 0, 16, 16)])
def test_vectors_of_cropped_pictures_lie_where_their_blocks_are(
    tmp_path: Path, crop: tuple[int, int, int, int], suffix: str
) -> None:
    """The crop stands in the header alone: pictures and vectors are those of the whole video, cut and moved."""
    left, top, right, bottom = crop
    whole = write(tmp_path / f"whole{suffix}")
    cut = write(tmp_path / f"cut{suffix}", x264=f"crop-rect={left},{top},{right},{bottom}")
    with open_video(whole) as full, open_video(cut) as video:
        assert (video.info.width, video.info.height) == (96 - left - right, 64 - top - bottom)
        pictures = full.get_frames_at(range(40))[:, top : 64 - bottom, left : 96 - right]
        np.testing.assert_array_equal(video.get_frames_at(range(40)), pictures)
        for mine, other in zip(video.get_motion_vectors_at(), full.get_motion_vectors_at(), strict=True):
            offsets = {"dst_x": left, "src_x": left, "dst_y": top, "src_y": top, "w": 0, "motion_x": 0}
            for name, offset in offsets.items():
                np.testing.assert_array_equal(mine[name], other[name] - offset)
        assert any(len(vectors) for vectors in full.get_motion_vectors_at())
    stream = VideoStream(cut)
    frames = list(stream)
    stream.close()
    assert {frame.size for frame in frames} == {(64 - top - bottom, 96 - left - right)}


@pytest.mark.parametrize(
    ("x264", "unit"),
    [("cqm=jvt:8x8dct=1", 2), ("interlaced=1", 4), ("bframes=0", 2), ("bframes=2", 2), ("profile=baseline", 2)],
)
def test_the_crop_is_found_in_all_kinds_of_headers(tmp_path: Path, x264: str, unit: int) -> None:
    path = write(tmp_path / "a.mp4", x264=f"{x264}:crop-rect=6,{3 * unit},2,4")
    with av.open(str(path)) as container:
        extradata = container.streams.video[0].codec_context.extradata
    assert extradata is not None
    assert crop_offset(extradata) == (6, 3 * unit)
    for end in range(len(extradata)):
        assert crop_offset(extradata[:end]) in ((0, 0), (6, 3 * unit))
    assert crop_offset(None) == crop_offset(b"") == (0, 0)
    assert crop_offset(extradata[:5] + b"\xe0" + extradata[6:]) == (0, 0)  # it says that it holds none
    assert crop_offset(extradata[:8] + b"\x68" + extradata[9:]) == (0, 0)  # another unit


@given(st.binary(max_size=60))
def test_no_header_is_too_damaged(data: bytes) -> None:
    for start in (b"\1\x64\0\x1f\xff\xe1\0\x20\x67", b"\0\0\0\1\x67\x64\0\x1f"):
        left, top = crop_offset(start + data)
        assert min(left, top) >= 0
