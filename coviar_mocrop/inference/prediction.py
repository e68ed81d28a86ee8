"""What the streams say about a video, or about a window of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.fusion_weights import softmax
from coviar_mocrop.mocrop import CropBox


@dataclass(frozen=True)
class Prediction:
    """What the streams say about one video.

    Attributes:
        path: of the video.
        classes: names.
        scores: float32 [classes] by stream and ``fused``: logits. The fused ones are divided by the sum of weights, and
            by the temperature that was learned with the weights.
        box: the clip's; None where the setting does not crop.
        milliseconds: ``read`` (box and crops included) and each stream; first ``transcode``, where it was asked for.
        seen: what the networks saw, by title of the stream: the frame in which most happens, uint8 [size, size, C].
        iframes: up to four, uint8 [H, W, 3].
        damaged_frames: how many of the frames that were decoded are damaged; see
            :attr:`~coviar_mocrop.bitstream.Video.damaged_frames`. With ``transcode`` the whole video is decoded.
        as_trained: whether the file that was read has the form of the videos that the streams learned from;
            True where that form is not known.
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
        """Softmax of the scores: float64 [classes] by stream and ``fused``."""
        return {name: softmax(row[None].astype(np.float64))[0] for name, row in self.scores.items()}

    def best(self, count: int = 5, of: str = "fused") -> list[tuple[str, float]]:
        """The first classes and their probabilities."""
        shares = self.probabilities[of]
        return [(self.classes[i], float(shares[i])) for i in np.argsort(-shares, kind="stable")[:count]]

    def as_json(self, count: int = 5) -> dict[str, Any]:
        """One line of the JSON output."""
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
    """What the streams say about a window of a long video or of a live source.

    Attributes:
        path: what the source is called; of an address, without its password.
        scores: as of a video; empty where the window is ``idle``.
        box: the window's; None where the setting does not crop, or the window is idle.
        start, end: seconds of stream time: 0 is the first frame that came.
        motion: how much moves where most moves, in [0, 1]; what the gate looks at. See
            :func:`~coviar_mocrop.mocrop.density.motion_level`.
        idle: whether so little moves that no network has looked at the window.
        frames: number of frames in the window.
        missing_frames: number of frames that should have come in that time and did not.
        damaged_frames: frames that are damaged, or refer to what is damaged or lost.
        dropped: windows of the same source that were left out before this one, because computing was too slow.
        latency: seconds from the arrival of the last frame to the prediction; 0.0 for files.
        wall_time: of live sources, when the last frame came, seconds since 1970 (UTC); None for files.
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
        """One line of the JSON output."""
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
