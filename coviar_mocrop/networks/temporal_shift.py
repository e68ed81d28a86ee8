"""The temporal shift, which lets a 2-D network use neighbouring frames (TSM, Lin et al., ICCV 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

SHARE = 8
"""1/8 of the channels are shifted in each direction (TSM)."""


def temporal_shift(features: Tensor, frames: int) -> Tensor:
    """Take the first eighth of the channels from the next frame, and the second eighth from the previous one.

    Args:
        features: [N * frames, C, H, W]. The frames of a clip are consecutive.
        frames: number of frames per clip.

    Returns:
        Shifted features of the same shape. Channels that would come from outside the clip are zero.
    """
    fold = features.shape[1] // SHARE
    clips = features.unflatten(0, (-1, frames))
    shifted = torch.zeros_like(clips)  # keeps channels_last, which torch.cat would not
    shifted[:, :-1, :fold] = clips[:, 1:, :fold]
    shifted[:, 1:, fold : 2 * fold] = clips[:, :-1, fold : 2 * fold]
    shifted[:, :, 2 * fold :] = clips[:, :, 2 * fold :]
    return shifted.flatten(0, 1)
