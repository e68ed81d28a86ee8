"""Clips of one representation, sampled, cropped and scaled; the same bytes whatever the number of workers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from coviar_mocrop.bitstream import Kind, open_video
from coviar_mocrop.clips.config import DataConfig, InputConfig
from coviar_mocrop.clips.samplers import Key
from coviar_mocrop.clips.sampling import places, sampled_frames
from coviar_mocrop.clips.windows import cut_views, testing_windows, training_window
from coviar_mocrop.datasets.lists import VideoList
from coviar_mocrop.errors import CoviarMocropError, DataError
from coviar_mocrop.files import DataRoot
from coviar_mocrop.mocrop import CropBox

_NO_BOX = (np.nan,) * 4


class Sample(NamedTuple):
    """One clip: ``frames`` float32 [T, C, size, size], in order of time, or None and the ``error``.

    With ten test crops [10, T, C, size, size].
    """

    frames: Tensor | None
    label: int
    number: int
    error: CoviarMocropError | None = None
    seconds: float = 0.0
    """Time it took to read, crop and scale."""


class Batch(NamedTuple):
    """Clips that could be read: ``frames`` [N, (10,) T, C, size, size]; ``errors`` by number of the others."""

    frames: Tensor
    labels: Tensor
    numbers: Tensor
    errors: dict[int, CoviarMocropError]
    seconds: float
    """Reading time of all clips together."""


class ClipDataset(Dataset[Sample]):
    """The clips of a list in one representation.

    Items are asked for by (epoch, index): the pair and the seed decide all that is random, so neither the
    number of workers nor an interruption changes a bit.
    """

    def __init__(
        self,
        videos: VideoList,
        kind: Kind,
        size: int,
        data: DataConfig,
        inputs: InputConfig,
        *,
        boxes: Mapping[str, CropBox] | None = None,
        training: bool = False,
        seed: int = 0,
    ) -> None:
        """Describe the clips; no file is touched.

        Args:
            videos: what to read.
            kind: ``iframe``, ``mv``, ``residual`` or ``frame`` (decoded frames).
            size: side of the square inputs, pixels.
            data: root, backend, virtual GOPs.
            inputs: segments, crops, augmentation.
            boxes: by path; None: no MoCrop.
            training: random segments, crops and flips; else the fixed ones of testing.
            seed: of all randomness.
        """
        self.videos, self.kind, self.size = videos, kind, size
        self.data, self.inputs = data, inputs
        self._root = DataRoot(data.root, follow_links=data.follow_links)
        self.boxes = boxes
        self.training = training
        self.seed = seed
        # What reading processes look at lies in arrays: merely looking at a Python object writes to its memory, so
        # that each process would come to hold a copy of the list.
        clips = videos.clips
        self._names = np.array([clip.path.encode() for clip in clips], dtype=np.bytes_)
        self._labels = np.array([clip.label for clip in clips], dtype=np.int64)
        corners = [(boxes or {}).get(clip.path) or _NO_BOX for clip in clips]
        self._corners = np.array(corners, dtype=np.float64).reshape(-1, 4)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: Key) -> Sample:
        """Read a clip. An error is handed on: raised in a worker process, it would arrive wrapped in a traceback."""
        epoch, index = key
        start = time.perf_counter()
        label = int(self._labels[index])
        try:
            frames = self._frames(index, np.random.default_rng([self.seed, epoch, index]))
        except CoviarMocropError as error:
            return Sample(None, label, index, error)
        return Sample(frames, label, index, seconds=time.perf_counter() - start)

    def _frames(self, index: int, generator: np.random.Generator) -> Tensor:
        name = bytes(self._names[index]).decode()
        corners = self._corners[index].tolist()
        box = None if np.isnan(corners[0]) else CropBox(*corners)
        if self.boxes is not None and box is None:
            raise DataError(f"{name}: has no crop box; its motion vectors could not be read")
        path, _ = self._root.find(name)
        data = self.data
        with open_video(path, data.backend, data.anchor_every, index_cache=data.index_folder) as video:
            total = video.info.num_frames
            drawn = sampled_frames(total, self.inputs, self.kind, generator if self.training else None)
            wanted = places(video.gops, drawn, self.kind)
            unique = sorted(set(wanted))  # short clips ask for the same frame more than once
            raw = video.read(self.kind, unique)
        frame_size = (raw.shape[1], raw.shape[2])
        if self.training:
            windows = [training_window(frame_size, box, self.inputs.scales, self.inputs.flip, generator)]
        else:
            windows = testing_windows(frame_size, box, self.inputs.test_crops)
        row = {place: number for number, place in enumerate(unique)}
        return cut_views(self.kind, raw, [row[place] for place in wanted], windows, self.size)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack the clips that could be read."""
    good = [sample for sample in samples if sample.frames is not None]
    frames = [sample.frames for sample in good if sample.frames is not None]
    return Batch(
        torch.stack(frames) if frames else torch.empty(0),
        torch.tensor([sample.label for sample in good], dtype=torch.int64),
        torch.tensor([sample.number for sample in good], dtype=torch.int64),
        {sample.number: sample.error for sample in samples if sample.error is not None},
        sum(sample.seconds for sample in samples),
    )
