"""TSN sampling (Wang et al., ECCV 2016): one frame from each of S equal segments of a clip.

CoViAR's form of it: motion and residual streams have no use for frame 0, so for them n - 1 frames are divided
and 1 is added.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coviar_mocrop.bitstream import Gop, Kind
from coviar_mocrop.clips.config import InputConfig


def middle_frames(num_frames: int, segments: int, kind: Kind) -> list[int]:
    """The frame in the middle of each segment: round((n - 1) / S * (s + 0.5)); for testing.

    Returns:
        ``segments`` frame numbers in ascending order, display order, all below ``num_frames``.
    """
    first, frames = _range(num_frames, kind)
    step = (frames - 1) / segments
    return [min(first + int(np.round(step * (s + 0.5))), num_frames - 1) for s in range(segments)]


def random_frames(num_frames: int, segments: int, kind: Kind, generator: np.random.Generator) -> list[int]:
    """A frame drawn uniformly from each segment; for training. See :func:`middle_frames`."""
    first, frames = _range(num_frames, kind)
    step = (frames - 1) / segments
    drawn = []
    for s in range(segments):
        start, end = int(np.round(step * s)), int(np.round(step * (s + 1)))
        drawn.append(min(first + int(generator.integers(start, max(end, start + 1))), num_frames - 1))
    return drawn


def strided_frames(
    num_frames: int, count: int, stride: int, kind: Kind, generator: np.random.Generator | None = None
) -> list[int]:
    """``count`` frames ``stride`` apart (TSM's dense sampling); closer where the clip is too short for them.

    Args:
        num_frames: of the clip.
        count: frames wanted.
        stride: from one to the next.
        kind: see :func:`middle_frames`.
        generator: draws where they start; None: they are in the middle of the clip.

    Returns:
        Frame numbers in ascending order.
    """
    first, frames = _range(num_frames, kind)
    reach = min((count - 1) * stride, frames - 1)
    spare = frames - 1 - reach
    start = first + (spare // 2 if generator is None else int(generator.integers(spare + 1)))
    return [min(start + int(np.round(reach * i / max(count - 1, 1))), num_frames - 1) for i in range(count)]


def sampled_frames(
    num_frames: int, inputs: InputConfig, kind: Kind, generator: np.random.Generator | None = None
) -> list[int]:
    """The frames that ``inputs`` ask for, in order of time: drawn where there is a generator, else fixed."""
    count = inputs.test_segments if generator is None else inputs.segments
    if inputs.stride is not None:
        return strided_frames(num_frames, count, inputs.stride, kind, generator)
    if generator is None:
        return middle_frames(num_frames, count, kind)
    return random_frames(num_frames, count, kind, generator)


def motion_frames(gops: Sequence[Gop], frames: Sequence[int]) -> list[int]:
    """Replace I-frames, on which motion and residual are zero, by the last frame of the GOP before (CoViAR).

    The first frame of the video stays, because there is no GOP before it.
    """
    starts = {gop.start for gop in gops}
    return [frame - 1 if frame in starts and frame > 0 else frame for frame in frames]


def _range(num_frames: int, kind: Kind) -> tuple[int, int]:
    """First frame to draw, and how many."""
    if kind in ("iframe", "frame") or num_frames < 2:
        return 0, num_frames
    return 1, num_frames - 1
