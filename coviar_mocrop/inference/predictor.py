"""Classify videos with trained streams: one pass over the file, one box for all streams, late fusion."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream import open_video, transcode
from coviar_mocrop.bitstream.container import name_of
from coviar_mocrop.bitstream.types import Progress, Source
from coviar_mocrop.clips.reader import ReadViews, View, read_streams
from coviar_mocrop.clips.sampling import middle_frames
from coviar_mocrop.clips.windows import whole_frame
from coviar_mocrop.inference.classifier import Classifier
from coviar_mocrop.inference.prediction import Prediction, WindowPrediction
from coviar_mocrop.inference.source_reader import StreamOptions
from coviar_mocrop.inference.watching import watch

_SHOWN = 4
"""Number of I-frames that are kept for pictures."""


class Predictor(Classifier):
    """Trained streams that classify videos: files, addresses and cameras.

    ``Predictor("runs/mine")("video.mp4")`` classifies one video. Arguments and attributes are those of
    :class:`~coviar_mocrop.inference.classifier.Classifier`.
    """

    def __call__(self, path: Source, progress: Progress | None = None) -> Prediction:
        """Classify a video.

        Args:
            path: a path, an http or https address, or a binary file object.
            progress: called as ``progress(done, total)`` with numbers of frames, first for transcoding (if any), then
                for reading.

        Raises:
            VideoError: the video cannot be read, or lacks motion vectors that are needed.
            CheckpointError: the logits of a network are not finite, or it cannot be computed.
        """
        if (form := self.transcode_to) is None:
            return self._predict(path, progress)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            canonical = Path(folder, "canonical.mp4")
            limit = self.data.max_frame_pixels
            done = transcode(path, canonical, **form._asdict(), max_frame_pixels=limit, progress=progress)
            spent = 1e3 * (time.perf_counter() - start)
            prediction = self._predict(canonical, progress)
            times = {"transcode": spent, **prediction.milliseconds}
            damaged = done.damaged_frames
            return replace(prediction, path=name_of(path), milliseconds=times, damaged_frames=damaged)

    def over_time(
        self, source: Source, window: float = 2.0, stride: float = 1.0, gate: float = 0.0
    ) -> Iterator[WindowPrediction]:
        """Classify windows of a long video or of a camera as they come. Memory does not grow with its length.

        A camera or server whose connection breaks is opened again, and a warning is logged.

        Args:
            source: a path, an address (rtsp, rtsps, http, https, udp, tcp), ``-`` for standard input, or a binary file
                object.
            window: length of a window, seconds.
            stride: time from the start of one window to the start of the next, seconds; at most ``window``.
            gate: level of motion, 0 to below 1. A window with less motion is idle: no network sees it (see
                ``motion`` of ``WindowPrediction``). 0: every window is classified.

        Returns:
            Predictions in order of time. The source is opened when the first one is asked for.

        Raises:
            VideoError: the source cannot be read, or lacks motion vectors that are needed.
            ConfigError: the window, the stride or the gate is out of range, or ``data.anchor_every`` is null.
            CheckpointError: the logits of a network are not finite, or it cannot be computed.
        """
        return watch(self, [source], gate=gate, options=StreamOptions(window, stride, form=self.transcode_to))

    def _predict(self, path: Source, progress: Progress | None) -> Prediction:
        data, start = self.data, time.perf_counter()
        with open_video(path, data.backend, data.anchor_every, max_frame_pixels=data.max_frame_pixels) as video:
            info, gops, video.progress = video.info, video.gops, progress
            shown = middle_frames(info.num_frames, min(_SHOWN, len(gops)), "iframe")
            iframes = {"iframes": View("iframe", shown, whole_frame, None)}
            read, pictures = read_streams(video, self.streams.values(), self.mocrop, extra=iframes)
            damaged = video.damaged_frames
        reading = 1e3 * (time.perf_counter() - start)
        (scores,), spent = self.score([read])
        seen: dict[str, NDArray[np.uint8]] = {}
        for name, views in read.items():
            for view, pixels in views.pixels.items():
                title = self.title(name) if len(views.pixels) == 1 else f"{self.title(name)} {view}"
                seen[title] = _peak_frame(views.kinds[view], pixels)
        return Prediction(
            path=name_of(path),
            classes=self.classes,
            scores=scores,
            box=pictures.box,
            milliseconds={"read": reading, **spent},
            seen=seen,
            iframes=[np.ascontiguousarray(p.transpose(1, 2, 0)) for p in _distinct(pictures)],
            damaged_frames=damaged,
            as_trained=self.has_form(info),
        )


def _distinct(pictures: ReadViews) -> list[NDArray[np.uint8]]:
    """The different I-frames, uint8 [3, H, W] each."""
    found: list[NDArray[np.uint8]] = []
    for picture in pictures.pixels["iframes"][0]:
        if not any(np.array_equal(picture, other) for other in found):
            found.append(picture)
    return found


def _peak_frame(kind: str, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame to show, uint8 [size, size, C]: the middle I-frame, or the frame with most motion or residual.

    Args:
        kind: kind of the view.
        pixels: uint8 [W, T, C, size, size], T frames in W windows. The frame is taken from the middle window.
    """
    frames = pixels[len(pixels) // 2]
    strength = np.abs(frames[..., ::4, ::4].astype(np.int16) - 128).sum(axis=(1, 2, 3))
    best = len(frames) // 2 if kind in ("iframe", "frame") else int(strength.argmax())
    return np.ascontiguousarray(frames[best].transpose(1, 2, 0))
