"""The mvextractor backend: motion vectors from mvextractor, pixels and everything else from PyAV.

mvextractor always decodes with frame threads, which makes the vectors of B-frames wrong and different from run to run.
Without B-frames it agrees with PyAV bit for bit. It cannot seek or choose between video streams, and returns False both
at the end and on an error. So its frames are counted before they are used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream.container import name_of, url_of
from coviar_mocrop.bitstream.pyav_reader import PyavReader
from coviar_mocrop.bitstream.remote import is_address
from coviar_mocrop.bitstream.types import MOTION_VECTOR_DTYPE, DecodedFrame, Source, Span, no_vectors
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

    def __init__(self, path: Source, pyav: PyavReader) -> None:
        """Read vectors with mvextractor, and everything else with ``pyav``. Every pass opens the file again.

        Raises:
            VideoError: mvextractor is not installed, or cannot read this file.
        """
        self.path = name_of(path)
        self._pyav = pyav
        self._counted = False
        if is_address(path) or not isinstance(path, (str, os.PathLike)):
            kind = "address" if is_address(path) else "open file"
            raise VideoError(f"{self.path}: mvextractor cannot read an {kind}; use backend='pyav'")
        if not is_available():
            raise VideoError(
                f"{self.path}: backend mvextractor is not installed (Linux x86-64, Python up to 3.13: "
                "pip install motion-vector-extractor); use backend='pyav'"
            )
        if pyav.num_streams > 1:
            raise VideoError(
                f"{self.path}: holds {pyav.num_streams} video streams, among which mvextractor cannot choose; "
                "use backend='pyav'"
            )
        if any(pyav.decoding.offset):
            raise VideoError(
                f"{self.path}: its pictures are cropped on the left or at the top, which mvextractor ignores; "
                "use backend='pyav'"
            )

    def frames(self, spans: Sequence[Span]) -> Iterator[DecodedFrame]:
        """See :class:`~coviar_mocrop.bitstream.types.Reader`."""
        if not any(span.vectors for span in spans):
            yield from self._pyav.frames(spans)
            return
        if not self._counted:
            self._require_every_frame()
        pictures = self._pyav.frames([span._replace(vectors=False) for span in spans if span.pixels])
        waiting = list(spans)
        for number, (picture_type, rows) in enumerate(self._pass()):
            span = waiting[0]
            if number < span.first:
                continue
            picture = next(pictures, None) if span.pixels else None
            if span.pixels and (picture is None or picture.number != number):
                raise VideoError(f"{self.path}: frame {number} cannot be decoded; use backend='pyav'")
            yield _Frame(number, picture_type == "B", rows, picture)
            if number == span.last:
                del waiting[0]
            if not waiting:
                return

    def _pass(self) -> Iterator[tuple[str, NDArray[np.int32] | None]]:
        """Picture type and vectors of every frame."""
        from mvextractor.videocap import VideoCap

        capture: Any = VideoCap()
        try:
            if not capture.open(url_of(self.path)):
                raise VideoError(f"{self.path}: mvextractor cannot open it; use backend='pyav'")
            capture.set_decode_frames(False)
            while True:
                try:
                    success, _, rows, picture_type = capture.read()[:4]
                except ValueError as error:  # the frame size changes within the video
                    raise VideoError(f"{self.path}: mvextractor cannot read it ({error}); use 'pyav'") from error
                if not success:
                    return
                yield picture_type, rows
        finally:
            capture.release()

    def _require_every_frame(self) -> None:
        self._pyav.refuse_large_frames()  # mvextractor knows no limit
        count = sum(1 for _ in self._pass())
        expected = self._pyav.index.num_frames
        if count != expected:
            raise VideoError(
                f"{self.path}: mvextractor gives {count} of {expected} frames, so it is not known which; "
                "use backend='pyav'"
            )
        self._counted = True

    def close(self) -> None:
        """Do nothing: no file stays open between passes."""


class _Frame:
    """A frame with vectors from mvextractor, and pixels from PyAV if they are needed."""

    __slots__ = ("_picture", "_rows", "is_b", "is_damaged", "number")

    def __init__(self, number: int, is_b: bool, rows: NDArray[np.int32] | None, picture: DecodedFrame | None) -> None:
        self.number, self.is_b = number, is_b
        self.is_damaged = picture is not None and picture.is_damaged
        self._rows, self._picture = rows, picture

    def vectors(self) -> NDArray[np.void]:
        if self._rows is None or not len(self._rows):
            return no_vectors()
        vectors = np.zeros(len(self._rows), dtype=MOTION_VECTOR_DTYPE)
        for column, name in enumerate(_COLUMNS):
            vectors[name] = self._rows[:, column]
        return vectors

    def rgb(self) -> NDArray[np.uint8]:
        assert self._picture is not None, "pixels were not asked for"
        return self._picture.rgb()
