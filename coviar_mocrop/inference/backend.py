"""What computes the networks of a run: PyTorch from checkpoints, or ONNX Runtime from an export."""

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
"""Of an export."""


class PredictingStream(WantsViews, Protocol):
    """What a prediction needs to know of a stream."""

    @property
    def title(self) -> str:
        """For people."""
        ...

    @property
    def fusion_weight(self) -> float:
        """Default weight in late fusion."""
        ...


class Backend(ABC):
    """The networks of a run's streams.

    Attributes:
        config: settings of the first stream; what concerns reading is the same for all.
        classes: names, in the order of the labels.
        form: what the videos that the streams learned from were transcoded to; None where they were not, or nobody
            knows.
        learned: fusion weights that were learned with these networks; None where there are none.
    """

    config: Config
    classes: tuple[str, ...]
    form: Form | None
    learned: LearnedFusion | None

    @property
    @abstractmethod
    def streams(self) -> Mapping[str, PredictingStream]:
        """By name."""

    @abstractmethod
    def logits(self, clips: Sequence[Mapping[str, ReadViews]]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Logits [clips, classes] of clips that were read, one stream after the other.

        Args:
            clips: what was read of each, by stream.

        Raises:
            CheckpointError: the logits of a network are not finite, or it cannot be computed.
        """


def require_finite(stream: str, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logits.

    Raises:
        CheckpointError: some are infinite or no numbers.
    """
    if not np.isfinite(logits).all():
        raise CheckpointError(f"the {stream} stream gives scores that are not finite; train it again")
    return logits
