"""The mvextractor backend: whole passes over streams without B-frames.

It always decodes frame-threaded, which makes the vectors of B-frames wrong and different from run to run;
without B-frames it agrees with PyAV bit for bit. It cannot seek, and says False for end and error alike, so
the caller compares the number of frames with the index.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream.types import MOTION_VECTOR_DTYPE, DecodedFrame, no_vectors
from coviar_mocrop.errors import VideoError

_COLUMNS = (
    *("source", "w", "h", "src_x", "src_y", "dst_x", "dst_y"),
    *("motion_x", "motion_y", "motion_scale"),
)


def is_available() -> bool:
    """Whether mvextractor is installed and loads on this machine."""
    try:
        import mvextractor.videocap  # noqa: F401
    except ImportError:
        return False
    return True


class MvextractorReader:
    """Decodes a file from its start; frames before a span are decoded and dropped."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Remember ``path``; every pass opens it anew.

        Raises:
            VideoError: mvextractor is not installed.
        """
        self.path = os.fspath(path)
        if not is_available():
            raise VideoError(
                f"{self.path}: backend mvextractor is not installed (Linux x86-64, Python up to 3.13: "
                "pip install motion-vector-extractor); use backend='pyav'"
            )

    def frames(self, spans: Sequence[tuple[int, int]], *, vectors: bool, pixels: bool) -> Iterator[DecodedFrame]:
        """See :class:`~coviar_mocrop.bitstream.types.Reader`."""
        from mvextractor.videocap import VideoCap

        if not spans:
            return
        capture: Any = VideoCap()
        if not capture.open(self.path):
            raise VideoError(f"{self.path}: mvextractor cannot open it; use backend='pyav'")
        try:
            capture.set_decode_frames(pixels)
            last = max(end for _, end in spans)
            for number in range(last + 1):
                success, bgr, rows, picture_type = capture.read()[:4]
                if not success:
                    return
                if any(first <= number <= end for first, end in spans):
                    yield DecodedFrame(
                        number,
                        picture_type == "B",
                        _structured(rows) if vectors else no_vectors(),
                        _Rgb(bgr),
                    )
        finally:
            capture.release()

    def close(self) -> None:
        """Nothing stays open between passes."""


class _Rgb:
    def __init__(self, bgr: NDArray[np.uint8]) -> None:
        self._bgr = bgr

    def __call__(self) -> NDArray[np.uint8]:
        return np.ascontiguousarray(self._bgr[..., ::-1])


def _structured(rows: NDArray[np.int32] | None) -> NDArray[np.void]:
    if rows is None or not len(rows):
        return no_vectors()
    vectors = np.zeros(len(rows), dtype=MOTION_VECTOR_DTYPE)
    for column, name in enumerate(_COLUMNS):
        vectors[name] = rows[:, column]
    return vectors
