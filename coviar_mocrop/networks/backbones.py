"""Backbones: torchvision classifiers with other input channels and another number of classes."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from coviar_mocrop.errors import ModelError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A network and the names of its first and last layers, which can have their own learning rates.

    Attributes:
        net: network from frames [N, C, H, W] to logits [N, classes].
        stem: names (in ``net``) of the first convolution and, if there is one, of the first BatchNorm.
        classifier: name (in ``net``) of the last layer.
        mean: mean of the RGB images that the network expects, one value per channel, 0 to 1.
        std: standard deviation of these images, one value per channel, 0 to 1.
    """

    net: nn.Module
    stem: tuple[str, ...]
    classifier: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def create_backbone(
    name: str, num_classes: int, in_channels: int = 3, weights: str | None = None, dropout: float = 0.0
) -> Backbone:
    """Build a torchvision classifier.

    Args:
        name: torchvision's name of the network, such as ``resnet152``.
        num_classes: number of outputs.
        in_channels: number of input channels. If it is not 3, the first convolution is replaced. With pretrained
            weights, each input channel then gets the mean of the RGB weights (CoViAR; MoCLIP-Lite).
        weights: torchvision's name of pretrained weights, such as ``DEFAULT``; None: random initialisation.
        dropout: dropout probability before the classifier (0: no dropout).

    Raises:
        ModelError: there is no such network, there are no such weights, they cannot be downloaded, or the first or last
            layer cannot be replaced.
    """
    classifiers = torchvision.models.list_models(module=torchvision.models)
    if name not in classifiers:
        raise ModelError(f"backbone {name!r} is not a torchvision classifier; {_hint(name, classifiers)}")
    extra: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    try:
        net = torchvision.models.get_model(name, weights=weights, **extra)
    except (KeyError, ValueError, AttributeError) as error:
        known = [entry.name for entry in torchvision.models.get_model_weights(name)]
        raise ModelError(f"{name} has no weights {weights!r}; choose from DEFAULT, {', '.join(known)}") from error
    except OSError as error:  # URLError is one
        raise ModelError(
            f"the weights {weights!r} of {name} cannot be downloaded ({error}); give the path of a local file "
            "in model.weights (of one of several streams: streams.NAME.model.weights), or null to train from scratch"
        ) from error
    if hasattr(net, "transform_input"):  # GoogLeNet and Inception scale RGB once more, whatever their weights
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
    return Backbone(net, stem, classifier)


def _hint(name: str, classifiers: Sequence[str]) -> str:
    with suppress(ImportError):
        import timm

        if timm.is_model(name.partition(".")[0]):
            return f"did you mean timm/{name}?"
    near = difflib.get_close_matches(name, classifiers, 1)
    return f"did you mean {near[0]}?" if near else "see torchvision.models.list_models(); timm/NAME names one of timm"


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
    """Replace the submodule ``key`` of ``net`` by ``module``."""
    parent, _, name = key.rpartition(".")
    setattr(net.get_submodule(parent), name, module)


def average_colours(weight: Tensor, channels: int) -> Tensor:
    """Average the filters of a first convolution over its input channels, for ``channels`` new ones (CoViAR).

    Args:
        weight: [out, 3, h, w].
        channels: number of input channels of the result.

    Returns:
        [out, channels, h, w].
    """
    return weight.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1).contiguous()


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
            new.weight.copy_(average_colours(old.weight, in_channels))
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
