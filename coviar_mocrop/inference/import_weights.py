"""Convert weights of other projects to a checkpoint, and report on every entry."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torchvision

from coviar_mocrop.checkpoint import read_tensors, save_checkpoint
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import read_classes
from coviar_mocrop.errors import CheckpointError, ConfigError
from coviar_mocrop.networks.converted import Fit, Weights, class_count, fit, recognise, wrong_stream
from coviar_mocrop.networks.stream_net import StreamNet
from coviar_mocrop.streams.base import create_stream

_PUBLISHED = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("mobilenet_v3_large", "efficientnet_b0", "efficientnet_b1", "swin_t", "swin_b"),
)
"""Networks used in the papers. A file that does not fit is compared with each of them, to give a hint."""


@dataclass(frozen=True)
class ConvertedWeights:
    """A weights file, compared with the stream that it is meant for.

    Attributes:
        path: path of the file.
        config: settings of the stream.
        classes: class names of the stream, by label.
        weights: content of the file.
        fit: comparison of the entries.
        problem: reason why the weights cannot be used, in one line; empty if they can be used.
    """

    path: str
    config: Config
    classes: tuple[str, ...]
    weights: Weights
    fit: Fit
    problem: str

    def report(self) -> str:
        """Return a report: the format, the number of used entries, and all entries that do not fit."""
        weights, fit = self.weights, self.fit
        facts = ", ".join(f"{name} {value}" for name, value in weights.facts.items())
        lines = [
            f"{self.path}: {weights.layout}{f' ({facts})' if facts else ''}",
            f"  for: {self.config.stream} stream, {self.config.model.backbone}, {len(self.classes)} classes",
            f"  used: {len(fit.used)} of {len(weights.tensors)} entries",
        ]
        if fit.fresh:
            lines.append(f"  new: {len(fit.fresh)} counters of batches, which files of PyTorch before 0.4.1 lack")
        lines += [f"  set aside: {name} ({reason})" for name, reason in fit.set_aside.items()]
        lines += [f"  missing: {name}" for name in fit.missing]
        lines += [f"  left over: {name}" for name in fit.left_over]
        lines += [f"  another shape: {shapes}" for shapes in fit.differing.values()]
        return "\n".join(lines)

    def save(self, output: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a checkpoint that can be used like one of training.

        Args:
            output: file to write.
            overwrite: whether to replace an existing file.

        Raises:
            CheckpointError: the weights cannot be used; see ``problem``.
            ConfigError: the file exists and ``overwrite`` is false.
            CoviarMocropError: the file cannot be written.
        """
        if self.problem:
            raise CheckpointError(f"{self.path}: {self.problem}")
        if Path(output).exists() and not overwrite:
            raise ConfigError(f"{output}: already exists; replace it (--overwrite) or choose another --output")
        save_checkpoint(
            output,
            {
                # clone, because entries may be views of larger tensors
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
    """Compare a weights file with the stream of ``config``.

    Args:
        path: PyTorch or safetensors file, in any format that :mod:`coviar_mocrop.networks.converted` knows.
        config: settings of the stream: backbone and class list. The list must be in the order of the network's outputs.
        ignore: entries whose name in the file starts with one of these prefixes are ignored.
        residual_order: colour order that residual weights in CoViAR's format were trained on, ``bgr`` or ``rgb``.

    Raises:
        CheckpointError: the file is missing, damaged or unsafe, or holds no weights.
        ConfigError: the stream does not use frames.
        CoviarMocropError: the settings or the class list cannot be used.
    """
    name = os.fspath(path)
    config = config.model_copy(update={"model": config.model.model_copy(update={"freeze": False})})  # a whole network
    classes = read_classes(config.data.classes)
    weights = recognise(read_tensors(path, "give the file of weights"), name, residual_order=residual_order)
    stream = create_stream(config, classes, weights=False)
    if stream.scaling is None:
        raise ConfigError(f"stream is {config.stream}; weights can be imported for streams that look at frames only")
    model = cast(StreamNet, stream.network)
    own, classifier, stem = model.state_dict(), model.classifier_name, model.stem_names[0]
    fitted, count = fit(own, weights, stem, classifier, ignore=ignore), class_count(weights, classifier)
    only_classifier = not (fitted.missing or fitted.left_over) and all(classifier in key for key in fitted.differing)
    problem = wrong_stream(own, weights, stem)
    if problem:
        pass
    elif count not in (len(classes), None) and only_classifier:
        problem = f"has {count} classes, {config.data.classes} names {len(classes)}; give its own class list"
        problem += ", or fine-tune from it by model.weights" * (count == 1000)
    elif weights.classes not in (classes, None):
        problem = f"was trained on other classes than {config.data.classes} names, or in another order"
    elif fitted.problems:
        problem = f"does not fit {config.model.backbone} ({fitted.problems}){_hint(weights, config)}"
    return ConvertedWeights(name, config, classes, weights, fitted, problem)


def _hint(weights: Weights, config: Config) -> str:
    """Say which architecture the weights may belong to, or what to try."""
    for backbone in _PUBLISHED:
        if backbone == config.model.backbone:
            continue
        with torch.device("meta"):
            net = torchvision.models.get_model(backbone)
        state = {key: value for key, value in net.state_dict().items() if not key.endswith(".num_batches_tracked")}
        shapes = {f"backbone.{key}": value.shape for key, value in state.items()}
        # all but the first and the last layer, which depend on the stream and the classes
        same = sum(key in weights.tensors and weights.tensors[key].shape == shape for key, shape in shapes.items())
        if same >= len(shapes) - 3:
            return f"; it looks like {backbone} (--set model.backbone={backbone})"
    return "; is it of another architecture? Entries that are not needed can be left out by --ignore"
