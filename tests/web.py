"""A web server of a folder, which can misbehave."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Server(ThreadingHTTPServer):
    """Serves a folder.

    Attributes:
        ranges: whether it sends parts of files.
        length: whether it says how long an answer is.
        breaks: after how many bytes it ends the connection; None: never.
        silent: whether it never answers.
        requests: paths asked for.
        user: name and password without which it gives nothing; empty: it asks for none.
        moved: address to which it sends everyone on, maybe a folder of its own; empty: it has the files.
        headers: the last request's.
    """

    daemon_threads = True
    ranges, length, silent = True, True, False
    user = moved = ""
    headers: Any = None
    breaks: int | None = None

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.requests = folder, list[str]()
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the client may leave early


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        self.server.headers = self.headers
        path = self.server.folder / self.path.lstrip("/").partition("?")[0]
        if self.server.silent:
            threading.Event().wait(3)
            return
        if self.server.user:
            given = self.headers.get("Authorization", "Basic ").removeprefix("Basic ")
            if base64.b64decode(given).decode() != self.server.user:
                self.send_error(401)
                return
        if self.server.moved and not f"{self.server.address}{self.path}".startswith(f"{self.server.moved}/"):
            self.send_response(302)
            self.send_header("Location", self.server.moved + self.path)
            self.end_headers()
            return
        if not path.is_file():
            self.send_error(404)
            return
        data, start = path.read_bytes(), 0
        if self.server.ranges:
            first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            whole, start = len(data), int(first)
            data = data[: int(last) + 1 if last else None]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{whole}")
        else:
            self.send_response(200)
        if self.server.length:
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start : None if self.server.breaks is None else start + self.server.breaks])

    def log_message(self, *text: Any) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server of a folder."""
    served = Server(folder)
    threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield served
    finally:
        served.shutdown()
        served.server_close()
