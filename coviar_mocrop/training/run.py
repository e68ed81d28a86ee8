"""The state of a run: one ``Trainer`` per stream, and the ``Run`` that the streams share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.clips.loading import ClipLoader, TrainingSampler
from coviar_mocrop.config import Config
from coviar_mocrop.runtime import Group, Runtime
from coviar_mocrop.streams.base import Stream
from coviar_mocrop.training.run_folder import RunFolder
from coviar_mocrop.training.state import TrainState

Draw = Callable[[SummaryWriter, Stream, ClipDataset, int], None]
"""Function that adds figures of training clips to TensorBoard. The last argument is the number of finished epochs."""


@dataclass
class Trainer:
    """The training of one stream.

    Attributes:
        stream: the stream. Its network holds the weights.
        runtime: device and precision.
        folder: folder of the run.
        model: the network, wrapped in DistributedDataParallel if there are several processes.
        optimizer: optimizer of the network.
        scheduler: learning rate schedule, stepped once per optimizer step.
        scaler: gradient scaler, enabled for fp16 only.
        lists: digests of the training list (``train``) and, if there is one, of the validation list (``val``).
        state: epochs and steps done so far, and their metrics.
        writer: TensorBoard writer; None on all processes but the main one.
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
        """Whether to validate after ``epoch`` (from 0): after every ``val_every`` epochs, and after the last epoch."""
        train = self.config.train
        return train.val_every > 0 and ((epoch + 1) % train.val_every == 0 or epoch + 1 == train.epochs)

    @property
    def done(self) -> bool:
        """Whether all epochs are done, or validation has not improved for ``train.patience`` epochs."""
        train, state = self.config.train, self.state
        return state.epoch >= train.epochs or bool(train.patience and state.epochs_since_best >= train.patience)


@dataclass
class Run:
    """What the streams of a run share: processes, device, clips and how they are read.

    Attributes:
        group: the processes of the run.
        runtime: device and precision.
        trainers: one for each stream.
        loader: loader of the training clips.
        sampler: sampler of the training clips; determines which epoch is read, and from which step on.
        validation: loader of the validation clips; None: no validation.
        saved: time of the last save, seconds of ``time.monotonic()``.
        unsaved: whether steps were done since the last save.
        draw: function that adds figures to TensorBoard; None: no figures.
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
