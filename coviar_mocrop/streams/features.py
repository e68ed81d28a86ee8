"""Streams on top of frozen networks, whose features are computed once per clip and kept on disk."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from coviar_mocrop.clips.batch import FEATURES, Frames, Inputs
from coviar_mocrop.networks.clip import FrozenEncoder
from coviar_mocrop.streams.base import Stream


class FeatureStream(Stream):
    """A stream whose own network takes features of frozen networks. Features are computed in float32."""

    @abstractmethod
    def encoders(self) -> dict[str, FrozenEncoder]:
        """The frozen networks by view, in the order in which their features are joined."""

    @property
    def feature_dims(self) -> Mapping[str, int]:
        """See :attr:`Stream.feature_dims`."""
        return {view: encoder.dim for view, encoder in self.encoders().items()}

    @abstractmethod
    def encode_view(self, view: str, frames: Frames) -> Tensor:
        """Features [N, dim] of the frames of a view."""

    def view_features(self, view: str, frames: Frames) -> Tensor:
        """See :meth:`Stream.view_features`."""
        device = frames.pixels.device
        self.encoders()[view].to(device)
        with torch.autocast(device.type, enabled=False):
            return self.encode_view(view, frames)

    def inputs(self, batch: Inputs) -> Tensor:
        """Features float32 [N, dim]: those of the cache, or computed from the frames of the views in ``batch``."""
        if FEATURES in batch:
            return cast(Tensor, batch[FEATURES])
        return torch.cat([self.view_features(view, cast(Frames, batch[view])) for view in self.feature_dims], dim=1)

    def for_validation(self) -> Stream:
        """See :meth:`Stream.for_validation`. Features are computed once, so they are those of testing."""
        return self
