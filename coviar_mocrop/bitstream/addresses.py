"""Open sources that are read once, from front to back: files, pipes, cameras and servers."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import av
import av.error
from av.container.input import InputContainer

from coviar_mocrop.bitstream.container import FORMATS, TOLERANT, logged_errors, max_pixels, name_of, url_of, watched
from coviar_mocrop.bitstream.types import Source
from coviar_mocrop.errors import VideoError
from coviar_mocrop.messages import reason_of, redacted

Transport = Literal["tcp", "udp"]
STANDARD_INPUT = "-"
_PROTOCOLS = {
    "rtsp": "rtsp,rtp,tcp,udp",
    "rtsps": "rtsps,rtp,tcp,udp,tls",
    "http": "http,https,httpproxy,tcp,tls",
    "https": "http,https,httpproxy,tcp,tls",
    "tcp": "tcp",
    "udp": "udp",
}
"""Protocols that FFmpeg may use for an address, by its scheme."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LOOK_AT = 2_000_000
"""Microseconds of a source that FFmpeg may examine before the first frame."""
_DEVICES = "v4l2"


@dataclass(frozen=True)
class StreamSource:
    """A source that is open.

    Attributes:
        container: the container that FFmpeg opened.
        path: name of the source in messages, without a password.
        is_live: whether the source sends at its own pace: a camera, or a server that sends without end.
        is_remote: whether the source can break and be opened again: all with an address, and devices.
    """

    container: InputContainer = field(repr=False)  # it holds the password
    path: str
    is_live: bool
    is_remote: bool


def scheme_of(source: Source) -> str:
    """The scheme of an address, in lower case; empty for everything else, such as files of any name."""
    found = _SCHEME.match(source) if isinstance(source, str) else None
    return found[1].lower() if found else ""


def source_name(source: Source) -> str:
    """The name of a source in messages, without a password."""
    name = name_of(source)
    return "standard input" if name == STANDARD_INPUT else redacted(name)


def source_names(sources: Sequence[Source]) -> list[str]:
    """The names of several sources, in their order. Different sources with one :func:`source_name` are numbered."""
    keys = [os.fspath(source) if isinstance(source, os.PathLike) else source for source in sources]
    names: dict[Source, str] = {}
    for key in dict.fromkeys(keys):
        alike = [source_name(other) for other in names].count(source_name(key))
        names[key] = source_name(key) + (f" ({alike + 1})" if alike else "")
    return [names[key] for key in keys]


PIPED = "send MPEG-TS, Matroska, raw H.264 or raw MPEG-4"
"""Formats that can be read from a pipe, for error messages."""


def is_endless(source: Source) -> bool:
    """Whether a source, by its name, may have no end or can be read only once."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    path = os.fspath(source)
    return path == STANDARD_INPUT or scheme_of(path) in _PROTOCOLS.keys() - {"http", "https"} or _is_special(path)


def is_remote(source: Source) -> bool:
    """Whether a source can break and be opened again: all with an address, and cameras."""
    return scheme_of(source) in _PROTOCOLS or (isinstance(source, (str, os.PathLike)) and _is_device(os.fspath(source)))


def open_source(source: Source, *, max_frame_pixels: int, transport: Transport, timeout: float) -> StreamSource:
    """Open a source for reading it once.

    Args:
        source: a path (also of a named pipe, or of a V4L2 camera that delivers H.264), an address (rtsp, rtsps, http,
            https, udp, tcp), ``-`` for standard input, or a file opened for reading bytes.
        max_frame_pixels: FFmpeg allocates no larger frame when it opens the source.
        transport: transport of RTSP.
        timeout: seconds without an answer after which a server is given up.

    Raises:
        VideoError: the source cannot be opened, or holds no video.
    """
    name = source_name(source)
    options = {
        "format_whitelist": ",".join(FORMATS),
        "max_pixels": max_pixels(max_frame_pixels),
        "merge_pmt_versions": "1",  # MPEG-TS: a stream that is announced again is the same one
    }
    how: dict[str, Any] = {"options": options, **TOLERANT}
    if not isinstance(source, (str, os.PathLike)):
        with watched(name, "is not a readable video ({})"):
            return StreamSource(av.open(source, "r", **how), name, False, False)
    path = os.fspath(source)
    scheme = scheme_of(path)
    if scheme or is_endless(path):
        options["analyzeduration"] = str(_LOOK_AT)
    if scheme:
        if scheme not in _PROTOCOLS:
            raise VideoError(f"{name}: addresses of {scheme} are not read; give one of {', '.join(_PROTOCOLS)}")
        options["protocol_whitelist"] = _PROTOCOLS[scheme]
        how["timeout"] = timeout
        if scheme in ("http", "https"):  # if the connection breaks, FFmpeg goes on where it broke
            options.update(reconnect="1", reconnect_delay_max=str(max(int(timeout), 1)))
        if scheme == "udp":  # an overflow loses packets but does not end the stream
            options["overrun_nonfatal"] = "1"
        if scheme in ("rtsp", "rtsps"):
            options["format_whitelist"] = "rtsp"
            options["rtsp_transport"] = transport
    elif path == STANDARD_INPUT:
        path, options["protocol_whitelist"] = "pipe:0", "pipe"
    elif _is_device(path):
        how["format"] = _DEVICES
        del options["format_whitelist"]
        options["input_format"] = "h264"
    else:
        if os.path.isdir(path):
            raise VideoError(f"{name}: is a folder; give a video file")
        path, options["protocol_whitelist"] = url_of(path), "file"
    began = time.monotonic()
    try:
        container = av.open(path, **how)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if scheme and time.monotonic() - began >= timeout:  # FFmpeg may report a timeout as the end of the data
            text = f"no answer within {timeout:g} s; check the address and the network"
        else:
            text = _format_problem(error, path, how) or _explained(error, scheme, source)
        raise VideoError(f"{name}: {text}") from None
    device = how.get("format") == _DEVICES
    endless = scheme in ("http", "https") and (container.size or 0) <= 0
    live = device or endless or bool(scheme and scheme not in ("http", "https"))
    return StreamSource(container, name, live, is_remote(source))


def _format_problem(error: Exception, path: str, how: dict[str, Any]) -> str:
    """The message if the format is not allowed, else empty. It opens the source again, so it is empty for pipes."""
    if not isinstance(error, av.error.ArgumentError) or is_endless(path):
        return ""
    for context, text in logged_errors(lambda: av.open(path, **how).close()):
        if text.startswith("Format not on whitelist"):
            return (
                f"is of the format {context}, which is not allowed: it holds no video, or can refer to other files; "
                "give a stream of H.264 itself"
            )
    return ""


def _explained(error: Exception, scheme: str, source: Source) -> str:
    """Why a source could not be opened, and what to do."""
    if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        return "the user name or the password is wrong; give them as SCHEME://USER:PASSWORD@HOST/..."
    if isinstance(error, av.error.HTTPNotFoundError):
        return "the server does not have it; check the path in the address"
    reason = redacted(reason_of(error))
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused; check the host, the port, and whether the camera is on"
    if scheme:
        return f"cannot be reached or read ({reason}); check the address and the network"
    if isinstance(error, FileNotFoundError):
        return "no such file; check the path"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if is_endless(source):
        return f"is empty, or no video ({reason}); {PIPED}"
    if isinstance(source, (str, os.PathLike)) and os.path.isfile(source) and not os.path.getsize(source):
        return "is empty; copy or download it again"
    return f"is not a readable video ({reason})"


def _is_special(path: str) -> bool:
    """Whether a path is a pipe or a device."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def _is_device(path: str) -> bool:
    return path.startswith("/dev/video")
