"""The data set of the clips of a list. Each clip is decoded once for all streams; results do not depend on workers."""

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
"""Key of an item: epoch, index of the clip, and names of the streams to read (None: all)."""


class SkipLog:
    """Handles clips that cannot be used: raises their errors, or logs each clip once.

    Attributes:
        videos: the list.
        reasons: errors of the skipped clips, by path.
    """

    def __init__(self, videos: VideoList, on_error: Literal["raise", "skip"]) -> None:
        """Set up an empty log.

        Args:
            videos: the list.
            on_error: ``raise``: raise errors. ``skip``: log them.
        """
        self.videos, self._total = videos, len(videos)
        self._on_error = on_error
        self.reasons: dict[str, str] = {}

    def add(self, errors: Mapping[int, CoviarMocropError]) -> None:
        """Add errors, by index of the clip in the list.

        Raises:
            CoviarMocropError: the first error, if ``on_error`` is ``raise``, or a server cannot be reached.
        """
        for number, error in errors.items():
            self.add_named(self.videos.clips[number].path, error)

    def add_named(self, name: str, error: CoviarMocropError) -> None:
        """Add an error, by path of the clip; see :meth:`add`."""
        if isinstance(error, Unreachable):  # the clip itself may be intact
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
    """The clips of a list, as several streams see them.

    The key of an item is (epoch, index, streams). All randomness is derived from the seed, the epoch and the index, so
    results do not depend on the number of workers, on interruptions, or on which other streams are read.

    With ``mocrop`` settings, the box of a clip comes from the cache. If it is not there, it is estimated in the pass
    that reads the clip, and shared with all data-loading processes.

    Attributes:
        videos: the list.
        data: settings of the data set.
        mocrop: settings of MoCrop; None: frames are not cropped to a box.
        streams: the streams, by name.
        features: features by stream, for streams on top of frozen networks. Their clips are not read.
        training: whether frames and windows are drawn at random.
        seed: random seed.
        store: the videos.
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
        """Open the store of the videos and the cache of boxes. No video is opened.

        Args:
            videos: the list.
            streams: streams that the clips are read for.
            data: settings of the data set: data root or shards, cache, backend, virtual GOPs.
            mocrop: settings of MoCrop; None: frames are not cropped to a box.
            training: whether to draw random segments, crops and flips. False: those of testing.
            seed: random seed.

        Raises:
            DataError: there is no data root, or a shard cannot be used.
        """
        self.videos, self.data, self.mocrop = videos, data, mocrop
        self.streams = {stream.name: stream for stream in streams}
        self.features: dict[str, Features] = {}
        self.training, self.seed = training, seed
        self.store = open_store(data)
        # Data-loading processes use arrays: reading a Python object changes its reference count, so that each forked
        # process would end up with its own copy of the list.
        self._names = np.array([clip.path.encode() for clip in videos.clips], dtype=np.bytes_)
        self._labels = np.array([clip.label for clip in videos.clips], dtype=np.int64)
        # In shared memory, so that all processes know a box that one of them finds. NaN: not known yet. A box is valid
        # only for the state of the video that it was made from.
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
        """The state to pickle for data-loading processes that are not forked, without the list and the cache."""
        return {**self.__dict__, "videos": VideoList((), self.videos.classes), "_cache": None}

    def __len__(self) -> int:
        return len(self.videos)

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        """Read the clips of a batch. Clips on a server are fetched in parallel."""
        read = self.streams.keys() - self.features.keys()
        self.store.fetch([self._name(index) for _, index, names in keys if read.intersection(names or self.streams)])
        return [self[key] for key in keys]

    def __getitem__(self, key: Key) -> Sample:
        """Read a clip. Errors are returned in the sample, because DataLoader would wrap raised ones in a traceback."""
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
            # Read the streams one by one: those that do not need what is missing must still get the clip.
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
        """Read what ``streams`` need of a clip, in one pass over the video.

        Args:
            index: index of the clip.
            streams: the streams.
            epoch: epoch, from which random frames and windows are derived in training.

        Raises:
            CoviarMocropError: the clip cannot be read, or lacks motion vectors that are needed.
        """
        video, state = self.open(index)
        # the state first: read the other way round, an old box could go with a new state that is being written
        is_of_state = tuple(self._states[index].tolist()) == state
        known = self._boxes[index].tolist()
        is_known = is_of_state and not np.isnan(known[0])
        box = CropBox(*known) if self.mocrop is not None and is_known else self.mocrop
        with video:
            read, _ = read_streams(video, streams, box, [self.seed, epoch, index] if self.training else None)
            self._damaged[index] = max(video.damaged_frames, int(self._damaged[index]))
        found = next(iter(read.values())).box
        if box is self.mocrop and found is not None:
            # in this order: a process that reads in between sees the old state and ignores the box
            self._boxes[index] = torch.tensor(found, dtype=torch.float64)
            self._states[index] = torch.tensor(state)
        return read

    def open(self, index: int) -> tuple[Video, State]:
        """Open the video of a clip. Returns the video, and its state just before it was opened.

        Raises:
            VideoError: the video cannot be read.
            DataError: the list entry leaves the data root.
        """
        return self.store.open(self._name(index))

    def _name(self, index: int) -> str:
        return bytes(self._names[index]).decode()

    def warn_of_damage(self, group: Group = ALONE, what: str = "clips") -> None:
        """Log the number of clips with damaged frames. Collective: every process must call it.

        Only decoded clips are counted, not those whose features came from a cache. If a clip was read several times,
        its largest number of damaged frames counts.
        """
        counts = np.max(group.gather(self._damaged.numpy()), axis=0)
        names = [self.videos.clips[index].path for index in np.flatnonzero(counts).tolist()]
        if names and group.is_main:
            logger.warning(
                "%d of %d %s have damaged frames (%d frames): %s",
                *(len(names), len(counts), what, counts.sum(), some(names, _SHOWN)),
            )

    def keep_boxes(self) -> None:
        """Save new boxes to the cache, and load boxes that other processes have saved.

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
        """Load missing boxes from the cache."""
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
