"""Backbones: networks of timm with other input channels, another number of classes, and another input size."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

from coviar_mocrop.errors import ModelError
from coviar_mocrop.messages import did_you_mean, first_line, pip_install, quiet, similar
from coviar_mocrop.networks.backbones import Backbone, average_colours

logger = logging.getLogger(__name__)

PREFIX = "timm/"
"""Prefix of the setting ``model.backbone`` for networks of timm."""


def create_timm_backbone(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    weights: str | None = None,
    dropout: float = 0.0,
    size: int | None = None,
    *,
    load: bool = True,
) -> Backbone:
    """Build a network of timm.

    Args:
        name: ``timm/`` and timm's name of the network, such as ``timm/vit_tiny_patch16_224`` or
            ``timm/resnet18.a1_in1k``.
        num_classes: number of outputs.
        in_channels: number of input channels. If it is not 3 and there are published weights, each channel gets the
            mean of the RGB weights (CoViAR; MoCLIP-Lite).
        weights: ``DEFAULT`` or a tag of timm; None: random initialisation.
        dropout: dropout probability before the classifier.
        size: side of the input in pixels, for networks with a fixed input size; None: the published size.
        load: whether to load the weights. False: a checkpoint will be loaded, and the tag only determines the mean and
            standard deviation of the input.

    Raises:
        ModelError: timm is not installed, there is no such network or tag, the network takes no input of this size or
            has no single first or last layer to replace, or its weights cannot be downloaded.
    """
    timm = _timm(name)
    full_name = _full_name(timm, name, weights)
    config = timm.get_pretrained_cfg(full_name)
    pretrained = load and weights is not None
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": 3 if pretrained else in_channels}
    if dropout:
        options["drop_rate"] = dropout
    if size is not None and config is not None and config.fixed_input_size:
        options["img_size"] = size
        _check_size(timm, full_name, size, config.input_size[-1])
    if pretrained:
        logger.info("%s: loading the weights %s, which are downloaded the first time", name, weights)
    try:
        with quiet():
            net: nn.Module = timm.create_model(full_name, pretrained=pretrained, **options)
    except Exception as error:  # the network, the hub and timm fail in many ways
        if pretrained:
            raise ModelError(
                f"the weights {weights!r} of {name} cannot be downloaded or loaded ({first_line(error)}); give the "
                "path of a local file in model.weights (of one of several streams: streams.NAME.model.weights), or "
                "null to train from scratch"
            ) from error
        raise ModelError(f"backbone {name!r} cannot be built ({first_line(error)})") from error
    facts = cast(dict[str, Any], net.pretrained_cfg)
    stem = _single(net, facts, "first_conv", name)
    classifier = _single(net, facts, "classifier", name)
    _restart(net.get_submodule(classifier))
    if pretrained and in_channels != 3:
        _average_stem(net.get_submodule(stem), in_channels, name)
    if "img_size" in options:
        net.register_load_state_dict_pre_hook(_resize_embeddings)
    norm = _norm_after(net, stem)
    return Backbone(net, (stem, *norm), classifier, tuple(facts["mean"]), tuple(facts["std"]))


def as_timm_loads(net: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert entries of a file as timm does when it loads them into ``net``.

    timm renames entries of older files and resizes position embeddings, for instance. If timm has no conversion for the
    network, or it fails, the entries are returned unchanged.
    """
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return dict(tensors)
    try:
        with quiet():
            return dict(convert(dict(tensors), net))
    except Exception:  # the file belongs to another network; the caller refuses it
        return dict(tensors)


def _timm(name: str) -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ModelError(f"backbone {name!r}: timm is not installed; {pip_install('pretrained')}") from error
    return timm


def _full_name(timm: ModuleType, name: str, tag: str | None) -> str:
    """timm's name of the network, with the tag of its weights if the settings name one."""
    architecture, _, own_tag = name.removeprefix(PREFIX).partition(".")
    if not timm.is_model(architecture):
        near = similar(architecture, timm.list_models())[:1]
        hint = did_you_mean(PREFIX + match for match in near) or f"search with timm.list_models('*{architecture[:6]}*')"
        raise ModelError(f"backbone {name!r} is not a network of timm; {hint}")
    tags = [entry.partition(".")[2] for entry in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag is not None and not tags:
        raise ModelError(f"{name} has no published weights; set model.weights to null or to the path of a file")
    for wanted in (own_tag, tag if tag != "DEFAULT" else ""):
        if wanted and wanted not in tags:
            raise ModelError(f"{name} has no weights {wanted!r}; choose from DEFAULT, {', '.join(tags)}")
    if own_tag and tag not in (None, "DEFAULT", own_tag):
        raise ModelError(f"model.backbone names the weights {own_tag!r}, model.weights {tag!r}; give one of them")
    chosen = own_tag or (tag if tag != "DEFAULT" else "")
    return f"{architecture}.{chosen}" if chosen else architecture


def _check_size(timm: ModuleType, name: str, size: int, published: int) -> None:
    """Raise ModelError if the network cannot be built for this size; the message names the nearest sizes that work."""
    problem = None if size == published else _size_problem(timm, name, size)
    if problem is None:
        return
    # windows and patches of published networks have 7, 8, 14 or 16 pixels
    usual = [n for n in range(32, 1024) if n % 16 == 0 or n % 14 == 0 or n == published]
    ways = ([n for n in reversed(usual) if n < size][:8], [n for n in usual if n > size][:8])
    near = [next((n for n in way if n == published or _size_problem(timm, name, n) is None), None) for way in ways]
    sizes = " or ".join(str(n) for n in near if n is not None) or str(published)
    raise ModelError(
        f"{PREFIX}{name}: takes no input of {size} pixels ({problem}); {sizes} pixels work (input.full_size, "
        "input.reduced_size)"
    )


def _size_problem(timm: ModuleType, name: str, size: int) -> str | None:
    try:
        with quiet(), torch.device("meta"), torch.no_grad():
            net = timm.create_model(name, num_classes=1, img_size=size).eval()
            patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
            side = patch[0] if isinstance(patch, tuple) else patch
            if isinstance(side, int) and size % side:  # pixels at two borders would be ignored
                return f"its patches are of {side}"
            net(torch.empty(1, 3, size, size))
    except Exception as error:  # assertions, views and broadcasts that do not fit
        return first_line(error)
    return None


def _single(net: nn.Module, facts: Mapping[str, Any], key: str, name: str) -> str:
    """The name of the first convolution or the classifier, of which there must be exactly one."""
    layer, what = facts.get(key), key.replace("first_conv", "first convolution")
    if not isinstance(layer, str) or layer not in dict(net.named_modules()):
        raise ModelError(f"backbone {name!r}: has no {what}, or several; choose a backbone with a single one")
    return layer


def _restart(classifier: nn.Module) -> None:
    """Initialise a classifier as PyTorch does, uniformly within 1 / sqrt(inputs).

    The bound of timm's EfficientNets is 1 / sqrt(classes). With two classes, training would start at a loss of 3.
    """
    if isinstance(classifier, (nn.Linear, nn.Conv2d)):
        classifier.reset_parameters()


def _average_stem(stem: nn.Module, in_channels: int, name: str) -> None:
    """Average the filters over the colours, in place, so that a convolution with special padding keeps it."""
    if not isinstance(stem, nn.Conv2d) or stem.in_channels != 3:
        raise ModelError(
            f"backbone {name!r}: its first layer is not a convolution on RGB, so its published weights cannot be "
            f"used for {in_channels} channels; choose another backbone"
        )
    stem.weight = nn.Parameter(average_colours(stem.weight.detach(), in_channels))
    stem.in_channels = in_channels


def _norm_after(net: nn.Module, stem: str) -> tuple[str, ...]:
    """The name of the BatchNorm between the first and the second convolution; an empty tuple if there is none."""
    modules = list(net.named_modules())
    start = next(i for i, (key, _) in enumerate(modules) if key == stem)
    for key, module in modules[start + 1 :]:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return (key,)
        if isinstance(module, nn.Conv2d):
            break
    return ()


def _resize_embeddings(net: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Hook before a state dict is loaded: resize position embeddings made for another input size."""
    own = net.state_dict()
    given = {key: state[prefix + key] for key in own if prefix + key in state}
    if all(given[key].shape == own[key].shape for key in given):
        return
    for key, tensor in as_timm_loads(net, given).items():
        if key in own and tensor.shape == own[key].shape:
            state[prefix + key] = tensor
