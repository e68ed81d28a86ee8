"""Writing the canonical form: fixed GOP, no B-frames, one reference, no scene cut, by PyAV alone.

The same pictures give the same bytes again. x264 needs to be told so: its faster routines round differently from
processor to processor, and with AVX-512 the one behind ``mbtree`` reads unset memory when the picture is small, so
that one encoding in twenty of a 64x48 clip differed from the others.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, NamedTuple

import av
import av.error
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from coviar_mocrop.bitstream.container import MAX_FRAME_PIXELS
from coviar_mocrop.bitstream.types import Progress, Source, Span, picture_of
from coviar_mocrop.errors import VideoError
from coviar_mocrop.files import atomic_write

if TYPE_CHECKING:
    from coviar_mocrop.bitstream.pyav_reader import PyavReader

Codec = Literal["h264", "mpeg4"]
ENCODERS: dict[Codec, str] = {"h264": "libx264", "mpeg4": "mpeg4"}
CANONICAL_SIZE = (340, 256)
"""Width and height that CoViAR resizes every video to."""

_SLACK = 1.0
"""Seconds that a part may reach beyond the video: published annotations are whole seconds."""


class Transcoded(NamedTuple):
    """What :func:`transcode` did.

    Attributes:
        num_frames: frames written.
        damaged_frames: frames of the source that are damaged or do not decode; see
            :attr:`~coviar_mocrop.bitstream.Video.damaged_frames`.
    """

    num_frames: int
    damaged_frames: int


def encode(
    frames: Iterable[NDArray[np.uint8] | VideoFrame],
    path: str | os.PathLike[str],
    *,
    codec: Codec = "h264",
    size: tuple[int, int] | None = None,
    frame_rate: float = 25.0,
    gop: int = 12,
    quality: int | None = None,
) -> int:
    """Encode frames in the canonical form; the container follows from the suffix.

    Args:
        frames: uint8 [H, W, 3] RGB arrays, or PyAV frames.
        path: file to write, whole or not at all. ``.m4v`` and ``.h264`` are raw streams.
        codec: ``h264`` or ``mpeg4`` (Part 2).
        size: (width, height), made even; None: that of the first frame.
        frame_rate: frames per second.
        gop: frames from one key frame to the next.
        quality: H.264 constant rate factor (default 23) or MPEG-4 quantiser (default 4); smaller is better.

    Returns:
        The number of frames written.

    Raises:
        VideoError: there is no frame, or the encoder refuses.
    """
    if codec not in ("h264", "mpeg4"):
        raise VideoError(f"{os.fspath(path)}: codec {codec!r} is unknown; choose h264 or mpeg4")
    rate = frame_rate_of(frame_rate)
    raw = {".m4v": "m4v", ".h264": "h264"}.get(os.path.splitext(os.fspath(path))[1])
    count = 0
    reformatter = VideoReformatter()
    try:
        with atomic_write(path) as temporary, av.open(str(temporary), "w", format=raw) as container:
            stream: VideoStream | None = None
            for item in frames:
                frame = item if isinstance(item, VideoFrame) else VideoFrame.from_ndarray(item, format="rgb24")
                if stream is None:
                    width, height = size or (frame.width, frame.height)
                    even = (width + width % 2, height + height % 2)
                    stream = container.add_stream(ENCODERS[codec], rate=rate)
                    encoder = stream.codec_context
                    encoder.options = prepare_encoder(encoder, codec, even, gop, quality)
                picture = reformatter.reformat(frame, *even, format="yuv420p", threads=1)
                picture.pts, picture.time_base = count, 1 / rate
                picture.pict_type = 0  # the source's picture types must not force key frames
                container.mux(stream.encode(picture))
                count += 1
            if stream is None:
                raise VideoError(f"{os.fspath(path)}: no frame to write")
            container.mux(stream.encode(None))
    except (av.error.FFmpegError, ValueError) as error:  # ValueError: a suffix that names no container
        reason = getattr(error, "strerror", None) or error
        raise VideoError(
            f"{os.fspath(path)}: cannot be encoded as {codec} ({reason}); use .mp4, .mkv or .avi"
        ) from error
    return count


def frame_rate_of(frame_rate: float) -> Fraction:
    """Frames per second as containers and encoders want them."""
    return Fraction(frame_rate).limit_denominator(1001)


def prepare_encoder(
    encoder: VideoCodecContext,
    codec: Codec,
    size: tuple[int, int],
    gop: int,
    quality: int | None = None,
    *,
    live: bool = False,
) -> dict[str, str]:
    """Set what decides the canonical form, and return the options that the encoder is to be opened with.

    Args:
        encoder: of ``ENCODERS``, not open yet.
        codec: ``h264`` or ``mpeg4`` (Part 2).
        size: (width, height), even.
        gop: frames from one key frame to the next.
        quality: see :func:`encode`.
        live: every frame comes out at once; H.264 is encoded without looking ahead.
    """
    encoder.width, encoder.height = size
    encoder.pix_fmt = "yuv420p"
    encoder.gop_size = gop
    encoder.max_b_frames = 0
    encoder.bit_rate, encoder.bit_rate_tolerance = 0, 128_000  # MPEG-4's choice between blocks looks at them
    encoder.thread_count = 1  # the number of threads changes the bytes
    if codec == "mpeg4":
        return {"sc_threshold": "1000000000", "qmin": str(quality or 4), "qmax": str(quality or 4)}
    x264 = "scenecut=0:ref=1:bframes=0:cpu-independent=1"
    at_once = {"tune": "zerolatency"} if live else {}
    return {"preset": "fast", "crf": str(quality or 23), "x264-params": x264, **at_once}


def transcode(
    source: Source,
    target: str | os.PathLike[str],
    *,
    codec: Codec = "h264",
    size: tuple[int, int] | None = CANONICAL_SIZE,
    gop: int = 12,
    quality: int | None = None,
    start: float | None = None,
    end: float | None = None,
    max_frame_pixels: int = MAX_FRAME_PIXELS,
    progress: Progress | None = None,
) -> Transcoded:
    """Transcode any video to the canonical form; sound is dropped, rotation metadata is applied.

    Args:
        source: path or address of, or open file with, any video FFmpeg decodes, HEVC, VP9 and AV1 included.
        target: file to write, whole or not at all.
        codec: ``h264`` or ``mpeg4`` (Part 2).
        size: (width, height) as displayed; None keeps the source's.
        gop: frames from one key frame to the next.
        quality: see :func:`encode`.
        start: seconds after the first frame; only frames shown from then on are written, and only the key frame
            before it and what follows is decoded. None: from the first.
        end: seconds after the first frame; only frames shown before it are written. None: to the last. A video that is
            over more than a second earlier is refused.
        max_frame_pixels: larger frames are refused; see :func:`~coviar_mocrop.bitstream.open_video`.
        progress: is told how many frames are done, and how many there are.

    Returns:
        How many frames were written, and how many of them were damaged.

    Raises:
        VideoError: the source cannot be read, has no such part, or the target cannot be encoded.
    """
    from coviar_mocrop.bitstream.pyav_reader import PyavReader
    from coviar_mocrop.bitstream.rotate import rotate_picture

    reader = PyavReader(source, max_frame_pixels=max_frame_pixels)
    try:
        wanted = _part(reader, start, end)
        real = [reader.index.key_span(key) for key in reader.index.key_frames.tolist()]
        spans = [
            Span(first, min(last, wanted.stop - 1), vectors=False, pixels=True)
            for first, last in real
            if first < wanted.stop and last >= wanted.start
        ]
        done = sound = 0

        def pictures() -> Iterator[NDArray[np.uint8]]:
            nonlocal done, sound
            for frame in reader.frames(spans):
                if frame.number not in wanted:
                    continue
                done += 1
                sound += not frame.is_damaged
                if progress is not None:
                    progress(done, len(wanted))
                yield np.ascontiguousarray(rotate_picture(picture_of(frame.rgb(), reader.width), reader.rotation))

        rate = reader.frame_rate or 25.0
        written = encode(pictures(), target, codec=codec, size=size, frame_rate=rate, gop=gop, quality=quality)
        return Transcoded(written, len(wanted) - sound)
    finally:
        reader.close()


def _part(reader: PyavReader, start: float | None, end: float | None) -> range:
    """The frames shown from ``start`` until before ``end``."""
    if start is None and end is None:
        return range(reader.index.num_frames)
    if not all(math.isfinite(time) for time in (start, end) if time is not None):
        raise VideoError(f"{reader.path}: part from {start} to {end}: give seconds")
    times, unit = reader.frame_times()
    part = frames_between(times, unit, start, end)
    length = float(times[-1] * unit) + 1 / (reader.frame_rate or 25.0)
    if not part or (end is not None and end > length + _SLACK):
        span = f"from {start or 0:g} s" + ("" if end is None else f" to {end:g} s")
        raise VideoError(
            f"{reader.path}: lasts {length:.1f} s, so it does not hold the part {span}; it is incomplete, or was cut "
            "already"
        )
    return part


def frames_between(times: NDArray[np.int64], unit: Fraction, start: float | None, end: float | None) -> range:
    """The frames shown from ``start`` until before ``end``, exactly.

    Args:
        times: int64 [frames], ascending: when each frame is shown.
        unit: seconds of one unit of ``times``.
        start: seconds; None: from the first.
        end: seconds; None: to the last.
    """
    first = 0 if start is None else int(np.searchsorted(times, _ceiling(start, unit)))
    stop = len(times) if end is None else int(np.searchsorted(times, _ceiling(end, unit)))
    return range(first, max(first, stop))


def _ceiling(seconds: float, unit: Fraction) -> int:
    """The first time that is not before ``seconds``, in units, within what int64 holds.

    The decimal number counts, not the binary one that is nearest: a frame shown at 1.28 s is not before 1.28.
    """
    return max(min(math.ceil(Fraction(str(seconds)) / unit), 2**63 - 1), -(2**63))
