"""Predictions for a video, or for a window of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.fusion_weights import softmax
from coviar_mocrop.mocrop import CropBox


@dataclass(frozen=True)
class Prediction:
    """Prediction for one video.

    Attributes:
        path: path of the video.
        classes: class names, in the order of the scores.
        scores: logits, float32 [classes], by stream and ``fused``. The fused logits are the weighted sum of the
            streams' logits, divided by the sum of the weights and by the temperature learned with the weights.
        box: the box of the clip; None if the setting is ``baseline``, which does not crop to a box.
        milliseconds: time of ``transcode`` (if any), of ``read`` (decoding, box, crop and resize), and of each stream's
            network.
        seen: one frame of what each network saw, by title of the stream, uint8 [size, size, C]: the middle I-frame, or
            the frame with most motion or residual.
        iframes: up to four I-frames, uint8 [H, W, 3] RGB.
        damaged_frames: number of decoded frames that are damaged; see
            :attr:`~coviar_mocrop.bitstream.Video.damaged_frames`. With ``transcode``, the whole video is decoded.
        as_trained: whether the video, transcoded if asked for, has the format of the training videos; True if that form
            is not known.
    """

    path: str
    classes: tuple[str, ...]
    scores: dict[str, NDArray[np.float32]]
    box: CropBox | None
    milliseconds: dict[str, float]
    seen: dict[str, NDArray[np.uint8]]
    iframes: list[NDArray[np.uint8]]
    damaged_frames: int
    as_trained: bool = True

    @property
    def probabilities(self) -> dict[str, NDArray[np.float64]]:
        """Softmax of the scores: float64 [classes], by stream and ``fused``."""
        return {name: softmax(row[None].astype(np.float64))[0] for name, row in self.scores.items()}

    def best(self, count: int = 5, of: str = "fused") -> list[tuple[str, float]]:
        """Return the most probable classes and their probabilities, the most probable first.

        Args:
            count: number of classes.
            of: name of a stream, or ``fused``.

        Raises:
            KeyError: there is no such stream, or this is an idle window, which has no scores.
        """
        shares = self.probabilities[of]
        return [(self.classes[i], float(shares[i])) for i in np.argsort(-shares, kind="stable")[:count]]

    def as_json(self, count: int = 5) -> dict[str, Any]:
        """Return what ``--json`` prints for a video, with the ``count`` most probable classes."""
        return {
            "video": self.path,
            "class": self.best(1)[0][0],
            "top": [{"class": name, "probability": round(share, 6)} for name, share in self.best(count)],
            "streams": {name: self.best(1, name)[0][0] for name in self.scores if name != "fused"},
            "box": None if self.box is None else [round(side, 6) for side in self.box],
            "damaged_frames": self.damaged_frames,
            "ms": {name: round(value, 2) for name, value in self.milliseconds.items()},
        }


@dataclass(frozen=True, kw_only=True)
class WindowPrediction(Prediction):
    """Prediction for a window of a long video or of a live source.

    Attributes:
        path: name of the source; an address is given without its password.
        scores: as for a video; empty if the window is ``idle``.
        box: the box of the window; None if the setting is ``baseline`` or the window is idle.
        milliseconds: empty.
        seen: empty.
        iframes: empty.
        start: start of the window in stream time, seconds. The first frame of the source is at 0.
        end: end of the window in stream time, seconds.
        motion: how much moves in the part of the frame that moves most, in [0, 1]; see
            :func:`~coviar_mocrop.mocrop.density.motion_level`. 0.0 if there are no motion vectors.
        idle: whether ``motion`` is below the gate, so that no network saw the window. A window without motion vectors
            is never idle.
        frames: number of frames in the window.
        missing_frames: number of frames that should have arrived for the window but did not.
        damaged_frames: number of frames, from the start of the window's first GOP on, that are damaged or refer to
            damaged or lost frames.
        dropped: number of windows of the source that were dropped just before this one, because prediction was slower
            than the source.
        latency: seconds from the arrival of the last frame to the prediction; 0.0 if the source is not live.
        wall_time: when the last frame arrived, seconds since 1970 (UTC); None if the source is not live.
    """

    start: float
    end: float
    motion: float
    idle: bool
    frames: int
    missing_frames: int
    dropped: int = 0
    latency: float = 0.0
    wall_time: float | None = None

    def as_json(self, count: int = 5) -> dict[str, Any]:
        """Return what ``--json`` prints for a window, with the ``count`` most probable classes."""
        streams = [] if self.idle else [name for name in self.scores if name != "fused"]
        shares = [] if self.idle else self.best(count)
        return {
            "source": self.path,
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            "idle": self.idle,
            "motion": round(self.motion, 6),
            "class": shares[0][0] if shares else None,
            "top": [{"class": name, "probability": round(share, 6)} for name, share in shares],
            "streams": {
                stream: {"class": name, "probability": round(share, 6)}
                for stream in streams
                for name, share in self.best(1, stream)
            },
            "box": None if self.box is None else [round(side, 6) for side in self.box],
            "frames": self.frames,
            "missing_frames": self.missing_frames,
            "damaged_frames": self.damaged_frames,
            "dropped": self.dropped,
            "latency": round(self.latency, 3),
            "wall_time": None if self.wall_time is None else round(self.wall_time, 3),
        }
