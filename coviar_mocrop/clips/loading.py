"""From settings to batches: lists, the order of their clips, and the processes that read them.

Seed, epoch and step alone decide what belongs to a step, not the number of workers or processes, nor an interruption.
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
    """What is read here: a stream of :mod:`coviar_mocrop.streams`."""

    trainable: ClassVar[bool]

    def without_network(self) -> WantsViews:
        """The same stream for reading processes."""
        ...


def open_clips(
    streams: Sequence[ReadStream],
    videos: VideoList,
    group: Group = ALONE,
    *,
    training: bool = False,
    ray: str | None = None,
) -> tuple[ClipDataset, SkipLog]:
    """The clips of a list as ``streams`` see them, cropped where the setting crops.

    Args:
        streams: read together; they agree in ``SHARED`` settings. Features are computed where their networks are.
        videos: the list.
        group: the processes of the run.
        training: random segments, crops and flips.
        ray: cluster that computes features; see :func:`~coviar_mocrop.parallel.run_map`.

    Raises:
        ConfigError: the streams differ.
        CoviarMocropError: features cannot be computed.
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
    """The share of one process in every step's batch, cut into ``parts`` where gradients are accumulated.

    The clips of an epoch are shuffled by seed and epoch; step k takes clips k * batch_size onwards, and these are
    dealt out to processes and parts like cards. So the clips of a step are the same however many share them.

    Attributes:
        epoch: set before each pass.
        first_step: steps of the epoch to leave out, because they were done before an interruption.
        streams: names of those to read for; None: all.
    """

    def __init__(
        self, size: int, batch_size: int, *, seed: int = 0, parts: int = 1, rank: int = 0, world: int = 1
    ) -> None:
        """``size`` clips, ``batch_size`` of them a step over all processes and parts together."""
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.parts, self.rank, self.world = parts, rank, world
        self.epoch = 0
        self.first_step = 0
        self.streams: tuple[str, ...] | None = None

    @property
    def steps(self) -> int:
        """Steps in a whole epoch."""
        return -(-self.size // self.batch_size)

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.parts

    def __iter__(self) -> Iterator[list[Key]]:
        """``parts`` lists for every step, in turn; at the end of an epoch some may be empty."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        epoch, hands = self.epoch, self.parts * self.world
        for step in range(self.first_step, self.steps):
            clips = order[step * self.batch_size : (step + 1) * self.batch_size]
            for part in range(self.parts):
                yield [(epoch, int(index), self.streams) for index in clips[part * self.world + self.rank :: hands]]


class TestingSampler(Sampler[list[Key]]):
    """All clips in the list's order; of its batches every ``world``-th is this process's.

    Whole batches are dealt out, because what a clip is computed together with may change the last bit of its scores.

    Attributes:
        streams: names of those to read for; None: all.
    """

    __test__ = False  # no test case, whatever its name makes pytest think

    def __init__(self, size: int, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        """``size`` clips in batches of ``batch_size``."""
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
    """The clips of a list in batches; each iteration is one pass, read by ``data.workers`` processes.

    Attributes:
        clips: the data set.
        skipped: clips that could not be used.
        sampler: which clips are read, in which order.
    """

    def __init__(
        self,
        clips: ClipDataset,
        skipped: SkipLog,
        sampler: TrainingSampler | TestingSampler,
        config: Config,
        device: torch.device,
    ) -> None:
        """Nothing is read yet; reading processes start with the first pass. Batches are brought to ``device``."""
        self.clips, self.skipped, self.sampler, self._device = clips, skipped, sampler, device
        only_features = clips.features.keys() == clips.streams.keys()
        workers = 0 if only_features else config.data.workers
        if not only_features:  # before reading processes are forked, so that each finds them ready
            accumulate.compile_kernels()
            compile_resize()
        # PyTorch advises as many processes as there are processors; what reading takes depends on the disk too
        warnings.filterwarnings("ignore", "This DataLoader will create")
        self._batches: DataLoader[Sample] = DataLoader(
            clips,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # its own: the loader must draw nothing from what dropout draws from
            persistent_workers=workers > 0,
            multiprocessing_context=config.data.start_method if workers else None,
            pin_memory=device.type == "cuda",
        )

    def __iter__(self) -> Iterator[Batch]:
        """The batches of a pass, on the device.

        Raises:
            DataError: a reading process was killed.
            CoviarMocropError: a clip cannot be used, where ``data.on_error`` is ``raise``.
        """
        return brought_to(self._device, self._read())

    def summarise(self, group: Group = ALONE, what: str = "clips") -> None:
        """Log how many clips were skipped, and how many have damaged frames. Collective: every process must call it."""
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
            except (RuntimeError, ConnectionError, EOFError) as error:  # the latter where it dies while it hands over
                if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                    raise
                raise DataError(
                    "a process that reads videos was killed, most often for want of memory; lower data.workers "
                    f"(now {self._batches.num_workers}) or train.batch_size"
                ) from error
            self.skipped.add(batch.errors)
            yield batch


def create_training_loader(
    streams: Sequence[ReadStream], videos: VideoList, group: Group = ALONE
) -> tuple[ClipLoader, TrainingSampler]:
    """Shuffled batches of this process; set the epoch of the sampler before each pass.

    Raises:
        ConfigError: there are fewer clips, in the list or a step, than processes and micro-batches share.
        CoviarMocropError: see :func:`open_clips`.
    """
    dataset, skipped = open_clips(streams, videos, group, training=True)
    train, parts = streams[0].config.train, group.world * streams[0].config.train.accumulate
    if len(dataset) < parts:
        raise ConfigError(
            f"{len(dataset)} clips cannot be shared by {group.world} processes in {train.accumulate} micro-batches; "
            "start fewer processes, or lower train.accumulate"
        )
    if train.batch_size < parts:
        raise ConfigError(
            f"train.batch_size is {train.batch_size} over all {group.world} processes and {train.accumulate} "
            f"micro-batches; raise it to at least {parts}"
        )
    sampler = TrainingSampler(
        *(len(dataset), train.batch_size),
        seed=dataset.seed,
        parts=train.accumulate,
        rank=group.rank,
        world=group.world,
    )
    return ClipLoader(dataset, skipped, sampler, streams[0].config, streams[0].device), sampler


def create_testing_loader(streams: Sequence[ReadStream], videos: VideoList, group: Group = ALONE) -> ClipLoader:
    """This process's batches of a list, in its order; of streams with different batch sizes, the smallest.

    Raises:
        CoviarMocropError: see :func:`open_clips`.
    """
    dataset, skipped = open_clips(streams, videos, group)
    size = min(stream.config.train.test_batch_size for stream in streams)
    sampler = TestingSampler(len(dataset), size, rank=group.rank, world=group.world)
    return ClipLoader(dataset, skipped, sampler, streams[0].config, streams[0].device)


def brought_to(device: torch.device, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Batches on a device; on a GPU each is copied while the one before it is computed."""
    return copied_ahead(batches, device) if device.type == "cuda" else batches


def copied_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches on a GPU; each is copied there while the one before it is computed."""
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
    """Keep PyTorch from raising when a reader dies wherever the program is, in the middle of changing weights too.

    It does so from a signal handler; without it, the loader notices within seconds, in ``next()``.
    """
    is_main_thread = threading.current_thread() is threading.main_thread()
    if loader.num_workers and is_main_thread and hasattr(signal, "SIGCHLD"):  # Windows has none
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _start_worker(number: int) -> None:
    """Leave the parent's garbage alone: a video frame that it holds may wait for threads that are not here."""
    gc.freeze()
    leave_ending_to_the_parent()
