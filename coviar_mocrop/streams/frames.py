"""Streams that look at frames of one kind: TSN sampling, one 2-D network over all frames, logits averaged."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from coviar_mocrop.bitstream import Gop, Kind
from coviar_mocrop.clips.batch import FEATURES, Frames, Inputs
from coviar_mocrop.clips.cache import boxes_made_by
from coviar_mocrop.clips.frame_views import FrameViews
from coviar_mocrop.clips.reader import CHANNELS, View
from coviar_mocrop.config import Config
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.flops import StreamCost, count_flops
from coviar_mocrop.networks.frozen import FrozenNet
from coviar_mocrop.networks.stream_net import StreamNet, create_network
from coviar_mocrop.runtime import precision_of
from coviar_mocrop.streams.base import Stream

DECIDE_FEATURES = {"test_segments", "test_crops", "frames", "stride"}
"""Settings of ``input`` that decide which frames of a clip features are computed from."""
_FRAMES_AT_ONCE = 4
"""Number of frames of which a CPU computes features together. 4 fit its cache and take 0.6 of the time that 16 take."""
logger = logging.getLogger(__name__)


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
        segments = (inputs.segments, inputs.test_segments, inputs.val_segments or inputs.segments)
        if self.config.model.motion_squeeze and min(segments) < 2:
            raise ConfigError(
                "model.motion_squeeze compares neighbouring frames; set input.segments, input.test_segments and "
                "input.val_segments to 2 or more, such as 8"
            )
        if self.config.model.motion_squeeze and self.config.model.freeze:
            raise ConfigError("model.freeze: nothing would train MotionSqueeze; set model.motion_squeeze=false")

    def create_network(self, *, weights: bool) -> StreamNet | FrozenNet:
        """See :meth:`Stream.create_network`."""
        network = create_network(
            *(CHANNELS[self.kind], len(self.classes), self.config.model),
            input_norm=self.input_norm,
            size=self.config.size,
            load=weights,
        )
        return FrozenNet(network, len(self.classes)) if self.config.model.freeze else network

    @property
    def frozen(self) -> FrozenNet | None:
        """The network if it is frozen but for its classifier; None if all of it is trained."""
        return cast(FrozenNet, self.network) if self.config.model.freeze else None

    @classmethod
    def is_fitted(cls, config: Config) -> bool:
        """See :meth:`Stream.is_fitted`."""
        return bool(config.model.freeze)

    @property
    def feature_dims(self) -> dict[str, int]:
        """See :attr:`Stream.feature_dims`."""
        return {"frames": self.frozen.dim} if self.frozen else {}

    def made_by(self, view: str) -> dict[str, Any]:
        """See :meth:`Stream.made_by`."""
        config = self.config
        assert self.frozen is not None
        return {
            "part": self.name,
            "network": self.frozen.digest(),
            "model": config.model.model_dump(mode="json", include={"backbone", "temporal"}),
            "scaling": self.scaling,
            "input": config.input.model_dump(mode="json", include=DECIDE_FEATURES),
            "size": config.size,
            "anchor_every": config.data.anchor_every,
            "box": boxes_made_by(config.mocrop, config.data.anchor_every) if config.crops else None,
            "precision": str(precision_of(config.train, self.device)),
        }

    def view_features(self, view: str, frames: Frames) -> Tensor:
        """See :meth:`Stream.view_features`. They are computed in the precision of the settings."""
        assert self.frozen is not None
        device = frames.pixels.device
        dtype = precision_of(self.config.train, device)
        # the same number of frames in testing and prediction, so that both give the same bits
        self.frozen.backbone.frames_at_once = _FRAMES_AT_ONCE if device.type == "cpu" else None
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return self.frozen.features(self.normalise(both_ways(frames, self.mirror)))

    def fit(self, features: Tensor, labels: Tensor, folds: Tensor | None) -> Tensor | None:
        """See :meth:`Stream.fit`."""
        assert self.frozen is not None
        strength, held_out = self.frozen.fit(features, labels, folds)
        how = "the default" if folds is None else "chosen by cross-validation"
        logger.info("%s: linear classifier, regularisation %g (%s)", self.name, strength, how)
        return held_out

    def for_validation(self) -> Stream:
        """See :meth:`Stream.for_validation`. Features are computed once, so they are those of testing."""
        return self if self.frozen else super().for_validation()

    def views(
        self, num_frames: int, gops: Sequence[Gop], generator: np.random.Generator | None = None
    ) -> dict[str, View]:
        """See :meth:`Stream.views`."""
        generator = None if self.config.model.freeze else generator  # features are those of testing
        frames = self.sample(num_frames, gops, generator)
        return {"frames": self.wants.view(frames, generator)}

    def sample(self, num_frames: int, gops: Sequence[Gop], generator: np.random.Generator | None = None) -> list[int]:
        """The frames to read, ascending: one from each segment (TSN). Arguments are those of :meth:`Stream.views`."""
        return self.wants.sample(num_frames, gops, generator)

    @property
    def wants(self) -> FrameViews:
        """Sampling, windows and size, as the settings say."""
        return FrameViews(self.name, self.kind, self.config.input, self.config.size)

    def inputs(self, batch: Inputs) -> Tensor:
        """The network's input, float32 [N, V, T, C, size, size]: T frames in V windows, some of them mirrored.

        For a frozen network, it is the features [N, dim].
        """
        if FEATURES in batch:
            return cast(Tensor, batch[FEATURES])
        frames = cast(Frames, batch["frames"])
        if self.frozen:
            return self.view_features("frames", frames)
        return self.normalise(both_ways(frames, self.mirror))

    def logits(self, windows: Tensor) -> Tensor:
        """Logits float32 [N, classes] of test clips, from their windows as they are read.

        This is what is exported. It computes in one precision, and all frames together.

        Args:
            windows: uint8 [N, W, T, C, size, size].
        """
        if self.config.input.test_crops == 10:  # five windows are read; the mirrored ones are made here
            windows = torch.cat([windows, self.mirror(windows)], dim=1)
        return cast(Tensor, self.network(self.normalise(windows)))

    @abstractmethod
    def normalise(self, pixels: Tensor) -> Tensor:
        """Scale frames uint8 [N, V, T, C, H, W] for the network: float32 of the same shape."""

    def mirror(self, pixels: Tensor) -> Tensor:
        """Flip frames uint8 [..., C, H, W] left to right."""
        return pixels.flip(-1)

    def cost(self) -> StreamCost:
        """See :meth:`Stream.cost`. A network over time is counted on a whole clip."""
        network, inputs = cast(StreamNet, self.network), self.config.input
        length = inputs.test_segments if network.temporal else 1
        clip = count_flops(network, (1, length, network.in_channels, self.config.size, self.config.size))
        return StreamCost(clip // length, inputs.test_segments * inputs.test_crops)


def both_ways(frames: Frames, mirror: Callable[[Tensor], Tensor]) -> Tensor:
    """The windows of a batch, uint8 [N, V, T, C, H, W], mirrored as ``frames`` says.

    If all windows are wanted both ways, the mirrored ones follow the others, and V is twice the number of windows.
    """
    pixels, mirrored = frames
    if mirrored.shape[1] == 2 * pixels.shape[1]:
        return torch.cat([pixels, mirror(pixels)], dim=1)
    return torch.where(mirrored[:, :, None, None, None, None], mirror(pixels), pixels)


def per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    """One float32 value per channel, [C, 1, 1], on the device of ``like``."""
    return torch.tensor(values, device=like.device).view(-1, 1, 1)
