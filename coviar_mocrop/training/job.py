"""Everything that training a stream needs, made from its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.clips.features import FeatureDataset
from coviar_mocrop.clips.loading import SkipLog, create_testing_loader, create_training_loader, open_clips
from coviar_mocrop.clips.samplers import TrainingBatches
from coviar_mocrop.config import Config
from coviar_mocrop.device import Compute, choose_compute
from coviar_mocrop.distributed import Group
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.flops import StreamCost
from coviar_mocrop.inference.testing import stream_cost
from coviar_mocrop.networks.fusion_head import ClipNet
from coviar_mocrop.networks.stream_net import StreamNet
from coviar_mocrop.networks.sync_norm import synchronise_norms
from coviar_mocrop.streams.factory import create_model
from coviar_mocrop.training.optim import create_optimizer, create_schedule
from coviar_mocrop.training.state import Learner


@dataclass(frozen=True)
class TestSet:
    """The clips to test on, and their batches."""

    __test__ = False

    clips: ClipDataset | FeatureDataset
    skipped: SkipLog
    loader: DataLoader[Any]


@dataclass(frozen=True)
class Job:
    """What training needs.

    Attributes:
        learner: the network, optimizer and schedule.
        network: the learner's network, wrapped for many processes where there are many.
    """

    config: Config
    group: Group
    compute: Compute
    clips: ClipDataset | FeatureDataset
    skipped: SkipLog
    loader: DataLoader[Any]
    batches: TrainingBatches
    model: StreamNet | ClipNet
    network: nn.Module
    learner: Learner
    cost: StreamCost
    test: TestSet | None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, by label."""
        return self.clips.videos.classes


def prepare(config: Config, group: Group) -> Job:
    """Read the lists, find the boxes, build network, optimizer and schedule.

    Raises:
        CoviarMocropError: of whatever kind the input deserves.
    """
    clips, skipped = open_clips(config, "train", group)
    if len(clips) < group.world * config.train.accumulate:
        raise ConfigError(
            f"{len(clips)} clips cannot be shared by {group.world} processes in {config.train.accumulate} parts; "
            "start fewer, or lower train.accumulate"
        )
    if config.train.batch_size < group.world * config.train.accumulate:
        raise ConfigError(
            f"train.batch_size is {config.train.batch_size} over all {group.world} processes and "
            f"{config.train.accumulate} parts; raise it to at least {group.world * config.train.accumulate}"
        )
    loader, batches = create_training_loader(clips, config, group)
    test = open_test(config, group) if config.train.test_every else None
    compute = choose_compute(config.train, group.local_rank)
    torch.manual_seed(config.seed)
    model = create_model(config, len(clips.videos.classes), clips)
    cost = stream_cost(model, config)
    if config.train.sync_bn and group.world > 1:
        synchronise_norms(model, compute.device.type)
    compute.place(model)
    optimizer = create_optimizer(model, config.train)
    schedule = create_schedule(optimizer, config.train, batches.steps)
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.dtype == torch.float16)
    network: nn.Module = model
    if group.world > 1:
        network = DistributedDataParallel(model, device_ids=[compute.device] if compute.device.type == "cuda" else None)
    learner = Learner(model, optimizer, schedule, scaler)
    return Job(config, group, compute, clips, skipped, loader, batches, model, network, learner, cost, test)


def open_test(config: Config, group: Group) -> TestSet:
    """The test list.

    Raises:
        CoviarMocropError: of whatever kind the input deserves.
    """
    clips, skipped = open_clips(config, "test", group)
    return TestSet(clips, skipped, create_testing_loader(clips, config, group))
