"""Everything that training needs, made from the settings: streams, clips, optimizers, schedules."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from coviar_mocrop.base_config import require_shared
from coviar_mocrop.clips.dataset import ClipDataset, Sample
from coviar_mocrop.clips.loading import (
    SkipLog,
    TrainingSampler,
    create_testing_loader,
    create_training_loader,
    open_clips,
)
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import read_classes
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.runtime import Group, Runtime, choose_runtime
from coviar_mocrop.streams.base import Stream, create_stream, stream_class
from coviar_mocrop.training.optim import create_optimizer, create_schedule
from coviar_mocrop.training.run_folder import RunFolder, TrainState

SHARED = (
    *("seed", "data.on_error", "train.batch_size", "train.accumulate", "train.test_batch_size"),
    *("train.device", "train.precision", "train.threads", "train.frames_at_once"),
)
"""Settings in which streams that are trained together must agree, beside those that reading shares."""


@dataclass
class Trainer:
    """The training of one stream.

    Attributes:
        stream: the stream; its network holds the weights.
        model: the network, wrapped for many processes where there are many.
        state: how far it has come.
    """

    stream: Stream
    runtime: Runtime
    folder: RunFolder
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    state: TrainState = field(default_factory=TrainState)
    writer: SummaryWriter | None = None

    @property
    def config(self) -> Config:
        """Settings of the run."""
        return self.stream.config

    @property
    def done(self) -> bool:
        """Whether all epochs are done, or the stream has stopped to gain (``train.patience``)."""
        train, state = self.config.train, self.state
        return state.epoch >= train.epochs or bool(train.patience and state.epochs_since_best >= train.patience)


@dataclass
class Run:
    """What the streams of a run share: processes, clips and how they are read.

    Attributes:
        saved: when the run was saved last, seconds of the monotonic clock.
        unsaved: whether steps were done since.
    """

    group: Group
    trainers: list[Trainer]
    clips: ClipDataset
    loader: DataLoader[Sample]
    sampler: TrainingSampler
    skipped: SkipLog
    test: tuple[ClipDataset, DataLoader[Sample], SkipLog] | None
    saved: float = field(default_factory=time.monotonic)
    unsaved: bool = False


def prepare(configs: Mapping[str, Config], group: Group) -> Run:
    """Build the streams, read the lists, find the boxes, make optimizers and schedules.

    Raises:
        CoviarMocropError: of whatever kind the input deserves.
    """
    require_shared(configs, SHARED)
    kinds = [config.stream for config in configs.values()]
    if twice := [kind for kind in kinds if kinds.count(kind) > 1]:
        raise ConfigError(f"two {twice[0]} streams cannot be trained together; train them one by one")
    streams = [_create(config) for config in configs.values()]
    clips, skipped = open_clips(streams, "train", group)
    shared = streams[0].config
    _require_enough(len(clips), shared, group)
    loader, sampler = create_training_loader(clips, shared, group)
    trainers = []
    for stream in streams:
        features = clips.features.get(stream.name)
        stream.start_training(None if features is None else features.rows[~features.rows.isnan().any(dim=1)])
        trainers.append(_create_trainer(stream, sampler.steps, group))
    tested = [stream for stream in streams if stream.config.train.test_every]
    test = open_test(tested, group) if tested else None
    return Run(group, trainers, clips, loader, sampler, skipped, test)


def _require_enough(clips: int, config: Config, group: Group) -> None:
    parts = group.world * config.train.accumulate
    if clips < parts:
        raise ConfigError(
            f"{clips} clips cannot be shared by {group.world} processes in {config.train.accumulate} micro-batches; "
            "start fewer processes, or lower train.accumulate"
        )
    if config.train.batch_size < parts:
        raise ConfigError(
            f"train.batch_size is {config.train.batch_size} over all {group.world} processes and "
            f"{config.train.accumulate} micro-batches; raise it to at least {parts}"
        )


def open_test(streams: Sequence[Stream], group: Group) -> tuple[ClipDataset, DataLoader[Sample], SkipLog]:
    """The test list as ``streams`` see it, its batches, and the log of skipped clips."""
    clips, skipped = open_clips(streams, "test", group)
    return clips, create_testing_loader(clips, [stream.config for stream in streams], group), skipped


def _create(config: Config) -> Stream:
    if not stream_class(config.stream).trainable:
        raise ConfigError(
            f"the {config.stream} stream has nothing to train; score it: tools/test_stream.py --config FILE "
            f"--streams {config.stream} --scores OUT.npz"
        )
    torch.manual_seed(config.seed)
    return create_stream(config, read_classes(config.data.classes), weights=True)


def _create_trainer(stream: Stream, steps: int, group: Group) -> Trainer:
    config, network = stream.config, stream.network
    runtime = choose_runtime(config.train, group.local_rank)
    if config.train.sync_bn and group.world > 1:
        convert_batch_norms(network, runtime.device)
    runtime.place(network)
    optimizer = create_optimizer(network, config.train)
    scheduler = create_schedule(optimizer, config.train, steps)
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
    model: nn.Module = network
    if group.world > 1:
        model = DistributedDataParallel(network, device_ids=[runtime.device] if runtime.device.type == "cuda" else None)
    return Trainer(stream, runtime, RunFolder(config.output), model, optimizer, scheduler, scaler)


def convert_batch_norms(network: nn.Module, device: torch.device) -> None:
    """Let the BatchNorms of ``network`` compute their statistics over all processes, in place (``train.sync_bn``)."""
    if device.type == "cpu":
        raise ConfigError("train.sync_bn needs GPUs; leave it out on CPUs")
    for name, child in network.named_children():
        setattr(network, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
