"""Clips as features of frozen networks: computed once a clip, from one decode for all streams, and kept on disk.

Every clip goes through the networks alone and (on a CPU) on one thread. So the bits of a feature depend on the clip and
nothing else: not on batches, workers or processes, nor on where an earlier run stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coviar_mocrop.bitstream import Gop
from coviar_mocrop.clips.batch import Features, Frames
from coviar_mocrop.clips.cache import ClipCache, compute_rows
from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.clips.reader import ReadViews, View, WantsViews
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


def compute_features(streams: Sequence[WantsFeatures], dataset: ClipDataset, group: Group) -> dict[str, Features]:
    """Features of all clips of a list, by stream. Of several processes, each computes its share, then all read all.

    Args:
        streams: those that look at features; each clip is decoded once for all that the cache lacks.
        dataset: the clips.
        group: the processes of the run.

    Raises:
        CoviarMocropError: the networks or the cache cannot be used.
    """
    if not streams:
        return {}
    data = dataset.data
    by_key = {f"{stream.name}/{view}": (stream, view) for stream in streams for view in stream.feature_dims}
    caches = {
        key: ClipCache(data.cache, dataset.store, "features", s.made_by(view), s.feature_dims[view], np.float32)
        for key, (s, view) in by_key.items()
    }
    device = streams[0].device
    turn = Lock() if device.type != "cpu" else nullcontext()  # a GPU takes one clip at a time
    names = [clip.path for clip in dataset.videos.clips]
    numbers = {name: number for number, name in enumerate(names)}
    failed: dict[str, dict[int, CoviarMocropError]] = {stream.name: {} for stream in streams}
    reading: list[float] = []
    spent: dict[str, list[float]] = {stream.name: [] for stream in streams}

    def compute(name: str, missing: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        start = time.perf_counter()
        wanted = {s.name: [view for view in s.feature_dims if f"{s.name}/{view}" in missing] for s in streams}
        read = _read(dataset, numbers[name], [_Part(s, wanted[s.name]) for s in streams if wanted[s.name]], failed)
        reading.append(time.perf_counter() - start)
        rows = {}
        for stream in (stream for stream in streams if stream.name in read):
            mark = time.perf_counter()
            for view in wanted[stream.name]:
                frames = Frames(
                    torch.from_numpy(read[stream.name].pixels[view])[None].to(device),
                    torch.from_numpy(read[stream.name].mirrored(view))[None].to(device),
                )
                with turn, torch.inference_mode():
                    rows[f"{stream.name}/{view}"] = stream.view_features(view, frames)[0].float().cpu().numpy()
            spent[stream.name].append(time.perf_counter() - mark)
        return rows

    options: dict[str, Any] = {
        "workers": data.workers,
        "title": f"features of {' '.join(spent)}",
        "progress": group.is_main,
        "initializer": lambda: torch.set_num_threads(1),
    }
    with _same_bits():
        portion = _PORTION * group.world
        for start in range(0, len(names) if group.world > 1 else 0, portion):
            part = names[start : start + portion]
            compute_rows(part, caches, compute, shard=(group.rank, group.world), **options)
            group.gather(None)  # in small portions, so that none waits for long
        for cache in caches.values():
            cache.refresh()
        rows, errors = compute_rows(names, caches, compute, **options)
        timed = [] if dataset.training else [name for name, found in rows.items() if found][:_TIMED]
        for name in (*timed[:1], *timed):  # the very first also waits for what is compiled and loaded
            compute(name, list(caches))
    count = len(timed)
    found = {}
    for stream in streams:
        keys = [f"{stream.name}/{view}" for view in stream.feature_dims]
        problems = failed[stream.name] | {numbers[name]: error for name, error in errors.items()}
        joined = np.full((len(names), sum(stream.feature_dims.values())), np.nan, np.float32)
        for name, number in numbers.items():
            if number not in problems:
                joined[number] = np.concatenate([rows[name][key] for key in keys])
        found[stream.name] = Features(
            torch.from_numpy(joined),
            dict(sorted(problems.items())),
            max(caches[key].added for key in keys),
            float(np.mean(reading[-count:])) / len(streams) if count else 0.0,
            float(np.mean(spent[stream.name][-count:])) if count and spent[stream.name] else 0.0,
        )
    return found


def _read(
    dataset: ClipDataset, number: int, parts: Sequence[_Part], failed: Mapping[str, dict[int, CoviarMocropError]]
) -> dict[str, ReadViews]:
    """What streams want of a clip, in one pass; where that fails, one by one, and what fails then is kept.

    A stream that could do without what is missing sees the clip, as it would by itself.
    """
    try:
        return dict(dataset.read(number, parts))
    except CoviarMocropError as problem:
        if len(parts) == 1:
            failed[parts[0].name][number] = problem
            return {}
        return {name: views for part in parts for name, views in _read(dataset, number, [part], failed).items()}


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
