"""Features of frozen networks: computed once per clip, with one decode for all streams, and cached on disk.

Each clip goes through the networks alone and, on a CPU, in one thread. So the bits of its features do not depend on
batches, workers, processes or interruptions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coviar_mocrop.bitstream import Gop
from coviar_mocrop.clips.batch import Features, Frames
from coviar_mocrop.clips.cache import ClipCache
from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.clips.reader import ReadViews, View, WantsViews
from coviar_mocrop.clips.rows import Missing, compute_rows
from coviar_mocrop.config import Config
from coviar_mocrop.errors import CoviarMocropError
from coviar_mocrop.runtime import Group

_PORTION = 500
"""Number of clips that each of several processes computes before they wait for each other."""
_TIMED = 4
"""Number of clips that are timed."""


class WantsFeatures(WantsViews, Protocol):
    """A stream on top of frozen networks."""

    config: Config

    @property
    def device(self) -> torch.device:
        """Device of its networks."""
        ...

    @property
    def feature_dims(self) -> Mapping[str, int]:
        """Length of the features of each view. The features of a clip are concatenated in this order."""
        ...

    def made_by(self, view: str) -> dict[str, Any]:
        """Everything but the video that the features of a view depend on, as JSON values; see :class:`ClipCache`."""
        ...

    def view_features(self, view: str, frames: Frames) -> Tensor:
        """Compute features [N, dim] from the frames of a view."""
        ...


def compute_features(
    streams: Sequence[WantsFeatures], dataset: ClipDataset, group: Group, *, ray: str | None = None
) -> dict[str, Features]:
    """Compute the features of all clips of a list, or read them from the cache.

    They are computed in ``data.workers`` threads of this process, or with ``ray`` on a cluster, whose processes get the
    networks once. On GPUs of a cluster, ``data.workers`` processes share one GPU. If the run has several processes,
    each computes a part of the clips, and all read the whole result from the cache.

    Args:
        streams: streams on top of frozen networks. Each clip is decoded once for all features that the cache lacks.
        dataset: the clips.
        group: the processes of the run.
        ray: see :func:`~coviar_mocrop.parallel.run_map`.

    Returns:
        Features by stream. Rows of clips without features are NaN.

    Raises:
        CoviarMocropError: the networks or the cache cannot be used, or the cluster cannot be reached.
    """
    if not streams:
        return {}
    data = dataset.data
    by_key = {f"{stream.name}/{view}": (stream, view) for stream in streams for view in stream.feature_dims}
    caches = {
        key: ClipCache(data.cache, dataset.store, "features", s.made_by(view), s.feature_dims[view], np.float32)
        for key, (s, view) in by_key.items()
    }
    names = [clip.path for clip in dataset.videos.clips]
    numbers = {name: number for number, name in enumerate(names)}
    compute = _Compute(streams, dataset, numbers)
    title = f"features of {' '.join(stream.name for stream in streams)}"
    options: dict[str, Any] = {"title": title, "workers": data.workers, "progress": group.is_main}
    with _same_bits():
        portion = _PORTION * group.world
        for start in range(0, len(names) if group.world > 1 else 0, portion):
            part = names[start : start + portion]
            compute_rows(part[group.rank :: group.world], caches, compute, threads=True, **options)
            group.gather(None)  # after every portion, so that no process waits for long
        for cache in caches.values():
            cache.refresh()
        if ray is None:
            rows, failed = compute_rows(names, caches, compute, threads=True, **options)
        else:
            gpus = 0.0 if streams[0].device.type == "cpu" else 1 / max(data.workers, 1)
            rows, failed = compute_rows(names, caches, _Alone(compute), ray=ray, gpus=gpus, **options)
    dataset.keep_boxes()
    found = {}
    for stream in streams:
        keys = [f"{stream.name}/{view}" for view in stream.feature_dims]
        problems = {
            numbers[name]: by_cache[key] for name, by_cache in failed.items() for key in keys if key in by_cache
        }
        joined = np.full((len(names), sum(stream.feature_dims.values())), np.nan, np.float32)
        for name, number in numbers.items():
            if number not in problems:
                joined[number] = np.concatenate([rows[name][key] for key in keys])
        found[stream.name] = Features(
            torch.from_numpy(joined),
            dict(sorted(problems.items())),
            max(caches[key].added for key in keys),
        )
    return found


def time_features(streams: Sequence[WantsFeatures], dataset: ClipDataset) -> dict[str, FeatureTimes]:
    """Measure the time to compute the features of a clip, by stream: the mean of up to four clips, without the cache.

    Args:
        streams: streams whose features ``dataset`` has.
        dataset: the clips.
    """
    if not streams:
        return {}
    errors = {number for stream in streams for number in dataset.features[stream.name].errors}
    names = [clip.path for clip in dataset.videos.clips]
    sound = [name for number, name in enumerate(names) if number not in errors][:_TIMED]
    compute = _Compute(streams, dataset, {name: number for number, name in enumerate(names)})
    views = tuple(f"{stream.name}/{view}" for stream in streams for view in stream.feature_dims)
    with _same_bits():
        # the first call also compiles and loads; it is repeated, and only the repetition counts
        timed = [compute.measure(Missing(name, views)) for name in (*sound[:1], *sound)][1:]
    return {
        stream.name: FeatureTimes(
            float(np.mean([one.reading for one in timed])) / len(streams) if timed else 0.0,
            float(np.mean([one.networks[stream.name] for one in timed])) if timed else 0.0,
        )
        for stream in streams
    }


class FeatureTimes(NamedTuple):
    """Time to compute the features of a clip for one stream, seconds.

    Attributes:
        reading: time to read the clip, divided by the number of streams.
        networks: time of the frozen networks.
    """

    reading: float
    networks: float


class _Measured(NamedTuple):
    """The rows computed for a clip, by cache; and the seconds for reading it and for the networks of each stream."""

    rows: dict[str, NDArray[np.float32] | CoviarMocropError]
    reading: float
    networks: dict[str, float]


class _Compute:
    """Computes the features of a clip that the caches lack."""

    def __init__(self, streams: Sequence[WantsFeatures], dataset: ClipDataset, numbers: Mapping[str, int]) -> None:
        self._streams, self._dataset, self._numbers = streams, dataset, numbers
        self._device = streams[0].device
        self._turn: Lock | None = Lock() if self._device.type != "cpu" else None  # a GPU takes one clip at a time

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle for a process of a cluster. It needs no lock, because it computes one clip at a time."""
        return {**self.__dict__, "_turn": None}

    def __call__(self, missing: Missing) -> Mapping[str, NDArray[np.float32] | CoviarMocropError]:
        return self.measure(missing).rows

    def measure(self, missing: Missing) -> _Measured:
        """Compute the features, and measure the time."""
        start = time.perf_counter()
        wanted = {
            s.name: [view for view in s.feature_dims if f"{s.name}/{view}" in missing.caches] for s in self._streams
        }
        parts = [_Part(stream, wanted[stream.name]) for stream in self._streams if wanted[stream.name]]
        read = _read(self._dataset, self._numbers[missing.clip], parts)
        reading = time.perf_counter() - start
        rows: dict[str, NDArray[np.float32] | CoviarMocropError] = {}
        networks = {}
        for stream, views in parts:
            mark = time.perf_counter()
            seen = read[stream.name]
            for view in views:
                rows[f"{stream.name}/{view}"] = (
                    seen if isinstance(seen, CoviarMocropError) else self._features(stream, view, seen)
                )
            networks[stream.name] = time.perf_counter() - mark
        return _Measured(rows, reading, networks)

    def _features(self, stream: WantsFeatures, view: str, read: ReadViews) -> NDArray[np.float32]:
        frames = Frames(
            torch.from_numpy(read.pixels[view])[None].to(self._device),
            torch.from_numpy(read.mirrored(view))[None].to(self._device),
        )
        with self._turn or nullcontext(), torch.inference_mode():
            features: NDArray[np.float32] = stream.view_features(view, frames)[0].float().cpu().numpy()
        return features


@dataclass(frozen=True)
class _Alone:
    """Computes features in a process of a cluster, where settings of PyTorch must be made for each call."""

    compute: _Compute

    def __call__(self, missing: Missing) -> Mapping[str, NDArray[np.float32] | CoviarMocropError]:
        with _same_bits():
            return self.compute(missing)


def _read(dataset: ClipDataset, number: int, parts: Sequence[_Part]) -> dict[str, ReadViews | CoviarMocropError]:
    """Read the views of several streams in one pass, by stream.

    If that fails, the streams are read one by one. So only those streams get an error that cannot be read alone.
    """
    try:
        return dict(dataset.read(number, parts))
    except CoviarMocropError as problem:
        if len(parts) == 1:
            return {parts[0].name: problem}
        return {name: views for part in parts for name, views in _read(dataset, number, [part]).items()}


class _Part(NamedTuple):
    """A stream limited to some of its views."""

    stream: WantsFeatures
    wanted: Sequence[str]

    @property
    def name(self) -> str:
        return self.stream.name

    def views(
        self, num_frames: int, gops: Sequence[Gop], generator: np.random.Generator | None = None
    ) -> dict[str, View]:
        views = self.stream.views(num_frames, gops, generator)
        return {name: view for name, view in views.items() if name in self.wanted}


@contextmanager
def _same_bits() -> Iterator[None]:
    """Make results reproducible: one thread on CPUs; on GPUs, deterministic kernels without TF32."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(threads)
