"""Streams read once: addresses, servers that never end, damage on the way, and what is no stream."""

from __future__ import annotations

import io
import itertools
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import decode, decode_vectors, read_packets, record, remux, wandering, write_sound
from live import PACE, Rtsp, camera_pictures, chunked, feed, raw_h264, serving

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.bitstream.addresses import is_endless, open_source, scheme_of, source_name, source_names
from coviar_mocrop.bitstream.decoding import StreamDecoding
from coviar_mocrop.bitstream.stream import StreamFrame, VideoStream
from coviar_mocrop.bitstream.stream_clock import StreamClock
from coviar_mocrop.errors import VideoError
from coviar_mocrop.messages import redacted

SECRET = "geh:eim"


def take(source: Any, count: int = 1 << 30, **how: Any) -> list[StreamFrame]:
    """The first frames of a source."""
    stream = VideoStream(source, **{"timeout": 5.0, **how})
    try:
        return list(itertools.islice(stream, count))
    finally:
        stream.close()


def problem_of(source: Any, **how: Any) -> str:
    """The error that a source ends in, checked to be one clear line that names it."""
    with pytest.raises(VideoError) as caught:
        take(source, **how)
    message = str(caught.value)
    assert message.startswith(f"{source_name(source)}: ")
    assert "\n" not in message
    assert caught.value.__cause__ is None  # which would know the password
    return message.removeprefix(f"{source_name(source)}: ")


def pictures_of(frames: list[StreamFrame]) -> list[Any]:
    """uint8 [H, W, 3] of each."""
    return [frame.rgb()[:, : 3 * frame.size[1]].reshape(*frame.size, 3) for frame in frames]


# -- addresses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://user:secret@host:554/a?b=c", "rtsp://user:***@host:554/a?b=c"),
        ("rtsp://user:se/c@r#e?t@host/a", "rtsp://user:***@host/a"),
        ("rtsp://user:se%2Fcr%40et@host/a", "rtsp://user:***@host/a"),
        ("rtsp://:secret@host/a", "rtsp://:***@host/a"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("rtsp://user@host:554/a", "rtsp://user@host:554/a"),
        ("http://host/a.cgi?user=me&password=secret&x=1", "http://host/a.cgi?user=me&password=***&x=1"),
        ("http://host/a?PWD=secret", "http://host/a?PWD=***"),
        (
            "https://store/a?X-Amz-Signature=secret&X-Amz-Expires=9",
            "https://store/a?X-Amz-Signature=***&X-Amz-Expires=9",
        ),
        ("https://store/a?sp=r&sig=sec%2Fret%3D", "https://store/a?sp=r&sig=***"),
        ("https://store/a?sig=sec/ret=&b=1", "https://store/a?sig=***&b=1"),
        ("https://store/a?url=http://b/?token=secret", "https://store/a?url=http://b/?token=***"),
        ("s3://store/key=secret/a?b=1", "s3://store/key=***/a?b=1"),
        ("http://user:12345/6@host/a.mp4", "http://user:***@host/a.mp4"),
        ("http://user:1/6@host:80/a.mp4", "http://user:***@host:80/a.mp4"),
        ("http://me@mail.com:secret@host/a.mp4", "http://me@mail.com:***@host/a.mp4"),
        ("http://host:8080/@user/a.mp4", "http://host:8080/@user/a.mp4"),
        ("http://host:8080/a@b: is not a video", "http://host:8080/a@b: is not a video"),
        ("could not open 'rtsp://user:secret@host/a' again", "could not open 'rtsp://user:***@host/a' again"),
        ("udp://@239.0.0.1:1234", "udp://@239.0.0.1:1234"),
        ("holiday.mp4", "holiday.mp4"),
    ],
)
def test_passwords_are_not_shown(address: str, shown: str) -> None:
    assert redacted(address) == shown


@pytest.mark.parametrize(
    "name",
    [
        "key",
        "api_key",
        "api-key",
        "apikey",
        "apiKey",
        "access_key",
        "stream_key",
        "X-Amz-Signature",
        "X-Amz-Security-Token",
        "sig",
        "token",
        "auth_token",
        "accessToken",
        "password",
        "userPassword",
        "client_secret",
    ],
)
def test_parameters_that_are_not_shown(name: str) -> None:
    for before, after in (("http://host/a?", "&b=1"), ("http://host/a?b=1&", ""), ("s3://store/", "/a.tar"), ("", "")):
        assert redacted(f"{before}{name}=secret{after}") == f"{before}{name}=***{after}"


@pytest.mark.parametrize(
    "name", ["sort_key", "sortkey", "monkey", "keyboard", "keys", "key_id", "bypass", "tokens", "passage", "sigma"]
)
def test_parameters_that_are_shown(name: str) -> None:
    for address in ("http://host/a?{}=7&b=1", "http://host/a?b=1&{}=7", "s3://store/{}=5/a.tar"):
        assert redacted(address.format(name)) == address.format(name)


def test_different_sources_have_different_names() -> None:
    camera, file = "http://nvr/stream?key={}", io.BytesIO()
    shown = "http://nvr/stream?key=***"
    sources = [camera.format(1), "a.mp4", camera.format(2), camera.format(1), Path("a.mp4"), file, io.BytesIO(), file]
    assert source_names(sources) == [
        *(shown, "a.mp4", f"{shown} (2)", shown, "a.mp4"),
        *("<open file>", "<open file> (2)", "<open file>"),
    ]


def test_what_an_address_is() -> None:
    assert [
        scheme_of(text) for text in ("RTSP://a", "http://[x", "a.mp4", "C:\\a.mp4", "subfile,,://x", Path("rtsp://a"))
    ] == [
        *("rtsp", "http"),
        *("", "", "", ""),
    ]
    assert all(is_endless(source) for source in ("-", "rtsp://a", "tcp://a:1", "udp://@:5"))
    assert not any(is_endless(source) for source in ("a.mp4", "http://a/b.mp4", Path("c"), io.BytesIO()))
    assert source_name("-") == "standard input"


@pytest.mark.parametrize(
    "name",
    [
        "concat:{0}|{0}",
        "subfile,,start,0,end,0,,:{0}",
        "data:video/mp2t;base64,R0",
        "file:{0}",
        "pipe:0",
        "async:{0}",
        "cache:{0}",
    ],
)
def test_protocols_of_ffmpeg_are_names_of_files(tmp_path: Path, name: str) -> None:
    path = record(wandering(3, 64, 48, 3), tmp_path / "clip.ts")
    assert problem_of(name.format(path)) == "no such file; check the path"


@pytest.mark.parametrize("scheme", ["ftp", "file", "concat", "rtmp", "srt", "crypto+file", "gopher"])
def test_schemes_that_are_not_read(scheme: str) -> None:
    said = problem_of(f"{scheme}://host/a.mp4")
    assert said == f"addresses of {scheme} are not read; give one of rtsp, rtsps, http, https, tcp, udp"


@pytest.mark.parametrize(
    "name", ["http://[::1/x", "rtsp://", "http://", "tcp://127.0.0.1", "udp://", "a\0b", "", "rtsp://:@/"]
)
def test_addresses_that_make_no_sense(name: str) -> None:
    assert problem_of(name, timeout=1.0)


def unused_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


@pytest.mark.parametrize("scheme", ["rtsp", "http", "tcp"])
def test_a_connection_that_is_refused(scheme: str) -> None:
    said = problem_of(
        f"{scheme}://user:{SECRET}@127.0.0.1:{unused_port()}/a"
        if scheme != "tcp"
        else f"tcp://127.0.0.1:{unused_port()}"
    )
    assert "the connection was refused; check the host, the port, and whether the camera is on" in said
    assert "eim" not in said


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_host_that_is_not_there(scheme: str) -> None:
    said = problem_of(f"{scheme}://user:{SECRET}@no.such.host.invalid/a")
    assert "check the address and the network" in said
    assert "eim" not in said


def test_a_server_that_says_nothing() -> None:
    with serving(lambda client: time.sleep(3)) as server:
        for scheme in ("rtsp", "http", "tcp"):
            began = time.monotonic()
            said = problem_of(f"{scheme}://127.0.0.1:{server.port}/a", timeout=0.3)
            assert said == "no answer within 0.3 s; check the address and the network"
            assert time.monotonic() - began < 2


@pytest.mark.parametrize("password", ["geheim", "ge/h@e:im?#", "%41%"])
def test_credentials(tmp_path: Path, password: str, capfd: pytest.CaptureFixture[str]) -> None:
    from urllib.parse import quote

    camera = Rtsp(raw_h264(tmp_path))
    camera.credentials = f"user:{password}"
    with serving(camera) as server:
        right = f"rtsp://user:{quote(password, safe='')}@127.0.0.1:{server.port}/a"
        assert len(take(right, 5)) == 5
        stream = VideoStream(right)
        assert quote(password, safe="") not in f"{stream!r} {stream.path} {open_source!r} {vars(stream)['path']}"
        stream.close()
        wrong = f"rtsp://user:{quote(password + 'x', safe='')}@127.0.0.1:{server.port}/a"
        said = problem_of(wrong)
        assert said == "the user name or the password is wrong; give them as SCHEME://USER:PASSWORD@HOST/..."
        assert "the user name or the password is wrong" in problem_of(f"rtsp://127.0.0.1:{server.port}/a")
    printed = "".join(capfd.readouterr())
    assert password not in printed
    assert quote(password, safe="") not in printed


# -- what is no stream -----------------------------------------------------------------------------------


def write_picture(path: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (64, 48)).save(path)
    return path


PLAYLIST = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nclip.ts\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("kind", ["text", "picture", "folder", "missing", "empty", "sound", "playlist", "headers"])
def test_files_that_are_no_stream(tmp_path: Path, kind: str) -> None:
    path = tmp_path / {"picture": "a.png", "playlist": "a.m3u8"}.get(kind, "a.mp4")
    if kind == "text":
        path.write_text("This is a text, no video.\n" * 50)
    elif kind == "picture":
        write_picture(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "sound":
        write_sound(path)
    elif kind == "playlist":
        record(wandering(3, 64, 48, 3), tmp_path / "clip.ts")
        path.write_text(PLAYLIST)
    elif kind == "headers":
        data = record(wandering(3, 64, 48, 3), path.with_suffix(".mkv")).read_bytes()
        path.write_bytes(data[: data.index(b"\x1fC\xb6u")])
    expected = {
        "text": "is not a readable video",
        "picture": "is of the format png_pipe, which is not allowed",
        "folder": "is a folder; give a video file",
        "missing": "no such file; check the path",
        "empty": "is empty; copy or download it again",
        "sound": "holds no video stream that can be decoded",
        "playlist": "is of the format hls, which is not allowed",
        "headers": "is not a readable video",
    }
    assert expected[kind] in problem_of(path)


@pytest.mark.slow  # processes of their own
@pytest.mark.parametrize("kind", ["text", "empty", "picture", "playlist", "zeros"])
def test_standard_input_that_is_no_stream(tmp_path: Path, kind: str) -> None:
    data = {
        "text": b"This is a text, no video.\n" * 50,
        "empty": b"",
        "picture": write_picture(tmp_path / "a.png").read_bytes(),
        "playlist": PLAYLIST.encode(),
        "zeros": bytes(5000),
    }[kind]
    program = "from test_stream import take\ntry: take('-')\nexcept Exception as e: print(type(e).__name__, e)"
    done = subprocess.run(
        [sys.executable, "-c", program], input=data, capture_output=True, cwd=Path(__file__).parent, timeout=300
    )
    assert done.stderr == b""
    said = done.stdout.decode().strip()
    assert said.startswith("VideoError standard input: is empty, or no video (")
    assert said.endswith("; send MPEG-TS, Matroska, raw H.264 or raw MPEG-4")
    assert "\n" not in said


def test_a_pipe_that_carries_an_mp4(tmp_path: Path) -> None:
    """Its index is at the end, farther than the demuxer looks back in a pipe."""
    noise = list(np.random.default_rng(0).integers(0, 256, (50, 48, 64, 3), dtype=np.uint8))
    path = record(noise, tmp_path / "clip.mp4", gop=10)
    feed(tmp_path / "pipe", path.read_bytes())
    said = problem_of(tmp_path / "pipe")
    assert said.startswith("is damaged, or an MP4 (") and said.endswith(
        "; send MPEG-TS, Matroska, raw H.264 or raw MPEG-4"
    )


def test_a_pipe_that_is_closed_at_once(tmp_path: Path) -> None:
    feed(tmp_path / "pipe", b"").join(0)
    assert "is empty, or no video (" in problem_of(tmp_path / "pipe")


def test_web_pages_and_playlists_on_servers() -> None:
    def answer(body: bytes) -> Any:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
        return lambda client: (client.recv(4096), client.sendall(head + body))

    for body, expected in (
        (b"<html>a page</html>" * 50, "cannot be reached or read"),
        (PLAYLIST.encode(), "is of the format hls, which is not allowed"),
    ):
        with serving(answer(body)) as server:
            assert expected in problem_of(f"http://user:{SECRET}@127.0.0.1:{server.port}/a.m3u8", timeout=2.0)
    for status, expected in (("401 Unauthorized", "password is wrong"), ("404 Not Found", "does not have it")):
        with serving(lambda client, s=status: client.sendall(f"HTTP/1.1 {s}\r\n\r\n".encode())) as server:  # type: ignore[misc]
            assert expected in problem_of(f"http://user:{SECRET}@127.0.0.1:{server.port}/a")


# -- servers without end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_rtsp(tmp_path: Path, transport: Any) -> None:
    packets = raw_h264(tmp_path)
    with serving(Rtsp(packets)) as server:
        frames = take(f"rtsp://127.0.0.1:{server.port}/a", 60, transport=transport)
    expected, vectors = decode(tmp_path / "camera.h264"), decode_vectors(tmp_path / "camera.h264")
    first = next(n for n in range(50) if (pictures_of(frames[:1])[0] == expected[n]).all())
    for number, (frame, picture) in enumerate(zip(frames, pictures_of(frames), strict=True)):
        at = (first + number) % 50
        np.testing.assert_array_equal(picture, expected[at])
        assert len(frame.vectors()) == len(vectors[at][1])
        assert (frame.missing, frame.broken, frame.is_damaged) == (0, "", False)
        assert frame.time == pytest.approx(number / 25, abs=1e-3)
        assert frame.starts_gop == (at % 10 == 0)
    assert any(len(frame.vectors()) for frame in frames)


def test_frames_come_while_the_source_runs(tmp_path: Path) -> None:
    """A camera that sends no frame before the last but one has come out: with a longer delay, both would wait."""
    camera = Rtsp(raw_h264(tmp_path))
    looked_at = camera.stalls_after = 60  # what may be sent while the stream is looked at
    with serving(camera) as server:
        stream = VideoStream(f"rtsp://127.0.0.1:{server.port}/a", timeout=10.0)
        frames, began = iter(stream), time.monotonic()
        for number in range(80):
            next(frames)
            camera.stalls_after = max(looked_at, number + 3)
        assert time.monotonic() - began < 10.0  # a single frame that is waited for takes the time-out
        stream.close()


def test_lost_frames_are_missing_and_what_follows_is_damaged(tmp_path: Path) -> None:
    camera = Rtsp(raw_h264(tmp_path))
    camera.lost = {33, 34, 47}
    with serving(camera) as server:
        frames = take(f"rtsp://127.0.0.1:{server.port}/a", 60)
    assert [round(f.time * 25) for f in frames] == [n for n in range(63) if n not in camera.lost]
    missing = {round(frame.time * 25): frame.missing for frame in frames if frame.missing}
    assert missing == {35: 2, 48: 1}
    damaged = [round(frame.time * 25) for frame in frames if frame.is_damaged]
    assert damaged == [35, 36, 37, 38, 39, 48, 49]  # up to the next key frame


def test_parameter_sets_that_come_with_key_frames_alone(tmp_path: Path) -> None:
    camera = Rtsp(raw_h264(tmp_path), announced=False)
    with serving(camera) as server:
        assert len(take(f"rtsp://127.0.0.1:{server.port}/a", 30)) == 30


def test_key_frames_that_are_rarer_than_the_first_look(tmp_path: Path) -> None:
    """Joined in the middle of a GOP of 5 seconds, without parameter sets in the announcement."""
    packets = raw_h264(tmp_path, pictures=camera_pictures(125), gop=125)
    camera = Rtsp([*packets[20:], *packets], announced=False)
    with serving(camera) as server:
        frames = take(f"rtsp://127.0.0.1:{server.port}/a", 5, max_frame_pixels=64 * 48)
        assert not any(frame.is_damaged for frame in frames)
        np.testing.assert_array_equal(pictures_of(frames)[0], decode(tmp_path / "camera.h264")[0])
        said = problem_of(f"rtsp://127.0.0.1:{server.port}/a", max_frame_pixels=64 * 48 - 1)
    assert "has frames of 64x48 pixels, more than max_frame_pixels=3071 allows" in said


def test_no_frame_that_is_too_large_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the first key frame, by which the rotation is found."""
    path = record(camera_pictures(3, (1920, 1088)), tmp_path / "clip.ts", codec="mpeg2video")
    decoded: list[Any] = []
    decode_packet = StreamDecoding.decode

    def note(self: StreamDecoding, *arguments: Any) -> Any:
        frames = decode_packet(self, *arguments)
        decoded.extend(frames or ())
        return frames

    monkeypatch.setattr(StreamDecoding, "decode", note)
    assert "more than max_frame_pixels=10000 allows" in problem_of(path, max_frame_pixels=10_000)
    assert not decoded
    assert len(take(path, max_frame_pixels=1920 * 1088)) == 3
    assert decoded


def test_http_without_end(tmp_path: Path) -> None:
    path = record(camera_pictures(), tmp_path / "clip.ts", gop=10)
    with serving(chunked(path.read_bytes())) as server:
        stream = VideoStream(f"http://127.0.0.1:{server.port}/live")
        assert (stream.is_live, stream.is_remote) == (True, True)
        frames = list(itertools.islice(stream, 130))
        stream.close()
    jumps = [number for number, frame in enumerate(frames) if frame.broken]
    assert jumps == [50, 100]  # the file again, from its start
    assert all("the clock of the source jumps by -2.0 s" in frames[number].broken for number in jumps)
    assert frames[-1].time == pytest.approx(129 / 25)


@pytest.mark.parametrize("head", ["HTTP/1.1 200 OK", "HTTP/1.1 200 OK\r\nConnection: close", "HTTP/1.0 200 OK"])
def test_a_server_that_says_no_length_ends_by_closing_the_connection(tmp_path: Path, head: str) -> None:
    path = record(camera_pictures(), tmp_path / "clip.ts", gop=10)

    def serve(client: socket.socket) -> None:
        client.recv(4096)
        client.sendall(f"{head}\r\nContent-Type: video/mp2t\r\n\r\n".encode() + path.read_bytes())

    with serving(serve) as server:
        frames = take(f"http://127.0.0.1:{server.port}/live")
    np.testing.assert_array_equal(pictures_of(frames), decode(path))


def test_a_server_that_sends_less_than_it_said_broke(tmp_path: Path) -> None:
    data = record(camera_pictures(), tmp_path / "clip.ts", gop=10).read_bytes()

    def serve(client: socket.socket) -> None:
        client.recv(4096)
        client.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {2 * len(data)}\r\n\r\n".encode() + data)

    with serving(serve) as server, pytest.raises(VideoError, match=r"the connection broke \(Input/output error\)"):
        take(f"http://127.0.0.1:{server.port}/clip.ts", timeout=1.0)


def test_a_file_on_a_server_is_read_on_where_the_connection_broke(tmp_path: Path) -> None:
    path = record(camera_pictures(size=(160, 120)), tmp_path / "clip.ts", gop=10, quality=5)
    data, asked = path.read_bytes(), []

    def serve(client: socket.socket) -> None:
        found = re.search(rb"[Rr]ange: bytes=(\d+)-", client.recv(4096))
        start = int(found[1]) if found else 0
        asked.append(start)
        head = (
            f"HTTP/1.1 206 OK\r\nContent-Range: bytes {start}-{len(data) - 1}/{len(data)}\r\nAccept-Ranges: bytes\r\n"
        )
        client.sendall(f"{head}Content-Length: {len(data) - start}\r\nConnection: close\r\n\r\n".encode())
        client.sendall(data[start : start + (len(data) // 3 if len(asked) < 5 else len(data))])

    with serving(serve) as server:
        stream = VideoStream(f"http://127.0.0.1:{server.port}/clip.ts")
        assert (stream.is_live, stream.is_remote) == (False, True)
        frames = list(stream)
        stream.close()
    assert len(asked) >= 3
    np.testing.assert_array_equal(pictures_of(frames), decode(path))


def test_tcp_and_udp(tmp_path: Path) -> None:
    path = record(camera_pictures(100), tmp_path / "clip.ts", gop=10)
    data = path.read_bytes()

    def serve(client: socket.socket) -> None:
        for at in itertools.cycle(range(0, len(data), 188)):
            client.sendall(data[at : at + 188])
            time.sleep(PACE / 2)

    with serving(serve) as server:
        frames = take(f"tcp://127.0.0.1:{server.port}", 30)
        np.testing.assert_array_equal(pictures_of(frames), decode(path)[:30])
    port = unused_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", port))
        stopped = threading.Event()

        def send() -> None:
            null = struct.pack(">BHB", 0x47, 0x1FFF, 0x10).ljust(188, b"\xff")
            taken = 0
            while taken < 3:  # one that nobody takes makes the next fail
                try:
                    sender.send(null)
                    taken += 1
                except ConnectionRefusedError:
                    taken = 0
                time.sleep(PACE)
            for at in itertools.cycle(range(0, len(data), 1316)):
                if stopped.wait(PACE):
                    return
                with suppress(ConnectionRefusedError):  # all has been read
                    sender.send(data[at : at + 1316])

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        frames = take(f"udp://127.0.0.1:{port}", 60)
        stopped.set()
        thread.join()
    np.testing.assert_array_equal(pictures_of(frames), decode(path)[:60])
    assert not any(frame.is_damaged for frame in frames)


def test_a_camera_that_stalls_is_given_up(tmp_path: Path) -> None:
    camera = Rtsp(raw_h264(tmp_path))
    camera.stalls_after = 80
    with serving(camera) as server:
        said = problem_of(f"rtsp://127.0.0.1:{server.port}/a", timeout=0.5)
    assert said == "sent nothing for 0.5 s"


# -- what changes or breaks on the way -------------------------------------------------------------------


def test_the_size_changes(tmp_path: Path) -> None:
    small, large = raw_h264(tmp_path, "small"), raw_h264(tmp_path, "large", pictures=camera_pictures(size=(96, 64)))
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join([*small, *large, *small]))
    frames = take(path)
    assert [frame.size for frame in frames] == [(48, 64)] * 50 + [(64, 96)] * 50 + [(48, 64)] * 50
    assert {n: frame.broken for n, frame in enumerate(frames) if frame.broken} == {
        50: "the frames change from 64x48 to 96x64 pixels",
        100: "the frames change from 96x64 to 64x48 pixels",
    }
    assert frames[50].starts_gop and frames[100].starts_gop
    with open_video(path) as video, pytest.raises(VideoError, match="scale it to one size with another program"):
        video.get_frames_at([60])
    assert not any(frame.is_damaged for frame in frames)
    expected = [*decode(tmp_path / "small.h264"), *decode(tmp_path / "large.h264")]
    for mine, other in zip(pictures_of(frames), expected, strict=False):
        np.testing.assert_array_equal(mine, other)


def test_the_codec_changes(tmp_path: Path) -> None:
    """MPEG-TS that goes on with another codec: the source ends, and can be opened anew."""
    one = record(camera_pictures(), tmp_path / "one.ts", gop=10)
    other = record(camera_pictures(), tmp_path / "other.ts", gop=10, codec="mpeg2video")
    parts = [one.read_bytes(), *[other.read_bytes()] * 200]
    data = b"".join(parts)
    with serving(chunked(data, packets=7)) as server:
        stream = VideoStream(f"http://127.0.0.1:{server.port}/live", timeout=5.0)
        frames = []
        with pytest.raises(VideoError, match="nothing decodes any more; its codec has changed"):
            frames.extend(stream)
        stream.close()
    assert 40 <= len(frames) <= 60


def test_damaged_packets(tmp_path: Path) -> None:
    path = record(wandering(40, 98, 66, 6, noise=20), tmp_path / "clip.ts", gop=10, quality=5)
    data = path.read_bytes()
    pieces = [data[at : at + 188] for at in range(0, len(data), 188)]
    middle = len(pieces) // 2
    path.write_bytes(b"".join(pieces[:middle] + pieces[middle + 1 :]))
    frames = take(path)
    damaged = [round(frame.time * 25) for frame in frames if frame.is_damaged]
    assert damaged
    assert damaged[-1] % 10 == 9  # up to the next key frame
    assert not any(frame.is_damaged for frame in frames[:15])


def test_a_key_frame_that_is_damaged_damages_its_gop(tmp_path: Path) -> None:
    path = record(wandering(30, 98, 66, 6, noise=20), tmp_path / "clip.h264", gop=10, quality=5)
    packets = read_packets(path)
    packets[10] = packets[10][: len(packets[10]) // 2] + b"\xff" * (len(packets[10]) // 2)
    path.write_bytes(b"".join(packets))
    assert [n for n, frame in enumerate(take(path)) if frame.is_damaged] == list(range(10, 20))


def test_a_packet_that_does_not_decode_damages_what_follows(tmp_path: Path) -> None:
    path = record(wandering(30, 82, 50, 6, noise=4), tmp_path / "a.m4v", gop=10, codec="mpeg4")
    packets = read_packets(path)
    packets[14] = packets[14][:5] + b"\xff" * (len(packets[14]) - 5)
    frames = take(remux(packets, path, tmp_path / "a.mkv"))
    numbers = [round(frame.time * 25) for frame in frames]
    damaged = [number for number, frame in zip(numbers, frames, strict=True) if frame.is_damaged]
    assert damaged == [number for number in numbers if 14 <= number < 20]
    assert len(damaged) >= 5


def test_a_stream_of_intra_refresh_is_shown(tmp_path: Path) -> None:
    """It has no key frame but the first, which was sent before we came; after a round of refreshing it is whole."""
    path = tmp_path / "refresh.h264"
    with av.open(os.fspath(path), "w", format="h264") as out:
        stream: Any = out.add_stream(
            "libx264", rate=25, options={"x264-params": "intra-refresh=1:keyint=20:bframes=0:threads=1"}
        )
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in camera_pictures(500):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    packets = read_packets(path)
    sound = pictures_of(take(path))
    path.write_bytes(b"".join([*packets[:1], *packets[7:]]))  # the first frames are lost
    frames = take(path)
    assert len(frames) > 400
    joined = tmp_path / "joined.h264"
    joined.write_bytes(b"".join(packets[5:]))
    frames = take(joined)
    assert len(frames) > 100
    assert frames[0].is_damaged
    assert not frames[-1].is_damaged
    np.testing.assert_array_equal(pictures_of(frames[-1:])[0], sound[-1])


def test_memory_stays_flat_without_key_frames(tmp_path: Path) -> None:
    """What is kept for a stream does not grow."""
    from coviar_mocrop.clips.time_windows import WindowCutter

    path = record(camera_pictures(400), tmp_path / "long.ts", gop=400)
    stream = VideoStream(path)
    cutter = WindowCutter(stream, 1.0, 0.5)
    most = 0
    for frame in stream:
        for _ in cutter.add(frame):
            pass
        most = max(most, len(cutter._kept))
    stream.close()
    assert most <= 25 + 12 + 1


@pytest.mark.parametrize(("rate", "count"), [(1, 12), (60, 130)])
def test_frame_rates(tmp_path: Path, rate: int, count: int) -> None:
    from fractions import Fraction

    path = tmp_path / "clip.mp4"
    with av.open(os.fspath(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=rate, options={"x264-params": "bframes=0:threads=1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number, picture in enumerate(camera_pictures(count)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    frames = take(path)
    assert [frame.time for frame in frames] == pytest.approx([n / rate for n in range(count)])
    assert not any(frame.missing or frame.broken or frame.is_damaged for frame in frames)


def test_an_open_file_is_read_too(tmp_path: Path) -> None:
    path = record(camera_pictures(), tmp_path / "clip.mkv", gop=10)
    with path.open("rb") as file:
        np.testing.assert_array_equal(pictures_of(take(file)), decode(path))


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
def test_key_frames_only(tmp_path: Path, codec: str) -> None:
    """They are the key frames of the whole stream, at the same time, and what lies between them is not missing."""
    path = record(wandering(60, 96, 64, 5), tmp_path / "clip.ts", codec={"h264": "libx264"}.get(codec, codec), gop=12)
    every = list(VideoStream(path))
    keys = list(VideoStream(path, key_frames_only=True))
    starts = [frame for frame in every if frame.starts_gop]
    assert len(keys) == len(starts) == 5
    for frame, whole in zip(keys, starts, strict=True):
        assert (frame.time, frame.missing, frame.is_damaged) == (pytest.approx(whole.time), 0, False)
        assert (frame.rgb() == whole.rgb()).all() and len(frame.vectors()) == 0


def test_one_wrong_time_stamp_of_a_file_moves_nothing() -> None:
    """A gap in a recording is confirmed by the frame after it; a damaged time stamp is not."""
    stamps = [0.0, 0.04, 0.08, 7200.12, 0.16, 0.20]
    clock, times = StreamClock(0.0, 25.0, is_live=False), []
    for stamp in stamps:
        clock.advance(stamp, 0.0)
        times.append(clock.time)
        assert not clock.broken and not clock.missing
    assert times == pytest.approx([0.0, 0.04, 0.08, 0.12, 0.16, 0.20])
    clock, times = StreamClock(0.0, 25.0, is_live=False), []
    for stamp in (0.0, 0.04, 0.08, 60.0, 60.04, 60.08):
        clock.advance(stamp, 0.0)
        times.append(clock.time)
    assert times == pytest.approx([0.0, 0.04, 0.08, 0.12, 60.04, 60.08])
