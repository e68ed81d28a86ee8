"""Load batches of clips: the order of the clips, and the processes that read them.

Which clips belong to a training step depends only on seed, epoch and step. It depends neither on the number of workers
and processes, nor on interruptions.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from coviar_mocrop.bitstream import accumulate
from coviar_mocrop.clips.batch import Batch, Sample, collate
from coviar_mocrop.clips.dataset import ClipDataset, Key, SkipLog
from coviar_mocrop.clips.features import WantsFeatures, compute_features
from coviar_mocrop.clips.reader import WantsViews
from coviar_mocrop.clips.resize import compile_kernels as compile_resize
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import VideoList
from coviar_mocrop.errors import ConfigError, DataError
from coviar_mocrop.interrupt import kill_at_exit, leave_ending_to_the_parent
from coviar_mocrop.runtime import ALONE, Group
from coviar_mocrop.shared_settings import require_shared

logger = logging.getLogger(__name__)


class ReadStream(WantsFeatures, Protocol):
    """The part of a stream (see :mod:`coviar_mocrop.streams`) that loading needs."""

    trainable: ClassVar[bool]

    def without_network(self) -> WantsViews:
        """A copy of the stream without its network, for data-loading processes."""
        ...


def open_clips(
    streams: Sequence[ReadStream],
    videos: VideoList,
    group: Group = ALONE,
    *,
    training: bool = False,
    ray: str | None = None,
) -> tuple[ClipDataset, SkipLog]:
    """Open the clips of a list for several streams, cropped to the MoCrop box if the setting uses one.

    The features of frozen networks are computed here, on the device of the networks, unless they are cached.

    Args:
        streams: streams that are read together. Their settings of reading clips must be equal.
        videos: the list.
        group: the processes of the run.
        training: whether to draw random segments, crops and flips.
        ray: address of a Ray cluster that computes features; see :func:`~coviar_mocrop.parallel.run_map`.

    Returns:
        The data set, and the log of clips that cannot be used.

    Raises:
        ConfigError: the streams' settings differ.
        CoviarMocropError: the videos are not where the settings say, or features cannot be computed.
    """
    require_shared({stream.name: stream.config for stream in streams})
    config = streams[0].config
    skipped = SkipLog(videos, config.data.on_error)
    dataset = ClipDataset(
        videos,
        [stream.without_network() for stream in streams],
        config.data,
        mocrop=config.mocrop if config.crops else None,
        training=training,
        seed=config.seed,
    )
    looking = [stream for stream in streams if stream.feature_dims]
    dataset.features = compute_features(looking, dataset, group, ray=ray)
    for features in dataset.features.values():
        skipped.add(features.errors)
    return dataset, skipped


class TrainingSampler(Sampler[list[Key]]):
    """Draws the clips of one process for each training step, in one or more micro-batches.

    The clips of an epoch are shuffled by seed and epoch, and divided into as few steps of at most ``batch_size`` clips
    as possible, whose sizes differ by one at most. The clips of a step are distributed in turn over micro-batches and
    processes. So they do not depend on the number of processes.

    Attributes:
        epoch: epoch, from 0. Set it before each pass.
        first_step: number of steps to skip, because they were done before an interruption.
        streams: names of the streams to read; None: all.
    """

    def __init__(
        self, size: int, batch_size: int, *, seed: int = 0, parts: int = 1, rank: int = 0, world: int = 1
    ) -> None:
        """Set up the sampler.

        Args:
            size: number of clips in the list.
            batch_size: largest number of clips per step, summed over all processes and micro-batches.
            seed: random seed of the order.
            parts: number of micro-batches per step.
            rank: number of this process, from 0.
            world: number of processes.
        """
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.parts, self.rank, self.world = parts, rank, world
        self.epoch = 0
        self.first_step = 0
        self.streams: tuple[str, ...] | None = None

    @property
    def steps(self) -> int:
        """Number of steps in a complete epoch."""
        return -(-self.size // self.batch_size)

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.parts

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield ``parts`` micro-batches for each step. Some are empty if a step has fewer clips."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        epoch, hands = self.epoch, self.parts * self.world
        for clips in np.array_split(order, self.steps)[self.first_step :]:
            for part in range(self.parts):
                yield [(epoch, int(index), self.streams) for index in clips[part * self.world + self.rank :: hands]]


class TestingSampler(Sampler[list[Key]]):
    """Divides a list into batches in order, and gives every ``world``-th batch to this process.

    The batches do not depend on the number of processes, because the other clips in a batch may change the last bit of
    a clip's scores.

    Attributes:
        streams: names of the streams to read; None: all.
    """

    __test__ = False  # tells pytest that this is not a test case

    def __init__(self, size: int, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        """Set up the sampler.

        Args:
            size: number of clips in the list.
            batch_size: number of clips per batch.
            rank: number of this process, from 0.
            world: number of processes.
        """
        self.size, self.batch_size, self.rank, self.world = size, batch_size, rank, world
        self.streams: tuple[str, ...] | None = None

    def _starts(self) -> range:
        return range(self.rank * self.batch_size, self.size, self.world * self.batch_size)

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[list[Key]]:
        for start in self._starts():
            yield [(0, index, self.streams) for index in range(start, min(start + self.batch_size, self.size))]


class ClipLoader:
    """Loads the clips of a list in batches. Each iteration is one pass, read by ``data.workers`` processes.

    Attributes:
        clips: the data set.
        skipped: log of clips that cannot be used.
        sampler: decides which clips are read, and in which order.
    """

    def __init__(
        self,
        clips: ClipDataset,
        skipped: SkipLog,
        sampler: TrainingSampler | TestingSampler,
        config: Config,
        device: torch.device,
    ) -> None:
        """Set up the loader. Nothing is read yet; data-loading processes start with the first pass.

        Args:
            clips: the data set.
            skipped: log of clips that cannot be used.
            sampler: decides which clips are read, and in which order.
            config: number of workers and how they start.
            device: device of the batches.
        """
        self.clips, self.skipped, self.sampler, self._device = clips, skipped, sampler, device
        only_features = clips.features.keys() == clips.streams.keys()
        workers = 0 if only_features else config.data.workers
        if not only_features:  # before data-loading processes are forked, so that they need not compile
            accumulate.compile_kernels()
            compile_resize()
        # PyTorch advises at most one process per CPU core, but reading speed also depends on the disk
        warnings.filterwarnings("ignore", "This DataLoader will create")
        self._batches: DataLoader[Sample] = DataLoader(
            clips,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # its own, so that loading does not change the random numbers of dropout
            persistent_workers=workers > 0,
            multiprocessing_context=config.data.start_method if workers else None,
            pin_memory=device.type == "cuda",
        )

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of a pass, on the device.

        Raises:
            DataError: a data-loading process was killed.
            CoviarMocropError: a clip cannot be used and ``data.on_error`` is ``raise``.
        """
        return brought_to(self._device, self._read())

    def summarise(self, group: Group = ALONE, what: str = "clips") -> None:
        """Log the number of skipped clips and of clips with damaged frames. Collective: every process must call it."""
        self.skipped.summarise(group, what)
        self.clips.warn_of_damage(group, what)

    def _read(self) -> Iterator[Batch]:
        batches: Iterator[Batch] | None = None
        while True:
            try:
                if batches is None:
                    others = multiprocessing.active_children()
                    batches = iter(self._batches)
                    kill_at_exit(set(multiprocessing.active_children()).difference(others))
                    _look_for_the_dead_in_next(self._batches)
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, ConnectionError, EOFError) as error:  # the last two: it died while sending
                if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                    raise
                raise DataError(
                    "a data-loading process was killed, most often because memory ran out; lower data.workers "
                    f"(now {self._batches.num_workers}) or train.batch_size"
                ) from error
            self.skipped.add(batch.errors)
            yield batch


def create_training_loader(
    streams: Sequence[ReadStream], videos: VideoList, group: Group = ALONE
) -> tuple[ClipLoader, TrainingSampler]:
    """Create the loader of shuffled training batches for this process.

    Args:
        streams: streams that are trained together.
        videos: the training list.
        group: the processes of the run.

    Returns:
        The loader and its sampler. Set the sampler's ``epoch`` before each pass.

    Raises:
        ConfigError: a step has fewer clips than there are micro-batches over all processes.
        CoviarMocropError: see :func:`open_clips`.
    """
    dataset, skipped = open_clips(streams, videos, group, training=True)
    train, parts = streams[0].config.train, group.world * streams[0].config.train.accumulate
    sampler = TrainingSampler(
        *(len(dataset), train.batch_size),
        seed=dataset.seed,
        parts=train.accumulate,
        rank=group.rank,
        world=group.world,
    )
    if (smallest := len(dataset) // sampler.steps) < parts:
        raise ConfigError(
            f"with train.batch_size {train.batch_size}, {len(dataset)} clips make steps of {smallest}, fewer than the "
            f"{parts} micro-batches of all processes; start fewer processes, lower train.accumulate, or raise "
            "train.batch_size"
        )
    return ClipLoader(dataset, skipped, sampler, streams[0].config, streams[0].device), sampler


def create_testing_loader(streams: Sequence[ReadStream], videos: VideoList, group: Group = ALONE) -> ClipLoader:
    """Create the loader of a list in order, for this process. The smallest ``test_batch_size`` of the streams is used.

    Args:
        streams: streams that are tested together.
        videos: the list.
        group: the processes of the run.

    Raises:
        CoviarMocropError: see :func:`open_clips`.
    """
    dataset, skipped = open_clips(streams, videos, group)
    size = min(stream.config.train.test_batch_size for stream in streams)
    sampler = TestingSampler(len(dataset), size, rank=group.rank, world=group.world)
    return ClipLoader(dataset, skipped, sampler, streams[0].config, streams[0].device)


def brought_to(device: torch.device, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Move batches to a device. On a GPU, each batch is copied while the previous one is being computed."""
    return copied_ahead(batches, device) if device.type == "cuda" else batches


def copied_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Copy batches to a GPU, each while the previous one is being computed."""
    side = torch.cuda.Stream(device)
    ready: Batch | None = None
    while True:
        batch = next(batches, None)
        with torch.cuda.stream(side):
            following = None if batch is None else batch.to(device)
        if ready is not None:
            yield ready
        if following is None:
            return
        torch.cuda.current_stream(device).wait_stream(side)
        following.record(torch.cuda.current_stream(device))
        ready = following


def _look_for_the_dead_in_next(loader: DataLoader[Sample]) -> None:
    """Make a dead data-loading process raise in ``next()`` only.

    PyTorch raises from a signal handler, at any point of the program, even while weights are updated. Without the
    handler, the loader notices within seconds in ``next()``.
    """
    is_main_thread = threading.current_thread() is threading.main_thread()
    if loader.num_workers and is_main_thread and hasattr(signal, "SIGCHLD"):  # Windows has none
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _start_worker(number: int) -> None:
    """Never collect the parent's objects: freeing a video frame may wait for threads that a fork does not copy."""
    gc.freeze()
    leave_ending_to_the_parent()
