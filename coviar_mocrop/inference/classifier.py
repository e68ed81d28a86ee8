"""Classify clips with trained streams and late fusion, in PyTorch or ONNX Runtime."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream import Gop, VideoInfo
from coviar_mocrop.bitstream.frames import FrameSequence
from coviar_mocrop.bitstream.transcode import CANONICAL_SIZE
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.reader import ReadViews, box_of, read_streams
from coviar_mocrop.datasets.lists import Form
from coviar_mocrop.errors import CheckpointError, ConfigError
from coviar_mocrop.fusion import fuse, resolve_weights
from coviar_mocrop.inference.backend import Backend, Precision, PredictingStream
from coviar_mocrop.mocrop import CropBox, MoCropSettings
from coviar_mocrop.scores import Scores


class Classifier:
    """Trained streams that classify clips with late fusion.

    Attributes:
        backend (Backend): computes the networks, in PyTorch or ONNX Runtime.
        classes (tuple[str, ...]): class names, in the order of the labels.
        weights (dict[str, float]): fusion weights by stream.
        weights_from (str): origin of the weights: ``given``, ``default`` or, for example, ``learned on 42 held-out
            clips``.
        setting (str): ``baseline``, ``efficiency`` or ``attention``.
        form (Form | None): codec, size and GOP length that the training videos were transcoded to, as the checkpoints
            say; None if they were not transcoded.
        transcode_to (Form | None): format that videos are transcoded to before they are classified; None: they are not
            transcoded.
    """

    def __init__(
        self,
        checkpoints: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
        overrides: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
        *,
        onnx: str | os.PathLike[str] | None = None,
        precision: Precision = "fp32",
        transcode: bool = False,
    ) -> None:
        """Load the streams from ``checkpoints`` (in PyTorch), or from an ``onnx`` export (which needs no PyTorch).

        Args:
            checkpoints: checkpoint files, one per stream, or the folder of a run. One path needs no list.
            overrides: ``a.b=value`` items that override settings of all streams, such as ``setting=efficiency``. In an
                export, only settings of ``data`` and ``train.threads`` can be overridden.
            weights: fusion weights by stream. A stream that is not named has its default weight (2 for ``iframe``, 1
                for others). None: the weights learned with these streams, which are kept in the folder of their run
                (``fusion.json``) and in an export. If there are none, the default weights.
            onnx: folder made by ``coviar export``.
            precision: of the networks of an export: ``fp32``, or ``int8`` if it was exported.
            transcode: transcode each video to ``form`` before it is classified, so that any codec can be read. If
                ``form`` is None, this is H.264, 340x256 pixels, with a key frame every 12 frames. A video is transcoded
                into a temporary file; over time, frames are transcoded as they come.

        Raises:
            CheckpointError: a file is missing, damaged or of another architecture, or two files do not belong together.
            ConfigError: a setting is wrong, or streams differ in a setting that they share.
            ScoreError: a weight is of an unknown stream, negative or not finite, or ``fusion.json`` is damaged.
            CoviarMocropError: ONNX Runtime is not installed, or pretrained weights cannot be loaded.
        """
        self.backend = _load(checkpoints, overrides, onnx, precision, learned=weights is None)
        self._config, self.classes, self.form = self.backend.config, self.backend.classes, self.backend.form
        self.setting = self._config.setting
        self.transcode_to = (self.form or Form("h264", CANONICAL_SIZE, 12)) if transcode else None
        learned = self.backend.learned if weights is None else None
        zeros = np.zeros((1, len(self.classes)), np.float32)
        self.weights_from = learned.found if learned else "given" if weights else "default"
        self._temperature = learned.temperature if learned else 1.0
        weights = learned.weights if learned else weights
        self.weights = resolve_weights({name: self._as_scores(name, zeros) for name in self.streams}, weights)

    @property
    def streams(self) -> Mapping[str, PredictingStream]:
        """The streams by name."""
        return self.backend.streams

    @property
    def needs_vectors(self) -> bool:
        """Whether motion vectors are needed, by a stream or for the box."""
        views = [view for stream in self.streams.values() for view in stream.views(12, [Gop(0, 12)]).values()]
        return self._config.crops or any(view.kind in ("mv", "residual") for view in views)

    @property
    def data(self) -> DataConfig:
        """Settings of how videos are read."""
        return self._config.data

    def classify(self, clips: Sequence[FrameSequence]) -> list[tuple[dict[str, NDArray[np.float32]], CropBox | None]]:
        """Classify clips together.

        Args:
            clips: decoded clips in memory. Each is read twice, first for its box, then for its streams.

        Returns:
            For each clip, the logits float32 [classes] by stream and ``fused``, and its box (None if clips are not
                cropped to a box).

        Raises:
            VideoError: a clip lacks motion vectors that are needed.
            CheckpointError: the logits of a network are not finite, or it cannot be computed.
        """
        boxes = [box_of(clip, self.mocrop) if self.mocrop else None for clip in clips]
        read = [read_streams(clip, self.streams.values(), box)[0] for clip, box in zip(clips, boxes, strict=True)]
        scores, _ = self.score(read)
        return list(zip(scores, boxes, strict=True))

    @property
    def mocrop(self) -> MoCropSettings | None:
        """Settings of the MoCrop box; None: clips are not cropped to a box (baseline)."""
        return self._config.mocrop if self._config.crops else None

    def score(
        self, clips: Sequence[Mapping[str, ReadViews]]
    ) -> tuple[list[dict[str, NDArray[np.float32]]], dict[str, float]]:
        """Compute the logits of clips that have been read.

        Args:
            clips: what was read of each clip, by stream.

        Returns:
            For each clip, the logits float32 [classes] by stream and ``fused``; and the milliseconds that each stream
                took for all clips. Fused logits are the weighted sum of the streams' logits, divided by the sum of the
                weights and by the temperature learned with the weights.

        Raises:
            CheckpointError: the logits of a network are not finite, or it cannot be computed.
        """
        rows: dict[str, NDArray[np.float32]] = {}
        spent: dict[str, float] = {}
        start = time.perf_counter()
        for name, logits in self.backend.logits(clips):
            rows[name] = logits
            spent[name] = 1e3 * (time.perf_counter() - start)
            start = time.perf_counter()
        fused = fuse({name: self._as_scores(name, logits) for name, logits in rows.items()}, self.weights).scores
        rows["fused"] = fused / np.float32(sum(self.weights.values()) * self._temperature)
        return [{name: logits[clip] for name, logits in rows.items()} for clip in range(len(clips))], spent

    def has_form(self, info: VideoInfo) -> bool:
        """Whether a video has the ``form`` of the training videos; True if ``form`` is None."""
        size = (info.width, info.height)
        form = self.form
        return form is None or (info.codec == form.codec and not info.has_b_frames and form.size in (None, size))

    def title(self, stream: str) -> str:
        """Display name of a stream; any other name, such as ``fused``, is returned as it is."""
        return self.streams[stream].title if stream in self.streams else stream

    def _as_scores(self, name: str, logits: NDArray[np.float32]) -> Scores:
        """Wrap logits [clips, classes] for the fusion, without the names and labels of the clips."""
        facts = {"stream": name, "fusion_weight": self.streams[name].fusion_weight}
        names = np.array([str(number) for number in range(len(logits))])
        return Scores(names, np.zeros(len(logits), np.int64), logits, np.array(self.classes), facts)


def _load(
    checkpoints: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    overrides: Sequence[str],
    onnx: str | os.PathLike[str] | None,
    precision: Precision,
    *,
    learned: bool,
) -> Backend:
    if onnx is None:
        from coviar_mocrop.inference.torch_backend import TorchBackend

        if precision != "fp32":
            raise ConfigError(f"precision={precision} is for networks of an export; for others: train.precision=bf16")
        return TorchBackend(checkpoints, overrides, learned=learned)
    from coviar_mocrop.inference.onnx_backend import OnnxBackend

    if checkpoints:
        raise CheckpointError(f"{os.fspath(onnx)}: an export and checkpoints are given; give one of the two")
    return OnnxBackend(onnx, precision, overrides)
