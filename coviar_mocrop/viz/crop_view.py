"""Look at one video the way MoCrop does: gather what a picture needs, and write an annotated video."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.bitstream.pyav_reader import PyavReader
from coviar_mocrop.bitstream.rotate import rotate_picture, rotate_vectors
from coviar_mocrop.bitstream.transcode import encode
from coviar_mocrop.bitstream.types import Gop
from coviar_mocrop.bitstream.video import Backend
from coviar_mocrop.clips.sampling import middle_frames, places
from coviar_mocrop.clips.windows import testing_windows
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.mocrop import CropBox, MoCropSettings, density_of, frames_to_read
from coviar_mocrop.mocrop.estimate import box_of_density
from coviar_mocrop.viz.crop_picture import BOX_COLOUR, clip_figure, dim_outside, flow_colours


@dataclass(frozen=True)
class ClipView:
    """What there is to see of a clip.

    Attributes:
        box: the clip's.
        density: float64 [rows, columns], that the box was found in.
        iframes: uint8 [H, W, 3] each, spread over the clip.
        frame: uint8 [H, W, 3], the frame in which most moves.
        vectors: of that frame.
        seen: by stream, the raw frame [H, W, C] that it would get there.
    """

    box: CropBox
    density: NDArray[np.float64]
    iframes: list[NDArray[np.uint8]]
    frame: NDArray[np.uint8]
    vectors: NDArray[np.void]
    seen: dict[str, NDArray[Any]]

    def figure(self, title: str) -> Figure:
        """The picture; see :func:`~coviar_mocrop.viz.crop_picture.clip_figure`."""
        window = testing_windows(self.frame.shape[:2], self.box, 1)[0]
        return clip_figure(self.iframes, self.box, self.density, self.frame, self.vectors, self.seen, window, title)


def look_at(
    path: str | os.PathLike[str],
    settings: MoCropSettings | None = None,
    *,
    iframes: int = 4,
    backend: Backend = "auto",
    anchor_every: int | None = 12,
) -> ClipView:
    """Read what a picture of a video needs.

    Args:
        path: of the video.
        settings: of MoCrop.
        iframes: how many to show, at most.
        backend: see :func:`~coviar_mocrop.bitstream.open_video`.
        anchor_every: frames of a virtual GOP.

    Raises:
        ConfigError: ``iframes`` is below 1.
        VideoError: the video cannot be read, or has no motion vectors.
    """
    if iframes < 1:
        raise ConfigError(f"iframes is {iframes}; give 1 or more")
    settings = settings or MoCropSettings()
    with open_video(path, backend, anchor_every) as video:
        vectors = video.vectors()
        chosen = frames_to_read(video.gops, settings)
        looked_at = vectors if chosen is None else [vectors[frame] for frame in chosen]
        density = density_of(looked_at, (video.info.height, video.info.width), settings)
        gop, pos = _liveliest(vectors, video.gops)
        shown = places(video.gops, middle_frames(video.info.num_frames, iframes, "iframe"), "iframe")
        shown = sorted(set(shown))  # a short clip has fewer
        raw = video.read_many({"iframe": [*shown, (gop, 0)], "mv": [(gop, pos)], "residual": [(gop, pos)]})
        start = video.gops[gop].start
    motion, residual = raw["mv"][0], raw["residual"][0]
    rows, columns = np.indices(motion.shape[:2])
    # the frame itself: the I-frame warped by accumulated motion, plus the residual (CoViAR, section 3)
    warped = raw["iframe"][-1][rows - motion[..., 1], columns - motion[..., 0]]
    return ClipView(
        box_of_density(density, settings, motion.shape[1] / motion.shape[0]),
        density,
        list(raw["iframe"][:-1]),
        (warped + residual).astype(np.uint8),
        vectors[start + pos],
        {"iframe": raw["iframe"][-1], "mv": motion, "residual": residual},
    )


def write_annotated(
    path: str | os.PathLike[str], output: str | os.PathLike[str], box: CropBox, frame_rate: float | None = None
) -> int:
    """Write the video with its box on every frame; blocks that move are tinted by direction.

    Args:
        path: of the video.
        output: file to write; the suffix chooses the container.
        box: of the clip.
        frame_rate: frames per second; None: the video's own.

    Returns:
        The number of frames written.

    Raises:
        VideoError: the video cannot be read, or the output not be encoded.
    """
    reader = PyavReader(path)
    try:
        return encode(_annotated(reader, box), output, frame_rate=frame_rate or reader.frame_rate or 25.0, gop=25)
    finally:
        reader.close()


def _annotated(reader: PyavReader, box: CropBox) -> Iterator[NDArray[np.uint8]]:
    spans = [reader.index.key_span(int(key)) for key in reader.index.key_frames]
    for frame in reader.frames(spans, vectors=True, pixels=True):
        picture = np.ascontiguousarray(rotate_picture(frame.rgb(), reader.rotation))
        vectors = rotate_vectors(frame.vectors, reader.rotation, reader.width, reader.height)
        yield _draw_box(dim_outside(_tinted(picture, vectors), box), box)


def _tinted(picture: NDArray[np.uint8], vectors: NDArray[np.void], strength: float = 0.55) -> NDArray[np.uint8]:
    motion = _motion(vectors)
    moving = np.flatnonzero(np.hypot(motion[:, 0], motion[:, 1]) > 0.5)
    colours = flow_colours(motion[moving], bound=4.0).astype(np.float64)
    tinted = picture.copy()
    for vector, colour in zip(vectors[moving], colours, strict=True):
        x, y, block_w, block_h = (int(vector[name]) for name in ("dst_x", "dst_y", "w", "h"))
        top, left = y - block_h // 2, x - block_w // 2
        block = tinted[max(top, 0) : max(top + block_h, 0), max(left, 0) : max(left + block_w, 0)]
        block[:] = (1 - strength) * block + strength * colour
    return tinted


def _draw_box(picture: NDArray[np.uint8], box: CropBox) -> NDArray[np.uint8]:
    top, left, bottom, right = box.to_pixels(*picture.shape[:2])
    line = max(round(picture.shape[0] / 160), 1)
    colour = (255 * np.array(to_rgb(BOX_COLOUR))).astype(np.uint8)
    for rows, columns in (
        (slice(top, top + line), slice(left, right)),
        (slice(max(bottom - line, top), bottom), slice(left, right)),
        (slice(top, bottom), slice(left, left + line)),
        (slice(top, bottom), slice(max(right - line, left), right)),
    ):
        picture[rows, columns] = colour
    return picture


def _motion(vectors: NDArray[np.void]) -> NDArray[np.float64]:
    """Where blocks moved to, float64 [N, 2], pixels: against the vector, or along one into the future."""
    scale = np.maximum(vectors["motion_scale"], 1) * np.where(vectors["source"] > 0, 1.0, -1.0)
    return np.stack([vectors["motion_x"] / scale, vectors["motion_y"] / scale], axis=-1)


def _liveliest(vectors: list[NDArray[np.void]], gops: Any) -> tuple[int, int]:
    """(GOP, position) of the frame in which most moves, late in its GOP, where motion has accumulated."""
    lengths = []
    for rows in vectors:
        motion = _motion(rows)
        area = rows["w"].astype(np.float64) * rows["h"]
        lengths.append(float((np.minimum(np.hypot(motion[:, 0], motion[:, 1]), 16) * area).sum()))
    best, place = -1.0, (0, 0)
    gop: Gop
    for number, gop in enumerate(gops):
        for pos in range(gop.length // 2, gop.length):
            if lengths[gop.start + pos] > best:
                best, place = lengths[gop.start + pos], (number, pos)
    return place
