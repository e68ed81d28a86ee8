"""Encode video in the canonical format with PyAV: fixed GOP, no B-frames, one reference frame, no extra key frames.

The same pictures always give the same bytes. x264 needs ``cpu-independent=1`` for this. Without it, its routines round
differently on different processors. With AVX-512, the routine behind ``mbtree`` also reads unset memory if the picture
is small: one in twenty encodings of a 64x48 clip differed from the others.
"""

from __future__ import annotations

import errno
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
from coviar_mocrop.errors import CoviarMocropError, VideoError
from coviar_mocrop.files import atomic_write
from coviar_mocrop.messages import reason_of

if TYPE_CHECKING:
    from coviar_mocrop.bitstream.pyav_reader import PyavReader

Codec = Literal["h264", "mpeg4"]
ENCODERS: dict[Codec, str] = {"h264": "libx264", "mpeg4": "mpeg4"}
CANONICAL_SIZE = (340, 256)
"""(width, height), pixels, to which CoViAR resizes every video."""

_QUALITIES: dict[Codec, tuple[int, int, int]] = {"h264": (0, 23, 51), "mpeg4": (1, 4, 31)}
"""Best, default and worst quality; see :func:`encode`."""
_LONGEST_GOP = 2**30
"""Frames; x264's number for a GOP without end."""
_RATES = (0.001, 65535)
"""Lowest and highest frame rate, frames per second."""
_SLACK = 1.0
"""Seconds by which a part may exceed the video, because published annotations are in whole seconds."""


class Transcoded(NamedTuple):
    """Result of :func:`transcode`.

    Attributes:
        num_frames: number of frames written.
        damaged_frames: number of frames of the source, or of the part of it, that are damaged or do not decode; see
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
    """Encode frames in the canonical format: a fixed GOP, no B-frames, one reference frame, no extra key frames.

    Args:
        frames: uint8 [H, W, 3] RGB arrays, or PyAV frames. Frames of another size than the first are resized to it.
        path: file to write. It is written completely or not at all. The suffix selects the container; ``.m4v`` and
            ``.h264`` are raw streams.
        codec: ``h264`` or ``mpeg4`` (Part 2).
        size: (width, height), pixels, rounded up to even numbers; None: the size of the first frame.
        frame_rate: frames per second, from 0.001 to 65535.
        gop: distance between key frames, in frames; 1 or more.
        quality: H.264 constant rate factor, 0 (lossless) to 51, or MPEG-4 quantiser, 1 to 31. Smaller is better. None:
            23 and 4.

    Returns:
        The number of frames written.

    Raises:
        VideoError: there is no frame, the codec is unknown, a number is out of range, the file's name is too long, or
            the frames cannot be encoded.
        CoviarMocropError: the file cannot be written.
    """
    if codec not in ("h264", "mpeg4"):
        raise VideoError(f"{os.fspath(path)}: codec {codec!r} is unknown; choose h264 or mpeg4")
    best, default, worst = _QUALITIES[codec]
    for name, value, least, most in (
        ("frame_rate", float(frame_rate), *_RATES),
        ("gop", gop, 1, _LONGEST_GOP),
        ("quality", default if quality is None else quality, best, worst),
    ):
        if not least <= value <= most:
            raise VideoError(f"{os.fspath(path)}: {name} is {value:g} ({codec}); give {least:g} to {most}")
    rate = frame_rate_of(frame_rate, codec)
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
    except CoviarMocropError as error:
        if getattr(error.__cause__, "errno", None) == errno.ENAMETOOLONG:
            raise VideoError(str(error)) from error  # of this video alone, unlike a full disk
        raise
    except (av.error.FFmpegError, ValueError) as error:  # ValueError: a suffix that names no container
        raise VideoError(
            f"{os.fspath(path)}: cannot be encoded as {codec} ({reason_of(error)}); use .mp4, .mkv or .avi"
        ) from error
    return count


def usable_rate(frame_rate: float) -> float:
    """The frame rate that a video claims, or 25 if it claims none, or one that :func:`encode` does not take.

    A file of one frame, or with times in the wrong unit, may claim 90000 frames per second.
    """
    return frame_rate if _RATES[0] <= frame_rate <= _RATES[1] else 25.0


def frame_rate_of(frame_rate: float, codec: Codec) -> Fraction:
    """Frames per second as a fraction, which containers and encoders need. MPEG-4 has 16 bits for the numerator."""
    most = 1001 if codec == "h264" else min(1001, max(int(65535 / frame_rate), 1))
    return Fraction(frame_rate).limit_denominator(most)


def prepare_encoder(
    encoder: VideoCodecContext,
    codec: Codec,
    size: tuple[int, int],
    gop: int,
    quality: int | None = None,
    *,
    live: bool = False,
) -> dict[str, str]:
    """Set up an encoder for the canonical format.

    Args:
        encoder: of ``ENCODERS``, not open yet.
        codec: ``h264`` or ``mpeg4`` (Part 2).
        size: (width, height), pixels, even.
        gop: distance between key frames, in frames.
        quality: see :func:`encode`.
        live: whether each frame comes out at once; H.264 is then encoded without look-ahead.

    Returns:
        The options to open the encoder with.
    """
    encoder.width, encoder.height = size
    encoder.pix_fmt = "yuv420p"
    encoder.gop_size = gop
    encoder.max_b_frames = 0
    encoder.bit_rate, encoder.bit_rate_tolerance = 0, 128_000  # MPEG-4's choice between blocks looks at them
    encoder.thread_count = 1  # the number of threads changes the bytes
    chosen = str(_QUALITIES[codec][1] if quality is None else quality)
    if codec == "mpeg4":
        return {"sc_threshold": "1000000000", "qmin": chosen, "qmax": chosen}
    x264 = "scenecut=0:ref=1:bframes=0:cpu-independent=1"
    at_once = {"tune": "zerolatency"} if live else {}
    return {"preset": "fast", "crf": chosen, "x264-params": x264, **at_once}


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
    """Transcode any video to the canonical format (see :func:`encode`).

    Sound is dropped, and rotation metadata is applied to the pixels. Every frame that decodes is written, at the
    source's average frame rate (25 frames per second if the source has none from 0.001 to 65535).

    Args:
        source: any video that FFmpeg decodes, HEVC, VP9 and AV1 included: a path, an http or https address, or a binary
            file object.
        target: file to write. It is written completely or not at all. The suffix selects the container.
        codec: ``h264`` or ``mpeg4`` (Part 2).
        size: (width, height), pixels, as displayed; None: the size of the source. Rounded up to even numbers.
        gop: distance between key frames, in frames.
        quality: see :func:`encode`.
        start: seconds after the first frame. Frames shown earlier are left out, and decoding starts at the key frame
            before. None: the first frame.
        end: seconds after the first frame. Frames shown at this time or later are left out. None: after the last frame.
            A video that ends more than a second before this time is refused.
        max_frame_pixels: larger frames are refused; see :func:`~coviar_mocrop.bitstream.open_video`.
        progress: called as ``progress(done, total)`` with numbers of frames.

    Returns:
        A tuple with two fields. ``num_frames`` is the number of frames written. ``damaged_frames`` is the number of
            frames that are damaged or do not decode; see ``Video.damaged_frames``.

    Raises:
        VideoError: the source cannot be read, it does not hold the part from ``start`` to ``end``, or the frames cannot
            be encoded.
        CoviarMocropError: the target cannot be written.
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

        rate = usable_rate(reader.frame_rate)
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
    """The numbers of the frames that are shown from ``start`` (included) to ``end`` (excluded).

    Args:
        times: int64 [frames], ascending: when each frame is shown, in units of ``unit``.
        unit: seconds.
        start: seconds; None: from the first frame.
        end: seconds; None: to the last frame.
    """
    first = 0 if start is None else int(np.searchsorted(times, _ceiling(start, unit)))
    stop = len(times) if end is None else int(np.searchsorted(times, _ceiling(end, unit)))
    return range(first, max(first, stop))


def _ceiling(seconds: float, unit: Fraction) -> int:
    """The first time that is not before ``seconds``, in units, limited to the range of int64.

    ``seconds`` is taken as a decimal number, not as the nearest binary one: a frame shown at 1.28 s is not before 1.28.
    """
    return max(min(math.ceil(Fraction(str(seconds)) / unit), 2**63 - 1), -(2**63))
