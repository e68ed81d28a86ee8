"""Everything that training needs, made from the settings: streams, clips, optimizers, schedules."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter

from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.clips.lists import read_videos
from coviar_mocrop.clips.loading import ClipLoader, TrainingSampler, create_testing_loader, create_training_loader
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import VideoList
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.files import require_writable
from coviar_mocrop.runtime import Group, Runtime, choose_runtime
from coviar_mocrop.shared_settings import require_shared
from coviar_mocrop.streams.base import Stream, create_stream, stream_class
from coviar_mocrop.training.optim import create_optimizer, create_schedule
from coviar_mocrop.training.run_folder import RunFolder
from coviar_mocrop.training.state import TrainState

SHARED = (
    *("seed", "data.train_list", "data.val_list", "data.on_error"),
    *("train.batch_size", "train.accumulate", "train.test_batch_size", "train.device", "train.precision"),
    *("train.threads", "train.frames_at_once", "train.channels_last", "train.compile", "train.deterministic"),
)
"""Settings in which streams that are trained together must agree, beside those that reading shares."""

_SYNC_BUFFERS = "broadcast_buffers"
if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters:
    _SYNC_BUFFERS = "forward_sync_buffers"  # its name in newer versions of PyTorch
Draw = Callable[[SummaryWriter, Stream, ClipDataset, int], None]
"""Adds pictures to a stream's TensorBoard file, from the training clips; the number is that of the epochs done."""


@dataclass
class Trainer:
    """The training of one stream.

    Attributes:
        stream: the stream; its network holds the weights.
        model: the network, wrapped for many processes where there are many.
        state: how far it has come.
        lists: digests of the training and the validation list.
    """

    stream: Stream
    runtime: Runtime
    folder: RunFolder
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    lists: dict[str, str]
    state: TrainState = field(default_factory=TrainState)
    writer: SummaryWriter | None = None

    @property
    def config(self) -> Config:
        """Settings of the run."""
        return self.stream.config

    def validates(self, epoch: int) -> bool:
        """Whether the stream is validated after an epoch, counted from 0: every ``val_every`` and after the last."""
        train = self.config.train
        return train.val_every > 0 and ((epoch + 1) % train.val_every == 0 or epoch + 1 == train.epochs)

    @property
    def done(self) -> bool:
        """Whether all epochs are done, or validation has stopped to gain (``train.patience``)."""
        train, state = self.config.train, self.state
        return state.epoch >= train.epochs or bool(train.patience and state.epochs_since_best >= train.patience)


@dataclass
class Run:
    """What the streams of a run share: processes, device, clips and how they are read.

    Attributes:
        loader: the training clips; ``sampler`` says which epoch is read.
        validation: the validation clips, or None.
        saved: when the run was saved last, seconds of the monotonic clock.
        unsaved: whether steps were done since.
        draw: adds pictures to TensorBoard, or None.
    """

    group: Group
    runtime: Runtime
    trainers: list[Trainer]
    loader: ClipLoader
    sampler: TrainingSampler
    validation: ClipLoader | None
    saved: float = field(default_factory=time.monotonic)
    unsaved: bool = False
    draw: Draw | None = None


def prepare(configs: Mapping[str, Config], group: Group) -> Run:
    """Build the streams, read the lists, make optimizers and schedules. The test list is not opened.

    Raises:
        CoviarMocropError: of whatever kind the input deserves.
    """
    require_shared(configs, SHARED)
    shared = next(iter(configs.values()))
    videos = read_videos(shared.data, "train")
    validation_videos = read_videos(shared.data, "val") if shared.data.val_list else None
    kinds = [config.stream for config in configs.values()]
    for config in configs.values():
        if kinds.count(config.stream) > 1:
            raise ConfigError(f"two {config.stream} streams cannot be trained together; train them one by one")
        if not stream_class(config.stream).trainable:
            raise ConfigError(
                f"the {config.stream} stream has nothing to train; score it: coviar test --config FILE "
                f"--streams {config.stream} --scores OUT.npz"
            )
        if config.train.patience and not (validation_videos and config.train.val_every):
            raise ConfigError(
                "train.patience counts epochs without a better validation; set data.val_list, and train.val_every to 1 "
                "or more"
            )
    require_writable(shared.data.cache, folder=True)
    runtime = choose_runtime(shared.train, group.local_rank)
    streams = [_create_stream(config, videos, runtime, group) for config in configs.values()]
    loader, sampler = create_training_loader(streams, videos, group)
    validated = [stream.for_validation() for stream in streams if stream.fitted or stream.config.train.val_every]
    validation = create_testing_loader(validated, validation_videos, group) if validation_videos and validated else None
    lists = {"train": videos.digest} | ({"val": validation_videos.digest} if validation_videos else {})
    trainers = [_create_trainer(stream, loader, sampler.steps, runtime, group, lists) for stream in streams]
    return Run(group, runtime, trainers, loader, sampler, validation)


def _create_stream(config: Config, videos: VideoList, runtime: Runtime, group: Group) -> Stream:
    torch.manual_seed(config.seed)
    stream = create_stream(config, videos.classes, weights=True)
    stream.form = videos.form
    if stream.fitted:
        _require_own_validation_list(config)
        train = config.train.model_copy(update={"epochs": 1})  # fitted in one go
        stream.config = config.model_copy(update={"train": train})
    if config.train.sync_bn and group.world > 1:
        convert_batch_norms(stream.network, runtime.device)
    runtime.place(stream.network)
    return stream


def _require_own_validation_list(config: Config) -> None:
    """Refuse a validation list that is the test list: a stream that is fitted learns from it.

    Raises:
        ConfigError: it is.
    """
    data = config.data
    if data.val_list and data.test_list and os.path.realpath(data.val_list) == os.path.realpath(data.test_list):
        raise ConfigError(
            f"data.val_list is the test list ({data.val_list}), and a frozen network is fitted on both, the training "
            "and the validation list; set data.val_list=null or name another list"
        )


def _create_trainer(
    stream: Stream, loader: ClipLoader, steps: int, runtime: Runtime, group: Group, lists: dict[str, str]
) -> Trainer:
    features = loader.clips.features.get(stream.name)
    stream.start_training(None if features is None else features.rows[~features.rows.isnan().any(dim=1)])
    optimizer = create_optimizer(stream.network, stream.config.train)
    scheduler = create_schedule(optimizer, stream.config.train, steps)
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
    model = stream.network
    if group.world > 1:
        # running statistics are the first process's; they are handed on before a validation, not every step
        devices = [runtime.device] if runtime.device.type == "cuda" else None
        options: dict[str, Any] = {_SYNC_BUFFERS: False}
        model = DistributedDataParallel(model, device_ids=devices, **options)
    return Trainer(stream, runtime, RunFolder(stream.config.output), model, optimizer, scheduler, scaler, lists)


def convert_batch_norms(network: nn.Module, device: torch.device) -> None:
    """Let the BatchNorms of ``network`` compute their statistics over all processes, in place (``train.sync_bn``)."""
    if device.type == "cpu":
        raise ConfigError("train.sync_bn needs GPUs; leave it out on CPUs")
    convert = nn.SyncBatchNorm.convert_sync_batchnorm
    if any(type(module).__module__.startswith("timm.") for module in network.modules()):
        from timm.layers import convert_sync_batchnorm as convert  # PyTorch's would lose the activations within
    for name, child in network.named_children():
        setattr(network, name, convert(child))
