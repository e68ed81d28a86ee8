"""The clips of a list as several streams see them: one decode a clip, 8 bits a value, the same bytes on any worker."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from coviar_mocrop.bitstream import Video, open_video
from coviar_mocrop.clips.boxes import open_box_cache
from coviar_mocrop.clips.cache import State
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.reader import ReadViews, WantsViews, read_streams
from coviar_mocrop.datasets.lists import VideoList
from coviar_mocrop.errors import CoviarMocropError
from coviar_mocrop.files import DataRoot
from coviar_mocrop.mocrop import CropBox, MoCropSettings

FEATURES = "features"
Key = tuple[int, int, tuple[str, ...] | None]
"""(epoch, index, names of streams; None: all): what a data set is asked for."""


class Frames(NamedTuple):
    """Frames of a batch of clips as they were read, 8 bits a value.

    Attributes:
        pixels: uint8 [N, W, T, C, H, W]: clips, windows, segments.
        mirrored: bool [N, W], or [N, 2 W] where every window is wanted plain and mirrored.
    """

    pixels: Tensor
    mirrored: Tensor


Inputs = Mapping[str, Frames | Tensor]
"""What a stream is given of a batch: frames by view, or float32 [N, dim] under ``FEATURES``."""


class Features(NamedTuple):
    """Clips as vectors, made by frozen networks.

    Attributes:
        rows: float32 [clips, dim], in the list's order; NaN where there is an error.
        errors: why a clip has none, by its number in the list.
        computed: how many were not in the cache.
    """

    rows: Tensor
    errors: dict[int, CoviarMocropError]
    computed: int


class Sample(NamedTuple):
    """One clip, by stream: what was read, or its features; or the error that kept it from being read."""

    number: int
    label: int
    inputs: dict[str, ReadViews | Tensor]
    errors: dict[str, CoviarMocropError]
    seconds: float


class StreamBatch(NamedTuple):
    """What one stream gets of a batch: the clips that could be read for it.

    Attributes:
        inputs: see ``Inputs``.
        labels: int64 [N].
        numbers: int64 [N], places in the list.
    """

    inputs: dict[str, Frames | Tensor]
    labels: Tensor
    numbers: Tensor

    def to(self, device: torch.device) -> StreamBatch:
        """Bring it to a device, without waiting for the copy."""

        def moved(value: Frames | Tensor) -> Frames | Tensor:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=True)
            return Frames(*(part.to(device, non_blocking=True) for part in value))

        inputs = {name: moved(value) for name, value in self.inputs.items()}
        return StreamBatch(inputs, self.labels.to(device, non_blocking=True), self.numbers)


class Batch(NamedTuple):
    """Clips that were read together.

    Attributes:
        streams: by name.
        errors: of clips that could not be read for every stream, by number.
        seconds: reading time of all clips together, in their processes.
    """

    streams: dict[str, StreamBatch]
    errors: dict[int, CoviarMocropError]
    seconds: float

    @property
    def size(self) -> int:
        """Clips that were asked for and are now dealt with, readable or not."""
        numbers = {number for part in self.streams.values() for number in part.numbers.tolist()}
        return len(numbers | self.errors.keys())


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
            data: root, backend, virtual GOPs.
            mocrop: how boxes are estimated; None: the frame is not cropped.
            training: random segments, crops and flips; else the fixed ones of testing.
            seed: of all randomness.
        """
        self.videos, self.data, self.mocrop = videos, data, mocrop
        self.streams = {stream.name: stream for stream in streams}
        self.features: dict[str, Features] = {}
        self.training, self.seed = training, seed
        self.root = DataRoot(data.root, follow_links=data.follow_links)
        # What reading processes look at lies in arrays: merely looking at a Python object writes to its memory, so
        # that each process would come to hold a copy of the list.
        self._names = np.array([clip.path.encode() for clip in videos.clips], dtype=np.bytes_)
        self._labels = np.array([clip.label for clip in videos.clips], dtype=np.int64)
        # in shared memory, so that a box that one process finds is known to all; NaN: not known yet
        self._boxes = torch.full((len(videos), 4), torch.nan, dtype=torch.float64).share_memory_()
        self._states = torch.zeros((len(videos), 2), dtype=torch.int64).share_memory_()
        self._kept = np.zeros(len(videos), dtype=np.bool_)
        self.keep_boxes()

    def __len__(self) -> int:
        return len(self.videos)

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
        video, facts = self.open(index)
        known = self._boxes[index].tolist()
        box = self.mocrop if self.mocrop is None or np.isnan(known[0]) else CropBox(*known)
        with video:
            read, _ = read_streams(video, streams, box, [self.seed, epoch, index] if self.training else None)
        found = next(iter(read.values())).box
        if box is self.mocrop and found is not None and facts is not None:
            self._states[index] = torch.tensor([facts.st_size, facts.st_mtime_ns])
            self._boxes[index] = torch.tensor(found, dtype=torch.float64)
        return read

    def open(self, index: int) -> tuple[Video, os.stat_result | None]:
        """Open a clip's video; with the facts about its file, taken before.

        Raises:
            VideoError: it cannot be read.
            DataError: the list entry leaves the data root.
        """
        path, facts = self.root.find(bytes(self._names[index]).decode())
        data = self.data
        return open_video(path, data.backend, data.anchor_every, index_cache=data.index_folder), facts

    def keep_boxes(self) -> None:
        """Put the boxes found since into the cache, and take up those that other processes have put there.

        Raises:
            CoviarMocropError: the cache cannot be written.
        """
        if self.mocrop is None or self._kept.all():
            return
        cache = open_box_cache(self.root, self.data, self.mocrop)
        new = np.flatnonzero(~self._kept & ~np.isnan(self._boxes.numpy()[:, 0])).tolist()
        names = [clip.path for clip in self.videos.clips]
        cache.put({names[i]: (State(*self._states[i].tolist()), self._boxes[i].numpy()) for i in new})
        self._kept[new] = True
        for index in np.flatnonzero(~self._kept).tolist():
            row = cache.get(names[index])
            if row is not None:
                self._boxes[index] = torch.from_numpy(row.copy())
                self._kept[index] = True


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack, for every stream, the clips that could be read for it."""
    names = dict.fromkeys(name for sample in samples for name in (*sample.inputs, *sample.errors))
    errors = {sample.number: error for sample in samples for error in sample.errors.values()}
    return Batch(
        {name: _stack(name, [sample for sample in samples if name in sample.inputs]) for name in names},
        errors,
        sum(sample.seconds for sample in samples),
    )


def _stack(name: str, samples: Sequence[Sample]) -> StreamBatch:
    labels = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
    numbers = torch.tensor([sample.number for sample in samples], dtype=torch.int64)
    read = [sample.inputs[name] for sample in samples]
    rows = [item for item in read if isinstance(item, Tensor)]
    if rows:
        return StreamBatch({FEATURES: torch.stack(rows)}, labels, numbers)
    views = [item for item in read if isinstance(item, ReadViews)]
    inputs: dict[str, Frames | Tensor] = {
        view: Frames(
            torch.stack([torch.from_numpy(item.pixels[view]) for item in views]),
            torch.stack([torch.from_numpy(item.mirrored(view)) for item in views]),
        )
        for view in (views[0].pixels if views else ())
    }
    return StreamBatch(inputs, labels, numbers)
