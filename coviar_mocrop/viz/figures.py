"""Pictures: a clip with its box, a confusion matrix, accuracy against compute. No display is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from coviar_mocrop.mocrop import CropBox

SETTING_COLOURS = {"baseline": "#4c4c4c", "efficiency": "#1b7f5c", "attention": "#c2571a"}
STREAM_MARKERS = {"iframe": "o", "mv": "s", "residual": "^", "clip": "D", "fused": "*"}
_BOX = "#ffb000"


def crop_figure(iframes: Sequence[NDArray[np.uint8]], box: CropBox, density: NDArray[np.float64], title: str) -> Figure:
    """I-frames in a row with the clip's box on them, then the density grid the box was found in.

    Args:
        iframes: uint8 [H, W, 3] each.
        box: the clip's box.
        density: float64 [rows, columns].
        title: of the picture.
    """
    height, width = iframes[0].shape[:2]
    panels = len(iframes) + 1
    figure = Figure(figsize=(2.6 * panels, 2.6 * height / width + 0.45), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, panels))
    for number, (axis, picture) in enumerate(zip(axes, iframes, strict=False)):
        axis.imshow(picture)
        axis.set_title(f"I-frame {number + 1}", fontsize=8)
        _draw_box(axis, box, height, width)
    axes[-1].imshow(density, extent=(0, width, height, 0), cmap="magma", aspect="equal")
    axes[-1].set_title("motion density", fontsize=8)
    _draw_box(axes[-1], box, height, width)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(title, fontsize=9)
    return figure


def confusion_figure(confusion: NDArray[np.int64], classes: Sequence[str], title: str) -> Figure:
    """A confusion matrix, rows normalised; numbers and names where there is room for them.

    Args:
        confusion: int64 [classes, classes], true class by row.
        classes: names.
        title: of the picture.
    """
    count = len(classes)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = min(max(3.2, 0.34 * count + 2), 16)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, shrink=0.8, label="share of the true class")
    size = 8 if count <= 20 else 4.5
    if count <= 120:
        axis.set_xticks(range(count), classes, rotation=90, fontsize=size)
        axis.set_yticks(range(count), classes, fontsize=size)
    if count <= 20:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            number = str(confusion[row, column])
            axis.text(column, row, number, ha="center", va="center", fontsize=7, color=colour)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title(title, fontsize=9)
    return figure


def accuracy_compute_figure(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Top-1 against GFLOPs per clip: a colour per setting, a marker per stream, fused a star.

    Args:
        results: by setting, as in ``results.json``: ``{"streams": {name: {...}}, "fused": {...}}``.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    seen = set()
    for setting, result in results.items():
        points = {**result["streams"], "fused": result["fused"]}
        for name, point in points.items():
            axis.scatter(
                point["gflops_per_clip"],
                100 * point["top1"],
                marker=STREAM_MARKERS.get(name, "P"),
                s=130 if name == "fused" else 45,
                color=SETTING_COLOURS.get(setting, "#555555"),
                edgecolors="white",
                linewidths=0.6,
                zorder=3,
            )
            seen.add(name)
    for setting in results:
        axis.scatter([], [], color=SETTING_COLOURS.get(setting, "#555555"), label=setting, s=45)
    for name in [name for name in [*STREAM_MARKERS, *sorted(seen - STREAM_MARKERS.keys())] if name in seen]:
        axis.scatter([], [], color="none", edgecolors="black", marker=STREAM_MARKERS.get(name, "P"), label=name, s=45)
    axis.set_xlabel("GFLOPs per clip (10⁹ multiply-adds)")
    axis.set_ylabel("top-1, %")
    axis.set_xlim(left=0)
    axis.set_ylim(0, 102)  # both axes from zero: half the height is half the accuracy
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, ncols=2)
    return figure


def _draw_box(axis: Any, box: CropBox, height: int, width: int) -> None:
    size = (box.x1 - box.x0) * width, (box.y1 - box.y0) * height
    axis.add_patch(Rectangle((box.x0 * width, box.y0 * height), *size, fill=False, edgecolor=_BOX, linewidth=2))
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)
