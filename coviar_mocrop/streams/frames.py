"""Streams that look at frames of one kind: TSN sampling, one 2-D network over all frames, logits averaged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from coviar_mocrop.bitstream import Gop, Kind
from coviar_mocrop.clips.batch import Frames, Inputs
from coviar_mocrop.clips.reader import CHANNELS, View
from coviar_mocrop.clips.sampling import motion_frames, sampled_frames
from coviar_mocrop.clips.windows import Window, testing_windows, training_window
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.flops import StreamCost, count_flops
from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.networks.stream_net import StreamNet, create_network
from coviar_mocrop.streams.base import Stream


class FrameStream(Stream):
    """A stream over frames of one kind."""

    kind: Kind
    input_norm: ClassVar[bool] = True
    """Whether the network starts with a BatchNorm over its input (CoViAR: motion and residual)."""

    def check(self) -> None:
        """See :meth:`Stream.check`."""
        inputs = self.config.input
        if inputs.frames == "decoded" and self.kind != "frame":
            raise ConfigError(f"input.frames=decoded is for the I-frame stream; this is the {self.name} stream")
        if self.config.model.motion_squeeze and min(inputs.segments, inputs.test_segments) < 2:
            raise ConfigError(
                "model.motion_squeeze compares neighbouring frames; set input.segments and input.test_segments to 2 "
                "or more, such as 8"
            )

    def create_network(self, *, weights: bool) -> StreamNet:
        """See :meth:`Stream.create_network`."""
        return create_network(
            *(CHANNELS[self.kind], len(self.classes), self.config.model),
            input_norm=self.input_norm,
            size=self.config.size,
            load=weights,
        )

    def views(
        self, num_frames: int, gops: Sequence[Gop], generator: np.random.Generator | None = None
    ) -> dict[str, View]:
        """See :meth:`Stream.views`."""
        inputs = self.config.input

        def windows(frame_size: tuple[int, int], box: CropBox | None) -> list[Window]:
            if generator is None:
                return testing_windows(frame_size, box, inputs.test_crops)
            return [training_window(frame_size, box, inputs.scales, inputs.flip, generator)]

        frames = self.sample(num_frames, gops, generator)
        return {"frames": View(self.kind, frames, windows, self.config.size)}

    def sample(self, num_frames: int, gops: Sequence[Gop], generator: np.random.Generator | None = None) -> list[int]:
        """The frames to read, in order of time: one from each segment (TSN). Arguments: see :meth:`Stream.views`."""
        frames = sampled_frames(num_frames, self.config.input, self.kind, generator)
        return motion_frames(gops, frames) if self.kind in ("mv", "residual") else frames

    def inputs(self, batch: Inputs) -> Tensor:
        """Network input float32 [N, V, T, C, size, size], V views of each clip (windows, plain and mirrored)."""
        return self.normalise(both_ways(cast(Frames, batch["frames"]), self.mirror))

    @abstractmethod
    def normalise(self, pixels: Tensor) -> Tensor:
        """Frames uint8 [N, V, T, C, H, W] as the network wants them, float32."""

    def mirror(self, pixels: Tensor) -> Tensor:
        """Frames uint8 [..., C, H, W] flipped left to right."""
        return pixels.flip(-1)

    def cost(self) -> StreamCost:
        """See :meth:`Stream.cost`. A network over time is counted by the clip."""
        network, inputs = cast(StreamNet, self.network), self.config.input
        length = inputs.test_segments if network.temporal else 1
        clip = count_flops(network, (1, length, network.in_channels, self.config.size, self.config.size))
        return StreamCost(clip // length, inputs.test_segments * inputs.test_crops)


def both_ways(frames: Frames, mirror: Callable[[Tensor], Tensor]) -> Tensor:
    """The views of a batch, uint8 [N, V, T, C, H, W]: each window plain or mirrored, or all plain, then mirrored."""
    pixels, mirrored = frames
    if mirrored.shape[1] == 2 * pixels.shape[1]:
        return torch.cat([pixels, mirror(pixels)], dim=1)
    return torch.where(mirrored[:, :, None, None, None, None], mirror(pixels), pixels)


def per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    """One float32 value a channel, [C, 1, 1], on the device of ``like``."""
    return torch.tensor(values, device=like.device).view(-1, 1, 1)
