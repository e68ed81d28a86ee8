"""The interface of what computes the networks of a run: PyTorch for checkpoints, ONNX Runtime for an export."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.clips.reader import ReadViews, WantsViews
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import Form
from coviar_mocrop.errors import CheckpointError
from coviar_mocrop.fusion_weights import LearnedFusion

Precision = Literal["fp32", "int8"]
"""Precision of the networks of an export."""


class PredictingStream(WantsViews, Protocol):
    """The part of a stream that prediction needs."""

    @property
    def title(self) -> str:
        """Display name."""
        ...

    @property
    def fusion_weight(self) -> float:
        """Default weight in late fusion."""
        ...


class Backend(ABC):
    """The networks of a run's streams.

    Attributes:
        config: settings of the first stream. Settings of how videos are read are the same for all streams.
        classes: class names, in the order of the labels.
        form: format that the training videos were transcoded to; None if they were not transcoded, or it is not known.
        learned: fusion weights that were learned with these networks; None if there are none.
    """

    config: Config
    classes: tuple[str, ...]
    form: Form | None
    learned: LearnedFusion | None

    @property
    @abstractmethod
    def streams(self) -> Mapping[str, PredictingStream]:
        """The streams by name."""

    @abstractmethod
    def logits(self, clips: Sequence[Mapping[str, ReadViews]]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Compute the logits of clips, one stream after the other.

        Args:
            clips: what was read of each clip, by stream.

        Yields:
            Name of a stream, and its logits, float32 [clips, classes].

        Raises:
            CheckpointError: the logits of a network are not finite, or it cannot be computed.
        """


def require_finite(stream: str, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``logits``, after checking that all are finite.

    Raises:
        CheckpointError: some are infinite or NaN.
    """
    if not np.isfinite(logits).all():
        raise CheckpointError(f"the {stream} stream gives scores that are not finite; train it again")
    return logits
