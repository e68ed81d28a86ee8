"""Another maker's RTSP server: GStreamer's, where Debian's packages of it are installed."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clips import decode, record
from live import camera_pictures

from coviar_mocrop.bitstream.stream import VideoStream

SERVER = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer(); server.set_service("0"); server.set_address("127.0.0.1")
factory = GstRtspServer.RTSPMediaFactory(); factory.set_shared(True)
factory.set_launch(f"( filesrc location={sys.argv[1]} ! qtdemux ! h264parse ! rtph264pay name=pay0 pt=96 )")
server.get_mount_points().add_factory("/clip", factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""
PYTHON = next(
    (path for path in ("/usr/bin/python3", shutil.which("python3")) if path and Path(path).is_file()), sys.executable
)
FIND = (
    "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst; Gst.init(None); "
    "assert all(Gst.ElementFactory.find(name) for name in ('qtdemux', 'h264parse', 'rtph264pay'))"
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of H.264 in mp4."""
    return record(camera_pictures(75, (128, 96)), tmp_path_factory.mktemp("clip") / "clip.mp4", gop=25)


@pytest.fixture
def address(clip: Path) -> Iterator[str]:
    """Where the server plays the clip in real time."""
    if subprocess.run([PYTHON, "-c", FIND], capture_output=True, check=False).returncode:
        pytest.skip(
            "needs apt-get install gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-good "
            "gstreamer1.0-plugins-bad"
        )
    server = subprocess.Popen([PYTHON, "-c", SERVER, str(clip)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield f"rtsp://127.0.0.1:{int(server.stdout.readline())}/clip"
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_frames_and_vectors_are_those_of_the_file(clip: Path, address: str, transport: str) -> None:
    stream = VideoStream(address, transport=transport, timeout=5.0)  # type: ignore[arg-type]
    frames = list(itertools.islice(stream, 40))
    stream.close()
    assert (stream.codec, stream.is_live) == ("h264", True)
    for number, (frame, picture) in enumerate(zip(frames, decode(clip), strict=False)):
        np.testing.assert_array_equal(frame.rgb()[:, : 3 * 128].reshape(96, 128, 3), picture)
        assert frame.time == pytest.approx(number / 25, abs=1e-3)
        assert (frame.missing, frame.broken, frame.is_damaged) == (0, "", False)
    assert sum(len(frame.vectors()) > 0 for frame in frames) == 38  # all but the two key frames
