"""A folder of numbered pictures as a source of video: how Something-Something V1 is published."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import av
import av.error
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from coviar_mocrop.bitstream.container import MAX_FRAME_PIXELS, max_pixels
from coviar_mocrop.bitstream.transcode import CANONICAL_SIZE, Codec, encode
from coviar_mocrop.errors import VideoError
from coviar_mocrop.messages import reason_of

_PICTURES = (".jpg", ".jpeg")


def transcode_pictures(
    folder: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    frame_rate: float,
    codec: Codec = "h264",
    size: tuple[int, int] | None = CANONICAL_SIZE,
    gop: int = 12,
    quality: int | None = None,
    max_frame_pixels: int = MAX_FRAME_PIXELS,
) -> int:
    """Encode the JPEG pictures in a folder, in the order of their numbers, to the canonical format.

    Args:
        folder: of ``00001.jpg``, ``00002.jpg``, ... Hidden and other files are passed over.
        target: file to write, whole or not at all.
        frame_rate: pictures per second.
        codec, size, gop, quality: see :func:`~coviar_mocrop.bitstream.transcode`.
        max_frame_pixels: larger pictures are refused.

    Returns:
        The number of frames written.

    Raises:
        VideoError: there is no picture, one is missing by their numbers, one does not decode or is of another size, or
            the target cannot be encoded.
    """
    try:
        names = [name for name in os.listdir(folder) if name.lower().endswith(_PICTURES) and name[0] != "."]
    except OSError as error:
        raise VideoError(f"{os.fspath(folder)}: cannot be listed ({error.strerror})") from error
    if not names:
        raise VideoError(f"{os.fspath(folder)}: holds no picture ({', '.join(_PICTURES)})")
    names.sort(key=lambda name: (len(name), name))
    numbers = sorted(int(Path(name).stem) for name in names if Path(name).stem.isdecimal())
    for number, following in pairwise(numbers):
        if following > number + 1:
            raise VideoError(f"{os.fspath(folder)}: picture {number + 1} is missing; unpack the archive again")
    pictures = _same_size([Path(folder, name) for name in names], max_frame_pixels)
    return encode(pictures, target, codec=codec, size=size, frame_rate=frame_rate, gop=gop, quality=quality)


def _same_size(files: Iterable[Path], max_frame_pixels: int) -> Iterator[NDArray[np.uint8]]:
    first: tuple[int, ...] | None = None
    for file in files:
        picture = _read_jpeg(file, max_frame_pixels)
        first = first or picture.shape
        if picture.shape != first:
            found, expected = (f"{shape[1]}x{shape[0]}" for shape in (picture.shape, first))
            raise VideoError(f"{file}: is {found}, the first picture {expected}; all must have one size")
        yield picture


def _read_jpeg(file: Path, max_frame_pixels: int) -> NDArray[np.uint8]:
    """uint8 [H, W, 3], RGB."""
    try:
        decoder = av.CodecContext.create("mjpeg", "r")
        decoder.options = {"max_pixels": max_pixels(max_frame_pixels), "err_detect": "explode"}
        decoder.thread_count = 1
        packet = av.Packet(file.read_bytes())
        frames = [frame for given in (packet, None) for frame in decoder.decode(given)]
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{file}: is not a readable picture ({reason_of(error)})") from error
    if len(frames) != 1 or not isinstance(frames[0], VideoFrame) or frames[0].is_corrupt:
        raise VideoError(f"{file}: is not a readable picture; copy or download it again")
    return np.asarray(frames[0].to_ndarray(format="rgb24"), np.uint8)
