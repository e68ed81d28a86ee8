"""Read what several streams need of a clip in one pass over the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream import FrameView, Gop, Kind, open_video
from coviar_mocrop.bitstream.frames import FrameSequence
from coviar_mocrop.bitstream.types import Source
from coviar_mocrop.clips.resize import Resample, resize
from coviar_mocrop.clips.sampling import middle_frames, motion_frames
from coviar_mocrop.clips.windows import Window, testing_windows
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.mocrop import BoxEstimator, CropBox, MoCropSettings, estimate_box, frames_to_read

CHANNELS: dict[Kind, int] = {"iframe": 3, "frame": 3, "mv": 2, "residual": 3}
Area = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels."""


class View(NamedTuple):
    """What to read of a clip: frames of one kind, one or more windows of each frame, and the size of the result.

    Attributes:
        kind: ``iframe`` (the I-frame of each frame's GOP), ``frame`` (the decoded frame), ``mv`` or ``residual``.
        frames: frame numbers in display order; any order, repeats allowed.
        windows: function that returns the windows for a frame size (height, width) and the clip's box. It is called
            once per clip.
        size: side of the square result, pixels; None: windows are not resized.
        resample: filter, ``bilinear`` or ``bicubic``, antialiased.
    """

    kind: Kind
    frames: Sequence[int]
    windows: Callable[[tuple[int, int], CropBox | None], list[Window]]
    size: int | None
    resample: Resample = "bilinear"


class ReadViews(NamedTuple):
    """What was read of a clip, by name of the view.

    Attributes:
        pixels: uint8 [W, T, C, size, size]: T frames in W windows. I-frames and frames are RGB. Motion is
            rint(clip(D * 127.5 / 20 + 128, 0, 255)), D in pixels, (x, y). Residuals are clip(R + 128, 0, 255), RGB
            (CoViAR).
        windows: the windows of each view. A window that is another one mirrored has no pixels of its own.
        kinds: the kind of each view.
        box: the box of the clip; None if frames are not cropped to a box.
    """

    pixels: dict[str, NDArray[np.uint8]]
    windows: dict[str, list[Window]]
    kinds: dict[str, Kind]
    box: CropBox | None

    def mirrored(self, name: str) -> NDArray[np.bool_]:
        """Whether each window of a view is mirrored: bool [windows]."""
        return np.array([window.mirrored for window in self.windows[name]])


class WantsViews(Protocol):
    """The part of a stream that reading needs: which views it wants of a clip."""

    @property
    def name(self) -> str:
        """Name of the stream."""
        ...

    def views(
        self, num_frames: int, gops: Sequence[Gop], generator: np.random.Generator | None = None
    ) -> dict[str, View]:
        """The views to read of a clip, by name. The generator draws frames and windows in training; None in testing."""
        ...


def read_views(
    video: FrameSequence, views: Mapping[str, View], box: CropBox | MoCropSettings | None = None
) -> ReadViews:
    """Read, crop and resize what all ``views`` want, in one pass over the video.

    Args:
        video: an open video, or a window of a stream.
        views: by name.
        box: the box of the clip, or the settings to estimate it from the vectors of the same pass. None: no box.

    Raises:
        VideoError: a frame cannot be decoded, or there are no motion vectors where they are needed.
    """
    frame_size = (video.info.height, video.info.width)
    numbers = {name: _numbers(video, view) for name, view in views.items()}

    def wanted(*kinds: Kind) -> set[int]:
        return {n for name, view in views.items() if view.kind in kinds for n in numbers[name]}

    vectors: Sequence[int] | None = ()
    estimator: BoxEstimator | None = None
    canvas: _Canvas | None = None
    found: CropBox | None = None
    if isinstance(box, MoCropSettings):
        vectors, estimator = frames_to_read(video.gops, box), BoxEstimator(frame_size, box)
    else:
        found, canvas = box, _Canvas(views, numbers, frame_size, box)
    kept: list[tuple[str, int, NDArray[np.uint8]]] = []  # whole frames, while the box is not known yet
    passed = video.visit(wanted("iframe", "frame"), wanted("mv"), wanted("residual"), vectors)
    looked_at = set(range(video.info.num_frames) if vectors is None else vectors)
    for frame in passed:
        if estimator is not None and frame.number in looked_at:
            estimator.add(frame.vectors)
        for name, view in views.items():
            if frame.number not in numbers[name]:
                continue
            if canvas is None:
                kept.append((name, frame.number, _raw(frame, view.kind, None)))
            else:
                canvas.add(name, frame.number, _raw(frame, view.kind, canvas.areas[name]))
    if estimator is not None:
        found = estimator.box()
    if canvas is None:
        canvas = _Canvas(views, numbers, frame_size, found)
        for name, number, raw in kept:
            top, left, bottom, right = canvas.areas[name]
            canvas.add(name, number, raw[top:bottom, left:right])
    kinds = {name: view.kind for name, view in views.items()}
    return ReadViews(canvas.pixels, canvas.windows, kinds, found)


def read_streams(
    video: FrameSequence,
    streams: Iterable[WantsViews],
    box: CropBox | MoCropSettings | None,
    seed: Sequence[int] | None = None,
    extra: Mapping[str, View] | None = None,
) -> tuple[dict[str, ReadViews], ReadViews]:
    """Read what several streams want of a clip, in one pass.

    Args:
        video: an open video, or a window of a stream.
        streams: streams with different names.
        box: the box of the clip, or the settings to estimate it. None: no box.
        seed: random seed of frames and windows in training; None: testing. Each stream has a generator of its own with
            this seed, so what it sees does not depend on the other streams.
        extra: further views by name, for pictures.

    Returns:
        What was read, by stream, and what was read for ``extra``.

    Raises:
        VideoError: the video cannot be decoded, or lacks motion vectors.
    """
    wanted: dict[str, dict[str, View]] = {}
    for stream in streams:
        generator = None if seed is None else np.random.default_rng(seed)
        wanted[stream.name] = stream.views(video.info.num_frames, video.gops, generator)
    wanted[""] = dict(extra or {})
    read = read_views(video, {f"{s}/{name}": view for s, views in wanted.items() for name, view in views.items()}, box)

    def part(stream: str) -> ReadViews:
        names = wanted[stream]
        return ReadViews(
            {name: read.pixels[f"{stream}/{name}"] for name in names},
            {name: read.windows[f"{stream}/{name}"] for name in names},
            {name: view.kind for name, view in names.items()},
            read.box,
        )

    return {stream: part(stream) for stream in wanted if stream}, part("")


def box_of(video: FrameSequence, settings: MoCropSettings) -> CropBox:
    """Estimate the box of a video from the vectors of all its frames, or of a few if ``settings.sparse``.

    Raises:
        VideoError: the video cannot be read, or has no motion vectors.
    """
    views = video.visit(vectors=frames_to_read(video.gops, settings))
    return estimate_box((view.vectors for view in views), (video.info.height, video.info.width), settings)


def load_clip(
    path: Source,
    streams: Sequence[Literal["iframe", "mv", "residual"]] = ("iframe", "mv", "residual"),
    segments: int = 3,
    size: int = 224,
    box: CropBox | Literal["mocrop"] | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """Load a clip as networks see it in testing: sampled, cropped and resized in one pass over the file.

    The clip is divided into equal segments, and the middle frame of each is taken (TSN, section 3). ``iframe`` is the
    I-frame of its GOP, RGB. ``mv`` is its accumulated motion D, (x, y) in pixels, scaled to
    rint(clip(D * 127.5 / 20 + 128, 0, 255)). ``residual`` is its accumulated residual R, RGB, shifted to
    clip(R + 128, 0, 255). Motion and residual are zero on the first frame of a GOP, so the frame before is taken in its
    place (CoViAR). The result is resized with an antialiased bilinear filter.

    Args:
        path: a path, an http or https address, or a binary file object; see
            :func:`~coviar_mocrop.bitstream.open_video`.
        streams: any of ``iframe``, ``mv`` and ``residual``.
        segments: number of segments.
        size: side of the square result, pixels.
        box: region to crop. None: the centre square, 224/256 of the shorter side (CoViAR). A box is resized to the
            square whatever its shape. ``"mocrop"``: the clip's own box, estimated in the same pass with default
            settings.

    Returns:
        uint8 [segments, C, size, size] by stream. C is 3, for ``mv`` 2.

    Raises:
        VideoError: the video cannot be read.
        NoMotionVectorsError: its codec exports no motion vectors, and they are needed.
        ConfigError: an argument is out of range.
    """
    if unknown := [stream for stream in streams if stream not in ("iframe", "mv", "residual")]:
        raise ConfigError(f"load_clip: unknown stream {unknown[0]!r}; choose from iframe, mv, residual")
    if segments < 1 or size < 1:
        raise ConfigError(f"load_clip: segments is {segments} and size {size}; give 1 or more")
    if not (box is None or box == "mocrop" or isinstance(box, CropBox)):
        raise ConfigError(f"load_clip: box is {box!r}; give a CropBox, 'mocrop' or None")
    if isinstance(box, CropBox) and not (0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1):
        raise ConfigError(f"load_clip: {box} is not a part of the frame; its sides are shares of it, from 0 to 1")
    with open_video(path) as video:
        views: dict[str, View] = {}
        for stream in streams:
            frames = middle_frames(video.info.num_frames, segments, stream)
            if stream != "iframe":
                frames = motion_frames(video.gops, frames)
            views[stream] = View(stream, frames, lambda frame_size, crop: testing_windows(frame_size, crop, 1), size)
        read = read_views(video, views, MoCropSettings() if isinstance(box, str) else box)
    return {stream: pixels[0] for stream, pixels in read.pixels.items()}


class _Canvas:
    """Collects the pixels of every view, frame by frame."""

    def __init__(
        self,
        views: Mapping[str, View],
        numbers: Mapping[str, Sequence[int]],
        frame_size: tuple[int, int],
        box: CropBox | None,
    ) -> None:
        self._views, self._numbers = views, numbers
        self.windows = {name: view.windows(frame_size, box) for name, view in views.items()}
        self._distinct = {name: _with_pixels(windows) for name, windows in self.windows.items()}
        self.areas: dict[str, Area] = {name: _union(areas) for name, areas in self._distinct.items()}
        self.pixels: dict[str, NDArray[np.uint8]] = {}
        for name, view in views.items():
            top, left, bottom, right = self._distinct[name][0]
            sides = (bottom - top, right - left) if view.size is None else (view.size, view.size)
            shape = (len(self._distinct[name]), len(numbers[name]), CHANNELS[view.kind], *sides)
            self.pixels[name] = np.empty(shape, np.uint8)

    def add(self, name: str, number: int, raw: NDArray[np.uint8]) -> None:
        """Crop the windows of a view out of ``raw``, uint8 [h, w, C], which is the part ``areas[name]`` of a frame."""
        view, (top, left, _, _) = self._views[name], self.areas[name]
        first, *others = (row for row, wanted in enumerate(self._numbers[name]) if wanted == number)
        for pixels, (y0, x0, y1, x1) in zip(self.pixels[name], self._distinct[name], strict=True):
            inside = (y0 - top, x0 - left, y1 - top, x1 - left)
            if view.size is None:
                pixels[first] = raw[inside[0] : inside[2], inside[1] : inside[3]].transpose(2, 0, 1)
            else:
                resize(raw[None], inside, view.size, view.resample, out=pixels[first : first + 1])
            pixels[others] = pixels[first]


def _with_pixels(windows: Sequence[Window]) -> list[Area]:
    """The windows that have pixels of their own: all but those that are another one mirrored.

    Windows of a small frame may coincide. They stay, because the network expects a fixed number.
    """
    plain = [window[:4] for window in windows if not window.mirrored]
    return [window[:4] for window in windows if not window.mirrored or window[:4] not in plain]


def _numbers(video: FrameSequence, view: View) -> list[int]:
    """The frames to decode. For I-frames these are the first frames of the GOPs."""
    if view.kind == "iframe":
        return [video.gop_at(frame).start for frame in view.frames]
    return list(view.frames)


def _raw(frame: FrameView, kind: Kind, area: Area | None) -> NDArray[Any]:
    """The part ``area`` of a frame, uint8 [h, w, C]; None: the whole frame."""
    if kind == "mv":
        return frame.motion8(area)
    if kind == "residual":
        return frame.residual8(area)
    picture = frame.picture()
    return picture if area is None else picture[area[0] : area[2], area[1] : area[3]]


def _union(areas: Sequence[Area]) -> Area:
    tops, lefts, bottoms, rights = zip(*areas, strict=True)
    return min(tops), min(lefts), max(bottoms), max(rights)
