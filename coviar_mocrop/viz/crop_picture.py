"""Pictures of one clip for people: frames with the box, density, motion, what each stream sees, predictions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from coviar_mocrop.clips.windows import MOTION_BOUND, Window
from coviar_mocrop.mocrop import CropBox

BOX_COLOUR = "#ffb000"
STREAM_TITLES = {"iframe": "I-frame", "mv": "motion", "residual": "residual"}
_INCHES = 12.0
"""Width of a picture."""
_GAP = 0.12
_TITLE = 0.25
_DIMMED = 0.4
"""Brightness outside the box."""
_NAME = 60
"""Characters of a file's name that a title has room for."""
_FLAT = 0.1
"""Share of the longest arrow below which none is drawn."""


def short_name(path: str | os.PathLike[str], most: int = _NAME) -> str:
    """A file's name as a title can show it: of a long one, the beginning and the end."""
    name = Path(path).name
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def flow_colours(motion: NDArray[Any], bound: float = MOTION_BOUND) -> NDArray[np.uint8]:
    """Motion as colour: hue is the direction, saturation the length, white stands still.

    Args:
        motion: [..., 2], (x, y), pixels.
        bound: length, pixels, of full saturation.

    Returns:
        uint8 [..., 3] RGB.
    """
    x, y = motion[..., 0].astype(np.float64), motion[..., 1].astype(np.float64)
    hue = (np.arctan2(y, x) / (2 * np.pi)) % 1.0
    saturation = np.clip(np.hypot(x, y) / bound, 0, 1)
    colours = hsv_to_rgb(np.stack([hue, saturation, np.ones_like(hue)], axis=-1))
    return (255 * colours).round().astype(np.uint8)


def visible(kind: str, raw: NDArray[Any]) -> NDArray[np.uint8]:
    """One raw frame as a picture: RGB as it is, motion in colours, residuals round middle grey.

    Args:
        kind: ``iframe``, ``mv`` or ``residual``.
        raw: [H, W, C], as :meth:`~coviar_mocrop.bitstream.video.Video.read` gives it.
    """
    if kind == "iframe":
        return raw.astype(np.uint8)
    if kind == "mv":
        return flow_colours(raw)
    return np.clip(raw.astype(np.int16) + 128, 0, 255).astype(np.uint8)


def dim_outside(picture: NDArray[np.uint8], box: CropBox) -> NDArray[np.uint8]:
    """The picture [H, W, 3], darker where the box is not."""
    top, left, bottom, right = box.to_pixels(*picture.shape[:2])
    dimmed = (picture * _DIMMED).astype(np.uint8)
    dimmed[top:bottom, left:right] = picture[top:bottom, left:right]
    return dimmed


def clip_figure(
    iframes: Sequence[NDArray[np.uint8]],
    box: CropBox,
    density: NDArray[np.float64],
    frame: NDArray[np.uint8],
    vectors: NDArray[np.void],
    seen: Mapping[str, NDArray[Any]],
    window: Window,
    title: str,
) -> Figure:
    """One clip in two rows: I-frames with the box; density, vectors and what each stream sees.

    Args:
        iframes: uint8 [H, W, 3] each, display order.
        box: of the clip.
        density: float64 [rows, columns], that the box was found in.
        frame: uint8 [H, W, 3], the frame of ``vectors``.
        vectors: of one frame, ``MOTION_VECTOR_DTYPE``.
        seen: raw frame [H, W, C] by stream.
        window: what is cut out of ``seen``.
        title: of the picture.
    """
    height, width = frame.shape[:2]
    aspect = width / height
    page = _Page([[aspect] * len(iframes), [aspect, aspect, *[1.0] * len(seen)]], title)
    for number, (axis, picture) in enumerate(zip(page.rows[0], iframes, strict=True)):
        _show_boxed(axis, picture, box)
        axis.set_title(f"I-frame {number + 1}", fontsize=9)
    heat, arrows, *inputs = page.rows[1]
    grey = frame.mean(axis=2)
    heat.imshow(grey, cmap="gray", vmin=0, vmax=255, aspect="auto")
    heat.imshow(
        density,
        cmap="inferno",
        alpha=0.35 + 0.6 * (density / max(float(density.max()), 1e-12)) ** 0.5 if density.any() else 0.35,
        extent=(0, width, height, 0),
        aspect="auto",
        interpolation="nearest",
    )
    _outline(heat, box, height, width)
    heat.set_title(f"motion density, {density.shape[0]} x {density.shape[1]}", fontsize=9)
    arrows.imshow((grey * 0.55).astype(np.uint8), cmap="gray", vmin=0, vmax=255, aspect="auto")
    _draw_arrows(arrows, vectors, height, width)
    _outline(arrows, box, height, width)
    arrows.set_title("motion vectors", fontsize=9)
    _show_inputs(inputs, seen, window)
    return page.figure


def prediction_figure(
    iframes: Sequence[NDArray[np.uint8]],
    box: CropBox | None,
    seen: Mapping[str, NDArray[Any]],
    windows: Mapping[str, Window],
    classes: Sequence[str],
    probabilities: Mapping[str, NDArray[np.float64]],
    title: str,
    footer: str,
    top: int = 5,
) -> Figure:
    """One classified clip: I-frames with the box; what each stream saw, and the first classes as bars.

    Args:
        iframes: uint8 [H, W, 3] each.
        box: None where the setting does not crop.
        seen: raw frame [H, W, C] by stream.
        windows: what was cut out of ``seen``, by stream.
        classes: names.
        probabilities: float64 [classes] by stream, and ``fused``.
        title: of the picture.
        footer: below it: where the time went.
        top: classes shown.
    """
    top_row = [picture.shape[1] / picture.shape[0] for picture in iframes]
    page = _Page([row for row in (top_row, [*[1.0] * len(seen), 2.4]) if row], title, footer)
    for number, (axis, picture) in enumerate(zip(page.rows[0], iframes, strict=False)):
        if box is None:
            axis.imshow(picture, aspect="auto")
        else:
            _show_boxed(axis, picture, box)
        axis.set_title(f"I-frame {number + 1}", fontsize=9)
    *inputs, bars = page.rows[-1]
    for axis, (kind, raw) in zip(inputs, seen.items(), strict=True):
        _show_inputs([axis], {kind: raw}, windows[kind])
    _draw_bars(bars, classes, probabilities, top)
    return page.figure


class _Page:
    """Rows of panels of given aspects, each row as high as fills the width."""

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
                axis = self.figure.add_axes(place)
                axis.set_xticks([])
                axis.set_yticks([])
                axes.append(axis)
                left += aspect * height + _GAP
            self.rows.append(axes)
            top = bottom - _GAP
        self.figure.text(_GAP / _INCHES, 1 - 0.14 / total, title, fontsize=11, weight="bold", va="top")
        self.figure.text(_GAP / _INCHES, 0.09 / total, footer, fontsize=8.5, color="#444444", va="bottom")


def _show_boxed(axis: Axes, picture: NDArray[np.uint8], box: CropBox) -> None:
    axis.imshow(dim_outside(picture, box), aspect="auto")
    _outline(axis, box, *picture.shape[:2])


def _show_inputs(axes: Sequence[Axes], seen: Mapping[str, NDArray[Any]], window: Window) -> None:
    for axis, (kind, raw) in zip(axes, seen.items(), strict=True):
        crop = raw[window.top : window.bottom, window.left : window.right]
        # a square panel stretches it just as the network's input is stretched
        axis.imshow(visible(kind, crop), aspect="auto", interpolation="antialiased")
        axis.set_title(f"{STREAM_TITLES.get(kind, kind)} stream sees", fontsize=9)


def _outline(axis: Axes, box: CropBox, height: int, width: int) -> None:
    size = (box.x1 - box.x0) * width, (box.y1 - box.y0) * height
    axis.add_patch(Rectangle((box.x0 * width, box.y0 * height), *size, fill=False, edgecolor=BOX_COLOUR, linewidth=2.2))
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)


def _draw_arrows(axis: Axes, vectors: NDArray[np.void], height: int, width: int, across: int = 36) -> None:
    """Where blocks went, on a lattice of at most ``across`` arrows a row (mean over blocks, by area)."""
    if not len(vectors):
        return
    side = max(width / across, 16)
    columns, rows = int(np.ceil(width / side)), int(np.ceil(height / side))
    scale = np.maximum(vectors["motion_scale"], 1) * np.where(vectors["source"] > 0, 1, -1)
    area = vectors["w"].astype(np.float64) * vectors["h"]
    column = np.clip((vectors["dst_x"] / side).astype(int), 0, columns - 1)
    row = np.clip((vectors["dst_y"] / side).astype(int), 0, rows - 1)
    cell = row * columns + column
    total = np.maximum(np.bincount(cell, area, rows * columns), 1e-9)
    means = [
        np.bincount(cell, area * vectors[name] / scale, rows * columns) / total for name in ("motion_x", "motion_y")
    ]
    motion = np.stack(means, axis=-1)
    length = np.hypot(*motion.T)
    shown = np.flatnonzero(length > max(0.25, _FLAT * float(length.max())))
    if not len(shown):
        return
    reach = max(float(np.percentile(length[shown], 95)), 1e-9)
    drawn = motion[shown] / reach * np.minimum(1.0, reach / length[shown])[:, None] * 1.6 * side
    x, y = (shown % columns + 0.5) * side, (shown // columns + 0.5) * side
    axis.quiver(
        x - drawn[:, 0] / 2,
        y - drawn[:, 1] / 2,
        drawn[:, 0],
        drawn[:, 1],
        color=flow_colours(motion[shown], bound=1e-9) / 255,
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.005,
        headwidth=3.6,
        headlength=4,
        headaxislength=3.6,
    )


def _draw_bars(axis: Axes, classes: Sequence[str], probabilities: Mapping[str, NDArray[np.float64]], top: int) -> None:
    fused = probabilities["fused"]
    first = np.argsort(-fused, kind="stable")[:top]
    places = np.arange(len(first))
    axis.barh(places, np.ones(len(first)), height=0.42, color="#eeeeee")
    axis.barh(places, fused[first], height=0.42, color=["#1b7f5c", *["#8fc3ae"] * (len(first) - 1)])
    markers = {"iframe": "o", "mv": "s", "residual": "^"}
    streams = [name for name in probabilities if name != "fused"]
    for name in streams:
        axis.scatter(
            probabilities[name][first],
            places + 0.1,
            marker=markers.get(name, "D"),
            s=26,
            color="#222222",
            edgecolors="white",
            linewidths=0.5,
            label=STREAM_TITLES.get(name, name),
            zorder=3,
            clip_on=False,
        )
    for place, label in zip(places, first, strict=True):
        axis.text(0.0, place - 0.25, classes[label], ha="left", va="bottom", fontsize=10)
        axis.text(1.0, place - 0.25, f"{fused[label]:.1%}", ha="right", va="bottom", fontsize=10)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(len(first) - 0.55, -0.75)
    axis.set_frame_on(False)
    axis.set_title("fused; each stream alone as a mark", fontsize=9)
    if streams:
        axis.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, 0.02),
            ncols=len(streams),
            fontsize=8,
            frameon=False,
            handletextpad=0.1,
        )
