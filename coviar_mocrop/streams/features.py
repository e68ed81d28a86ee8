"""Streams on top of frozen networks, whose features are computed once per clip and kept on disk.

Every clip goes through the networks alone, in single precision and (on a CPU) on one thread. So the bits of a feature
depend on the clip and nothing else: not on batches, workers or processes, nor on where an earlier run stopped.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coviar_mocrop.bitstream import Gop
from coviar_mocrop.clips.cache import ClipCache, State, compute_rows
from coviar_mocrop.clips.dataset import FEATURES, ClipDataset, Features, Frames, Inputs
from coviar_mocrop.clips.reader import View
from coviar_mocrop.networks.clip import FrozenEncoder
from coviar_mocrop.runtime import ALONE, Group, choose_runtime
from coviar_mocrop.streams.base import Stream


class FeatureStream(Stream):
    """A stream whose own network takes features of frozen networks."""

    @abstractmethod
    def encoders(self) -> dict[str, FrozenEncoder]:
        """The frozen networks by view, in the order in which their features are joined."""

    @abstractmethod
    def made_by(self, view: str) -> dict[str, Any]:
        """Everything that decides the features of a view, as JSON values; see :class:`ClipCache`."""

    @abstractmethod
    def encode_view(self, view: str, frames: Frames) -> Tensor:
        """Features [N, dim] of the frames of a view."""

    def inputs(self, batch: Inputs) -> Tensor:
        """Features float32 [N, dim]: those of the cache, or computed from the frames of the views in ``batch``."""
        if FEATURES in batch:
            return cast(Tensor, batch[FEATURES])
        rows = []
        for view, encoder in self.encoders().items():
            if view in batch:
                frames = cast(Frames, batch[view])
                encoder.to(frames.pixels.device)
                with torch.autocast(frames.pixels.device.type, enabled=False):
                    rows.append(self.encode_view(view, frames))
        return torch.cat(rows, dim=1)

    def features(self, dataset: ClipDataset, group: Group = ALONE) -> Features:
        """See :meth:`Stream.features`. Of several processes, each computes its share, then all of them read all."""
        data, encoders = self.config.data, self.encoders()
        cache = _JoinedCache(
            {
                view: ClipCache(data.cache, dataset.root, "features", self.made_by(view), encoder.dim, np.float32)
                for view, encoder in encoders.items()
            }
        )
        device = choose_runtime(self.config.train, group.local_rank).device
        self.network.to(device)
        turn = Lock() if device.type != "cpu" else nullcontext()  # a GPU takes one clip at a time
        names = [clip.path for clip in dataset.videos.clips]
        numbers = {name: number for number, name in enumerate(names)}

        def compute(name: str, path: str) -> NDArray[np.float32]:
            rows = cache.rows(name)
            missing = [view for view, row in rows.items() if row is None]
            read = dataset.read(numbers[name], [_Part(self, missing)])
            with turn, torch.inference_mode():
                row = self.encode(read[self.name])[0].cpu().numpy()
            rows.update(zip(missing, cache.split(row, missing), strict=True))
            return np.concatenate([row for row in rows.values() if row is not None])

        options: dict[str, Any] = {
            "workers": data.workers,
            "title": f"{self.title} features",
            "progress": group.is_main,
            "initializer": lambda: torch.set_num_threads(1),
        }
        with _same_bits():
            if group.world > 1:
                compute_rows(names, cast(ClipCache, cache), compute, shard=(group.rank, group.world), **options)
                group.gather(None)  # until all are done
                cache.refresh()
            rows, errors = compute_rows(names, cast(ClipCache, cache), compute, **options)
        dataset.keep_boxes()
        nothing = np.full(cache.dim, np.nan, np.float32)
        table = np.stack([rows.get(name, nothing) for name in names])
        by_number = {number: errors[name] for number, name in enumerate(names) if name in errors}
        return Features(torch.from_numpy(table), by_number, cache.added)


class _Part(NamedTuple):
    """Some of the views of a stream, to be read without the others."""

    stream: FeatureStream
    wanted: Sequence[str]

    @property
    def name(self) -> str:
        return self.stream.name

    def views(
        self, num_frames: int, gops: Sequence[Gop], generator: np.random.Generator | None = None
    ) -> dict[str, View]:
        views = self.stream.views(num_frames, gops, generator)
        return {name: view for name, view in views.items() if name in self.wanted}


class _JoinedCache:
    """The caches of several views as one, whose rows are theirs side by side."""

    def __init__(self, caches: dict[str, ClipCache]) -> None:
        self.caches, self.root, self.added = caches, next(iter(caches.values())).root, 0
        self.dim = sum(cache.dim for cache in caches.values())

    def state(self, name: str) -> State:
        return next(iter(self.caches.values())).state(name)

    def rows(self, name: str) -> dict[str, NDArray[np.float32] | None]:
        return {view: cache.get(name) for view, cache in self.caches.items()}

    def get(self, name: str) -> NDArray[np.float32] | None:
        rows = [row for row in self.rows(name).values() if row is not None]
        return np.concatenate(rows) if len(rows) == len(self.caches) else None

    def split(self, row: NDArray[np.float32], views: Iterable[str]) -> list[NDArray[np.float32]]:
        return np.split(row, np.cumsum([self.caches[view].dim for view in views])[:-1])

    def checked(self, name: str, row: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = zip(self.caches.values(), self.split(row, self.caches), strict=True)
        return np.concatenate([cache.checked(name, part) for cache, part in parts])

    def put(self, entries: Mapping[str, tuple[State, NDArray[np.float32]]]) -> None:
        for number, cache in enumerate(self.caches.values()):
            parts = {name: (state, self.split(row, self.caches)[number]) for name, (state, row) in entries.items()}
            cache.put({name: part for name, part in parts.items() if cache.get(name) is None})
        self.added += len(entries)

    def refresh(self) -> None:
        for cache in self.caches.values():
            cache.refresh()


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
