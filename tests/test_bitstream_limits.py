"""What a file may not do: open others, ask for too much memory, or end in anything but data or a VideoError."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import av.logging
import numpy as np
import pytest
from av.video.frame import VideoFrame
from clips import RAW_FORMATS, decode, every_frame, record, texture, wandering

from coviar_mocrop.bitstream import open_video, transcode
from coviar_mocrop.bitstream.mvextractor_reader import MvextractorReader, is_available
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.datasets.lists import Clip, VideoList
from coviar_mocrop.datasets.videos import VIDEO_SUFFIXES
from coviar_mocrop.errors import VideoError

BACKENDS = ["pyav", *(["mvextractor"] if is_available() else [])]
PLAYLISTS = {
    "list.mp4": ("concat", "ffconcat version 1.0\nfile neighbour.mp4\n"),
    "list.m3u8": ("hls", "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nneighbour.mp4\n#EXT-X-ENDLIST\n"),
    "list.sdp": ("sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"),
}


# -- other files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_does_not_read_its_neighbour(tmp_path: Path, name: str, backend: Any) -> None:
    record(wandering(4, 64, 48, 3), tmp_path / "neighbour.mp4")
    kind, text = PLAYLISTS[name]
    path = tmp_path / name
    path.write_text(text)
    for _ in range(2):
        with pytest.raises(
            VideoError, match=rf"^{path}: is of the format {kind}, which is not allowed: .*\.mp4 or \.mkv"
        ):
            open_video(path, backend)
    with pytest.raises(VideoError, match=r"not allowed|is not a readable video"):
        open_video(io.BytesIO(text.encode()))


def test_many_threads_are_told_the_same(tmp_path: Path) -> None:
    """The reason is in FFmpeg's log, which is on for that moment alone."""
    paths = [tmp_path / f"{number}.mp4" for number in range(40)]
    for path in paths:
        path.write_text(PLAYLISTS["list.mp4"][1])

    def message(path: Path) -> str:
        with pytest.raises(VideoError) as error:
            open_video(path)
        return str(error.value).removeprefix(f"{path}: ")

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(message, paths))) == 1
    assert av.logging.get_level() is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_sequence_is_not_read(tmp_path: Path, backend: Any) -> None:
    with av.open(str(tmp_path / "%02d.png"), "w") as container:
        stream: Any = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        for picture in wandering(3, 64, 48, 3):
            container.mux(stream.encode(VideoFrame.from_ndarray(picture, format="rgb24")))
    assert (tmp_path / "01.png").is_file()
    with pytest.raises(VideoError, match=r"not allowed|no such file"):
        open_video(tmp_path / "%02d.png", backend)
    with pytest.raises(VideoError, match="the format png_pipe, which is not allowed"):
        open_video(tmp_path / "01.png", backend)


@pytest.mark.parametrize("form", ["concat:{0}|{0}", "subfile,,start,0,end,0,,:{0}", "data:;base64,AAAA", "cache:{0}"])
def test_a_name_is_never_taken_for_a_protocol(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record(wandering(4, 64, 48, 3), tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoError, match="no such file"):
        open_video(form.format("clip.mp4"))
    odd = Path("concat:clip.mp4")
    Path("clip.mp4").rename(odd)
    for backend in BACKENDS:
        with open_video(str(odd), backend) as video:  # type: ignore[arg-type]
            assert len(video.get_motion_vectors_at()) == 4


def test_formats_of_videos_are_allowed(tmp_path: Path) -> None:
    """All suffixes that are looked for in folders, and the codecs usual there."""
    encoders = {".mxf": "mpeg2video", ".ogv": "libtheora", ".flv": "flv", ".asf": "wmv2", ".wmv": "wmv2"}
    encoders |= dict.fromkeys((".m2v", ".mpg", ".mpeg", ".vob", ".m2t", ".m2ts", ".mts"), "mpeg2video")
    encoders |= dict.fromkeys((".m4v", ".divx", ".3g2"), "mpeg4") | {".3gp": "h263"}
    formats = {".h264": "h264", ".264": "h264", ".m4v": "m4v", ".divx": "avi", ".m2t": "mpegts", ".f4v": "mp4"}
    refused = []
    for suffix in (*sorted(VIDEO_SUFFIXES), ".webm", ".nut", ".ivf"):
        path = tmp_path / f"clip{suffix}"
        codec = {".webm": "libvpx-vp9", ".ivf": "libvpx-vp9"}.get(suffix, encoders.get(suffix, "libx264"))
        if codec == "libtheora":
            continue  # not in PyAV's wheels
        with av.open(str(path), "w", format=formats.get(suffix, RAW_FORMATS.get(suffix))) as container:
            stream: Any = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 176, 144, "yuv422p" if suffix == ".mxf" else "yuv420p"
            for number, picture in enumerate(wandering(3, 176, 144, 3)):
                frame = VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        try:
            open_video(path).close()
        except VideoError as error:
            refused.append(str(error))
    assert refused == []


def test_text_in_another_encoding_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    record(wandering(4, 64, 48, 3), tmp_path / "plain.mkv", codec="mpeg4")
    with av.open(str(tmp_path / "plain.mkv")) as source, av.open(str(path), "w") as target:
        target.metadata["title"] = "Xyz"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    assert b"Xyz" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"Xyz", b"X\xe9z"))  # Latin-1
    with open_video(path) as video:
        assert video.info.num_frames == 4


# -- the size of frames ------------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264.h264": {},
    "h264.ts": {},
    "mpeg4.m4v": {"codec": "mpeg4"},
    "mpeg4_b.avi": {"codec": "mpeg4", "b_frames": 2},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "hevc.mp4": {"codec": "libx265"},
    "vp9.webm": {"codec": "libvpx-vp9"},
}
LARGE = (1600, 1200)
"""More pixels than the padding that a decoder may add."""


@pytest.mark.parametrize("name", KINDS)
def test_frames_above_the_limit_are_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    width, height = LARGE
    path = record([texture(height, width, grain=40)] * 2, tmp_path / name, **KINDS[name])
    open_video(path, max_frame_pixels=width * height).close()
    expected = (
        rf"^{path}: has frames of 1[0-9]{{3}}x1[0-9]{{3}} pixels, more than max_frame_pixels=300000 allows; "
        r"raise the limit \(in a configuration: data.max_frame_pixels\) or scale the video down$"
    )
    for _ in range(2):
        with pytest.raises(VideoError, match=expected):
            open_video(path, max_frame_pixels=300_000)
    with pytest.raises(VideoError, match=expected):
        transcode(path, tmp_path / "out.mp4", max_frame_pixels=300_000)


def test_the_header_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pixel more than allowed, and nothing is decoded by us."""
    path = record(wandering(2, 64, 48, 3), tmp_path / "clip.mp4")
    open_video(path, max_frame_pixels=64 * 48).close()
    monkeypatch.setattr("coviar_mocrop.bitstream.pyav_reader.PyavReader._decode", None)
    with pytest.raises(VideoError, match="frames of 64x48 pixels, more than max_frame_pixels=3071"):
        open_video(path, max_frame_pixels=64 * 48 - 1)


def test_memory_of_a_refused_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg itself is told the limit before it looks into the file."""
    path = record(wandering(2, 64, 48, 3), tmp_path / "clip.mp4")
    asked: list[Any] = []
    real = av.open
    monkeypatch.setattr(av, "open", lambda *args, **how: asked.append(how["options"]) or real(*args, **how))
    open_video(path, max_frame_pixels=12345).close()
    assert [int(options["max_pixels"]) for options in asked] == [12345 + 64 * 16384]
    assert DataConfig(classes="x").max_frame_pixels == 8192 * 4320


@pytest.mark.parametrize("suffix", [".h264", ".m4v"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_size_that_grows_on_the_way(tmp_path: Path, suffix: str, backend: Any) -> None:
    how: dict[str, Any] = {"codec": "mpeg4"} if suffix == ".m4v" else {}
    small = record(wandering(6, 64, 48, 3), tmp_path / f"small{suffix}", gop=6, **how)
    large = record([np.zeros((LARGE[1], LARGE[0], 3), np.uint8)], tmp_path / f"large{suffix}", **how)
    path = tmp_path / f"joined{suffix}"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    refused = pytest.raises(VideoError, match=r"has frames of 1\d{3}x1\d{3} pixels, more than max_frame_pixels=300000")
    if suffix == ".h264":  # FFmpeg looks so far ahead
        with refused:
            open_video(path, backend, max_frame_pixels=300_000)
        return
    with open_video(path, max_frame_pixels=300_000) as video:
        assert video.info.num_frames == 7
        np.testing.assert_array_equal(video.get_frames_at(range(6)), decode(small))
        with refused:
            video.get_frames_at([6])
    if backend == "mvextractor":
        with open_video(path, max_frame_pixels=300_000) as video:
            reader = MvextractorReader(path, video._pyav)
            with pytest.raises(VideoError, match="more than max_frame_pixels=300000"):
                reader._require_every_frame()


def test_the_setting_reaches_the_clips_of_a_list(tmp_path: Path) -> None:
    record(wandering(3, 64, 48, 3), tmp_path / "clip.mp4")
    data = DataConfig(root=str(tmp_path), classes="x", max_frame_pixels=64 * 48 - 1)
    clips = ClipDataset(VideoList((Clip("clip.mp4", "a", 0),), ("a",)), [], data)
    with pytest.raises(VideoError, match="more than max_frame_pixels=3071 allows"):
        clips.open(0)


# -- colours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), [("colorspace", 3), ("colorspace", 8), ("color_range", 7)])
def test_a_colour_description_that_makes_no_sense(tmp_path: Path, name: str, value: int) -> None:
    """The picture is converted as if there were none."""
    path = record(wandering(3, 64, 48, 3), tmp_path / "clip.mp4")
    with open_video(path) as video:
        reader = video._pyav
        (packet,) = reader._packets.read([0])
        plain, odd = (reader.decoding.decoder(vectors=False, pixels=True) for _ in range(2))
        (first, *_), (second, *_) = ([*d.decode(packet), *d.decode(None)] for d in (plain, odd))
        setattr(second, name, value)
        with pytest.raises(OSError, match="not supported"):
            second.to_ndarray(format="rgb24")
        np.testing.assert_array_equal(reader.decoding.convert(second), reader.decoding.convert(first))


def test_whatever_ffmpeg_raises_is_a_video_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = record(wandering(3, 64, 48, 3), tmp_path / "clip.mp4")
    reader = "coviar_mocrop.bitstream.pyav_reader"
    for error in (OSError(95, "Operation not supported"), ValueError("no such codec"), OverflowError("too large")):

        def fail(*args: object, _error: Exception = error, **how: object) -> None:
            raise _error

        with open_video(path) as video:
            video._pyav.decoding._reformatter = SimpleNamespace(reformat=fail)  # type: ignore[assignment]
            with pytest.raises(
                VideoError, match=rf"^{path}: has frames that cannot be converted to RGB|cannot be read"
            ):
                video.get_frames_at([0])
        with open_video(path) as video:
            monkeypatch.setattr(f"{reader}.PyavReader._decode", fail)
            with pytest.raises(VideoError, match=rf"^{path}: "):
                video.get_frames_at(every_frame(video))
        with pytest.raises(VideoError, match=rf"^{path}: "):
            open_video(path)
        monkeypatch.undo()
