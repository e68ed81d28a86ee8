"""Classify any video with trained streams: one reading and one box for all of them, late fusion."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coviar_mocrop.bitstream import Gop, Kind, VideoInfo, open_video, transcode
from coviar_mocrop.clips.sampling import places, sampled_frames
from coviar_mocrop.clips.windows import Window, cut_views, testing_windows
from coviar_mocrop.datasets.convert import Canonical, form_of_folder
from coviar_mocrop.device import Compute, choose_compute
from coviar_mocrop.errors import CheckpointError
from coviar_mocrop.fusion import fuse, resolve_weights
from coviar_mocrop.inference.testing import LoadedStream, load_stream
from coviar_mocrop.mocrop import CropBox, estimate_box, frames_to_read
from coviar_mocrop.networks.fusion_head import ClipNet
from coviar_mocrop.networks.stream_net import Stream
from coviar_mocrop.scores import Scores
from coviar_mocrop.streams.clip_stream import open_parts
from coviar_mocrop.streams.features import FrozenParts, Raw, features_of_raw, image_window, wanted_places

Place = tuple[int, int]

_SHARED = ("setting", "mocrop", "data.backend", "data.anchor_every")
"""Settings in which all streams must agree: they share one reading and one box."""


@dataclass(frozen=True)
class Prediction:
    """What the streams say about one video.

    Attributes:
        path: of the video.
        classes: names.
        scores: float32 [classes] by stream and ``fused``: logits, the fused ones divided by the sum of weights.
        box: the clip's; None where the setting does not crop.
        milliseconds: ``read``, ``box`` and each stream; first ``transcode``, where that was asked for.
        seen: by stream, the liveliest raw frame [H, W, C] that was read for it.
        windows: by stream, what was cut out of it.
        iframes: up to four, uint8 [H, W, 3]; empty where no stream reads I-frames.
        as_trained: whether the file that was read has the form of the videos that the streams learned from;
            True where that form is not known.
    """

    path: str
    classes: tuple[str, ...]
    scores: dict[str, NDArray[np.float32]]
    box: CropBox | None
    milliseconds: dict[str, float]
    seen: dict[str, NDArray[Any]]
    windows: dict[str, Window]
    iframes: list[NDArray[np.uint8]]
    as_trained: bool = True

    @property
    def probabilities(self) -> dict[str, NDArray[np.float64]]:
        """Softmax of the scores: float64 [classes] by stream and ``fused``."""
        return {name: torch.from_numpy(row).double().softmax(0).numpy() for name, row in self.scores.items()}

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
            "ms": {name: round(value, 2) for name, value in self.milliseconds.items()},
        }


class Predictor:
    """Trained streams, ready for videos.

    Attributes:
        classes: names.
        weights: of the fusion, by stream.
        setting: baseline, efficiency or attention.
        form: what the videos that the streams learned from were transcoded to; None where they were not, or where
            their folder is not there to tell.
    """

    def __init__(
        self,
        checkpoints: Sequence[str | os.PathLike[str]],
        overrides: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
        *,
        transcode: bool = False,
    ) -> None:
        """Load the streams.

        Args:
            checkpoints: made by training, one a stream.
            overrides: ``a.b=value`` items on top of every stream's settings, such as ``setting=efficiency``.
            weights: of the fusion, by stream (default 2 : 1 : 1).
            transcode: bring each video to ``form`` first (the usual canonical form where it is None), in a
                temporary file. Any codec will do then.

        Raises:
            CheckpointError: a file cannot be used, or two do not belong together.
            ConfigError: a setting is wrong.
            ScoreError: a weight is for no stream, negative or not finite.
        """
        self._streams: dict[Stream, LoadedStream] = {}
        self._parts = FrozenParts(None, None)
        if not checkpoints:
            raise CheckpointError("no checkpoint given; give at least one best.pt")
        for path in checkpoints:
            stream = load_stream(path, overrides)
            kind = stream.config.stream
            if kind in self._streams:
                raise CheckpointError(f"{os.fspath(path)}: is a second {kind} stream; give one checkpoint a stream")
            self._streams[kind] = stream
            self._require_agreement(path, stream)
            if isinstance(stream.model, ClipNet):
                self._parts = open_parts(stream.config, stream.model)
        first = next(iter(self._streams.values()))
        self._config = first.config
        self._compute: Compute = choose_compute(first.config.train)
        for stream in self._streams.values():
            stream.model.to(memory_format=torch.channels_last).to(self._compute.device)
        self._parts.to(self._compute.device)
        self.classes = first.classes
        self.setting = first.config.setting
        forms = (form_of_folder(stream.config.data.root) for stream in self._streams.values())
        self.form = next((form for form in forms if form is not None), None)
        self._transcode = transcode
        nothing = self._as_scores(np.zeros(len(self.classes), np.float32))
        self.weights = resolve_weights(dict.fromkeys(self._streams, nothing), weights)

    def __call__(self, path: str | os.PathLike[str]) -> Prediction:
        """Classify a video.

        Raises:
            VideoError: it cannot be read, or lacks motion vectors that the setting needs.
        """
        if not self._transcode:
            return self._predict(path, {})
        spent: dict[str, float] = {}
        clock = _Clock(spent)
        with tempfile.TemporaryDirectory() as folder:
            form = self.form or Canonical(Path(folder))
            canonical = Path(folder, "canonical.mp4")
            transcode(path, canonical, codec=form.codec, size=form.size)
            clock.lap("transcode")
            return replace(self._predict(canonical, spent), path=os.fspath(path))

    def _predict(self, path: str | os.PathLike[str], spent: dict[str, float]) -> Prediction:
        config = self._config
        clock = _Clock(spent)
        with open_video(path, config.data.backend, config.data.anchor_every) as video:
            info = video.info
            wanted = {name: self._places(stream, info.num_frames, video.gops) for name, stream in self._streams.items()}
            unique: dict[Kind, list[Place]] = {}
            for asked in wanted.values():
                for kind, spots in asked.items():
                    unique[kind] = sorted({*unique.get(kind, ()), *spots})
            raw = video.read_many(unique)
            vectors = video.vectors(frames_to_read(video.gops, config.mocrop)) if config.crops else []
        clock.lap("read")
        box = None
        if config.crops:
            box = estimate_box(vectors, (info.height, info.width), config.mocrop)
            clock.lap("box")
        scores: dict[str, NDArray[np.float32]] = {}
        windows: dict[str, Window] = {}
        whole = info.height, info.width
        for name, stream in self._streams.items():
            frames = {kind: _rows(raw[kind], unique[kind], spots) for kind, spots in wanted[name].items()}
            if isinstance(stream.model, ClipNet):
                parts = features_of_raw(stream.config, self._parts, frames, box).values()
                inputs = torch.from_numpy(np.concatenate(list(parts)))
                for kind in frames.keys() - self._streams.keys():
                    iframe = kind == "iframe"
                    windows[kind] = (
                        image_window(stream.config, whole, box) if iframe else testing_windows(whole, box, 1)[0]
                    )
            else:
                ((kind, (rows, order)),) = frames.items()
                cuts = testing_windows(whole, box, stream.config.input.test_crops)
                inputs = cut_views(kind, rows, order, cuts, stream.config.size)
                windows[kind] = cuts[-1] if len(cuts) == 1 else cuts[4]  # the middle one of ten
            scores[name] = self._logits(stream, inputs)
            clock.lap(name)
        fused = fuse({kind: self._as_scores(row) for kind, row in scores.items()}, self.weights).scores[0]
        if "frame" in raw:  # decoded frames are shown where there are no I-frames
            raw.setdefault("iframe", raw.pop("frame"))
            windows.setdefault("iframe", windows.pop("frame"))
        pictures = raw.get("iframe", np.empty((0, 1, 1, 3), np.uint8))
        spread = np.linspace(0, len(pictures) - 1, min(len(pictures), 4))
        return Prediction(
            path=os.fspath(path),
            classes=self.classes,
            scores={**scores, "fused": fused / np.float32(sum(self.weights.values()))},
            box=box,
            milliseconds=spent,
            seen={kind: _liveliest(kind, rows) for kind, rows in raw.items()},
            windows=windows,
            iframes=[pictures[number].copy() for number in np.unique(spread.round().astype(int))],
            as_trained=self.form is None or _has_form(info, self.form),
        )

    def _places(self, stream: LoadedStream, num_frames: int, gops: Sequence[Gop]) -> dict[Kind, list[Place]]:
        """What a stream has to see, by kind, in order."""
        if isinstance(stream.model, ClipNet):
            return wanted_places(stream.config, self._parts, num_frames, gops)
        kind = stream.config.kind
        return {kind: places(gops, sampled_frames(num_frames, stream.config.input, kind), kind)}

    def _as_scores(self, row: NDArray[np.float32]) -> Scores:
        """Scores of the one clip, for the fusion."""
        return Scores(np.array(["clip"]), np.zeros(1, np.int64), row[None], np.array(self.classes), {})

    def _logits(self, stream: LoadedStream, frames: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode(), self._compute.autocast():
            logits = stream.model(frames[None].to(self._compute.device))
        row: NDArray[np.float32] = logits[0].float().cpu().numpy()
        return row

    def _require_agreement(self, path: str | os.PathLike[str], stream: LoadedStream) -> None:
        name, first = next(iter(self._streams.items()))
        if stream.classes != first.classes:
            raise CheckpointError(
                f"{os.fspath(path)}: was trained on other classes than the {name} stream "
                f"({len(stream.classes)} against {len(first.classes)})"
            )
        for key in _SHARED:
            mine, theirs = _value(stream, key), _value(first, key)
            if mine != theirs:
                raise CheckpointError(
                    f"{os.fspath(path)}: {key} differs from the {name} stream's; streams share one reading and one "
                    f"box, so set it for all, with --set {key}=..."
                )


def _rows(raw: NDArray[Any], known: Sequence[Place], spots: Sequence[Place]) -> Raw:
    """Of frames read for several streams, one stream's without repeats, and its order of them."""
    mine = sorted(set(spots))
    rows = raw if len(mine) == len(known) else raw[[known.index(place) for place in mine]]
    return rows, [mine.index(place) for place in spots]


class _Clock:
    """Writes the milliseconds of each lap into a dictionary."""

    def __init__(self, spent: dict[str, float]) -> None:
        self._spent, self._start = spent, time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._spent[name] = 1e3 * (now - self._start)
        self._start = now


def _has_form(info: VideoInfo, form: Canonical) -> bool:
    size = (info.width, info.height)
    return info.codec == form.codec and not info.has_b_frames and form.size in (None, size)


def _value(stream: LoadedStream, key: str) -> Any:
    value: Any = stream.config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _liveliest(kind: str, rows: NDArray[Any]) -> NDArray[Any]:
    """The frame to show: the middle I-frame, or the one in which motion or residual is strongest."""
    if kind == "iframe":
        return rows[len(rows) // 2].copy()
    strength = [float(np.abs(row[::4, ::4].astype(np.float32)).sum()) for row in rows]
    return rows[int(np.argmax(strength))].copy()
