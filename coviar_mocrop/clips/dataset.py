"""The clips of a list as several streams see them: one decode a clip, 8 bits a value, the same bytes on any worker."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from coviar_mocrop.bitstream import Video
from coviar_mocrop.clips.batch import Features, Sample
from coviar_mocrop.clips.cache import boxes_made_by, open_box_cache
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.reader import ReadViews, WantsViews, read_streams
from coviar_mocrop.clips.store import State
from coviar_mocrop.clips.stores import open_store
from coviar_mocrop.datasets.lists import VideoList
from coviar_mocrop.datasets.splits import some
from coviar_mocrop.errors import CoviarMocropError
from coviar_mocrop.mocrop import CropBox, MoCropSettings
from coviar_mocrop.runtime import ALONE, Group
from coviar_mocrop.storage import Unreachable

_SHOWN = 5
logger = logging.getLogger(__name__)
Key = tuple[int, int, tuple[str, ...] | None]
"""(epoch, index, names of streams; None: all): what a data set is asked for."""


class SkipLog:
    """Clips that cannot be used: raised, or left out, each logged once and the number at the end."""

    def __init__(self, videos: VideoList, on_error: Literal["raise", "skip"]) -> None:
        """For clips of ``videos``."""
        self.videos, self._total = videos, len(videos)
        self._on_error = on_error
        self.reasons: dict[str, str] = {}

    def add(self, errors: Mapping[int, CoviarMocropError]) -> None:
        """Errors by the clip's number in the list.

        Raises:
            CoviarMocropError: the first of them, where ``on_error`` is ``raise``.
        """
        for number, error in errors.items():
            self.add_named(self.videos.clips[number].path, error)

    def add_named(self, name: str, error: CoviarMocropError) -> None:
        """One error by the clip's path; see :meth:`add`."""
        if isinstance(error, Unreachable):  # the clip may be sound
            raise error
        if self._on_error == "raise":
            raise type(error)(f"{error}; to leave out clips that cannot be used: --set data.on_error=skip") from error
        if name not in self.reasons:
            self.reasons[name] = str(error)
            logger.warning("skipped %s", error)

    def summarise(self, group: Group = ALONE, what: str = "clips") -> None:
        """Log the number of skipped clips across all processes. Collective: every process must call it."""
        names = set().union(*group.gather(set(self.reasons)))
        if names and group.is_main:
            were = "was" if len(names) == 1 else "were"
            logger.warning("%d of %d %s %s skipped", len(names), self._total, what, were)


class ClipDataset(Dataset[Sample]):
    """The clips of a list.

    Items are asked for by (epoch, index, streams): the first two and the seed decide all that is random, so neither the
    number of workers, nor an interruption, nor what other streams are read changes a bit.

    With ``mocrop`` settings a clip's box comes from the cache. Where it is not known yet, it is estimated in the pass
    that reads the clip, and is known to all reading processes from then on.

    Attributes:
        videos: the list.
        features: by stream, for those that look at features.
    """

    def __init__(
        self,
        videos: VideoList,
        streams: Sequence[WantsViews],
        data: DataConfig,
        *,
        mocrop: MoCropSettings | None = None,
        training: bool = False,
        seed: int = 0,
    ) -> None:
        """Describe the clips; no file is touched.

        Args:
            videos: what to read.
            streams: what they are read for.
            data: where the videos lie, backend, virtual GOPs.
            mocrop: how boxes are estimated; None: the frame is not cropped.
            training: random segments, crops and flips; else the fixed ones of testing.
            seed: of all randomness.
        """
        self.videos, self.data, self.mocrop = videos, data, mocrop
        self.streams = {stream.name: stream for stream in streams}
        self.features: dict[str, Features] = {}
        self.training, self.seed = training, seed
        self.store = open_store(data)
        # What reading processes look at lies in arrays: merely looking at a Python object writes to its memory, so
        # that each process would come to hold a copy of the list.
        self._names = np.array([clip.path.encode() for clip in videos.clips], dtype=np.bytes_)
        self._labels = np.array([clip.label for clip in videos.clips], dtype=np.int64)
        # In shared memory, so that a box that one process finds is known to all. NaN: not known yet. A box counts only
        # for the state of the video that it was made from.
        self._boxes = torch.full((len(videos), 4), torch.nan, dtype=torch.float64).share_memory_()
        self._states = torch.zeros((len(videos), 2), dtype=torch.int64).share_memory_()
        self._damaged = torch.zeros(len(videos), dtype=torch.int64).share_memory_()
        self._kept = np.zeros((len(videos), 2), dtype=np.int64)  # the states whose boxes are in the cache
        self._cache = None if mocrop is None else open_box_cache(data, mocrop, self.store)
        if mocrop is not None:
            packed = self.store.boxes(self._all_names(), boxes_made_by(mocrop, data.anchor_every))
            if packed is not None:
                self._boxes[:] = torch.from_numpy(packed[1])
                self._kept[:] = packed[0] * ~np.isnan(packed[1][:, :1])
                self._states[:] = torch.from_numpy(self._kept)
        self._find_boxes()

    def __getstate__(self) -> dict[str, Any]:
        """What a reading process is sent where processes are not forked: neither the list nor the cache."""
        return {**self.__dict__, "videos": VideoList((), self.videos.classes), "_cache": None}

    def __len__(self) -> int:
        return len(self.videos)

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        """Read the clips of a batch; what is far away is brought here meanwhile."""
        read = self.streams.keys() - self.features.keys()
        self.store.fetch([self._name(index) for _, index, names in keys if read.intersection(names or self.streams)])
        return [self[key] for key in keys]

    def __getitem__(self, key: Key) -> Sample:
        """Read a clip. Errors are handed on: raised in a worker process, they would arrive wrapped in a traceback."""
        epoch, index, names = key
        start = time.perf_counter()
        inputs: dict[str, ReadViews | Tensor] = {}
        errors: dict[str, CoviarMocropError] = {}
        wanted = [name for name in self.streams if names is None or name in names]
        for name in wanted:
            if (features := self.features.get(name)) is None:
                continue
            if index in features.errors:
                errors[name] = features.errors[index]
            else:
                inputs[name] = features.rows[index]
        seen = [stream for name, stream in self.streams.items() if name in wanted and name not in self.features]
        try:
            inputs |= self.read(index, seen, epoch) if seen else {}
        except CoviarMocropError as problem:
            # Streams that could do without what is missing must see the clip, as they would by themselves.
            for stream in seen:
                if len(seen) == 1:
                    errors[stream.name] = problem
                    break
                try:
                    inputs |= self.read(index, [stream], epoch)
                except CoviarMocropError as error:
                    errors[stream.name] = error
        return Sample(index, int(self._labels[index]), inputs, errors, time.perf_counter() - start)

    def read(self, index: int, streams: Sequence[WantsViews], epoch: int = 0) -> Mapping[str, ReadViews]:
        """What ``streams`` want of a clip, in one pass over its file.

        Raises:
            CoviarMocropError: it cannot be read, or has no motion vectors where they are needed.
        """
        video, state = self.open(index)
        known = self._boxes[index].tolist()
        is_known = not np.isnan(known[0]) and tuple(self._states[index].tolist()) == state
        box = CropBox(*known) if self.mocrop is not None and is_known else self.mocrop
        with video:
            read, _ = read_streams(video, streams, box, [self.seed, epoch, index] if self.training else None)
            self._damaged[index] = max(video.damaged_frames, int(self._damaged[index]))
        found = next(iter(read.values())).box
        if box is self.mocrop and found is not None:
            self._states[index] = torch.tensor(state)
            self._boxes[index] = torch.tensor(found, dtype=torch.float64)
        return read

    def open(self, index: int) -> tuple[Video, State]:
        """Open a clip's video; with its state, taken before.

        Raises:
            VideoError: it cannot be read.
            DataError: the list entry leaves the data root.
        """
        return self.store.open(self._name(index))

    def _name(self, index: int) -> str:
        return bytes(self._names[index]).decode()

    def warn_of_damage(self, group: Group = ALONE, what: str = "clips") -> None:
        """Log how many clips have damaged frames, of those decoded so far. Collective: every process must call it.

        Of a clip that was read several times, the reading with most damaged frames counts. What a cache spared the
        reading of is not known.
        """
        counts = np.max(group.gather(self._damaged.numpy()), axis=0)
        names = [self.videos.clips[index].path for index in np.flatnonzero(counts).tolist()]
        if names and group.is_main:
            logger.warning(
                "%d of %d %s have damaged frames (%d frames): %s",
                *(len(names), len(counts), what, counts.sum(), some(names, _SHOWN)),
            )

    def keep_boxes(self) -> None:
        """Put the boxes found since into the cache, and take up those that other processes have put there.

        Raises:
            CoviarMocropError: the cache cannot be written.
        """
        if self._cache is None:
            return
        states = self._states.numpy()
        new = np.flatnonzero((states != self._kept).any(axis=1)).tolist()
        self._cache.put({self._name(i): (State(*states[i].tolist()), self._boxes[i].numpy()) for i in new})
        self._kept[new] = states[new]
        if torch.isnan(self._boxes[:, 0]).any():
            self._cache.refresh()
            self._find_boxes()

    def _find_boxes(self) -> None:
        """Take up the boxes that are in the cache."""
        if self._cache is None:
            return
        unknown = np.flatnonzero(np.isnan(self._boxes[:, 0].numpy()))
        names = self._all_names()
        states, boxes = self._cache.kept([names[index] for index in unknown])
        found = states[:, 0] >= 0
        self._boxes.numpy()[unknown[found]] = boxes[found]
        self._states.numpy()[unknown[found]] = self._kept[unknown[found]] = states[found]

    def _all_names(self) -> list[str]:
        return [clip.path for clip in self.videos.clips]
