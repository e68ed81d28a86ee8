"""MotionSqueeze: motion between the features of neighbouring frames (Kwon et al., ECCV 2020).

Each position of a feature map is compared with a window around it in the next frame (correlation). The best match gives
a displacement (soft-argmax) and a confidence. Four depthwise-separable convolutions turn these three numbers into
features, which are added to the map. The code is plain PyTorch. It works on any device, and with any map size, odd
window and number of frames from 2.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coviar_mocrop.errors import ModelError

CorrelationForm = Literal["pairs", "window"]
TEMPERATURE = 0.01
"""Temperature of the softmax over a window (Kwon et al., section 3.2)."""
SIGMA = 5.0
"""Standard deviation of the Gaussian around the peak, cells of the feature map (Kwon et al., section 3.2)."""


class MotionSqueeze(nn.Module):
    """Adds motion features to feature maps; see the description of the module.

    Attributes:
        window: side of the search window, cells.
    """

    def __init__(self, channels: int, *, width: int = 64, window: int = 15) -> None:
        """Build the module.

        Args:
            channels: number of channels of the feature maps.
            width: number of channels to which features are reduced before they are compared.
            window: side of the search window, cells; odd. The largest displacement per axis is ``window // 2``.

        Raises:
            ModelError: ``window`` is not odd.
        """
        super().__init__()
        _require_odd(window)
        self.window = window
        # no ReLU: similarities of signed features are centred on zero, so that non-matching positions score about zero
        self.reduce = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
        self.refine = nn.Sequential(
            _separable(3, 16, 7), _separable(16, 32, 3), _separable(32, 64, 3), _separable(64, channels, 3)
        )

    def estimate(self, features: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Estimate the displacement of each cell from one frame to the next.

        Args:
            features: [N * frames, channels, H, W].
            frames: number of frames per clip, 2 or more.

        Returns:
            displacement [N * (frames - 1), 2, H, W], (x, y) in cells, from -(``window // 2``) to ``window // 2``: the
            content of a cell moves by this much until the next frame; and confidence [N * (frames - 1), 1, H, W], 0 to
            1. Both are float32, also under autocast (float64 if the features are).

        Raises:
            ModelError: there are fewer than 2 frames.
        """
        if frames < 2:
            raise ModelError(f"MotionSqueeze compares neighbouring frames; give clips of 2 or more, not {frames}")
        compared = self.reduce(features)
        if compared.dtype in (torch.float16, torch.bfloat16):
            compared = compared.float()  # dividing by the temperature multiplies rounding errors by 100
        clips = F.normalize(compared, dim=1, eps=1e-4).unflatten(0, (-1, frames))
        similarity = correlate(clips[:, :-1].flatten(0, 1), clips[:, 1:].flatten(0, 1), self.window)
        return soft_argmax(similarity.relu())

    def forward(self, features: Tensor, frames: int) -> Tensor:
        """Add motion features to features [N * frames, channels, H, W]. The last frame gets those of the frame before.

        Raises:
            ModelError: there are fewer than 2 frames.
        """
        displacement, confidence = self.estimate(features, frames)
        steps = self.refine(torch.cat([displacement / max(self.window // 2, 1), confidence], dim=1))
        steps = steps.unflatten(0, (-1, frames - 1))
        motion = torch.cat([steps, steps[:, -1:]], dim=1).flatten(0, 1)
        return features + motion.to(features.dtype)


def cheaper_form(height: int, width: int, window: int) -> CorrelationForm:
    """Return the form of :func:`correlate` with fewer multiplications. It is also faster (docs/results/compute.md)."""
    return "pairs" if height * width <= window * (width + window - 1) else "window"


def correlate(first: Tensor, second: Tensor, window: int, form: CorrelationForm | None = None) -> Tensor:
    """Compute inner products of each cell with the cells in a window around it in another map.

    Args:
        first: [M, C, H, W].
        second: [M, C, H, W].
        window: side of the window, cells; odd.
        form: algorithm. ``pairs`` multiplies all pairs of cells and selects those in the window. It suits small maps:
            memory grows with (H * W)^2. ``window`` multiplies row by row; memory M * H * W * (window^2 + W). None:
            :func:`cheaper_form`.

    Returns:
        [M, H, W, window, window]. Entry (y, x, i, j) belongs to the displacement (j, i) - window // 2 in (x, y). It is
        zero if the displaced cell lies outside the map.

    Raises:
        ModelError: ``window`` is not odd.
    """
    _require_odd(window)
    form = form or cheaper_form(first.shape[-2], first.shape[-1], window)
    with _no_autocast(first.device):
        return (_all_pairs if form == "pairs" else _windowed)(first, second, window)


def soft_argmax(similarity: Tensor, *, temperature: float = TEMPERATURE, sigma: float = SIGMA) -> tuple[Tensor, Tensor]:
    """Find the position of the peak with sub-cell precision, and its height (Kwon et al., section 3.2).

    A Gaussian weight around the peak keeps a second, distant peak from shifting the result.

    Args:
        similarity: [M, H, W, window, window], 0 or more.
        temperature: temperature of the softmax.
        sigma: standard deviation of the Gaussian, cells.

    Returns:
        displacement [M, 2, H, W], (x, y) in cells; and height of the peak [M, 1, H, W].
    """
    window = similarity.shape[-1]
    flat = similarity.flatten(3)
    peak, index = flat.max(dim=3)
    axis = torch.arange(window, device=flat.device, dtype=flat.dtype)
    row = torch.div(index, window, rounding_mode="floor")
    away_y, away_x = axis - row[..., None], axis - (index - row * window)[..., None]
    near_y, near_x = (torch.exp(-(away**2) / (2 * sigma**2)) for away in (away_y, away_x))
    near = (near_y[..., :, None] * near_x[..., None, :]).flatten(3)
    share = torch.softmax(flat * near / temperature, dim=3).unflatten(3, (window, window))
    offset = axis - window // 2
    x, y = (share.sum(dim=3) * offset).sum(dim=3), (share.sum(dim=4) * offset).sum(dim=3)
    return torch.stack([x, y], dim=1), peak[:, None]


def _all_pairs(first: Tensor, second: Tensor, window: int) -> Tensor:
    """One matrix product of all pairs of cells, from which the window is selected."""
    height, width = first.shape[-2:]
    reach = window // 2
    products = torch.bmm(first.flatten(2).transpose(1, 2), second.flatten(2)).unflatten(2, (height, width))
    products = F.pad(products, (reach,) * 4)
    wide = width + 2 * reach
    ranges = [torch.arange(side, device=first.device) for side in (height, width, window)]
    cell = (ranges[0][:, None] * wide + ranges[1]).flatten()
    offset = (ranges[2][:, None] * wide + ranges[2]).flatten()
    index = (cell[:, None] + offset).expand(first.shape[0], -1, -1)
    return products.flatten(2).gather(2, index).unflatten(1, (height, width)).unflatten(3, (window, window))


def _windowed(first: Tensor, second: Tensor, window: int) -> Tensor:
    """Matrix products of each row with the rows of its window. A diagonal band of each product is selected."""
    height, width = first.shape[-2:]
    reach = window // 2
    wide = width + 2 * reach
    rows = first.permute(0, 2, 3, 1)
    others = F.pad(second, (reach,) * 4).permute(0, 2, 1, 3)
    bands = []
    for down in range(window):
        products = torch.matmul(rows, others[:, down : down + height])  # [M, H, W, wide]; wanted: (x, x + 0 ... window)
        skewed = F.pad(products.flatten(2), (0, width)).unflatten(2, (width, wide + 1))  # now they are columns
        bands.append(skewed[..., :window])
    return torch.stack(bands, dim=3)


def _separable(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, kernel, padding=kernel // 2, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _require_odd(window: int) -> None:
    if window < 1 or window % 2 == 0:
        raise ModelError(f"the search window of MotionSqueeze is {window} cells wide; give an odd number")


def _no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Compute matrix products in the precision of their inputs."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()
