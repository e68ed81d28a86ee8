"""Streams with frozen networks: their features are computed once a clip and kept on disk.

Every clip goes through the networks alone, in single precision and (on a CPU) on one thread, so that the bits of a
feature depend on the clip and nothing else: not on batches, workers, processes, nor on where an earlier run stopped.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.clips.cache import ClipCache, State, compute_rows
from coviar_mocrop.clips.dataset import FEATURES, Features, Frames, Inputs
from coviar_mocrop.clips.reader import read_streams
from coviar_mocrop.datasets.lists import VideoList
from coviar_mocrop.device import choose_runtime
from coviar_mocrop.distributed import ALONE, Group
from coviar_mocrop.files import DataRoot
from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.streams.base import Stream


class FrozenPart(NamedTuple):
    """A frozen network over one view of a clip.

    Attributes:
        network: to be brought to the device.
        dim: length of its features.
        made_by: everything that decides the features, as JSON values; names the cache.
    """

    network: nn.Module
    dim: int
    made_by: dict[str, Any]


class FeatureStream(Stream):
    """A stream whose own network looks at features of frozen ones."""

    @abstractmethod
    def parts(self) -> dict[str, FrozenPart]:
        """The frozen networks by view, in the order in which their features are joined."""

    @abstractmethod
    def encode_view(self, view: str, frames: Frames) -> Tensor:
        """Features [N, dim] of the frames of a view, by its frozen network."""

    def inputs(self, batch: Inputs) -> Tensor:
        """Features float32 [N, dim]: those of the cache, or computed from frames."""
        if FEATURES in batch:
            return cast(Tensor, batch[FEATURES])
        rows = []
        for view, part in self.parts().items():
            frames = cast(Frames, batch[view])
            part.network.to(frames.pixels.device)
            rows.append(self.encode_view(view, frames).float())
        return torch.cat(rows, dim=1)

    def features(self, videos: VideoList, boxes: Mapping[str, CropBox] | None, group: Group = ALONE) -> Features:
        """See :meth:`Stream.features`. Among several processes each computes its share, then all read all."""
        data, parts = self.config.data, self.parts()
        root = DataRoot(data.root, follow_links=data.follow_links)
        caches = [
            ClipCache(data.cache, root, "features", part.made_by, part.dim, np.float32) for part in parts.values()
        ]
        cache = _JoinedCache(caches)
        device = choose_runtime(self.config.train, group.local_rank).device
        self.network.to(device)
        for part in parts.values():
            part.network.to(device)
        turn = Lock() if device.type != "cpu" else nullcontext()  # a GPU takes one clip at a time

        def compute(name: str, path: str) -> NDArray[np.float32]:
            with open_video(path, data.backend, data.anchor_every, index_cache=data.index_folder) as video:
                read, _ = read_streams(video, [self], boxes[name] if boxes is not None else None)
            with turn, torch.inference_mode():
                row: NDArray[np.float32] = self.encode(read[self.name])[0].cpu().numpy()
            return row

        names = [clip.path for clip in videos.clips]
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
                for one in caches:
                    one.refresh()
            before = cache.added
            rows, errors = compute_rows(names, cast(ClipCache, cache), compute, **options)
        nothing = np.full(sum(part.dim for part in parts.values()), np.nan, np.float32)
        table = np.stack([rows.get(name, nothing) for name in names]) if names else np.empty((0, len(nothing)))
        by_number = {number: errors[name] for number, name in enumerate(names) if name in errors}
        return Features(torch.from_numpy(table), by_number, cache.added - before)


class _JoinedCache:
    """Several caches of the same clips as one, whose rows are theirs side by side."""

    def __init__(self, caches: list[ClipCache]) -> None:
        self.caches, self.root, self.added = caches, caches[0].root, 0
        self._ends = np.cumsum([cache.dim for cache in caches])[:-1]

    def state(self, name: str) -> State:
        return self.caches[0].state(name)

    def get(self, name: str) -> NDArray[np.float32] | None:
        rows = [row for row in (cache.get(name) for cache in self.caches) if row is not None]
        return np.concatenate(rows) if len(rows) == len(self.caches) else None

    def checked(self, name: str, row: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate(
            [cache.checked(name, part) for cache, part in zip(self.caches, np.split(row, self._ends), strict=True)]
        )

    def put(self, entries: Mapping[str, tuple[State, NDArray[np.float32]]]) -> None:
        parts = {name: (state, np.split(row, self._ends)) for name, (state, row) in entries.items()}
        for number, cache in enumerate(self.caches):
            cache.put({name: (state, rows[number]) for name, (state, rows) in parts.items()})
        self.added += len(entries)


@contextmanager
def _same_bits() -> Iterator[None]:
    """One thread on CPUs; on GPUs only kernels that give the same bits every time, in full single precision."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(threads)
