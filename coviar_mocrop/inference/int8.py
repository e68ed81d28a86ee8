"""8-bit networks: static quantisation, calibrated on clips of the validation list, and the resulting accuracy."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from coviar_mocrop.card import INPUT
from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.clips.lists import read_videos
from coviar_mocrop.clips.reader import ReadViews
from coviar_mocrop.errors import ConfigError, CoviarMocropError, DataError, ListError
from coviar_mocrop.inference.backend import Precision
from coviar_mocrop.inference.predictor import Predictor
from coviar_mocrop.inference.testing import require_classes
from coviar_mocrop.messages import quiet
from coviar_mocrop.streams.base import Stream

_CALIBRATION_CLIPS = 32
_TESTED_CLIPS = 512
_REMEDY = "or leave int8 out (--format onnx)"
_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
_QUANTISED = ("Conv", "Add", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")
"""Quantised operators. The classifier stays in fp32, because it costs almost nothing and computes the logits."""


class ValidationClips:
    """Clips spread evenly over the validation list, read as for testing.

    Attributes:
        labels: labels of all clips of the list, int64.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        """Read the list.

        Args:
            streams: streams that the clips are read for.

        Raises:
            ConfigError: there is no validation list.
            DataError: the list or the folder of its videos cannot be read.
            CheckpointError: the list has other classes than the streams.
        """
        config = streams[0].config
        if not config.data.val_list:
            raise ConfigError(
                f"int8 needs clips of a validation list, and data.val_list is not set; name one with --set, {_REMEDY}"
            )
        light = [stream.without_network() for stream in streams]
        try:
            videos = read_videos(config.data, "val")
        except (DataError, ListError) as error:
            raise DataError(f"int8 needs clips of the validation list: {error}, {_REMEDY}") from error
        require_classes(streams, videos)
        self._data = ClipDataset(videos, light, config.data, mocrop=config.mocrop if config.crops else None)
        self._streams = light
        self.fitted = [stream.name for stream in streams if stream.fitted]
        """Names of the streams whose classifier was fitted on these clips."""
        self.labels = np.array([clip.label for clip in videos.clips])

    def read(self, most: int, title: str) -> Iterator[tuple[int, Mapping[str, ReadViews]]]:
        """Read up to ``most`` clips. Clips that cannot be read are left out.

        Args:
            most: largest number of clips.
            title: title of the progress bar.

        Yields:
            The number of the clip in the list, from 0, and what was read, by stream.
        """
        chosen = np.unique(np.linspace(0, len(self.labels) - 1, min(most, len(self.labels))).astype(int))
        for number in tqdm(chosen.tolist(), desc=title, unit="clip", leave=False):
            try:
                yield number, self._data.read(number, self._streams)
            except CoviarMocropError:
                continue

    def for_calibration(self) -> dict[str, list[NDArray[np.uint8]]]:
        """Read up to 32 clips for calibration: by stream, uint8 [1, W, T, C, size, size] for each clip.

        Raises:
            DataError: no clip can be read.
        """
        found: dict[str, list[NDArray[np.uint8]]] = {stream.name: [] for stream in self._streams}
        for _, clip in self.read(_CALIBRATION_CLIPS, "calibrate"):
            for name, views in clip.items():
                found[name].append(views.pixels["frames"][None])
        if not all(found.values()):
            raise DataError(f"int8 needs clips of the validation list, and none of them can be read; {_REMEDY}")
        return found


def quantise(source: Path, target: Path, clips: Sequence[NDArray[np.uint8]]) -> None:
    """Quantise an ONNX program to 8 bits (QDQ format, one scale per output channel of the weights).

    Args:
        source: ONNX file in fp32.
        target: ONNX file to write.
        clips: inputs for calibration, uint8 [1, W, T, C, size, size] each, from which the ranges of activations are
            determined.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        """Gives the clips to the calibration, one by one."""

        def __init__(self) -> None:
            self.rest = iter(clips)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            """Return the next clip; None after the last."""
            clip = next(self.rest, None)
            return None if clip is None else {INPUT: clip}

    with quiet(), tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared.onnx")
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(target),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTISED),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )


def accuracies(folder: Path, clips: ValidationClips) -> dict[str, Any]:
    """Measure the top-1 of an export in fp32 and int8 on up to 512 validation clips.

    Args:
        folder: folder of the export.
        clips: the validation clips.

    Returns:
        ``list``; ``clips``, their number; ``fitted``, the streams whose classifier was fitted on these clips, so that
        their accuracy is too high; and ``top1`` by precision and stream, and ``fused``.

    Raises:
        DataError: no clip can be read.
    """
    predictors = {precision: Predictor(onnx=folder, precision=precision) for precision in _PRECISIONS}
    hits: dict[Precision, list[dict[str, bool]]] = {precision: [] for precision in _PRECISIONS}
    for number, clip in clips.read(_TESTED_CLIPS, "test fp32 and int8"):
        for precision, predictor in predictors.items():
            (scores,), _ = predictor.score([clip])
            label = clips.labels[number]
            hits[precision].append({name: bool(logits.argmax() == label) for name, logits in scores.items()})
    if not hits["fp32"]:
        raise DataError(f"int8 is tested on clips of the validation list, and none of them can be read; {_REMEDY}")
    return {
        "list": "validation",
        "clips": len(hits["fp32"]),
        "fitted": clips.fitted,
        "top1": {
            precision: {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
            for precision, rows in hits.items()
        },
    }
