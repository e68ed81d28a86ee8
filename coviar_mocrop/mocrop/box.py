"""The crop box of a clip, which all its streams share."""

from __future__ import annotations

from typing import NamedTuple


class CropBox(NamedTuple):
    """A rectangle in fractions of the frame, with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 (not checked).

    Attributes:
        x0: left edge.
        y0: upper edge.
        x1: right edge.
        y1: lower edge.
    """

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def area(self) -> float:
        """Area of the box as a share of the frame, in (0, 1]."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    def to_pixels(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Convert to (top, left, bottom, right) in pixels, for ``frame[top:bottom, left:right]``.

        Edges are rounded to whole pixels. The result is at least one pixel high and wide.

        Args:
            height: height of the frame, pixels.
            width: width of the frame, pixels.
        """
        left, right = _side(self.x0, self.x1, width)
        top, bottom = _side(self.y0, self.y1, height)
        return top, left, bottom, right

    def iou(self, other: CropBox) -> float:
        """Return the intersection over union with another box, in [0, 1]."""
        shared_w = min(self.x1, other.x1) - max(self.x0, other.x0)
        shared_h = min(self.y1, other.y1) - max(self.y0, other.y0)
        shared = max(shared_w, 0.0) * max(shared_h, 0.0)
        return shared / (self.area + other.area - shared)


FULL_FRAME = CropBox(0.0, 0.0, 1.0, 1.0)


def _side(start: float, end: float, pixels: int) -> tuple[int, int]:
    first = min(max(round(start * pixels), 0), pixels - 1)
    return first, min(max(round(end * pixels), first + 1), pixels)
