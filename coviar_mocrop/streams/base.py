"""The interface of a stream: the frames that it reads of a clip, its network, its normalisation and its cost.

A stream is one file in this folder. Its class registers itself. All other parts of the project (training, testing,
fusion, prediction, export) use it through the methods below. See docs/howto/adding_a_stream.md.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from itertools import chain
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from coviar_mocrop import streams
from coviar_mocrop.bitstream import Gop
from coviar_mocrop.clips.batch import Frames, Inputs
from coviar_mocrop.clips.frame_views import FrameViews
from coviar_mocrop.clips.reader import ReadViews, View
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import Form
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.flops import StreamCost

ENTRY_POINTS = "coviar_mocrop.streams"
"""Group of entry points by which another package adds streams."""


class Stream(ABC):
    """One stream of a clip and its network.

    Attributes:
        name: name in settings, score files and folders.
        title: display name.
        fusion_weight: default weight in late fusion.
        rank: position in tables; the lowest rank comes first.
        trainable: False for a stream that is only tested.
        config: settings of the run.
        classes: class names, in the order of the labels.
        network: takes what :meth:`inputs` returns, and returns clip logits [N, classes].
        form: format that the training videos were transcoded to; None if they were not transcoded, or it is not known.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    fusion_weight: ClassVar[float] = 1.0
    rank: ClassVar[int] = 100
    trainable: ClassVar[bool] = True
    form: Form | None = None

    def __init__(self, config: Config, classes: Sequence[str], *, weights: bool) -> None:
        """Build the stream.

        Args:
            config: settings of the run.
            classes: class names, in the order of the labels.
            weights: whether to load the initial weights that the settings name; False if a checkpoint holds them all.

        Raises:
            ConfigError: the settings do not fit together.
            ModelError: the settings name an unknown network, or one that does not fit the stream.
            CheckpointError: the initial weights cannot be used.
        """
        self.config, self.classes = config, tuple(classes)
        self.check()
        self.network = self.create_network(weights=weights)

    def check(self) -> None:  # noqa: B027 - nothing to check is the usual case
        """Check the settings that concern this stream.

        Raises:
            ConfigError: they do not fit together.
        """

    @abstractmethod
    def create_network(self, *, weights: bool) -> nn.Module:
        """Build the network. ``weights`` says whether to load the initial weights that the settings name."""

    @abstractmethod
    def views(
        self, num_frames: int, gops: Sequence[Gop], generator: np.random.Generator | None = None
    ) -> dict[str, View]:
        """The views to read of a clip, by name. A stream chooses the names.

        Args:
            num_frames: number of frames of the clip.
            gops: GOPs of the clip, in display order.
            generator: draws random frames and windows in training; None in testing.
        """

    @abstractmethod
    def inputs(self, batch: Inputs) -> Tensor:
        """The network's input, normalised, on the device of ``batch``."""

    @abstractmethod
    def cost(self) -> StreamCost:
        """Multiply-adds of testing a clip."""

    @property
    def scaling(self) -> dict[str, Any] | None:
        """How frames are scaled before the network, for other programs; None: the stream cannot be exported."""
        return None

    @property
    def wants(self) -> FrameViews | None:
        """Sampling, windows and size of a stream over frames of one kind, for an export; None for other streams."""
        return None

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(chain(self.network.parameters(), self.network.buffers()), torch.empty(0)).device

    @property
    def feature_dims(self) -> Mapping[str, int]:
        """Length of the features of each view, in the order in which they are joined, for a stream on frozen networks.

        Features are computed once per clip and replace frames in training and testing. Empty: the stream has no
        features and takes frames.
        """
        return {}

    def made_by(self, view: str) -> dict[str, Any]:
        """Everything that determines the features of a view, as JSON values; see :attr:`feature_dims`."""
        raise NotImplementedError(f"{type(self).__name__} has feature_dims, so it must define made_by")

    def view_features(self, view: str, frames: Frames) -> Tensor:
        """Features [N, dim] of the frames of a view; see :attr:`feature_dims`."""
        raise NotImplementedError(f"{type(self).__name__} has feature_dims, so it must define view_features")

    def start_training(self, features: Tensor | None) -> None:  # noqa: B027
        """Prepare training. It is called once, with the features [clips, dim] of the training list if there are any."""

    @classmethod
    def is_fitted(cls, config: Config) -> bool:
        """Whether the network is trained in one call of :meth:`fit`, not step by step."""
        return False

    @property
    def fitted(self) -> bool:
        """See :meth:`is_fitted`."""
        return self.is_fitted(self.config)

    def fit(self, features: Tensor, labels: Tensor, folds: Tensor | None) -> Tensor | None:
        """Train the network in one call; see :attr:`fitted`.

        Args:
            features: float32 [clips, dim]; see :attr:`feature_dims`.
            labels: int64 [clips].
            folds: int64 [divisions, clips], the folds of cross-validation, which chooses hyperparameters. None: they
                have their defaults.

        Returns:
            Logits float64 [clips, classes] of each clip, from the fits in which it was held out; None without folds.
        """
        raise NotImplementedError(f"{type(self).__name__} is fitted, so it must define fit")

    def rules(self) -> dict[str, Any]:
        """How a clip becomes the network's input, as JSON values, for checkpoints and cards."""
        config = self.config
        return {
            "videos": None if self.form is None else self.form._asdict(),
            "sampling": {
                "segments": config.input.test_segments,
                "frames": config.input.frames,
                "stride": config.input.stride,
                "anchor_every": config.data.anchor_every,
            },
            "crop": {
                "setting": config.setting,
                "mocrop": config.mocrop.model_dump(mode="json") if config.crops else None,
                "crops": config.input.test_crops,
                "size": config.size,
            },
            "scaling": self.scaling,
        }

    def description(self) -> dict[str, Any]:
        """The facts about the stream that a score file stores."""
        cost, config = self.cost(), self.config
        return {
            "stream": self.name,
            "setting": config.setting,
            "backbone": config.model.backbone,
            "size": config.size,
            "segments": config.input.test_segments,
            "crops": config.input.test_crops,
            "seed": config.seed,
            "fusion_weight": self.fusion_weight,
            "gflops_per_frame": cost.gflops_per_frame,
            "gflops_per_clip": cost.gflops_per_clip,
            "config": config.model_dump(mode="json"),
        }

    def encode(self, read: ReadViews) -> Tensor:
        """The network's input for one clip that was read: a batch of 1, on the network's device."""
        device = self.device
        batch = {
            name: Frames(
                torch.from_numpy(pixels)[None].to(device), torch.from_numpy(read.mirrored(name))[None].to(device)
            )
            for name, pixels in read.pixels.items()
        }
        return self.inputs(batch)

    def for_validation(self) -> Stream:
        """The same stream and network with the protocol of validation: ``input.val_segments``, one crop."""
        inputs = self.config.input
        cheap = {"test_segments": inputs.val_segments or inputs.segments, "test_crops": 1}
        light = copy.copy(self)
        light.config = self.config.model_copy(update={"input": inputs.model_copy(update=cheap)})
        return light

    def without_network(self) -> Stream:
        """The same stream without its network, for data-loading processes."""
        light = copy.copy(self)
        light.network = nn.Identity()
        return light


S = TypeVar("S", bound=type[Stream])
_registry: dict[str, type[Stream]] = {}


def register(stream: S) -> S:
    """Class decorator that registers a stream by its ``name``.

    Raises:
        ConfigError: another stream has this name.
    """
    known = _registry.get(stream.name, stream)
    if (known.__module__, known.__qualname__) != (stream.__module__, stream.__qualname__):
        raise ConfigError(
            f"stream {stream.name!r} is defined twice, in {known.__module__} and {stream.__module__}; rename one"
        )
    _registry[stream.name] = stream
    return stream


def stream_names() -> tuple[str, ...]:
    """The names of all streams: those of this folder, and those that other packages add."""
    for module in pkgutil.iter_modules(streams.__path__):
        importlib.import_module(f"{streams.__name__}.{module.name}")
    for entry in entry_points(group=ENTRY_POINTS):
        entry.load()
    return tuple(sorted(_registry, key=lambda name: (_registry[name].rank, name)))


def stream_class(name: str) -> type[Stream]:
    """The class of a stream.

    Raises:
        ConfigError: there is no such stream.
    """
    if name in _registry:  # importing all streams takes a while
        return _registry[name]
    names = stream_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(sorted(names))}"
        raise ConfigError(f"stream {name!r} is unknown; {hint}")
    return _registry[name]


def create_stream(config: Config, classes: Sequence[str], *, weights: bool) -> Stream:
    """Build the stream that ``config.stream`` names; see :class:`Stream`.

    Raises:
        ConfigError: there is no such stream, or its settings do not fit together.
        ModelError, CheckpointError: the settings name no network, or weights that cannot be used.
    """
    return stream_class(config.stream)(config, classes, weights=weights)
