"""What a stream is: the frames it wants of a clip, its network, its normalisation and its cost.

A stream is one file in this folder. Its class registers itself, and every other part of the project (training,
testing, fusion, prediction, export) works with it through the methods below. See docs/howto/adding_a_stream.md.
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
        name: in settings, score files and folders.
        title: for people.
        fusion_weight: default weight in late fusion.
        rank: place in tables; the lowest comes first.
        trainable: False for a stream that is only tested.
        config: settings of the run.
        classes: names, in the order of the labels.
        network: takes what :meth:`inputs` gives, returns clip logits [N, classes].
        form: what the videos that it learned from were transcoded to; None where they were not, or nobody knows.
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
            classes: names, in the order of the labels.
            weights: load the initial weights that the settings name; False where a checkpoint brings them all.

        Raises:
            ConfigError, ModelError, CheckpointError: as the settings deserve.
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
        """The network; see :meth:`__init__` for ``weights``."""

    @abstractmethod
    def views(
        self, num_frames: int, gops: Sequence[Gop], generator: np.random.Generator | None = None
    ) -> dict[str, View]:
        """What to read of a clip, by any names.

        Args:
            num_frames: of the clip.
            gops: of the clip, display order.
            generator: in training, what random frames and windows are drawn from; None in testing.
        """

    @abstractmethod
    def inputs(self, batch: Inputs) -> Tensor:
        """The network's input, normalised, on the device of ``batch``."""

    @abstractmethod
    def cost(self) -> StreamCost:
        """What testing a clip costs, in multiply-adds."""

    @property
    def scaling(self) -> dict[str, Any] | None:
        """What other programs have to do to the frames of an exported network; None: it cannot be exported."""
        return None

    @property
    def wants(self) -> FrameViews | None:
        """For a stream over frames of one kind: sampling, windows and size, which an export keeps; None for others."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(chain(self.network.parameters(), self.network.buffers()), torch.empty(0)).device

    @property
    def feature_dims(self) -> Mapping[str, int]:
        """For a stream on frozen networks: length of the features of each view, in the order in which they are joined.

        They are computed once a clip, and take the place of frames in training and testing. Empty: the stream looks at
        frames.
        """
        return {}

    def made_by(self, view: str) -> dict[str, Any]:
        """Everything that decides the features of a view, as JSON values; see :attr:`feature_dims`."""
        raise NotImplementedError(f"{type(self).__name__} has feature_dims, so it must define made_by")

    def view_features(self, view: str, frames: Frames) -> Tensor:
        """Features [N, dim] of the frames of a view; see :attr:`feature_dims`."""
        raise NotImplementedError(f"{type(self).__name__} has feature_dims, so it must define view_features")

    def start_training(self, features: Tensor | None) -> None:  # noqa: B027
        """Called once before training, with the features [clips, dim] of the training list where there are any."""

    @classmethod
    def is_fitted(cls, config: Config) -> bool:
        """Whether the network is trained in one go, by :meth:`fit`; else step by step."""
        return False

    @property
    def fitted(self) -> bool:
        """See :meth:`is_fitted`."""
        return self.is_fitted(self.config)

    def fit(self, features: Tensor, labels: Tensor, folds: Tensor | None) -> Tensor | None:
        """Train the network in one go; see :attr:`fitted`.

        Args:
            features: float32 [clips, dim]; see :attr:`feature_dims`.
            labels: int64 [clips].
            folds: int64 [divisions, clips], by which cross-validation chooses what is to be chosen; None: all is the
                default.

        Returns:
            Logits float64 [clips, classes] of each clip when it was held out with its fold; None without folds.
        """
        raise NotImplementedError(f"{type(self).__name__} is fitted, so it must define fit")

    def rules(self) -> dict[str, Any]:
        """How a clip becomes the network's input, as JSON values: they stand in checkpoints and on cards."""
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
        """What a score file says of the stream."""
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
        """The network's input, batch size 1, for one clip that was read, on the network's device."""
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
        """The same stream for reading processes, which need no network."""
        light = copy.copy(self)
        light.network = nn.Identity()
        return light


S = TypeVar("S", bound=type[Stream])
_registry: dict[str, type[Stream]] = {}


def register(stream: S) -> S:
    """Class decorator: make a stream known by its ``name``.

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
    """All streams there are: the modules of this folder, and those that other packages add."""
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
    if name in _registry:  # looking for streams takes a while
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
