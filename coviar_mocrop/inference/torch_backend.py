"""Compute the networks of checkpoints with PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from coviar_mocrop.clips.batch import Batch, Sample, collate
from coviar_mocrop.clips.loading import brought_to
from coviar_mocrop.clips.reader import ReadViews
from coviar_mocrop.inference.backend import Backend, require_finite
from coviar_mocrop.inference.stored_fusion import learned_fusion
from coviar_mocrop.inference.testing import find_checkpoints, load_streams
from coviar_mocrop.runtime import choose_runtime
from coviar_mocrop.shared_settings import READING, require_shared
from coviar_mocrop.streams.base import Stream


class TorchBackend(Backend):
    """Streams as they were trained.

    Attributes:
        runtime: device and precision of the networks.
    """

    def __init__(
        self,
        checkpoints: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        overrides: Sequence[str] = (),
        *,
        learned: bool = True,
    ) -> None:
        """Load the streams. Errors are those of :class:`~coviar_mocrop.Predictor`.

        Args:
            checkpoints: checkpoint files, or the folder of a run.
            overrides: ``a.b=value`` items that override settings of all streams.
            learned: whether to look for learned fusion weights.
        """
        checkpoints = find_checkpoints(checkpoints)
        self._streams = load_streams(checkpoints, overrides)
        configs = {name: stream.config for name, stream in self._streams.items()}
        require_shared(configs, READING)
        self.learned = learned_fusion(checkpoints, self._streams, self._streams) if learned else None
        first = next(iter(self._streams.values()))
        self.config, self.classes = first.config, first.classes
        self.form = next((stream.form for stream in self._streams.values() if stream.form), None)
        self.runtime = choose_runtime(self.config.train)
        for stream in self._streams.values():
            self.runtime.place(stream.network)
            if not stream.feature_dims:  # networks that make features have a precision of their own
                self.runtime.halve_weights(stream.network)
            if self.runtime.device.type == "cpu":  # as in testing
                stream.network.frames_at_once = self.runtime.frames_at_once  # type: ignore[assignment]

    @property
    def streams(self) -> Mapping[str, Stream]:
        """See :attr:`Backend.streams`."""
        return self._streams

    def logits(self, clips: Sequence[Mapping[str, ReadViews]]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """See :meth:`Backend.logits`. The clips go through a network together."""
        for batch in brought_to(self.runtime.device, self._batches(clips)):
            ((name, part),) = batch.streams.items()
            stream = self._streams[name]
            with torch.inference_mode(), self.runtime.autocast():
                inputs = stream.inputs(part.to(self.runtime.device).inputs)
                rows = stream.network(inputs).float().cpu().numpy()
            yield name, require_finite(name, rows)

    def _batches(self, clips: Sequence[Mapping[str, ReadViews]]) -> Iterator[Batch]:
        """The clips as each stream sees them, one batch per stream."""
        for name in self._streams:
            samples = [Sample(number, 0, {name: clip[name]}, {}, 0.0) for number, clip in enumerate(clips)]
            part = collate(samples).streams[name]
            yield Batch({name: part.pinned() if self.runtime.device.type == "cuda" else part}, {}, 0.0)
