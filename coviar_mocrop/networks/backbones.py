"""Torchvision classifiers with their input channels and their classifier replaced."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torchvision
from torch import nn

from coviar_mocrop.errors import CheckpointError, ModelError
from coviar_mocrop.networks.converted import fit, input_channels, recognise
from coviar_mocrop.tensors import read_tensors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backbone:
    """A network from [N, C, H, W] to logits [N, classes], and the names of the layers that recipes treat apart.

    Attributes:
        net: the network.
        stem: names (in ``net``) of the first convolution and of the first BatchNorm, where there is one.
        classifier: name of the last layer.
        input_norm: state of the BatchNorm over the input, where the weights came with one.
    """

    net: nn.Module
    stem: tuple[str, ...]
    classifier: str
    input_norm: dict[str, torch.Tensor] = field(default_factory=dict)


def create_backbone(
    name: str, num_classes: int, in_channels: int = 3, weights: str | None = None, dropout: float = 0.0
) -> Backbone:
    """Build a torchvision classifier.

    Args:
        name: torchvision's name of it, such as ``resnet152``.
        num_classes: outputs.
        in_channels: if not 3, the first convolution is replaced; with pretrained weights each input channel
            gets the mean of the RGB weights (CoViAR; MoCLIP-Lite).
        weights: None, a torchvision weights name, or the path of a local file of any layout that
            :mod:`~coviar_mocrop.networks.converted` knows; a classifier of another size in it starts anew.
        dropout: in front of the classifier.

    Raises:
        ModelError: no such classifier, no such weights, or one whose first or last layer cannot be replaced.
        CheckpointError: the weights file is missing, damaged or of another architecture.
    """
    classifiers = torchvision.models.list_models(module=torchvision.models)
    if name not in classifiers:
        import difflib

        near = difflib.get_close_matches(name, classifiers, 1)
        hint = f"did you mean {near[0]}?" if near else "see torchvision.models.list_models()"
        raise ModelError(f"backbone {name!r} is not a torchvision classifier; {hint}")
    local = weights is not None and (os.sep in weights or os.path.splitext(weights)[1] != "")
    extra: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    try:
        net = torchvision.models.get_model(name, weights=None if local else weights, **extra)
    except (KeyError, ValueError, AttributeError) as error:
        known = [entry.name for entry in torchvision.models.get_model_weights(name)]
        raise ModelError(f"{name} has no weights {weights!r}; choose from DEFAULT, {', '.join(known)}") from error
    except OSError as error:  # URLError is one
        raise ModelError(
            f"the weights {weights!r} of {name} cannot be downloaded ({error}); give the path of a local file "
            "in model.weights, or null to train from scratch"
        ) from error
    if hasattr(
        net, "transform_input"
    ):  # GoogLeNet and Inception scale RGB once more, if told; not by where weights are
        net.transform_input = in_channels == 3
    for auxiliary in ("aux1", "aux2", "AuxLogits"):  # training heads of GoogLeNet and Inception
        if hasattr(net, auxiliary):
            setattr(net, auxiliary, None)
            net.aux_logits = False
    classifier = _find_classifier(net, name)
    stem = _find_stem(net, name)
    if in_channels != 3:
        _replace_stem(net, stem[0], in_channels, pretrained=weights is not None)
    _replace_classifier(net, classifier, num_classes, dropout)
    classifier = f"{classifier}.1" if dropout else classifier
    norm = load_local_weights(net, weights, stem[0], classifier) if local and weights is not None else {}
    return Backbone(net, stem, classifier, norm)


def load_local_weights(net: nn.Module, path: str, stem: str, classifier: str) -> dict[str, torch.Tensor]:
    """Load weights of any known layout for fine-tuning; see :mod:`coviar_mocrop.networks.converted`.

    A classifier of another size starts anew, and a first convolution on RGB serves other channels by its mean.

    Args:
        net: with its own first and last layer in place.
        path: of the file.
        stem: name (in ``net``) of the first convolution.
        classifier: name of the last layer.

    Returns:
        The BatchNorm over the input (``data_bn``) of the file, by the names of its entries; empty if it has none.

    Raises:
        CheckpointError: the file cannot be read, or a key is missing, left over or of another shape.
    """
    weights = recognise(read_tensors(path, "check model.weights"), path)
    norm = {key.removeprefix("data_bn."): value for key, value in weights.tensors.items() if key.startswith("data_bn.")}
    tensors = {key: value for key, value in weights.tensors.items() if not key.startswith("data_bn.")}
    own = {f"backbone.{key}": value for key, value in net.state_dict().items()}
    theirs, channels = input_channels(weights, f"backbone.{stem}"), own[f"backbone.{stem}.weight"].shape[1]
    if theirs not in (channels, None) and (norm or theirs != 3):
        raise CheckpointError(f"{path}: is of a stream of {theirs} channels, this one has {channels}")
    fitted = fit(
        own, replace(weights, tensors=tensors), f"backbone.{classifier}", fine_tuning=True, stem=f"backbone.{stem}"
    )
    if fitted.problems:
        raise CheckpointError(
            f"{path}: does not fit model.backbone ({fitted.problems}); is it of another architecture?"
        )
    net.load_state_dict({key.removeprefix("backbone."): value for key, value in fitted.state.items()})
    anew = ", the classifier starts anew" if f"backbone.{classifier}.weight" in fitted.fresh else ""
    logger.info("%s: %s, %d entries used%s", path, weights.layout, len(fitted.used) + len(norm), anew)
    return norm


def _find_stem(net: nn.Module, name: str) -> tuple[str, ...]:
    convolution = next((key for key, m in net.named_modules() if isinstance(m, nn.Conv2d)), None)
    if convolution is None or net.get_submodule(convolution).in_channels != 3:
        raise ModelError(f"backbone {name!r}: has no first convolution on 3 channels to replace")
    norm = next((key for key, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)), None)
    return (convolution,) if norm is None else (convolution, norm)


def _find_classifier(net: nn.Module, name: str) -> str:
    for key, module in reversed(list(net.named_modules())):
        if getattr(module, "out_features", getattr(module, "out_channels", None)) == 1000:
            return key
    raise ModelError(f"backbone {name!r}: has no classifier of 1000 classes to replace")


def set_module(net: nn.Module, key: str, module: nn.Module) -> None:
    """Put ``module`` where ``net`` has the submodule named ``key``."""
    parent, _, name = key.rpartition(".")
    setattr(net.get_submodule(parent), name, module)


def _replace_stem(net: nn.Module, key: str, in_channels: int, *, pretrained: bool) -> None:
    old = net.get_submodule(key)
    assert isinstance(old, nn.Conv2d)
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    with torch.no_grad():
        if pretrained:
            new.weight.copy_(old.weight.mean(dim=1, keepdim=True).expand_as(new.weight))
            if new.bias is not None and old.bias is not None:
                new.bias.copy_(old.bias)
        else:
            nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    set_module(net, key, new)


def _replace_classifier(net: nn.Module, key: str, num_classes: int, dropout: float) -> None:
    old = net.get_submodule(key)
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
    elif isinstance(old, nn.Conv2d):  # SqueezeNet
        new = nn.Conv2d(old.in_channels, num_classes, kernel_size=1)
    else:
        raise ModelError(f"classifier {key!r} is a {type(old).__name__}; only linear ones can be replaced")
    set_module(net, key, nn.Sequential(nn.Dropout(dropout), new) if dropout else new)
