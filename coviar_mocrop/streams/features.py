"""Streams on top of frozen networks, whose features are computed once per clip and kept on disk.

Every clip goes through the networks alone, in single precision and (on a CPU) on one thread. So the bits of a feature
depend on the clip and nothing else: not on batches, workers or processes, nor on where an earlier run stopped.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coviar_mocrop.bitstream import Gop
from coviar_mocrop.clips.batch import FEATURES, Features, Frames, Inputs
from coviar_mocrop.clips.cache import ClipCache, compute_rows
from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.clips.reader import View
from coviar_mocrop.networks.clip import FrozenEncoder
from coviar_mocrop.runtime import ALONE, Group
from coviar_mocrop.streams.base import Stream

_PORTION = 500
"""Clips that each of several processes makes into features before they wait for one another."""
_TIMED = 4
"""Clips whose features are computed anew, whatever the cache holds, to tell what a clip takes."""


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

    def for_validation(self) -> Stream:
        """See :meth:`Stream.for_validation`. Features are computed once, so they are those of testing."""
        return self

    def features(self, dataset: ClipDataset, group: Group = ALONE) -> Features:
        """See :meth:`Stream.features`. Of several processes, each computes its share, then all of them read all."""
        data, encoders = self.config.data, self.encoders()
        caches = {
            view: ClipCache(data.cache, dataset.root, "features", self.made_by(view), encoder.dim, np.float32)
            for view, encoder in encoders.items()
        }
        turn = Lock() if self.device.type != "cpu" else nullcontext()  # a GPU takes one clip at a time
        names = [clip.path for clip in dataset.videos.clips]
        numbers = {name: number for number, name in enumerate(names)}
        seconds: list[tuple[float, float]] = []  # of reading and of the networks

        def compute(name: str, path: str, missing: Sequence[str]) -> dict[str, NDArray[np.float32]]:
            start = time.perf_counter()
            read = dataset.read(numbers[name], [_Part(self, missing)])[self.name]
            mark = time.perf_counter()
            with turn, torch.inference_mode():
                row = self.encode(read)[0].cpu().numpy()
            seconds.append((mark - start, time.perf_counter() - mark))
            return dict(zip(missing, np.split(row, np.cumsum([caches[v].dim for v in missing])[:-1]), strict=True))

        options: dict[str, Any] = {
            "workers": data.workers,
            "title": f"{self.title} features",
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
            timed = [] if dataset.training else list(rows)[:_TIMED]
            for name in (*timed[:1], *timed):  # the very first also waits for what is compiled and loaded
                compute(name, "", list(caches))
        spent = np.mean(seconds[-len(timed) :] if timed else [(0.0, 0.0)], axis=0)
        nothing = np.full(sum(cache.dim for cache in caches.values()), np.nan, np.float32)
        joined = [np.concatenate([rows[name][view] for view in caches]) if name in rows else nothing for name in names]
        by_number = {number: errors[name] for number, name in enumerate(names) if name in errors}
        added = max(cache.added for cache in caches.values())
        return Features(torch.from_numpy(np.stack(joined)), by_number, added, *spent)


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
