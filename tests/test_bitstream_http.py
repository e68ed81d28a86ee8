"""Videos read over http, which FFmpeg does itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import every_frame, record, wandering

from coviar_mocrop.bitstream import open_video, packets
from coviar_mocrop.errors import VideoError


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A server of the test's folder that understands byte ranges, as most do."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = tmp_path / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            self.wfile.write(data[start:])

        def log_message(self, *text: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("limit", [packets.KEEP_BYTES, 0])
def test_the_same_over_http(tmp_path: Path, address: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = record(wandering(30, 98, 66, 7, noise=4), tmp_path / "clip.mp4", gop=10)
    with open_video(path) as video:
        frames = every_frame(video)
        expected = video.get_residuals_at(frames)
    monkeypatch.setattr(packets, "KEEP_BYTES", limit)
    for _ in range(2):
        with open_video(f"{address}/clip.mp4", index_cache=tmp_path / "cache") as video:
            np.testing.assert_array_equal(video.get_residuals_at(frames), expected)
    assert not (tmp_path / "cache").exists()  # nothing tells whether it is still the same


def test_errors_over_http(tmp_path: Path, address: str) -> None:
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    for name in ("none.mp4", "text.mp4"):
        with pytest.raises(VideoError) as error:
            open_video(f"{address}/{name}")
        assert str(error.value).startswith(f"{address}/{name}: ")
        assert "\n" not in str(error.value)
