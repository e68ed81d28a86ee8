"""Classify any video with trained streams: one reading and one box for all of them, late fusion."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream import Gop, VideoInfo, open_video, transcode
from coviar_mocrop.bitstream.frames import FrameSequence
from coviar_mocrop.bitstream.transcode import CANONICAL_SIZE
from coviar_mocrop.bitstream.types import Progress, Source
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.reader import ReadViews, View, box_of, read_streams
from coviar_mocrop.clips.sampling import middle_frames
from coviar_mocrop.clips.windows import whole_frame
from coviar_mocrop.datasets.lists import Form
from coviar_mocrop.errors import CheckpointError, ConfigError
from coviar_mocrop.fusion import fuse, resolve_weights
from coviar_mocrop.inference.backend import Backend, Precision, PredictingStream
from coviar_mocrop.inference.prediction import Prediction, WindowPrediction
from coviar_mocrop.mocrop import CropBox, MoCropSettings
from coviar_mocrop.scores import Scores

_SHOWN = 4
"""I-frames that are kept for pictures."""


class Predictor:
    """Trained streams, ready for videos.

    Attributes:
        backend: what computes the networks.
        classes: names.
        weights: of the fusion, by stream.
        weights_from: how they were found: given, default, or learned on how many clips.
        setting: baseline, efficiency or attention.
        form: what the videos that the streams learned from were transcoded to, as their checkpoints say; None where
            they were not.
        transcode_to: what videos are transcoded to before they are classified; None: they are not.
    """

    def __init__(
        self,
        checkpoints: Sequence[str | os.PathLike[str]] = (),
        overrides: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
        *,
        onnx: str | os.PathLike[str] | None = None,
        precision: Precision = "fp32",
        transcode: bool = False,
    ) -> None:
        """Load the streams: from ``checkpoints`` for PyTorch, or from an ``onnx`` export, which needs no PyTorch.

        Args:
            checkpoints: files made by training, one a stream; or the folder of a run.
            overrides: ``a.b=value`` items on top of every stream's settings, such as ``setting=efficiency``. An export
                has its settings built in, so of these only ``data`` and ``train.threads`` can change.
            weights: of the fusion, by stream; a stream that is not named has its default weight (iframe 2, others 1).
                None takes the weights that ``coviar fuse`` learned with these checkpoints and stored in the folder
                of their run (``fusion.json``), and without such a file the default ones. An export holds its own.
            onnx: folder made by ``coviar export``.
            precision: of the export: ``fp32``, or ``int8`` where it was exported.
            transcode: bring each video to ``form`` first (the usual canonical form where it is None), in a
                temporary file; what is watched over time, on its way. Any codec will do then.

        Raises:
            CheckpointError: a file cannot be used, or two do not belong together.
            ConfigError: a setting is wrong, or one that the streams share differs.
            ScoreError: a weight is for no stream, negative or not finite, or ``fusion.json`` is damaged.
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
        """By name."""
        return self.backend.streams

    def __call__(self, path: str | os.PathLike[str], progress: Progress | None = None) -> Prediction:
        """Classify a video.

        Args:
            path: of the video.
            progress: is told how many frames have been read, and how many there are; first of the transcoding.

        Raises:
            VideoError: it cannot be read, or lacks motion vectors that the setting needs.
        """
        if (form := self.transcode_to) is None:
            return self._predict(path, progress)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            canonical = Path(folder, "canonical.mp4")
            limit = self._config.data.max_frame_pixels
            done = transcode(path, canonical, **form._asdict(), max_frame_pixels=limit, progress=progress)
            spent = 1e3 * (time.perf_counter() - start)
            prediction = self._predict(canonical, progress)
            times = {"transcode": spent, **prediction.milliseconds}
            damaged = done.damaged_frames
            return replace(prediction, path=os.fspath(path), milliseconds=times, damaged_frames=damaged)

    def over_time(
        self, source: Source, window: float = 2.0, stride: float = 1.0, gate: float = 0.0
    ) -> Iterator[WindowPrediction]:
        """Classify windows of a long video, or of a camera, as they come; memory does not grow with its length.

        Args:
            source: a path, an address (rtsp, http, udp, ...), ``-`` for standard input, or an open file.
            window: seconds.
            stride: seconds from one window to the next.
            gate: windows in which less moves (:attr:`WindowPrediction.motion`) are idle: no network sees them.
                0: every window is classified.

        Raises:
            VideoError: the source cannot be read, or lacks motion vectors that the setting needs.
            ConfigError: the window or the stride is out of range.
        """
        from coviar_mocrop.inference.source_reader import StreamOptions
        from coviar_mocrop.inference.watching import watch

        return watch(self, [source], gate=gate, options=StreamOptions(window, stride, form=self.transcode_to))

    @property
    def needs_vectors(self) -> bool:
        """Whether a stream, or the box, needs motion vectors."""
        views = [view for stream in self.streams.values() for view in stream.views(12, [Gop(0, 12)]).values()]
        return self._config.crops or any(view.kind in ("mv", "residual") for view in views)

    @property
    def data(self) -> DataConfig:
        """How videos are read."""
        return self._config.data

    def classify(self, clips: Sequence[FrameSequence]) -> list[tuple[dict[str, NDArray[np.float32]], CropBox | None]]:
        """Scores by stream and ``fused``, and the box, of clips that go through the networks together.

        Args:
            clips: decoded, so that going through one twice costs little: first for its box, then for what lies in it.

        Raises:
            VideoError: a clip lacks motion vectors that the setting needs.
        """
        boxes = [box_of(clip, self._box) if self._box else None for clip in clips]
        read = [read_streams(clip, self.streams.values(), box)[0] for clip, box in zip(clips, boxes, strict=True)]
        scores, _ = self.score(read)
        return list(zip(scores, boxes, strict=True))

    @property
    def _box(self) -> MoCropSettings | None:
        return self._config.mocrop if self._config.crops else None

    def _predict(self, path: str | os.PathLike[str], progress: Progress | None) -> Prediction:
        data, start = self._config.data, time.perf_counter()
        with open_video(path, data.backend, data.anchor_every, max_frame_pixels=data.max_frame_pixels) as video:
            info, gops, video.progress = video.info, video.gops, progress
            shown = middle_frames(info.num_frames, min(_SHOWN, len(gops)), "iframe")
            iframes = {"iframes": View("iframe", shown, whole_frame, None)}
            read, pictures = read_streams(video, self.streams.values(), self._box, extra=iframes)
            damaged = video.damaged_frames
        reading = 1e3 * (time.perf_counter() - start)
        (scores,), spent = self.score([read])
        seen: dict[str, NDArray[np.uint8]] = {}
        for name, views in read.items():
            for view, pixels in views.pixels.items():
                title = self.title(name) if len(views.pixels) == 1 else f"{self.title(name)} {view}"
                seen[title] = _peak_frame(views.kinds[view], pixels)
        return Prediction(
            path=os.fspath(path),
            classes=self.classes,
            scores=scores,
            box=pictures.box,
            milliseconds={"read": reading, **spent},
            seen=seen,
            iframes=[np.ascontiguousarray(p.transpose(1, 2, 0)) for p in _distinct(pictures)],
            damaged_frames=damaged,
            as_trained=self.has_form(info),
        )

    def score(
        self, clips: Sequence[Mapping[str, ReadViews]]
    ) -> tuple[list[dict[str, NDArray[np.float32]]], dict[str, float]]:
        """Logits of clips by stream and ``fused``; and the milliseconds that each stream took.

        Args:
            clips: what was read of each, by stream.
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
        """Whether a video has the form of those that the streams learned from; True where that is not known."""
        size = (info.width, info.height)
        form = self.form
        return form is None or (info.codec == form.codec and not info.has_b_frames and form.size in (None, size))

    def title(self, stream: str) -> str:
        """What people call a stream, or ``fused``."""
        return self.streams[stream].title if stream in self.streams else stream

    def _as_scores(self, name: str, logits: NDArray[np.float32]) -> Scores:
        """Scores [clips, classes] of clips without names or labels, for the fusion."""
        facts = {"stream": name, "fusion_weight": self.streams[name].fusion_weight}
        names = np.array([str(number) for number in range(len(logits))])
        return Scores(names, np.zeros(len(logits), np.int64), logits, np.array(self.classes), facts)


def _load(
    checkpoints: Sequence[str | os.PathLike[str]],
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


def _distinct(pictures: ReadViews) -> list[NDArray[np.uint8]]:
    """The I-frames, each once: uint8 [3, H, W]."""
    found: list[NDArray[np.uint8]] = []
    for picture in pictures.pixels["iframes"][0]:
        if not any(np.array_equal(picture, other) for other in found):
            found.append(picture)
    return found


def _peak_frame(kind: str, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame to show of uint8 [W, T, C, H, W]: the middle I-frame, or that with most motion or residual."""
    frames = pixels[len(pixels) // 2]
    strength = np.abs(frames[..., ::4, ::4].astype(np.int16) - 128).sum(axis=(1, 2, 3))
    best = len(frames) // 2 if kind in ("iframe", "frame") else int(strength.argmax())
    return np.ascontiguousarray(frames[best].transpose(1, 2, 0))
