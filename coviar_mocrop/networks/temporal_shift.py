"""The temporal shift: a 2-D network sees its neighbours in time (TSM: Lin et al., ICCV 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

SHARE = 8
"""One in so many channels is shifted each way."""


def temporal_shift(features: Tensor, frames: int, share: int = SHARE) -> Tensor:
    """Take the first 1/``share`` of the channels from the next frame, as many more from the one before.

    Args:
        features: [N * frames, C, H, W]; the frames of a clip follow one another.
        frames: of each clip.
        share: one in so many channels goes each way.

    Returns:
        The same shape; zero where there is no such frame.
    """
    fold = features.shape[1] // share
    clips = features.unflatten(0, (-1, frames))
    shifted = torch.zeros_like(clips)  # keeps channels_last, which torch.cat would not
    shifted[:, :-1, :fold] = clips[:, 1:, :fold]
    shifted[:, 1:, fold : 2 * fold] = clips[:, :-1, fold : 2 * fold]
    shifted[:, :, 2 * fold :] = clips[:, :, 2 * fold :]
    return shifted.flatten(0, 1)
