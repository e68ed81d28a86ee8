"""Videos on web servers: the same as on disk, and clear errors where the connection breaks."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clips import every_frame, record, wandering
from tool import tool
from web import Server, serving

from coviar_mocrop import load_clip
from coviar_mocrop.bitstream import open_video, packets, remote, transcode
from coviar_mocrop.datasets.transcoding import find_videos, transcode_files
from coviar_mocrop.errors import VideoError


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's folder."""
    with serving(tmp_path) as served:
        yield served


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return record(wandering(30, 98, 66, 7, noise=4), tmp_path / "clip.mp4", gop=10)


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("limit", [packets.KEEP_BYTES, 0])
def test_the_same_over_http(
    clip: Path, server: Server, limit: int, ranges: bool, length: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.ranges, server.length = ranges, length
    with open_video(clip) as video:
        frames = every_frame(video)
        expected = video.get_residuals_at(frames)
    monkeypatch.setattr(packets, "KEEP_BYTES", limit)
    for _ in range(2):
        with open_video(f"{server.address}/clip.mp4", index_cache=clip.parent / "cache") as video:
            np.testing.assert_array_equal(video.get_residuals_at(frames), expected)
    assert not (clip.parent / "cache").exists()  # nothing tells whether it is still the same


def test_only_parts_are_transferred(tmp_path: Path, server: Server) -> None:
    """mp4 keeps its index at the end; the 2 MB of no interest between it and the start are left where they are."""
    path = record(wandering(10, 98, 66, 7), tmp_path / "clip.mp4", gop=10)
    data = path.read_bytes()
    at = data.index(b"mdat") - 4
    free = (2 << 20).to_bytes(4, "big") + b"free" + bytes((2 << 20) - 8)
    path.write_bytes(data + free + data[:0])
    assert b"moov" in data[at:]
    with open_video(f"{server.address}/clip.mp4") as video:
        assert video.info.num_frames == 10
    with remote.RemoteFile(f"{server.address}/clip.mp4") as file:
        file.seek(-(2 << 20), 2)
        assert file.read(8) == free[:8]
        assert file.tell() == len(data) + 8


def test_an_address_keeps_its_slashes(clip: Path, server: Server, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    clip = clip.rename(tmp_path / "sub/clip.mp4")
    address = f"{server.address}/sub//clip.mp4?a=http://b//c&d=%20 e"
    with open_video(address) as video:
        assert video.path == address
    assert server.requests[-1] == "/sub//clip.mp4?a=http://b//c&d=%20%20e"
    assert load_clip(address, size=32)["mv"].shape == (3, 2, 32, 32)
    assert transcode(address, tmp_path / "out.mp4").num_frames == 30
    assert find_videos([address, str(clip)]) == [address, clip]
    tool("show_crop", address, "--output", tmp_path / "crop.png")
    tool("prepare_data", "transcode", address, tmp_path / "folder")
    assert (tmp_path / "folder/clip.mp4").read_bytes() == (tmp_path / "out.mp4").read_bytes()
    assert {path.partition("?")[0] for path in server.requests} == {"/sub//clip.mp4"}


def test_errors_over_http(tmp_path: Path, server: Server) -> None:
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    for name, expected in {"none.mp4": "404", "text.mp4": "is not a readable video"}.items():
        with pytest.raises(VideoError, match=expected) as error:
            open_video(f"{server.address}/{name}")
        assert str(error.value).startswith(f"{server.address}/{name}: ")
        assert "\n" not in str(error.value)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/clip.mp4"
        with pytest.raises(VideoError, match=rf"^{address}: cannot be reached \(.*\); check the address"):
            open_video(address)
    with pytest.raises(VideoError, match=r"^ftp://x/y: cannot be read; give a path, or an http or https address"):
        open_video("ftp://x/y")
    with pytest.raises(VideoError, match="address as a string"):
        open_video(Path("http://x/y"))
    with pytest.raises(VideoError, match="mvextractor cannot read an address"):
        open_video(f"{server.address}/{record(wandering(3, 64, 48, 3), tmp_path / 'a.mp4').name}", "mvextractor")


def test_a_user_and_a_password_are_sent_and_not_shown(clip: Path, server: Server, tmp_path: Path) -> None:
    server.user = "admin:geh:eim@\u00fc"
    bare = server.address.removeprefix("http://")
    address, shown = (f"http://admin:{word}@{bare}/clip.mp4" for word in ("geh%3Aeim%40%C3%BC", "***"))
    with open_video(address) as video:
        assert (video.path, video.info.num_frames) == (shown, 30)
        assert len(video.get_frames_at([29])) == 1
    for wrong in (f"http://admin:falsch@{bare}/clip.mp4", f"http://admin:falsch@{bare}/none.mp4"):
        with pytest.raises(VideoError, match=r"\*\*\*@.*401 Unauthorized") as error:
            open_video(wrong)
        assert "falsch" not in str(error.value)
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    server.ranges = False
    with pytest.raises(VideoError, match=r"\*\*\*@.*is not a readable video") as error:
        open_video(address.replace("clip", "text"))
    assert "geh" not in str(error.value)
    server.ranges = True
    (written, target), *_ = transcode_files([address], tmp_path / "out")[0].items()
    assert (written, target) == (address, tmp_path / "out/clip.mp4")
    _, failed = transcode_files([address.replace("clip", "text"), clip], tmp_path / "out", overwrite=True)
    assert list(failed) == [shown.replace("clip", "text")]
    assert "geh" not in (tmp_path / "out/failed.csv").read_text()
    server.user = "admin:"
    with open_video(f"http://admin@{bare}/clip.mp4") as video:
        assert video.info.num_frames == 30


def test_a_password_is_not_sent_on_to_another_server(clip: Path, server: Server, tmp_path: Path) -> None:
    with serving(tmp_path) as other:
        server.moved = other.address
        with open_video(server.address.replace("//", "//admin:geheim@") + "/clip.mp4") as video:
            assert video.info.num_frames == 30
        assert "Authorization" in server.headers
        assert "Authorization" not in other.headers


def test_a_password_is_sent_again_to_the_same_server(clip: Path, server: Server, tmp_path: Path) -> None:
    """A redirect within it; a name of it that differs counts as another server."""
    (tmp_path / "moved").mkdir()
    clip.rename(tmp_path / "moved/clip.mp4")
    server.user = "admin:geheim"
    address = server.address.replace("//", "//admin:geheim@") + "/clip.mp4"
    server.moved = f"{server.address}/moved"
    with open_video(address) as video:
        assert video.info.num_frames == 30
    server.moved = f"{server.address.replace('127.0.0.1', 'localhost')}/moved"
    with pytest.raises(VideoError, match="401 Unauthorized"):
        open_video(address)
    assert "Authorization" not in server.headers


@pytest.mark.parametrize("password", ["ge/heim", "ge?heim", "[geheim", "ge/he@im"])
def test_a_password_in_an_address_that_is_not_valid(password: str) -> None:
    with pytest.raises(VideoError) as error:
        open_video(f"http://admin:{password}@127.0.0.1:9/clip.mp4")
    assert str(error.value) == (
        "http://admin:***@127.0.0.1:9/clip.mp4: is not a valid address; write special characters of a user name and a "
        "password as %XX, such as %2F for a slash"
    )


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_is_no_damage(tmp_path: Path, server: Server, ranges: bool) -> None:
    path = record(wandering(30, 320, 240, 7, noise=60), tmp_path / "clip.mkv", gop=10, quality=5)
    size = path.stat().st_size
    assert size > 20 * 30_000
    server.ranges, server.breaks = ranges, 30_000
    address = f"{server.address}/clip.mkv"
    broken = rf"^{address}: the connection broke \(.* of {size} bytes came\); try again, or download the file first$"
    if ranges:  # each new connection goes on where the last one broke
        with open_video(address) as video, open_video(path) as local:
            np.testing.assert_array_equal(video.get_motion_at([25]), local.get_motion_at([25]))
        server.breaks = 0
    with pytest.raises(VideoError, match=broken):
        open_video(address)


@pytest.mark.parametrize("kept", [True, False])
def test_a_connection_that_breaks_later(
    tmp_path: Path, server: Server, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not in memory is fetched again."""
    record(wandering(30, 320, 240, 7, noise=60), tmp_path / "clip.mp4", gop=10, quality=5)
    monkeypatch.setattr(packets, "KEEP_BYTES", packets.KEEP_BYTES if kept else 0)
    with open_video(f"{server.address}/clip.mp4") as video:
        frames = [25, 5, 25]  # the connection that is open still gives what was sent
        if not kept:
            server.breaks = 0
            with pytest.raises(VideoError, match="the connection broke"):
                _ = [video.get_motion_at([frame]) for frame in frames]
            return
        server.silent = True
        assert len(video.get_motion_at(frames)) == 3


def test_a_server_that_does_not_answer(clip: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    file = remote.RemoteFile(f"{server.address}/clip.mp4")
    monkeypatch.setattr(remote, "TIMEOUT", 0.1)
    server.silent = True
    with pytest.raises(VideoError, match="no answer within"):
        open_video(f"{server.address}/clip.mp4")
    file.seek(5)
    assert file.read(5) == b""
    assert "no answer within" in remote.connection_problem(file)


def test_a_stream_without_end_is_given_up(clip: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server says no length and goes on sending; what reads such streams is named."""
    (clip.parent / "endless.ts").write_bytes(b"\x47" * 4_000_000)
    server.ranges = server.length = False
    monkeypatch.setattr("coviar_mocrop.bitstream.remote.UNSIZED", 0.0)
    with pytest.raises(VideoError, match=r"endless\.ts: has sent \d MB in 0 s.* coviar watch reads it"):
        open_video(f"{server.address}/endless.ts")


@pytest.mark.parametrize("source", ["-", "rtsp://user:secret@camera/live", "udp://127.0.0.1:5000", "/dev/null"])
def test_what_can_be_read_only_once_is_refused(source: str) -> None:
    with pytest.raises(VideoError, match=r"is read once, from front to back.* coviar watch does that") as refused:
        open_video(source)
    assert "secret" not in str(refused.value)
