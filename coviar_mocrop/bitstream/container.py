"""Open files with FFmpeg: limit the formats and the frame size, and turn FFmpeg's errors into :class:`VideoError`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import av
import av.error
import av.logging
from av.container.input import InputContainer

from coviar_mocrop.bitstream.remote import RemoteFile, connection_problem, is_address
from coviar_mocrop.bitstream.types import Source
from coviar_mocrop.errors import VideoError
from coviar_mocrop.locks import ForkSafeLock
from coviar_mocrop.messages import reason_of, redacted

FORMATS = (
    *("asf", "avi", "av1", "cavsvideo", "dirac", "dv", "flv", "gxf", "h261", "h263", "h264", "hevc", "ivf", "live_flv"),
    *("m4v", "matroska", "mov", "mpeg", "mpegts", "mpegvideo", "mxf", "nut", "obu", "ogg", "rm", "vc1", "vc1test"),
    *("vvc", "wtv", "yuv4mpegpipe"),
)
"""FFmpeg's names of the container formats that are opened.

Each of them keeps all its data in one file. Playlists and image sequences are not among them, because they can name any
other file that the user may read.
"""

MAX_FRAME_PIXELS = 8192 * 4320
"""Default limit of the frame size, pixels."""

TOLERANT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
"""Lets PyAV open files whose metadata are not valid text. From PyAV 19 on, it always does."""

_PADDING = 64 * 16384
"""Number of pixels by which a decoder may round up a frame."""

_FFMPEG_ERRORS = (av.error.FFmpegError, OSError, ValueError, IndexError, OverflowError)
"""What PyAV raises. ValueError: a file object was closed. IndexError: a stream appears within the file."""

_logging = ForkSafeLock()  # all threads share the level


def name_of(source: Source) -> str:
    """The name of a source in messages; an address without its password."""
    if is_address(source):
        return redacted(str(source))
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "<open file>"


def url_of(path: str | os.PathLike[str]) -> str:
    """The address with which FFmpeg opens the file of this name, even if the name looks like another address."""
    return f"file:{os.fspath(path)}"


def open_container(source: Source, max_frame_pixels: int = MAX_FRAME_PIXELS) -> InputContainer:
    """Open a path, or an open file from its start.

    Args:
        source: a path or a file opened for reading bytes; an address as :class:`RemoteFile`.
        max_frame_pixels: FFmpeg allocates no larger frame when it looks into the file.

    Raises:
        VideoError: it is missing, unreadable, not a video, or of a format that is not among ``FORMATS``.
        TypeError: ``source`` is neither a path nor a file.
    """
    name = name_of(source)
    if isinstance(source, (str, os.PathLike)):
        if os.path.isdir(name):
            raise VideoError(f"{name}: is a folder; give a video file")
    elif not hasattr(source, "read"):
        raise TypeError(f"{type(source).__name__} is not a video; give a path or a file opened for reading bytes")
    try:
        with watched(source, "is not a readable video ({})"):
            return _open(source, max_frame_pixels)
    except VideoError as error:
        raise VideoError(_explained(error, source)) from error.__cause__


def _explained(error: VideoError, source: Source) -> str:
    """The error message for a container that could not be opened."""
    name, cause = name_of(source), error.__cause__
    if isinstance(cause, FileNotFoundError):
        if "://" in name or name.startswith(("http:/", "https:/")):
            return f"{name}: cannot be read; give a path, or an http or https address as a string"
        return f"{name}: no such file; check the path"
    if isinstance(cause, PermissionError):
        return f"{name}: no permission to read it"
    if os.path.isfile(name) and not os.path.getsize(name):
        return f"{name}: is empty; copy or download it again"
    if isinstance(cause, av.error.ArgumentError):
        for context, text in logged_errors(lambda: _open(source, MAX_FRAME_PIXELS).close()):
            if text.startswith("Format not on whitelist"):
                return (
                    f"{name}: is of the format {context}, which is not allowed: it holds no video, or can refer to "
                    "other files; convert it to .mp4 or .mkv"
                )
    return str(error)


def max_pixels(max_frame_pixels: int) -> str:
    """FFmpeg's option ``max_pixels``: the limit, plus the pixels by which a decoder may round up a frame."""
    return str(max_frame_pixels + _PADDING)


def _open(source: Source, max_frame_pixels: int) -> InputContainer:
    options = {
        "format_whitelist": ",".join(FORMATS),
        "protocol_whitelist": "file",
        "max_pixels": max_pixels(max_frame_pixels),
    }
    if isinstance(source, (str, os.PathLike)):
        return av.open(url_of(source), options=options, **TOLERANT)
    if getattr(source, "seekable", lambda: hasattr(source, "seek"))():  # SpooledTemporaryFile of Python 3.10 lacks it
        source.seek(0)
    size = 1 << 18 if isinstance(source, RemoteFile) else 1 << 15
    return av.open(source, "r", options=options, **TOLERANT, buffer_size=size)


def claimed_size(action: Callable[[], object]) -> tuple[int, int] | None:
    """Width and height of the frame that FFmpeg refuses to allocate in ``action``; None if it refuses none."""
    for _, text in logged_errors(action):
        if found := re.match(r"Picture size (\d+)x(\d+) exceeds", text):
            return int(found[1]), int(found[2])
    return None


def logged_errors(action: Callable[[], object]) -> list[tuple[str, str]]:
    """Call ``action``; return the errors that FFmpeg logs meanwhile, as (context, text)."""
    with _logging:
        level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)
        try:
            with av.logging.Capture() as logs, suppress(*_FFMPEG_ERRORS):
                action()
        finally:
            av.logging.set_level(level)
            av.logging.set_skip_repeated(skips)
    return [(context, text) for _, context, text in logs]


@contextmanager
def watched(source: Source, problem: str = "is damaged ({})") -> Iterator[None]:
    """Turn FFmpeg's errors and a broken connection into a :class:`VideoError`.

    Args:
        source: what is read.
        problem: the error message, with ``{}`` for the reason.
    """
    try:
        yield
    except _FFMPEG_ERRORS as error:
        if isinstance(error, OSError) and not isinstance(error, av.error.FFmpegError):  # from an open file
            problem = "cannot be read ({})"
        text = connection_problem(source) or f"{name_of(source)}: {problem.format(reason_of(error))}"
        raise VideoError(text) from error
    if text := connection_problem(source):
        raise VideoError(text)
