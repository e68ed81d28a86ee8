"""Clips as features of frozen networks: computed once a clip, from one decode for all streams, and kept on disk.

Every clip goes through the networks alone and (on a CPU) on one thread. So the bits of a feature depend on the clip and
nothing else: not on batches, workers or processes, nor on where an earlier run stopped.
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
"""Clips that each of several processes makes into features before they wait for one another."""
_TIMED = 4
"""Clips whose features are computed anew, whatever the cache holds, to tell what a clip takes."""


class WantsFeatures(WantsViews, Protocol):
    """A stream on top of frozen networks."""

    config: Config

    @property
    def device(self) -> torch.device:
        """Where its networks are."""
        ...

    @property
    def feature_dims(self) -> Mapping[str, int]:
        """Length of the features of each view, in the order in which they are joined."""
        ...

    def made_by(self, view: str) -> dict[str, Any]:
        """Everything that decides the features of a view, as JSON values; see :class:`ClipCache`."""
        ...

    def view_features(self, view: str, frames: Frames) -> Tensor:
        """Features [N, dim] of the frames of a view."""
        ...


def compute_features(
    streams: Sequence[WantsFeatures], dataset: ClipDataset, group: Group, *, ray: str | None = None
) -> dict[str, Features]:
    """Features of all clips of a list, by stream. Of several processes, each computes its share, then all read all.

    Threads of this process compute them, where the networks are; or with ``ray`` a cluster, to whose processes the
    networks are sent once. If they are on a GPU, ``data.workers`` of those processes share one.

    Args:
        streams: those that look at features; each clip is decoded once for all that the cache lacks.
        dataset: the clips.
        group: the processes of the run.
        ray: see :func:`~coviar_mocrop.parallel.run_map`.

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
    timed: list[_Measured] = []
    with _same_bits():
        portion = _PORTION * group.world
        for start in range(0, len(names) if group.world > 1 else 0, portion):
            part = names[start : start + portion]
            compute_rows(part[group.rank :: group.world], caches, compute, threads=True, **options)
            group.gather(None)  # in small portions, so that none waits for long
        for cache in caches.values():
            cache.refresh()
        if ray is None:
            rows, failed = compute_rows(names, caches, compute, threads=True, **options)
        else:
            gpus = 0.0 if streams[0].device.type == "cpu" else 1 / max(data.workers, 1)
            rows, failed = compute_rows(names, caches, _Alone(compute), ray=ray, gpus=gpus, **options)
        if not dataset.training:
            sound = [name for name in names if name not in failed][:_TIMED]
            # the very first also waits for what is compiled and loaded
            timed = [compute.measure(Missing(name, tuple(caches))) for name in (*sound[:1], *sound)][1:]
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
            float(np.mean([one.reading for one in timed])) / len(streams) if timed else 0.0,
            float(np.mean([one.networks[stream.name] for one in timed])) if timed else 0.0,
        )
    return found


class _Measured(NamedTuple):
    """What was computed of a clip, by cache, and the seconds that reading it and the networks of each stream took."""

    rows: dict[str, NDArray[np.float32] | CoviarMocropError]
    reading: float
    networks: dict[str, float]


class _Compute:
    """Computes what the caches lack of a clip."""

    def __init__(self, streams: Sequence[WantsFeatures], dataset: ClipDataset, numbers: Mapping[str, int]) -> None:
        self._streams, self._dataset, self._numbers = streams, dataset, numbers
        self._device = streams[0].device
        self._turn: Lock | None = Lock() if self._device.type != "cpu" else None  # a GPU takes one clip at a time

    def __getstate__(self) -> dict[str, Any]:
        """What a process of a cluster is sent. It does one clip at a time."""
        return {**self.__dict__, "_turn": None}

    def __call__(self, missing: Missing) -> Mapping[str, NDArray[np.float32] | CoviarMocropError]:
        return self.measure(missing).rows

    def measure(self, missing: Missing) -> _Measured:
        """Compute, and take the time."""
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
    """Work for a process that does nothing else."""

    compute: _Compute

    def __call__(self, missing: Missing) -> Mapping[str, NDArray[np.float32] | CoviarMocropError]:
        with _same_bits():
            return self.compute(missing)


def _read(dataset: ClipDataset, number: int, parts: Sequence[_Part]) -> dict[str, ReadViews | CoviarMocropError]:
    """What streams want of a clip, in one pass; where that fails, one by one, and what fails then is an error.

    A stream that could do without what is missing sees the clip, as it would by itself.
    """
    try:
        return dict(dataset.read(number, parts))
    except CoviarMocropError as problem:
        if len(parts) == 1:
            return {parts[0].name: problem}
        return {name: views for part in parts for name, views in _read(dataset, number, [part]).items()}


class _Part(NamedTuple):
    """Some of the views of a stream, to be read without the others."""

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
    """Use one thread on CPUs; on GPUs, only kernels that give the same bits every time, in full single precision."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(threads)
