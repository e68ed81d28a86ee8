"""Figures of one clip: its frames with the box, motion density and vectors, what each stream sees, predictions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.viz.drawing import BOX_COLOUR, block_motion, draw_box, flow_colours, plain_text, visible
from coviar_mocrop.viz.result_figures import marker

_INCHES = 12.0
"""Width of a figure."""
_GAP = 0.12
_TITLE = 0.25
_NAME = 60
"""Largest number of characters of a file name in a title."""
_SHORTEST = 0.1
"""Arrows shorter than this share of the longest are not drawn."""
_COLUMNS = 7
"""Largest number of steps in a motion figure."""


@dataclass(frozen=True)
class ClipView:
    """A clip and its MoCrop box.

    Attributes:
        box: the clip's box.
        density: float64 [rows, columns], the motion density in which the box was found.
        iframes: uint8 [H, W, 3] each, spread over the clip, display order.
        frame: uint8 [H, W, 3], the frame with the most motion.
        vectors: motion vectors of ``frame``, ``MOTION_VECTOR_DTYPE`` [N].
        seen: what each stream sees of ``frame`` inside the box, by title of the stream: uint8 [h, w, C], RGB or 8-bit
            motion (see :func:`~coviar_mocrop.viz.drawing.visible`).
    """

    box: CropBox
    density: NDArray[np.float64]
    iframes: Sequence[NDArray[np.uint8]]
    frame: NDArray[np.uint8]
    vectors: NDArray[np.void]
    seen: Mapping[str, NDArray[np.uint8]]

    def figure(self, title: str) -> Figure:
        """Draw two rows: I-frames with the box; then density, vectors, and what each stream sees."""
        height, width = self.frame.shape[:2]
        aspect = width / height
        page = _Page([[aspect] * len(self.iframes), [aspect, aspect, *[1.0] * len(self.seen)]], title)
        _show_iframes(page.rows[0], self.iframes, self.box)
        heat, arrows, *inputs = page.rows[1]
        grey = self.frame.mean(axis=2)
        heat.imshow(grey, cmap="gray", vmin=0, vmax=255, aspect="auto")
        share = self.density / max(float(self.density.max()), 1e-12)
        over: dict[str, Any] = {"extent": (0, width, height, 0), "aspect": "auto", "interpolation": "nearest"}
        heat.imshow(self.density, cmap="inferno", alpha=0.35 + 0.6 * share**0.5, **over)
        _outline(heat, self.box, height, width)
        heat.set_title(f"motion density, {self.density.shape[0]} x {self.density.shape[1]}", fontsize=9)
        arrows.imshow((grey * 0.55).astype(np.uint8), cmap="gray", vmin=0, vmax=255, aspect="auto")
        _draw_arrows(arrows, self.vectors, height, width)
        _outline(arrows, self.box, height, width)
        arrows.set_title("motion vectors", fontsize=9)
        _show_seen(inputs, self.seen)
        return plain_text(page.figure)


@dataclass(frozen=True)
class MotionView:
    """The T frames of a clip that a network with MotionSqueeze sees, and the motion in the T - 1 steps between them.

    Attributes:
        numbers: frame numbers in display order.
        frames: uint8 [T, size, size, 3], the network's input before normalisation.
        displacement: the network's estimate, float32 [T - 1, h, w, 2], (x, y) in pixels of the window; one value per
            cell of the feature map.
        confidence: float32 [T - 1, h, w], 0 to 1.
        codec: the codec's motion from frame to frame inside the window of H x W pixels, int16 [T - 1, H, W, 2], (x, y)
            in pixels.
    """

    numbers: Sequence[int]
    frames: NDArray[np.uint8]
    displacement: NDArray[np.float32]
    confidence: NDArray[np.float32]
    codec: NDArray[np.int16]

    def figure(self, title: str) -> Figure:
        """Draw a column per step (at most seven): frame, displacement, confidence, and the codec's motion."""
        steps = len(self.displacement)
        shown = np.unique(np.linspace(0, steps - 1, min(steps, _COLUMNS)).round().astype(int))
        # Both motions share one scale. The longest 2% of the vectors, which are often wrong, do not determine it.
        lengths = (np.hypot(motion[..., 0], motion[..., 1]) for motion in (self.displacement, self.codec))
        bound = max(*(float(np.percentile(length, 98)) for length in lengths), 1.0)
        rows = ("frame", "MotionSqueeze", "confidence", "codec")
        height, width = self.codec.shape[1:3]
        side = 12 / len(shown)
        figure = Figure(figsize=(12.4, 4 * side * height / width + 0.6), layout="constrained")
        axes = figure.subplots(len(rows), len(shown), squeeze=False)
        for column, step in enumerate(shown):
            pictures: tuple[NDArray[Any], ...] = (
                self.frames[step],
                flow_colours(self.displacement[step], bound),
                self.confidence[step],
                flow_colours(self.codec[step], bound),
            )
            for axis, picture in zip(axes[:, column], pictures, strict=True):
                grey = {"cmap": "gray", "vmin": 0, "vmax": 1} if picture.ndim == 2 else {}
                axis.imshow(picture, extent=(0, width, height, 0), interpolation="nearest", **grey)
                axis.set_xticks([])
                axis.set_yticks([])
            axes[0, column].set_title(f"{self.numbers[step]} → {self.numbers[step + 1]}", fontsize=8)
        for axis, name in zip(axes[:, 0], rows, strict=True):
            axis.set_ylabel(name, fontsize=9)
        figure.suptitle(f"{title}   (hue: direction; full colour: {bound:.0f} pixels a step)", fontsize=10)
        return plain_text(figure)


def prediction_figure(
    iframes: Sequence[NDArray[np.uint8]],
    box: CropBox | None,
    seen: Mapping[str, NDArray[np.uint8]],
    classes: Sequence[str],
    probabilities: Mapping[str, NDArray[np.float64]],
    title: str,
    footer: str,
    top: int = 5,
) -> Figure:
    """Draw a classified clip: I-frames with the box, what each stream saw, and the most probable classes as bars.

    Args:
        iframes: uint8 [H, W, 3] RGB each; may be empty.
        box: box of the clip; None: frames were not cropped to a box.
        seen: a frame that each stream saw, by title of the stream; see :class:`ClipView`.
        classes: class names, in the order of the labels.
        probabilities: float64 [classes] by title of the stream, and ``fused``.
        title: title of the figure.
        footer: line at the bottom.
        top: number of classes to show.
    """
    rows = [[picture.shape[1] / picture.shape[0] for picture in iframes], [*[1.0] * len(seen), 2.4]]
    page = _Page([row for row in rows if row], title, footer)
    if len(iframes):
        _show_iframes(page.rows[0], iframes, box)
    *inputs, bars = page.rows[-1]
    _show_seen(inputs, seen)
    _draw_bars(bars, classes, probabilities, top)
    return plain_text(page.figure)


def short_name(path: str | os.PathLike[str], most: int = _NAME) -> str:
    """Return the name of a file for a title. Long names are shortened in the middle to ``most`` characters."""
    name = Path(path).name
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


class _Page:
    """Rows of panels with given aspect ratios (width / height). Each row fills the width of the figure."""

    def __init__(self, aspects: Sequence[Sequence[float]], title: str, footer: str = "") -> None:
        heights = [(_INCHES - _GAP * (len(row) + 1)) / sum(row) for row in aspects]
        head, foot = 0.38, 0.3 if footer else _GAP
        total = head + foot + sum(height + _TITLE for height in heights) + _GAP * (len(heights) - 1)
        self.figure = Figure(figsize=(_INCHES, total), dpi=110)
        self.rows: list[list[Axes]] = []
        top = total - head
        for row, height in zip(aspects, heights, strict=True):
            bottom, left, axes = top - _TITLE - height, _GAP, []
            for aspect in row:
                place = (left / _INCHES, bottom / total, aspect * height / _INCHES, height / total)
                axes.append(self.figure.add_axes(place, xticks=[], yticks=[]))
                left += aspect * height + _GAP
            self.rows.append(axes)
            top = bottom - _GAP
        self.figure.text(_GAP / _INCHES, 1 - 0.14 / total, title, fontsize=11, weight="bold", va="top")
        self.figure.text(_GAP / _INCHES, 0.09 / total, footer, fontsize=8.5, color="#444444", va="bottom")


def _show_iframes(axes: Sequence[Axes], iframes: Sequence[NDArray[np.uint8]], box: CropBox | None) -> None:
    for number, (axis, picture) in enumerate(zip(axes, iframes, strict=True), 1):
        axis.imshow(picture if box is None else draw_box(picture, box), aspect="auto")
        axis.set_title(f"I-frame {number}", fontsize=9)


def _show_seen(axes: Sequence[Axes], seen: Mapping[str, NDArray[np.uint8]]) -> None:
    for axis, (title, pixels) in zip(axes, seen.items(), strict=True):
        # The square panel stretches the crop as the network's input is stretched.
        axis.imshow(visible(pixels), aspect="auto", interpolation="antialiased")
        axis.set_title(f"{title} stream sees", fontsize=9)


def _outline(axis: Axes, box: CropBox, height: int, width: int) -> None:
    size = (box.x1 - box.x0) * width, (box.y1 - box.y0) * height
    axis.add_patch(Rectangle((box.x0 * width, box.y0 * height), *size, fill=False, edgecolor=BOX_COLOUR, linewidth=2.2))
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)


def _draw_arrows(axis: Axes, vectors: NDArray[np.void], height: int, width: int) -> None:
    """Draw the motion of blocks as a grid of at most 36 arrows per row (mean over blocks, weighted by area)."""
    side = max(width / 36, 16)
    columns, rows = int(np.ceil(width / side)), int(np.ceil(height / side))
    column = np.clip((vectors["dst_x"] / side).astype(int), 0, columns - 1)
    row = np.clip((vectors["dst_y"] / side).astype(int), 0, rows - 1)
    cell, area = row * columns + column, vectors["w"].astype(np.float64) * vectors["h"]
    total = np.maximum(np.bincount(cell, area, rows * columns), 1e-9)
    sums = [np.bincount(cell, area * moved, rows * columns) for moved in block_motion(vectors).T]
    motion = np.stack(sums, axis=-1) / total[:, None]
    length = np.hypot(*motion.T)
    shown = np.flatnonzero(length > max(0.25, _SHORTEST * float(length.max())))
    if not len(shown):
        return
    longest = max(float(np.percentile(length[shown], 95)), 1e-9)
    drawn = motion[shown] / longest * np.minimum(1.0, longest / length[shown])[:, None] * 1.6 * side
    x, y = (shown % columns + 0.5) * side, (shown // columns + 0.5) * side
    style: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.005, "headwidth": 3.6}
    style |= {"headlength": 4, "headaxislength": 3.6, "color": flow_colours(motion[shown], bound=1e-9) / 255}
    axis.quiver(x - drawn[:, 0] / 2, y - drawn[:, 1] / 2, *drawn.T, **style)


def _draw_bars(axis: Axes, classes: Sequence[str], probabilities: Mapping[str, NDArray[np.float64]], top: int) -> None:
    fused = probabilities["fused"]
    best = np.argsort(-fused, kind="stable")[:top]
    heights = np.arange(len(best))
    axis.barh(heights, np.ones(len(best)), height=0.42, color="#eeeeee")
    axis.barh(heights, fused[best], height=0.42, color=["#1b7f5c", *["#8fc3ae"] * (len(best) - 1)])
    streams = [name for name in probabilities if name != "fused"]
    for number, name in enumerate(streams):
        style: dict[str, Any] = {"color": "#222222", "edgecolors": "white", "linewidths": 0.5, "clip_on": False}
        axis.scatter(
            probabilities[name][best], heights + 0.1, s=26, marker=marker(number), label=name, zorder=3, **style
        )
    for height, number in zip(heights, best, strict=True):
        axis.text(0.0, height - 0.25, classes[number], ha="left", va="bottom", fontsize=10)
        axis.text(1.0, height - 0.25, f"{fused[number]:.1%}", ha="right", va="bottom", fontsize=10)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(len(best) - 0.55, -0.75)
    axis.set_frame_on(False)
    axis.set_title("fused; each stream alone as a mark", fontsize=9)
    if streams:
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.02), "ncols": len(streams)}
        axis.legend(**place, fontsize=8, frameon=False, handletextpad=0.1)
