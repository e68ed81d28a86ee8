"""Turning someone else's weights into a checkpoint of ours, with an account of every entry."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torchvision

from coviar_mocrop.checkpoint import save_checkpoint
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import read_classes
from coviar_mocrop.errors import CheckpointError, ConfigError
from coviar_mocrop.networks.converted import Fit, Weights, class_count, fit, input_channels, recognise
from coviar_mocrop.networks.stream_net import StreamNet
from coviar_mocrop.streams.base import create_stream
from coviar_mocrop.tensors import read_tensors

_PUBLISHED = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("mobilenet_v3_large", "efficientnet_b0", "efficientnet_b1", "swin_t", "swin_b"),
)
"""Networks of the papers: what a file that does not fit is compared with."""


@dataclass(frozen=True)
class ConvertedWeights:
    """A file of weights beside the stream that it is for.

    Attributes:
        path: of the file.
        config: of the stream.
        classes: of the stream.
        weights: of the file.
        fit: entry by entry.
        problem: why it cannot be used, in one line; empty if it can.
    """

    path: str
    config: Config
    classes: tuple[str, ...]
    weights: Weights
    fit: Fit
    problem: str

    def report(self) -> str:
        """Layout, what is used, and by name every entry that is missing, left over or of another shape."""
        weights, fit = self.weights, self.fit
        facts = ", ".join(f"{name} {value}" for name, value in weights.facts.items())
        lines = [
            f"{self.path}: {weights.layout}{f' ({facts})' if facts else ''}",
            f"  for: {self.config.stream} stream, {self.config.model.backbone}, {len(self.classes)} classes",
            f"  used: {len(fit.used)} of {len(weights.tensors)} entries",
        ]
        lines += [f"  anew: {len(fit.fresh)} counters of batches, which files of before PyTorch 0.4.1 lack"] * bool(
            fit.fresh
        )
        lines += [f"  set aside: {name} ({reason})" for name, reason in fit.set_aside.items()]
        lines += [f"  missing: {name}" for name in fit.missing]
        lines += [f"  left over: {name}" for name in fit.left_over]
        lines += [
            f"  another shape: {name} is {_shape(theirs)}, the stream's {_shape(ours)}"
            for name, theirs, ours in fit.differing.values()
        ]
        return "\n".join(lines)

    def save(self, output: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a checkpoint that testing, fusing, predicting and fine-tuning take like one of training.

        Raises:
            CheckpointError: the weights do not fit, see ``problem``.
            ConfigError: there is a file already, and it is not to be replaced.
        """
        if self.problem:
            raise CheckpointError(f"{self.path}: {self.problem}")
        if Path(output).exists() and not overwrite:
            raise ConfigError(f"{output}: is there already; replace it (--overwrite) or choose another --output")
        save_checkpoint(
            output,
            {
                # clones, because entries may be views of the file's larger tensors
                "model": {name: tensor.clone() for name, tensor in self.fit.state.items()},
                "config": self.config.model_dump(mode="json"),
                "classes": list(self.classes),
                "imported": {
                    "file": Path(self.path).name,
                    "sha256": hashlib.sha256(Path(self.path).read_bytes()).hexdigest(),
                    "layout": self.weights.layout,
                    **self.weights.facts,
                },
            },
        )


def inspect_weights(
    path: str | os.PathLike[str], config: Config, *, ignore: Sequence[str] = (), residual_order: str = "bgr"
) -> ConvertedWeights:
    """Lay a file of weights beside the stream of ``config``.

    Args:
        path: of any layout that :mod:`coviar_mocrop.networks.converted` knows, ``torch.save``'s or safetensors.
        config: the stream, its backbone and the class list, in the order of the file's outputs.
        ignore: entries of the file whose names start with one of these are passed over.
        residual_order: ``bgr``, or ``rgb`` where a residual network in CoViAR's layout was trained on RGB.

    Raises:
        CheckpointError: the file is missing, damaged or unsafe, or holds no weights.
        CoviarMocropError: the settings are wrong or the class list is.
    """
    name = os.fspath(path)
    classes = read_classes(config.data.classes)
    weights = recognise(read_tensors(path, "give the file of weights"), name, residual_order=residual_order)
    stream = create_stream(config, classes, weights=False)
    if stream.scaling is None:
        raise ConfigError(f"stream is {config.stream}; weights are imported for streams that look at frames")
    model = cast(StreamNet, stream.network)
    own, classifier, stem = model.state_dict(), model.classifier_name, model.stem_names[0]
    fitted = fit(own, weights, classifier, ignore=ignore)
    channels, count = input_channels(weights, stem), class_count(weights, classifier)
    problem = ""
    if channels not in (model.in_channels, None):
        problem = f"is of a stream of {channels} channels, the {config.stream} stream has {model.in_channels}"
    elif any(key.startswith("data_bn.") for key in weights.tensors) and not any(k.startswith("data_bn.") for k in own):
        problem = f"has a BatchNorm over the input (data_bn), the {config.stream} stream has none; is it of residuals?"
    elif "data_bn.weight" in fitted.missing and f"{stem}.weight" in fitted.state:
        problem = f"has no BatchNorm over the input (data_bn), the {config.stream} stream has one; is it of I-frames?"
    elif count not in (len(classes), None) and not _beside(fitted, classifier):
        problem = f"has {count} classes, {config.data.classes} names {len(classes)}; give its own class list"
        problem += ", or fine-tune from it by model.weights" * (count == 1000)
    elif weights.classes not in (classes, None):
        problem = f"was trained on other classes than {config.data.classes} names, or in another order"
    elif fitted.problems:
        problem = f"does not fit {config.model.backbone} ({fitted.problems}){_hint(weights, config)}"
    return ConvertedWeights(name, config, classes, weights, fitted, problem)


def _beside(fitted: Fit, classifier: str) -> bool:
    """Whether more than the classifier does not fit."""
    head = {f"{classifier}.weight", f"{classifier}.bias"}
    return bool(fitted.missing or fitted.left_over or fitted.differing.keys() - head)


def _hint(weights: Weights, config: Config) -> str:
    """What the weights may be of, or what to do about entries too many."""
    for backbone in _PUBLISHED:
        if backbone == config.model.backbone:
            continue
        with torch.device("meta"):
            net = torchvision.models.get_model(backbone)
        shapes = {f"backbone.{key}": value.shape for key, value in net.state_dict().items()}
        # all but the first and the last layer, which depend on the stream and the classes
        same = sum(key in weights.tensors and weights.tensors[key].shape == shape for key, shape in shapes.items())
        if same >= sum(not key.endswith(".num_batches_tracked") for key in shapes) - 3:
            return f"; it looks like {backbone} (--set model.backbone={backbone})"
    return "; is it of another architecture? What is too many can be passed over by --ignore"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"
