"""Small clips made on the spot, and slow or plain ways to read them that share no code with the package."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from coviar_mocrop.bitstream import Video
from coviar_mocrop.errors import VideoError

Picture = NDArray[np.uint8]
Pixel = tuple[int, int]

RAW_FORMATS = {".m4v": "m4v", ".h264": "h264"}

# -- pictures ----------------------------------------------------------------------------------------


def texture(height: int, width: int, seed: int = 0, grain: int = 4) -> Picture:
    """A random picture, smooth over ``grain`` pixels, so that block matching finds one best place."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height // grain + 2, width // grain + 2, 3))
    rows, columns = np.arange(height) / grain, np.arange(width) / grain
    top, left = rows.astype(int), columns.astype(int)
    down, across = (rows - top)[:, None, None], (columns - left)[None, :, None]
    upper = noise[top][:, left] * (1 - across) + noise[top][:, left + 1] * across
    lower = noise[top + 1][:, left] * (1 - across) + noise[top + 1][:, left + 1] * across
    return (upper * (1 - down) + lower * down).astype(np.uint8)


def sliding(count: int, width: int, height: int, step: Pixel, seed: int = 0) -> list[Picture]:
    """All content moves by ``step`` = (dx, dy) pixels a frame; positive is right and down."""
    dx, dy = step
    room_x, room_y = abs(dx) * (count - 1), abs(dy) * (count - 1)
    wall = texture(height + room_y, width + room_x, seed)
    left, top = room_x if dx > 0 else 0, room_y if dy > 0 else 0
    return [wall[top - dy * t :, left - dx * t :][:height, :width].copy() for t in range(count)]


def wandering(count: int, width: int, height: int, motion: int, *, seed: int = 0, noise: int = 0) -> list[Picture]:
    """A patch wanders over a still picture, up to ``motion`` pixels a frame, over the edges too."""
    rng = np.random.default_rng(seed)
    wall = texture(height, width, seed)
    patch = texture(max(height // 2, 8), max(width // 2, 8), seed + 1)
    x, y = int(rng.integers(-8, width // 2 + 1)), int(rng.integers(-8, height // 2 + 1))
    pictures = []
    for _ in range(count):
        picture = wall.astype(np.int64)
        top, left = max(y, 0), max(x, 0)
        seen = patch[top - y : max(height - y, 0), left - x : max(width - x, 0)]
        picture[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
        picture += rng.integers(-noise, noise + 1, picture.shape)
        pictures.append(picture.clip(0, 255).astype(np.uint8))
        x += int(rng.integers(-motion, motion + 1))
        y += int(rng.integers(-motion, motion + 1))
    return pictures


# -- writing -----------------------------------------------------------------------------------------


class Recorder:
    """An output file of one or more video streams, encoded with PyAV itself."""

    def __init__(self, path: Path) -> None:
        """Start ``path``; its suffix chooses the container."""
        self.container: Any = av.open(os.fspath(path), "w", format=RAW_FORMATS.get(path.suffix))

    def add(
        self,
        pictures: Sequence[Picture],
        *,
        codec: str = "libx264",
        gop: int = 12,
        b_frames: int = 0,
        refs: int = 1,
        open_gop: bool = False,
        quality: int = 23,
    ) -> tuple[Any, Sequence[Picture]]:
        """Announce a stream; all are announced before :meth:`send` writes them."""
        quantiser = str(max(quality // 5, 1))
        options = {
            "libx264": {
                "crf": str(quality),
                "x264-params": f"scenecut=0:b-adapt=0:threads=1:ref={refs}:bframes={b_frames}:open-gop={open_gop:d}",
            },
            "libx265": {"x265-params": "log-level=none:pools=none:frame-threads=1"},
            "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
        }.get(codec, {"sc_threshold": "1000000000", "qmin": quantiser, "qmax": quantiser})
        stream = self.container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        odd = bool(stream.width % 2 or stream.height % 2)
        stream.pix_fmt = "yuv444p" if odd and codec == "libx264" else "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.thread_count = 1
        return stream, pictures

    def send(self, streams: Sequence[tuple[Any, Sequence[Picture]]]) -> None:
        """Write what was announced, and finish the file."""
        for stream, pictures in streams:
            for number, picture in enumerate(pictures):
                frame = VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                self.container.mux(stream.encode(frame))
            self.container.mux(stream.encode(None))
        self.container.close()


def record(pictures: Sequence[Picture], path: Path, **how: Any) -> Path:
    """Write one stream; see :meth:`Recorder.add` for the keywords."""
    recorder = Recorder(path)
    recorder.send([recorder.add(pictures, **how)])
    return path


def read_packets(path: Path) -> list[bytes]:
    """The packets of the video stream, decoding order."""
    with av.open(os.fspath(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def remux(packets: Sequence[bytes], like: Path, path: Path) -> Path:
    """Write ``packets``, decoding order and one tick apart, as a stream such as the one in ``like``."""
    with av.open(os.fspath(like)) as source, av.open(os.fspath(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.duration = 1  # left at 0 by PyAV 17: an MP4 file would then end before its last frame
            packet.is_keyframe = data.startswith(b"\0\0\1\xb0")  # MPEG-4: headers come with key frames
            container.mux(packet)
    return path


def write_sound(path: Path) -> Path:
    """A file that holds sound and no picture."""
    with av.open(os.fspath(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=44100)
        stream.layout = "mono"
        for number in range(4):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, number * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn_clockwise(source: Path, path: Path, quarters: int) -> Path:
    """Copy an mp4 with a display matrix (QuickTime's, in the ``tkhd`` atom) that turns it when shown."""
    a, b = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarters]  # x' = a x - b y, y' = b x + a y
    matrix = struct.pack(">9i", a << 16, b << 16, 0, -(b << 16), a << 16, 0, 0, 0, 1 << 30)
    data = source.read_bytes()
    at = data.index(b"tkhd") + 44
    path.write_bytes(data[:at] + matrix + data[at + 36 :])
    return path


def skip_start(source: Path, path: Path, frames: int) -> Path:
    """Copy an mp4 with an edit list that hides its first frames."""
    data = source.read_bytes()
    ticks = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0] // 25
    at = data.index(b"elst") + 16
    start = struct.unpack_from(">i", data, at)[0] + frames * ticks
    path.write_bytes(data[:at] + struct.pack(">i", start) + data[at + 4 :])
    return path


# -- reading plainly ---------------------------------------------------------------------------------


@contextmanager
def _frames(path: Path, **options: str) -> Iterator[Iterator[VideoFrame]]:
    with av.open(os.fspath(path)) as container:
        stream = container.streams.best("video")
        assert stream is not None
        context: Any = stream.codec_context
        context.thread_count, context.thread_type, context.options = 1, "SLICE", options
        yield container.decode(stream)  # type: ignore[misc]


def decode(path: Path) -> list[Picture]:
    """Every frame in display order, as single-threaded PyAV gives it."""
    with _frames(path) as frames:
        return [frame.to_ndarray(format="rgb24") for frame in frames]


def decode_vectors(path: Path) -> list[tuple[bool, NDArray[np.void]]]:
    """Whether it is a B-frame, and the motion vectors, of every frame; PyAV's own conversion."""
    found = []
    with _frames(path, flags2="+export_mvs") as frames:
        for frame in frames:
            vectors: Any = frame.side_data.get("MOTION_VECTORS")
            rows = np.empty(0) if vectors is None else vectors.to_ndarray()
            found.append((int(frame.pict_type) == 3, rows))
    return found


@contextmanager
def may_refuse(backend: str, path: Path) -> Iterator[None]:
    """mvextractor may say that it cannot serve a file; to give something wrong is no choice."""
    try:
        yield
    except VideoError as error:
        assert backend == "mvextractor"
        assert str(path) in str(error)


def every_frame(video: Video) -> list[int]:
    """The numbers of all frames of a video."""
    return list(range(video.info.num_frames))


def warp(picture: NDArray[Any], motion: NDArray[np.int16]) -> NDArray[np.int64]:
    """The picture with every pixel fetched from where ``motion`` says it came from."""
    rows, columns = np.indices(motion.shape[:2])
    return picture[rows - motion[..., 1], columns - motion[..., 0]].astype(np.int64)
