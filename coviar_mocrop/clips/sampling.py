"""TSN sampling (Wang et al., ECCV 2016, section 3): one frame from each of S equal segments of a clip.

As in CoViAR, motion and residual streams do not use frame 0, on which they are zero. For them, the other n - 1 frames
are divided into segments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coviar_mocrop.bitstream import Gop, Kind
from coviar_mocrop.clips.config import InputConfig


def middle_frames(num_frames: int, segments: int, kind: Kind) -> list[int]:
    """The frame in the middle of each segment s of S, for testing: round((n - 1) / S * (s + 0.5)).

    For motion and residual, n - 1 takes the place of n, and 1 is added.

    Args:
        num_frames: number of frames of the clip, n.
        segments: number of segments, S.
        kind: kind of the frames.

    Returns:
        ``segments`` frame numbers in ascending order, all below ``num_frames``.
    """
    first, frames = _range(num_frames, kind)
    step = (frames - 1) / segments
    return [first + int(np.round(step * (s + 0.5))) for s in range(segments)]


def random_frames(num_frames: int, segments: int, kind: Kind, generator: np.random.Generator) -> list[int]:
    """A frame drawn uniformly from each segment; for training. See :func:`middle_frames`."""
    first, frames = _range(num_frames, kind)
    step = (frames - 1) / segments
    drawn = []
    for s in range(segments):
        start, end = int(np.round(step * s)), int(np.round(step * (s + 1)))
        drawn.append(first + int(generator.integers(start, max(end, start + 1))))
    return drawn


def strided_frames(
    num_frames: int, count: int, stride: int, kind: Kind, generator: np.random.Generator | None = None
) -> list[int]:
    """``count`` frames at a distance of ``stride`` (dense sampling, as in TSM), or closer if the clip is too short.

    Args:
        num_frames: number of frames of the clip.
        count: number of frames to sample.
        stride: distance between them, in frames.
        kind: see :func:`middle_frames`.
        generator: draws the first frame; None: the frames lie in the middle of the clip.

    Returns:
        Frame numbers in ascending order.
    """
    first, frames = _range(num_frames, kind)
    reach = min((count - 1) * stride, frames - 1)
    spare = frames - 1 - reach
    start = first + (spare // 2 if generator is None else int(generator.integers(spare + 1)))
    return [start + int(np.round(reach * i / max(count - 1, 1))) for i in range(count)]


def sampled_frames(
    num_frames: int, inputs: InputConfig, kind: Kind, generator: np.random.Generator | None = None
) -> list[int]:
    """The frames to sample by the settings ``inputs``, ascending: random with a generator, else fixed."""
    count = inputs.test_segments if generator is None else inputs.segments
    if inputs.stride is not None:
        return strided_frames(num_frames, count, inputs.stride, kind, generator)
    if generator is None:
        return middle_frames(num_frames, count, kind)
    return random_frames(num_frames, count, kind, generator)


def motion_frames(gops: Sequence[Gop], frames: Sequence[int]) -> list[int]:
    """Replace first frames of GOPs, on which motion and residual are zero, by the frame before (CoViAR).

    The first frame of the video stays.
    """
    starts = {gop.start for gop in gops}
    return [frame - 1 if frame in starts and frame > 0 else frame for frame in frames]


def _range(num_frames: int, kind: Kind) -> tuple[int, int]:
    """The first frame that can be sampled, and the number of such frames."""
    if kind in ("iframe", "frame") or num_frames < 2:
        return 0, num_frames
    return 1, num_frames - 1
