"""The floor of recognition: what the motion vectors of a clip tell without any network, by logistic regression."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coviar_mocrop.bitstream import Video
from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.clips.sampling import middle_frames, motion_frames

SEGMENTS = 16
EVERY = 4
"""Pixels from one sample of a frame to the next: vectors are of whole blocks."""
LENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Pixels; the share of a frame that moves further than each is a statistic."""
QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99)


def motion_statistics(dataset: ClipDataset) -> Tensor:
    """Statistics float32 [clips, dim] of the clips of a list, of the whole frame whatever the box."""
    rows = []
    for index in range(len(dataset)):
        video, _ = dataset.open(index)
        with video:
            rows.append(statistics_of(video))
    return torch.from_numpy(np.stack(rows))


def statistics_of(video: Video) -> NDArray[np.float32]:
    """Mean, spread and maximum over 16 frames of how fast and how much a frame moves, and how much along x and y.

    The median motion of a frame, which is the camera's, is subtracted. Square roots of all, as of the features of
    networks.
    """
    frames = motion_frames(video.gops, middle_frames(video.info.num_frames, SEGMENTS, "mv"))
    motion = video.get_motion_at(frames)[:, ::EVERY, ::EVERY].astype(np.float32).reshape(len(frames), -1, 2)
    motion -= np.median(motion, axis=1, keepdims=True)
    length = np.linalg.norm(motion, axis=2)
    described = [(length > limit).mean(axis=1) for limit in LENGTHS]
    described += list(np.quantile(length, QUANTILES, axis=1))
    described += [length.mean(axis=1), length.std(axis=1), *np.abs(motion).mean(axis=1).T]
    table = np.stack(described, axis=1)
    found = np.sqrt(np.concatenate([table.mean(axis=0), table.std(axis=0), table.max(axis=0)]))
    return found.astype(np.float32)
