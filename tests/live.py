"""Servers that send video without end, faster than real time, and can be cut and restored."""

from __future__ import annotations

import base64
import itertools
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
from clips import read_packets, record, wandering

RATE = 25
PACE = 0.004
"""Seconds between two frames on the wire; their time stamps are 1 / RATE apart."""


def camera_pictures(count: int = 50, size: tuple[int, int] = (64, 48), seed: int = 0) -> list[Any]:
    """What the cameras of these tests see."""
    return wandering(count, *size, 4, seed=seed, noise=3)


class Server:
    """Accepts connections on a port of this machine; ``serve`` is called with each in a thread of its own."""

    def __init__(self, serve: Callable[[socket.socket], None], port: int = 0) -> None:
        self._serve, self._clients = serve, list[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._clients.append(client)
                self.connections += 1
                threading.Thread(target=self._run, args=(client,), daemon=True).start()

    def _run(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            self._serve(client)

    def cut(self) -> None:
        """End all connections; new ones are refused."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self._clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(serve: Callable[[socket.socket], None], port: int = 0) -> Iterator[Server]:
    """A server, cut at the end."""
    server = Server(serve, port)
    try:
        yield server
    finally:
        server.cut()


def chunked(data: bytes, *, pace: float = PACE, packets: int = 3) -> Callable[[socket.socket], None]:
    """An HTTP answer without end: MPEG-TS in chunks, the same data again and again."""
    pieces = [data[at : at + 188 * packets] for at in range(0, len(data), 188 * packets)]

    def serve(client: socket.socket) -> None:
        client.recv(4096)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in itertools.cycle(pieces):
            client.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            time.sleep(pace)

    return serve


def raw_h264(folder: Path, name: str = "camera", **how: Any) -> list[bytes]:
    """The packets of a short stream of H.264 with start codes."""
    pictures = how.pop("pictures", None) or camera_pictures()
    return read_packets(record(pictures, folder / f"{name}.h264", **{"gop": 10, **how}))


def units_of(packet: bytes) -> list[bytes]:
    """The NAL units of a packet."""
    return [unit.rstrip(b"\0") for unit in re.split(b"\0\0\0?\1", packet) if unit]


class Rtsp:
    """A minimal RTSP server's side of a connection: H.264 as RTP, single NAL units and FU-A, over TCP or UDP.

    Attributes:
        credentials: user:password for basic authentication; empty: none is asked for.
        lost: numbers of frames that are not sent.
        stamp: time stamp in seconds of frame n.
        stalls_after: frames after which nothing more is sent.
        ends_after: frames after which the connection ends.
    """

    def __init__(self, packets: list[bytes], *, pace: float = PACE, announced: bool = True) -> None:
        """``announced``: whether the parameter sets stand in the SDP, or come with key frames alone."""
        self.packets, self.pace, self.announced = packets, pace, announced
        self.credentials = ""
        self.lost: set[int] = set()
        self.stamp: Callable[[int], float] = lambda number: number / RATE
        self.stalls_after = self.ends_after = 1 << 60
        self.sent = 0
        self._sequence = 0

    def __call__(self, client: socket.socket) -> None:
        """Serve one client."""
        reader, send = client.makefile("rb"), client.sendall
        while line := reader.readline().decode():
            method, address = line.split()[:2]
            headers = dict(item.decode().rstrip().split(": ", 1) for item in iter(reader.readline, b"\r\n"))
            answer = f"CSeq: {headers['CSeq']}\r\nSession: 1\r\n"
            wanted = "Basic " + base64.b64encode(self.credentials.encode()).decode()
            if self.credentials and headers.get("Authorization") != wanted:
                client.sendall(
                    f'RTSP/1.0 401 Unauthorized\r\n{answer}WWW-Authenticate: Basic realm="c"\r\n\r\n'.encode()
                )
                continue
            body = ""
            if method == "OPTIONS":
                answer += "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif method == "DESCRIBE":
                body = self._description()
                answer += (
                    f"Content-Base: {address}/\r\nContent-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
                )
            elif method == "SETUP":
                transport = headers["Transport"]
                if found := re.search(r"client_port=(\d+)", transport):
                    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    udp.bind(("127.0.0.1", 0))
                    udp.connect(("127.0.0.1", int(found[1])))
                    port = udp.getsockname()[1]
                    transport += f";server_port={port}-{port + 1}"
                    send = udp.sendall
                answer += f"Transport: {transport}\r\n"
            client.sendall(f"RTSP/1.0 200 OK\r\n{answer}\r\n{body}".encode())
            if method == "PLAY":
                self._play(send, framed=send == client.sendall)
                return

    def _description(self) -> str:
        sets = [unit for unit in units_of(self.packets[0]) if unit[0] & 31 in (7, 8)]
        announced = ",".join(base64.b64encode(unit).decode() for unit in sets)
        return (
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
            "a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1"
            + (f";sprop-parameter-sets={announced}" if self.announced else "")
            + "\r\na=control:track0\r\n"
        )

    def _play(self, send: Callable[[bytes], Any], *, framed: bool) -> None:
        for number in itertools.count():
            if number >= self.ends_after:
                return
            while number >= self.stalls_after:
                time.sleep(0.02)
            stamp = round(self.stamp(number) * 90000) & 0xFFFFFFFF
            for payload, last in _payloads(units_of(self.packets[number % len(self.packets)])):
                packet = struct.pack(">BBHII", 0x80, 96 | last << 7, self._sequence & 0xFFFF, stamp, 7) + payload
                self._sequence += 1
                if number not in self.lost:
                    send(struct.pack(">cBH", b"$", 0, len(packet)) + packet if framed else packet)
            self.sent = number + 1
            time.sleep(self.pace)


def _payloads(units: list[bytes], size: int = 400) -> Iterator[tuple[bytes, bool]]:
    """RTP payloads of a frame, and whether each is the last."""
    for at, unit in enumerate(units):
        is_last = at == len(units) - 1
        if len(unit) <= size:
            yield unit, is_last
            continue
        pieces = [unit[start : start + size] for start in range(1, len(unit), size)]
        for number, piece in enumerate(pieces):
            begins, ends = number == 0, number == len(pieces) - 1
            head = bytes([unit[0] & 0xE0 | 28, begins << 7 | ends << 6 | unit[0] & 31])
            yield head + piece, ends and is_last


def feed(path: Path, data: bytes, *, piece: int = 4096, pace: float = 0.0) -> threading.Thread:
    """Make a named pipe, and write ``data`` into it from a thread."""
    os.mkfifo(path)

    def write() -> None:
        with suppress(BrokenPipeError), path.open("wb", buffering=0) as pipe:
            for at in range(0, len(data), piece):
                pipe.write(data[at : at + piece])
                time.sleep(pace)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


def between_key_frames(source: Path, first: int, last: int, path: Path) -> Path:
    """Copy the packets from key frame number ``first`` up to, and without, key frame ``last`` into another file."""
    with av.open(os.fspath(source)) as container, av.open(os.fspath(path), "w") as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        keys = -1
        for packet in container.demux(video=0):
            keys += bool(packet.size and packet.is_keyframe)
            if packet.size and first <= keys < last:
                packet.stream = stream
                out.mux(packet)
    return path
