"""Draw the figures of the README and of the concept pages.

Usage: ``python docs/figures.py``. The video is drawn too (scene.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image
from scene import street

from coviar_mocrop import MoCropSettings, estimate_box, load_clip, open_video
from coviar_mocrop.bitstream import Kind
from coviar_mocrop.bitstream.transcode import encode
from coviar_mocrop.mocrop import density_of
from coviar_mocrop.viz.drawing import draw_box, flow_colours, visible
from coviar_mocrop.viz.show import inspect_clip

DOCS = Path(__file__).parent
GOP = 12


def main() -> None:
    """Draw all figures."""
    (DOCS / "figures").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        still, panning = Path(folder, "street.mp4"), Path(folder, "panning.mp4")
        encode(street(), still, gop=GOP)
        encode(street(pan=1.5), panning, gop=GOP)
        with open_video(still) as video:
            view = inspect_clip(video, MoCropSettings(area_ratio=0.4))
        _save(view.figure(f"A synthetic clip, and its MoCrop box of {view.box.area:.0%} of the frame"), "crop.png")
        _save(gop_figure(still), "figures/gop.png")
        _save(accumulation_figure(still), "figures/accumulation.png")
        _save(box_figure(still, panning), "figures/box.png")
        _save(streams_figure(still), "figures/streams.png")


def gop_figure(path: Path) -> Figure:
    """One GOP: the decoded frames, their size in the file, motion vectors and residuals."""
    sizes = _packet_sizes(path)
    shown = [GOP + at for at in (0, 1, 2, 5, 8, 11)]
    figure, axes = _panels(3, len(shown), ("decoded frame", "motion vectors", "residual"))
    with open_video(path) as video:
        frames, vectors = video.get_frames_at(shown), video.get_motion_vectors_at(shown)
        read = video.get({"mv": shown, "residual": shown}, accumulate=False)
    for column, number in enumerate(shown):
        first = number == shown[0]
        axes[0, column].imshow(frames[column])
        axes[0, column].set_title(f"{'I' if first else 'P'}-frame, {sizes[number] / 1000:.1f} kB", fontsize=9)
        if first:
            for axis in axes[1:, 0]:
                axis.imshow(np.full_like(frames[0], 255))
                axis.text(
                    0.5, 0.5, "none: an I-frame\nstands alone", ha="center", va="center", transform=axis.transAxes
                )
            continue
        axes[1, column].imshow(flow_colours(read["mv"][column], 5))
        _blocks(axes[1, column], vectors[column])
        axes[2, column].imshow((3 * read["residual"][column] + 128).clip(0, 255).astype(np.uint8))
    return figure


def accumulation_figure(path: Path) -> Figure:
    """Motion and residual against the frame before, and accumulated back to the I-frame."""
    shown = [GOP + at for at in (1, 4, 8, 11)]
    names = ("motion,\nlast step", "motion,\naccumulated", "residual,\nlast step", "residual,\naccumulated")
    figure, axes = _panels(len(names), len(shown), names)
    with open_video(path) as video:
        kinds: tuple[tuple[Kind, int], ...] = (("mv", 0), ("residual", 2))
        for kind, row in kinds:
            for offset, accumulate in enumerate((False, True)):
                found = video.get({kind: shown}, accumulate=accumulate)[kind]
                for axis, picture in zip(axes[row + offset], found, strict=True):
                    grey = (2 * picture + 128).clip(0, 255).astype(np.uint8) if kind == "residual" else None
                    axis.imshow(flow_colours(picture) if grey is None else grey)
    for axis, number in zip(axes[0], shown, strict=True):
        axis.set_title(f"{number - GOP} {'frame' if number - GOP == 1 else 'frames'} after the I-frame", fontsize=9)
    return figure


def box_figure(still: Path, panning: Path) -> Figure:
    """From motion density to boxes; and a camera that turns, with and without its motion."""
    figure, axes = _panels(2, 4, ("camera stands", "camera turns"))
    sizes: tuple[tuple[str, dict[str, Any]], ...] = (
        ("box of 0.75", {}),
        ("box of 0.4", {"area_ratio": 0.4}),
        ("adaptive", {"size": "adaptive"}),
    )
    columns: list[list[tuple[str, dict[str, Any], bool]]] = [
        [("motion density", {}, True), *((name, values, False) for name, values in sizes)],
        [
            ("density, camera=none", {"area_ratio": 0.4, "camera": "none"}, True),
            ("box of 0.4, camera=none", {"area_ratio": 0.4, "camera": "none"}, False),
            ("density, camera taken out", {"area_ratio": 0.4}, True),
            ("box of 0.4", {"area_ratio": 0.4}, False),
        ],
    ]
    for row, (path, panels) in enumerate(zip((still, panning), columns, strict=True)):
        with open_video(path) as video:
            vectors, size = video.get_motion_vectors_at(), (video.info.height, video.info.width)
            frame = video.get_frames_at([32])[0]
        for axis, (title, values, heat) in zip(axes[row], panels, strict=True):
            settings = MoCropSettings(**values)
            axis.imshow(
                frame.mean(axis=2) if heat else draw_box(frame, estimate_box(vectors, size, settings)), cmap="gray"
            )
            axis.set_title(title, fontsize=9)
            if heat:
                density = density_of(vectors, size, settings)
                over: dict[str, Any] = {"extent": (0, size[1], size[0], 0), "interpolation": "nearest"}
                axis.imshow(density, cmap="inferno", alpha=0.3 + 0.65 * (density / density.max()) ** 0.5, **over)
    return figure


def streams_figure(path: Path) -> Figure:
    """What the three networks are given of a clip of four segments, with the box."""
    streams = {"iframe": "I-frame stream", "mv": "motion stream", "residual": "residual stream"}
    with open_video(path) as video:
        box = estimate_box(
            video.get_motion_vectors_at(), (video.info.height, video.info.width), MoCropSettings(area_ratio=0.4)
        )
    clip = load_clip(path, segments=4, box=box)
    figure, axes = _panels(3, 6, list(streams.values()), aspect=1.0)
    for row, name in enumerate(streams):
        for axis, segment in zip(axes[row], clip[name], strict=False):
            axis.imshow(visible(np.moveaxis(segment, 0, -1)))
        network, scores = axes[row, 4:]
        network.add_patch(Rectangle((0.18, 0.25), 0.64, 0.5, facecolor="#dfe7f3", edgecolor="#51637f"))
        network.text(0.5, 0.5, "2-D network", ha="center", va="center", fontsize=9)
        network.annotate("", (1.3, 0.5), (0.86, 0.5), arrowprops={"arrowstyle": "->"}, annotation_clip=False)
        scores.text(0.62, 0.5, rf"scores $\cdot$ w$_{row + 1}$", ha="center", va="center", fontsize=10)
        if row < 2:
            scores.text(0.62, -0.04, "+", ha="center", va="center", fontsize=15)
        for axis in (network, scores):
            axis.set(xlim=(0, 1), ylim=(0, 1), frame_on=False)
    for column in range(4):
        axes[0, column].set_title(f"segment {column + 1}", fontsize=9)
    return figure


def _panels(rows: int, columns: int, names: Sequence[str], aspect: float = 480 / 272) -> tuple[Figure, NDArray[Any]]:
    side = 12 / columns
    figure = Figure(figsize=(12.3, rows * side / aspect + 0.35 * rows), dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name, fontsize=9)
    return figure, axes


def _blocks(axis: Axes, vectors: NDArray[np.void]) -> None:
    """Outline the blocks that move."""
    for vector in vectors[(vectors["motion_x"] != 0) | (vectors["motion_y"] != 0)]:
        wide, high = int(vector["w"]), int(vector["h"])
        corner = int(vector["dst_x"]) - wide // 2, int(vector["dst_y"]) - high // 2
        axis.add_patch(Rectangle(corner, wide, high, fill=False, edgecolor="#888888", linewidth=0.3))


def _packet_sizes(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [packet.size for packet in container.demux(video=0) if packet.size]


def _save(figure: Figure, name: str) -> None:
    figure.savefig(DOCS / name)
    with Image.open(DOCS / name) as picture:  # without transparency, and packed better
        picture.convert("RGB").save(DOCS / name, optimize=True)
    print(f"wrote docs/{name}: {(DOCS / name).stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
