"""Set up a run from its settings: streams, loaders, optimizers and schedules."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from coviar_mocrop.clips.lists import read_videos
from coviar_mocrop.clips.loading import ClipLoader, create_testing_loader, create_training_loader
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import VideoList
from coviar_mocrop.errors import ConfigError, DataError
from coviar_mocrop.files import require_writable
from coviar_mocrop.messages import counted
from coviar_mocrop.runtime import Group, Runtime, choose_runtime
from coviar_mocrop.shared_settings import require_shared
from coviar_mocrop.streams.base import Stream, create_stream, stream_class
from coviar_mocrop.training.optim import create_optimizer, create_schedule
from coviar_mocrop.training.run import Run, Trainer
from coviar_mocrop.training.run_folder import RunFolder

SHARED = (
    *("seed", "data.train_list", "data.val_list", "data.on_error"),
    *("train.batch_size", "train.accumulate", "train.test_batch_size", "train.device", "train.precision"),
    *("train.threads", "train.frames_at_once", "train.channels_last", "train.compile", "train.deterministic"),
)
"""Settings that must be equal for streams that are trained together, in addition to the settings of reading clips."""

_SYNC_BUFFERS = "broadcast_buffers"
if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters:
    _SYNC_BUFFERS = "forward_sync_buffers"  # its name in newer versions of PyTorch


def prepare(configs: Mapping[str, Config], group: Group) -> Run:
    """Build the streams, read the lists, and create loaders, optimizers and schedules. The test list is not opened.

    Args:
        configs: settings of each stream, by name.
        group: the processes of the run.

    Raises:
        CoviarMocropError: a setting, list or weights file cannot be used, or the streams' settings differ where they
            must be equal.
    """
    require_shared(configs, SHARED)
    shared = next(iter(configs.values()))
    videos = read_videos(shared.data, "train")
    validation_videos = read_videos(shared.data, "val") if shared.data.val_list else None
    if validation_videos:
        _require_disjoint(videos, validation_videos, shared)
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


def _require_disjoint(videos: VideoList, validation: VideoList, config: Config) -> None:
    """Check that training and validation lists share no clip. Otherwise validation would use training clips.

    Raises:
        DataError: they share clips.
    """
    trained = {clip.path for clip in videos.clips}
    shared = [clip.path for clip in validation.clips if clip.path in trained]
    if shared:
        raise DataError(
            f"{config.data.train_list} and {config.data.val_list}: {counted(len(shared), 'clip')} in both lists, first "
            f"{shared[0]}; name each clip in one of them, or set data.val_list=null"
        )


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
    """Check that the validation list is not the test list. A frozen network is fitted on the validation list too.

    Raises:
        ConfigError: it is the test list.
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
        # no exchange of buffers in every step: the main process's are broadcast before each validation
        devices = [runtime.device] if runtime.device.type == "cuda" else None
        options: dict[str, Any] = {_SYNC_BUFFERS: False}
        model = DistributedDataParallel(model, device_ids=devices, **options)
    return Trainer(stream, runtime, RunFolder(stream.config.output), model, optimizer, scheduler, scaler, lists)


def convert_batch_norms(network: nn.Module, device: torch.device) -> None:
    """Replace the BatchNorms of ``network`` in place by SyncBatchNorms, whose statistics are over all processes.

    Raises:
        ConfigError: the device is a CPU.
    """
    if device.type == "cpu":
        raise ConfigError("train.sync_bn needs GPUs; leave it out on CPUs")
    convert = nn.SyncBatchNorm.convert_sync_batchnorm
    if any(type(module).__module__.startswith("timm.") for module in network.modules()):
        from timm.layers import convert_sync_batchnorm as convert  # PyTorch's loses timm's activations
    for name, child in network.named_children():
        setattr(network, name, convert(child))
