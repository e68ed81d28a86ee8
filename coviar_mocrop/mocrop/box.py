"""The rectangle that all streams of a clip share."""

from __future__ import annotations

from typing import NamedTuple


class CropBox(NamedTuple):
    """A rectangle in fractions of the frame, 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def area(self) -> float:
        """Share of the frame."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    def to_pixels(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) in pixels, ``frame[top:bottom, left:right]``; at least one pixel each way."""
        left, right = _side(self.x0, self.x1, width)
        top, bottom = _side(self.y0, self.y1, height)
        return top, left, bottom, right

    def iou(self, other: CropBox) -> float:
        """Intersection over union with another box."""
        shared_w = min(self.x1, other.x1) - max(self.x0, other.x0)
        shared_h = min(self.y1, other.y1) - max(self.y0, other.y0)
        shared = max(shared_w, 0.0) * max(shared_h, 0.0)
        return shared / (self.area + other.area - shared)


FULL_FRAME = CropBox(0.0, 0.0, 1.0, 1.0)


def _side(start: float, end: float, pixels: int) -> tuple[int, int]:
    first = min(max(round(start * pixels), 0), pixels - 1)
    return first, min(max(round(end * pixels), first + 1), pixels)
