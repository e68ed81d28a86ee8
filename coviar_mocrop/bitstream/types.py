"""What the bitstream layer hands out: stream facts, GOPs, decoded frames, the vector layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Source = str | os.PathLike[str] | IO[bytes]
"""A path, an address, or a file opened for reading bytes (also ``io.BytesIO``)."""

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


class Gop(NamedTuple):
    """A group of pictures in display order: ``length`` frames from frame ``start``, its I-frame.

    A virtual GOP starts at a decoded frame of any type that serves as I-frame (see ``anchor_every``).
    """

    start: int
    length: int


@dataclass(frozen=True)
class VideoInfo:
    """Facts about the video stream that is read.

    Attributes:
        codec: FFmpeg's decoder name, such as ``h264`` or ``mpeg4``.
        width, height: pixels, as displayed (a rotated video is turned).
        num_frames: frames in display order, counted from the packets.
        frame_rate: frames per second; 0.0 where the file does not say.
        has_b_frames: whether display order differs from decoding order.
        backend: who serves a pass over all vectors, ``pyav`` or ``mvextractor``.
        rotation: quarter turns counter-clockwise that were applied to the coded picture, 0 to 3.
    """

    codec: str
    width: int
    height: int
    num_frames: int
    frame_rate: float
    has_b_frames: bool
    backend: str
    rotation: int = 0


@dataclass(frozen=True)
class DecodedFrame:
    """One frame as a reader gives it, in coded orientation."""

    index: int
    """Position in display order."""
    is_b: bool
    vectors: NDArray[np.void]
    rgb: Callable[[], NDArray[np.uint8]]
    """Converts to uint8 [H, W, 3] when called; stays valid after the reader has moved on."""


class Reader(Protocol):
    """A backend: gives frames of the spans asked for, in display order."""

    def frames(self, spans: Sequence[tuple[int, int]], *, vectors: bool, pixels: bool) -> Iterator[DecodedFrame]:
        """Decode ``(first, last)`` spans; each starts at a key frame, ``last`` is included.

        A frame that the decoder does not give (a damaged packet) is left out.
        """
        ...

    def close(self) -> None:
        """Free the file."""
        ...
