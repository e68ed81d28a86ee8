"""Types of the reading code: stream facts, GOPs, motion vectors, decoded frames, and the interface of a backend."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Source = str | os.PathLike[str] | IO[bytes]
"""A path, an address, or a binary file object (such as ``io.BytesIO``)."""

Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)``."""
Kind = Literal["iframe", "mv", "residual", "frame"]
KINDS: tuple[Kind, ...] = ("iframe", "mv", "residual", "frame")

MOTION_VECTOR_DTYPE = np.dtype(
    {
        "names": [
            "source",  # -1: predicted from a past frame, +1: from a future one
            "w",
            "h",  # block size, pixels
            "src_x",
            "src_y",  # block centre in the reference frame, whole pixels
            "dst_x",
            "dst_y",  # block centre in this frame, whole pixels
            "flags",
            "motion_x",
            "motion_y",  # src = dst + motion / motion_scale
            "motion_scale",
        ],
        "formats": ["<i4", "u1", "u1", "<i2", "<i2", "<i2", "<i2", "<u8", "<i4", "<i4", "<u2"],
        "offsets": [0, 4, 5, 6, 8, 10, 12, 16, 24, 28, 32],
        "itemsize": 40,
    }
)
"""FFmpeg's ``AVMotionVector`` (libavutil/motion_vector.h), field for field."""


def no_vectors() -> NDArray[np.void]:
    """An empty array of motion vectors."""
    return np.empty(0, dtype=MOTION_VECTOR_DTYPE)


def copy_vectors(vectors: NDArray[np.void]) -> NDArray[np.void]:
    """A copy whose padding is zero, so that equal vectors are equal bytes (FFmpeg leaves the padding unset)."""
    rows = vectors.view(np.uint8).reshape(-1, MOTION_VECTOR_DTYPE.itemsize).copy()
    rows[:, 14:16] = 0
    rows[:, 34:40] = 0
    return rows.view(MOTION_VECTOR_DTYPE).ravel()


def picture_of(rows: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """View what :meth:`DecodedFrame.rgb` returns as a picture, uint8 [H, width, 3]."""
    return rows[:, : 3 * width].reshape(len(rows), width, 3)


class Gop(NamedTuple):
    """A group of pictures: an I-frame and the frames that follow it in display order.

    A virtual GOP starts at a decoded frame of any type, which serves as its I-frame (see ``anchor_every`` of
    :func:`~coviar_mocrop.bitstream.open_video`).

    Attributes:
        start: frame number of the I-frame.
        length: number of frames. The last one is start + length - 1.
    """

    start: int
    length: int


@dataclass(frozen=True)
class VideoInfo:
    """Facts about a video stream.

    Attributes:
        codec: FFmpeg's name of the decoder, such as ``h264`` or ``mpeg4``.
        width: pixels, as displayed, that is, after rotation.
        height: pixels, as displayed.
        num_frames: number of frames.
        frame_rate: average number of frames per second; 0.0 if the file does not say.
        has_b_frames: whether there are B-frames, that is, whether display order differs from decoding order.
        backend: source of the motion vectors, ``pyav`` or ``mvextractor``.
        rotation: quarter turns counter-clockwise from the coded to the displayed picture, 0 to 3.
    """

    codec: str
    width: int
    height: int
    num_frames: int
    frame_rate: float
    has_b_frames: bool
    backend: str
    rotation: int = 0


class Span(NamedTuple):
    """A stretch of frames to decode, from a key frame on.

    Attributes:
        first: display order; a key frame.
        last: display order, included; of the same real GOP.
        vectors: whether motion vectors are needed.
        pixels: whether pixels are needed.
    """

    first: int
    last: int
    vectors: bool
    pixels: bool


class DecodedFrame(Protocol):
    """One frame as a reader gives it, in coded orientation. It stays valid after the reader has moved on."""

    number: int
    """Position in display order."""
    is_b: bool
    is_damaged: bool
    """Whether the decoder, or the container, says that data are missing or wrong."""

    def vectors(self) -> NDArray[np.void]:
        """Motion vectors, read-only; the padding between the fields may hold anything."""
        ...

    def rgb(self) -> NDArray[np.uint8]:
        """The picture, read-only: uint8 [H, 3 W or more], R, G, B of each pixel in turn. Bytes after 3 W are unset."""
        ...


class Reader(Protocol):
    """A backend: gives the frames of spans in display order."""

    def frames(self, spans: Sequence[Span]) -> Iterator[DecodedFrame]:
        """Decode spans, ascending.

        A frame that does not decode is left out. If no frame of a span decodes, the next frame of the GOP that does is
        given instead.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...
