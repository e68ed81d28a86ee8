"""Figures of results: confusion matrix, accuracy against GFLOPs. No display is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from coviar_mocrop.viz.drawing import plain_text

SETTING_COLOURS = {"baseline": "#4c4c4c", "efficiency": "#1b7f5c", "attention": "#c2571a"}
"""Colours of the settings in figures. Other settings are grey."""
_MARKERS = "os^DvPXp"


def marker(number: int) -> str:
    """Return the marker of the stream with index ``number``."""
    return _MARKERS[number % len(_MARKERS)]


def confusion_figure(confusion: NDArray[np.int64], classes: Sequence[str], title: str) -> Figure:
    """Draw a confusion matrix with normalised rows. Class names and counts are added if there is room for them.

    Args:
        confusion: int64 [classes, classes], true class by row, predicted class by column.
        classes: names, in the order of the labels.
        title: title of the figure.
    """
    count = len(classes)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = min(max(3.2, 0.34 * count + 2), 16)
    figure = Figure(figsize=(side + 0.8, side), dpi=110, layout="constrained")
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
    return plain_text(figure)


def accuracy_flops_figure(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw top-1 against GFLOPs per clip: a colour per setting, a marker per stream, a star for the fusion.

    Args:
        results: by setting, as in ``results.json``: ``{"streams": {name: {...}}, "fused": {...}}``.
    """
    figure = Figure(figsize=(6.4, 4.2), dpi=110, layout="constrained")
    axis = figure.subplots()
    streams = dict.fromkeys(name for result in results.values() for name in result["streams"])
    markers = {name: marker(number) for number, name in enumerate(streams)} | {"fused": "*"}
    for setting, result in results.items():
        colour = SETTING_COLOURS.get(setting, "#555555")
        axis.scatter([], [], color=colour, label=setting, s=45)
        for name, point in {**result["streams"], "fused": result["fused"]}.items():
            style: dict[str, Any] = {"marker": markers[name], "color": colour, "edgecolors": "white", "linewidths": 0.6}
            area = 130 if name == "fused" else 45
            axis.scatter(point["gflops_per_clip"], 100 * point["top1"], s=area, zorder=3, **style)
    for name, shape in markers.items():
        axis.scatter([], [], color="none", edgecolors="black", marker=shape, label=name, s=45)
    axis.set_xlabel("GFLOPs per clip (10⁹ multiply-adds)")
    axis.set_ylabel("top-1, %")
    axis.set_xlim(left=0)
    axis.set_ylim(0, 102)  # both axes from zero: half the height is half the accuracy
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, ncols=2)
    return plain_text(figure)
