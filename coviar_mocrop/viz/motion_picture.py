"""What MotionSqueeze takes for motion beside what the codec does, for one clip."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from coviar_mocrop.bitstream import Kind, open_video
from coviar_mocrop.bitstream.accumulate import Accumulator
from coviar_mocrop.clips.config import DataConfig, InputConfig
from coviar_mocrop.clips.sampling import places, sampled_frames
from coviar_mocrop.clips.windows import cut, testing_windows
from coviar_mocrop.errors import ModelError
from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.networks.stream_net import StreamNet
from coviar_mocrop.viz.crop_picture import flow_colours

_COLUMNS = 7
"""Steps that a picture has room for."""


@dataclass(frozen=True)
class MotionView:
    """A clip of T frames as the network sees it, and its T - 1 steps.

    Attributes:
        numbers: of the frames in the video, display order.
        frames: uint8 [T, H, W, 3], cropped.
        displacement: float32 [T - 1, h, w, 2], (x, y), pixels of ``frames``, one row a cell of the network's map.
        confidence: float32 [T - 1, h, w], 0 to 1.
        codec: int16 [T - 1, H, W, 2], (x, y), pixels: the codec's vectors, followed from frame to frame.
    """

    numbers: list[int]
    frames: NDArray[np.uint8]
    displacement: NDArray[np.float32]
    confidence: NDArray[np.float32]
    codec: NDArray[np.int16]

    def figure(self, title: str) -> Figure:
        """Frames, the network's displacement, its confidence and the codec's motion, a column a step."""
        steps = len(self.displacement)
        shown = np.unique(np.linspace(0, steps - 1, min(steps, _COLUMNS)).round().astype(int))
        lengths = [np.hypot(*np.moveaxis(motion.astype(np.float64), -1, 0)) for motion in self._motions()]
        # one scale for both; the few longest, often mistaken, must not set it
        bound = max(*(float(np.percentile(length, 98)) for length in lengths), 1.0)
        rows = ("frame", "MotionSqueeze", "confidence", "codec")
        height, width = self.frames.shape[1:3]
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
        return figure

    def _motions(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self.displacement, self.codec


def look_at_motion(
    path: str | os.PathLike[str],
    model: StreamNet,
    kind: Kind,
    size: int,
    inputs: InputConfig,
    data: DataConfig,
    box: CropBox | None,
) -> MotionView:
    """Read a clip as in testing and ask the network for its displacement.

    Args:
        path: of the video.
        model: with MotionSqueeze; it is used in evaluation mode and given back as it was.
        kind: ``iframe`` or ``frame``, what the network is given.
        size: side of its input, pixels.
        inputs: frames of a clip.
        data: backend, virtual GOPs.
        box: of the clip, or None.

    Raises:
        ModelError: the network has no MotionSqueeze, or takes no pictures.
        VideoError: the video cannot be read, or has no motion vectors.
    """
    if kind not in ("iframe", "frame"):
        raise ModelError(f"the {kind} stream has no pictures to show; give an I-frame stream with MotionSqueeze")
    with open_video(path, data.backend, data.anchor_every) as video:
        found = places(video.gops, sampled_frames(video.info.num_frames, inputs, kind), kind)
        unique = sorted(set(found))
        rows = [unique.index(place) for place in found]
        raw = video.read(kind, unique)
        numbers = [video.gops[gop].start + pos for gop, pos in found]
        between = range(numbers[0] + 1, numbers[-1] + 1)
        vectors = dict(zip(between, video.vectors(between), strict=True))
    window = testing_windows((raw.shape[1], raw.shape[2]), box, 1)[0]
    inside = (slice(window.top, window.bottom), slice(window.left, window.right))
    clip = cut(kind, raw, window, size)[rows]
    training, device = model.training, next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        displacement, confidence = model.displacement(clip[None].to(device))
    model.train(training)
    cells = displacement[0].permute(0, 2, 3, 1).float().cpu().numpy()
    frames = raw[:, window.top : window.bottom, window.left : window.right][rows]
    pixels = np.array([frames.shape[2] / cells.shape[2], frames.shape[1] / cells.shape[1]], dtype=np.float32)
    accumulator = Accumulator(raw.shape[1], raw.shape[2])
    codec = [_follow(accumulator, [vectors[n] for n in range(a + 1, b + 1)])[inside] for a, b in pairwise(numbers)]
    return MotionView(numbers, frames, cells * pixels, confidence[0, :, 0].float().cpu().numpy(), np.stack(codec))


def _follow(accumulator: Accumulator, vectors: list[NDArray[np.void]]) -> NDArray[np.int16]:
    """Motion over several frames, int16 [H, W, 2]; over a key frame, which has no vectors, things stand still."""
    accumulator.restart()
    for rows in vectors:
        accumulator.step(rows, is_b=bool((rows["source"] > 0).any()))
    return accumulator.motion()
