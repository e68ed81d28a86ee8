"""From settings to batches: lists read, boxes ready, unusable clips told of once."""

from __future__ import annotations

import gc
import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch.utils.data import DataLoader, Sampler

from coviar_mocrop.clips.boxes import BoxCache, boxes_of_list
from coviar_mocrop.clips.dataset import Batch, ClipDataset, Sample, collate
from coviar_mocrop.clips.features import FeatureDataset
from coviar_mocrop.clips.samplers import Key, TestingBatches, TrainingBatches
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import VideoList, read_classes, read_list
from coviar_mocrop.distributed import ALONE, Group
from coviar_mocrop.errors import ConfigError, CoviarMocropError, DataError, VideoError
from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.networks.fusion_head import ClipNet, ZeroShotNet
from coviar_mocrop.streams.clip_stream import FEATURE_STREAMS, NOTHING_TO_TRAIN, feature_clips
from coviar_mocrop.training.interrupt import leave_ending_to_the_parent

Part = Literal["train", "test"]
logger = logging.getLogger(__name__)


class SkipLog:
    """Clips that cannot be used: raised, or left out, each logged once and the number at the end."""

    def __init__(self, videos: VideoList, on_error: Literal["raise", "skip"]) -> None:
        """For clips of ``videos``."""
        self._videos = videos
        self._on_error = on_error
        self.reasons: dict[str, str] = {}

    def add(self, errors: Mapping[int, CoviarMocropError]) -> None:
        """Errors by the clip's number in the list.

        Raises:
            CoviarMocropError: the first of them, where ``on_error`` is ``raise``.
        """
        for number, error in errors.items():
            self.add_named(self._videos.clips[number].path, error)

    def add_named(self, name: str, error: CoviarMocropError) -> None:
        """One error by the clip's path; see :meth:`add`."""
        if self._on_error == "raise":
            raise error
        if name not in self.reasons:
            self.reasons[name] = str(error)
            logger.warning("skipped %s", error)

    def summarise(self, group: Group = ALONE) -> None:
        """Say how many were left out, by all processes; all must call it."""
        names = set().union(*group.gather(set(self.reasons)))
        if names and group.is_main:
            logger.warning("%d of %d clips were skipped", len(names), len(self._videos))


def open_clips(
    config: Config, part: Part, group: Group = ALONE, *, model: object = None, shard: tuple[int, int] = (0, 1)
) -> tuple[ClipDataset | FeatureDataset, SkipLog]:
    """The clips of a list, with their boxes where the setting crops; of the CLIP stream, their features.

    Args:
        config: all settings.
        part: which list.
        group: the processes of the run.
        model: the CLIP stream's network where it is trained already: features are made as they were for it.
        shard: (k, n): only every n-th clip of the list, from the k-th.

    Raises:
        ConfigError: the settings name no such list.
        ListError: the list does not parse.
        VideoError: a clip has no box and ``on_error`` is ``raise``.
        DataError: no clip is left.
    """
    if config.stream == "zero_shot" and part == "train":
        raise ConfigError(NOTHING_TO_TRAIN)
    path = config.data.train_list if part == "train" else config.data.test_list
    if path is None:
        raise ConfigError(f"data.{part}_list is not set; name a video list")
    if not Path(config.data.root).is_dir():
        raise DataError(f"{config.data.root}: is no folder; set data.root to where the paths of {path} start")
    videos = read_list(path, read_classes(config.data.classes))
    videos = replace(videos, clips=videos.clips[shard[0] :: shard[1]])
    skipped = SkipLog(videos, config.data.on_error)
    boxes: dict[str, CropBox] | None = None
    if config.crops:
        boxes, errors = find_boxes(config, videos, group)
        for name, error in errors.items():
            skipped.add_named(name, error)
        videos = replace(videos, clips=tuple(clip for clip in videos.clips if clip.path in boxes))
        if errors and not videos.clips:
            raise DataError(f"{path}: none of its clips can be used; the first: {next(iter(errors.values()))}")
    if config.stream in FEATURE_STREAMS:
        net = model if isinstance(model, ClipNet | ZeroShotNet) else None
        features, unusable = feature_clips(config, videos, boxes, net, group, training=part == "train")
        for name, problem in unusable.items():
            skipped.add_named(name, problem)
        if unusable and not len(features):
            raise DataError(f"{path}: none of its clips can be used; the first: {next(iter(unusable.values()))}")
        return features, skipped
    dataset = ClipDataset(
        videos,
        config.kind,
        config.size,
        config.data,
        config.input,
        boxes=boxes,
        training=part == "train",
        seed=config.seed,
    )
    return dataset, skipped


def find_boxes(
    config: Config, videos: VideoList, group: Group = ALONE
) -> tuple[dict[str, CropBox], dict[str, VideoError]]:
    """The MoCrop boxes of a list, by path, from the cache or computed; and errors. Processes share the work."""
    data = config.data
    found = boxes_of_list(
        videos.clips,
        BoxCache(data.cache, data.root, config.mocrop, follow_links=data.follow_links),
        backend=data.backend,
        index_cache=data.index_folder,
        workers=data.workers,
        progress=group.is_main,
        share=(group.rank, group.world),
    )
    boxes: dict[str, CropBox] = {}
    errors: dict[str, VideoError] = {}
    for some_boxes, some_errors in group.gather(found):
        boxes |= some_boxes
        errors |= some_errors
    return boxes, errors


def create_training_loader(
    dataset: ClipDataset | FeatureDataset, config: Config, group: Group = ALONE
) -> tuple[DataLoader[Sample], TrainingBatches]:
    """Shuffled batches of this process; set the epoch of the second before each pass over the first."""
    train = config.train
    batches = TrainingBatches(
        len(dataset), train.batch_size, seed=config.seed, parts=train.accumulate, rank=group.rank, world=group.world
    )
    return _loader(dataset, config, batches), batches


def create_testing_loader(
    dataset: ClipDataset | FeatureDataset, config: Config, group: Group = ALONE
) -> DataLoader[Sample]:
    """This process's batches of a test list, in its order."""
    batches = TestingBatches(len(dataset), config.train.test_batch_size, rank=group.rank, world=group.world)
    return _loader(dataset, config, batches)


def _loader(dataset: ClipDataset | FeatureDataset, config: Config, batches: Sampler[list[Key]]) -> DataLoader[Sample]:
    workers = 0 if isinstance(dataset, FeatureDataset) else config.data.workers  # features are at hand
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # its own: the loader must draw nothing from what dropout draws from
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available() and config.train.device != "cpu",
    )


def read_batches(loader: DataLoader[Sample]) -> Iterator[Batch]:
    """The batches of a pass.

    Raises:
        DataError: a reading process was killed.
    """
    batches: Iterator[Batch] | None = None
    while True:
        try:
            if batches is None:
                batches = iter(loader)
                _look_for_the_dead_in_next(loader)
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, ConnectionError, EOFError) as error:  # the latter where it dies while it hands over
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            raise DataError(
                "a process that reads videos was killed, most often for want of memory; lower data.workers "
                f"(now {loader.num_workers}) or train.batch_size"
            ) from error
        yield batch


def _look_for_the_dead_in_next(loader: DataLoader[Sample]) -> None:
    """Keep PyTorch from raising when a reader dies wherever the program is, in the middle of changing weights too.

    It does so from a signal handler; without it, the loader notices within seconds, in ``next()``.
    """
    if loader.num_workers and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _start_worker(number: int) -> None:
    """Leave the parent's garbage alone: a video frame that it holds may wait for threads that are not here."""
    gc.freeze()
    leave_ending_to_the_parent()
