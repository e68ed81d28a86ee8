"""Collect the data for figures of a video: its MoCrop box, and the motion that a network estimates."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from coviar_mocrop.bitstream import Gop, Kind, Video
from coviar_mocrop.bitstream.accumulate import Accumulator
from coviar_mocrop.bitstream.transcode import encode, usable_rate
from coviar_mocrop.clips.reader import View, read_views
from coviar_mocrop.clips.sampling import middle_frames
from coviar_mocrop.clips.windows import Window, testing_windows, whole_frame
from coviar_mocrop.errors import ConfigError, CoviarMocropError, ModelError
from coviar_mocrop.mocrop import CropBox, MoCropSettings, frames_to_read
from coviar_mocrop.mocrop.estimate import BoxEstimator
from coviar_mocrop.viz.clip_figures import ClipView, MotionView, short_name
from coviar_mocrop.viz.drawing import block_motion, draw_box, tint_blocks, visible

if TYPE_CHECKING:  # the box of a clip is shown without torch
    from torch.utils.tensorboard import SummaryWriter

    from coviar_mocrop.clips.dataset import ClipDataset
    from coviar_mocrop.streams.base import Stream

_SEEN: dict[str, Kind] = {"I-frame": "iframe", "motion": "mv", "residual": "residual"}
"""Kinds of views that a figure shows of the frame with the most motion, by title."""
_FASTEST = 16
"""Motion in pixels to which blocks are limited when the frame with the most motion is searched."""


def inspect_clip(video: Video, settings: MoCropSettings | None = None, *, iframes: int = 4) -> ClipView:
    """Estimate the box of a clip, and read the frames for a figure of it.

    Args:
        video: an open video.
        settings: settings of MoCrop; None: ``MoCropSettings()``. With ``sparse`` settings, only the vectors that the
            box is estimated from are read.
        iframes: largest number of I-frames to show, 1 or more.

    Raises:
        ConfigError: ``iframes`` is below 1.
        VideoError: the video cannot be read, or has no motion vectors.
    """
    if iframes < 1:
        raise ConfigError(f"iframes is {iframes}; give 1 or more")
    settings = settings or MoCropSettings()
    height, width, num_frames = video.info.height, video.info.width, video.info.num_frames
    numbers = frames_to_read(video.gops, settings) or range(num_frames)
    estimator = BoxEstimator((height, width), settings)

    def moving() -> Iterator[tuple[int, NDArray[np.void]]]:
        for frame in video.visit(vectors=numbers):
            estimator.add(frame.vectors)
            yield frame.number, frame.vectors

    peak, vectors = peak_motion_frame(moving(), video.gops)
    box = estimator.box()
    shown = sorted({video.gop_at(number).start for number in middle_frames(num_frames, iframes, "iframe")})
    views = {"iframes": View("iframe", shown, whole_frame, None), "peak": View("frame", [peak], whole_frame, None)}
    views |= {title: View(kind, [peak], _one_window, None) for title, kind in _SEEN.items()}
    pixels = read_views(video, views, box).pixels
    pictures = {name: rearrange(clips, "1 t c h w -> t h w c") for name, clips in pixels.items()}
    return ClipView(
        box=box,
        density=estimator.grid(),
        iframes=list(pictures["iframes"]),
        frame=pictures["peak"][0],
        vectors=vectors,
        seen={title: pictures[title][0] for title in _SEEN},
    )


def inspect_motion(video: Video, stream: Stream, box: CropBox | MoCropSettings | None = None) -> MotionView:
    """Read a clip as in testing and compare the network's displacement with the codec's motion.

    Args:
        video: an open video.
        stream: a stream whose network has MotionSqueeze. Its network is run in evaluation mode, and its mode is
            restored afterwards.
        box: box of the clip, or settings to estimate it; None: the frame is not cropped to a box.

    Raises:
        ModelError: the network has no MotionSqueeze.
        VideoError: the video cannot be read, or has no motion vectors.
    """
    import torch

    network = stream.network
    if getattr(network, "motion_squeeze", None) is None:
        raise ModelError(
            f"the {stream.name} stream estimates no displacement; give one trained with model.motion_squeeze=true"
        )
    ((name, view),) = stream.views(video.info.num_frames, video.gops).items()
    read = read_views(video, {name: view._replace(windows=_one_window)}, box)
    training = network.training
    network.eval()
    with torch.inference_mode():
        displacement, confidence = network.displacement(stream.encode(read).flatten(0, -5))  # type: ignore[operator]
    network.train(training)
    numbers = [video.gop_at(number).start if view.kind == "iframe" else number for number in view.frames]
    (window,) = read.windows[name]
    cells = rearrange(displacement[0], "t c h w -> t h w c").float().cpu().numpy()
    sides = np.array([window.right - window.left, window.bottom - window.top], np.float32)
    return MotionView(
        numbers=numbers,
        frames=visible(rearrange(read.pixels[name], "1 t c h w -> t h w c")),
        displacement=cells * (sides / np.array([cells.shape[2], cells.shape[1]], np.float32)),
        confidence=confidence[0, :, 0].float().cpu().numpy(),
        codec=_codec_motion(video, numbers)[:, window.top : window.bottom, window.left : window.right],
    )


def annotate_video(video: Video, output: str | os.PathLike[str], box: CropBox) -> int:
    """Write the video with its box on every frame. Moving blocks are tinted by direction.

    Args:
        video: an open video.
        output: file to write. Its suffix selects the container.
        box: box of the clip.

    Returns:
        The number of frames written.

    Raises:
        VideoError: the video cannot be read or has no motion vectors, or the output cannot be encoded.
    """
    views = video.visit(pictures=range(video.info.num_frames), vectors=None)
    frames = (draw_box(tint_blocks(view.picture(), view.vectors), box) for view in views)
    return encode(frames, output, frame_rate=usable_rate(video.info.frame_rate), gop=25)


def log_pictures(writer: SummaryWriter, stream: Stream, clips: ClipDataset, epoch: int) -> None:
    """Add figures of a training run to TensorBoard.

    Before the first epoch, these are four clips with their boxes. After epochs 1, 2, 4, 8, ... and the last one, if the
    network has MotionSqueeze, these are its displacement and the codec's motion for two clips. The clips are spread
    evenly over the list. Clips that cannot be read are left out.

    Args:
        writer: TensorBoard writer of the run.
        stream: the stream that is trained.
        clips: its training clips.
        epoch: number of finished epochs.
    """
    if epoch == 0:
        _add_figures(writer, "crops", clips, 4, lambda video: inspect_clip(video, stream.config.mocrop))
        return
    due = not epoch & (epoch - 1) or epoch == stream.config.train.epochs
    if due and getattr(stream.network, "motion_squeeze", None) is not None:
        _add_figures(writer, "displacement", clips, 2, lambda v: inspect_motion(v, stream, clips.mocrop), epoch)


def peak_motion_frame(
    frames: Iterable[tuple[int, NDArray[np.void]]], gops: Sequence[Gop]
) -> tuple[int, NDArray[np.void]]:
    """Find the frame with the most motion in the later halves of the GOPs, where motion has accumulated.

    Args:
        frames: number and motion vectors (``MOTION_VECTOR_DTYPE`` [N]) of each frame. Frames from the first halves of
            the GOPs are considered only if there are no others.
        gops: GOPs of the video.

    Returns:
        The number of the frame, and its motion vectors.
    """
    late = {number for gop in gops for number in range(gop.start + gop.length // 2, gop.start + gop.length)}

    def moved(frame: tuple[int, NDArray[np.void]]) -> tuple[bool, float]:
        number, blocks = frame
        speed = np.minimum(np.hypot(*block_motion(blocks).T), _FASTEST)
        return number in late, float((speed * blocks["w"] * blocks["h"].astype(np.float64)).sum())

    return max(frames, key=moved)


def _add_figures(
    writer: SummaryWriter,
    tag: str,
    clips: ClipDataset,
    count: int,
    inspect: Callable[[Video], ClipView | MotionView],
    step: int = 0,
) -> None:
    for place in np.unique(np.linspace(0, len(clips) - 1, count).round().astype(int)):
        name = clips.videos.clips[place].path
        try:
            video, _ = clips.open(place)
            with video:
                figure = inspect(video).figure(short_name(name))
        except CoviarMocropError:
            continue
        writer.add_figure(f"{tag}/{name}", figure, step)


def _one_window(frame_size: tuple[int, int], box: CropBox | None) -> list[Window]:
    return testing_windows(frame_size, box, 1)


def _codec_motion(video: Video, numbers: Sequence[int]) -> NDArray[np.int16]:
    """The codec's motion from each frame to the next of ``numbers``: int16 [T - 1, H, W, 2], (x, y), pixels.

    A key frame has no vectors, so there is no motion between it and the previous frame.
    """
    between = range(numbers[0] + 1, numbers[-1] + 1)
    vectors = dict(zip(between, video.get_motion_vectors_at(between), strict=True))
    accumulator = Accumulator(video.info.height, video.info.width)
    steps = []
    for first, last in pairwise(numbers):
        accumulator.restart()
        for number in range(first + 1, last + 1):
            accumulator.step(vectors[number], is_b=bool((vectors[number]["source"] > 0).any()))
        steps.append(accumulator.motion())
    return np.stack(steps)
