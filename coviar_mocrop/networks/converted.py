"""Weights of any layout brought to the names of our streams, and compared with a network entry by entry.

Known layouts: the original CoViAR code (``module.base_model.*``, ``module.data_bn.*`` in a dictionary with
``state_dict``), the MoCrop authors' code (``backbone.*`` or ``base_model.*``), torchvision's own files, our
checkpoints. A wrapper's prefix (``module.``, ``_orig_mod.``) may stand before each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from coviar_mocrop.errors import CheckpointError

_WRAPPERS = ("module.", "_orig_mod.")
_CONTAINERS = ("state_dict", "model_state_dict", "model")
_TRAINING_HEADS = ("backbone.aux1.", "backbone.aux2.", "backbone.AuxLogits.")
_RGB_STD = (0.229, 0.224, 0.225)
_BATCH_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Weights:
    """What a file holds, in the names of our streams.

    Attributes:
        layout: the kind of file, in words.
        tensors: by our name: ``backbone.*``, ``data_bn.*``, and under their own names what is neither.
        names: the file's name of each.
        facts: plain values beside the weights, such as ``epoch``, ``arch``, ``best_prec1``.
        classes: names, where the file has them (our checkpoints).
    """

    layout: str
    tensors: dict[str, Tensor]
    names: dict[str, str]
    facts: dict[str, str | int | float] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Fit:
    """Weights beside a network: what is used, and every entry that does not fit.

    Attributes:
        state: what to load; whole only if there is no problem.
        used: the file's names.
        missing: our names.
        left_over: the file's names.
        differing: by our name, the file's name, its shape and the network's.
        set_aside: the file's names of what a network of another use has no place for, with the reason.
        fresh: our names of what starts anew, with the reason.
    """

    state: dict[str, Tensor]
    used: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    differing: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)

    @property
    def problems(self) -> str:
        """What does not fit, in words; empty if all does."""
        found = []
        for what, names in (
            ("missing", self.missing),
            ("left over", self.left_over),
            ("of another shape", [name for name, _, _ in self.differing.values()]),
        ):
            if names:
                found.append(f"{len(names)} {what}, first {names[0]}")
        return "; ".join(found)


def recognise(content: Any, path: str, *, residual_order: str = "bgr") -> Weights:
    """Find the weights in what a file holds.

    The original CoViAR code reads residuals as BGR but divides them by the standard deviations of R, G and B; such
    weights are changed so that they give the same scores on RGB residuals, which are what we read.

    Args:
        content: plain tensors and values, as read.
        path: for messages.
        residual_order: ``bgr``, or ``rgb`` where a residual network in CoViAR's layout was trained on RGB.

    Raises:
        CheckpointError: there is no state dict in it, or two entries have one name.
    """
    state, facts = _open(content, path)
    names = {key: key for key in state}
    for wrapper in _WRAPPERS * 2:  # compiled networks in parallel ones, and the other way round
        if all(key.startswith(wrapper) for key in names):
            names = {key.removeprefix(wrapper): name for key, name in names.items()}
    ours = isinstance(content, dict) and {"format", "config", "classes"} <= content.keys()
    coviar = any(key.startswith("base_model.") for key in names)
    if ours:
        layout = "a checkpoint of this project"
    elif coviar:
        wrapped = state is not content or any(key.startswith("data_bn.") for key in names)
        layout = f"the {'original CoViAR' if wrapped else 'MoCrop authors'} code (base_model.*)"
    elif any(key.startswith("backbone.") for key in names):
        layout = "the MoCrop authors' code or an export of this project (backbone.*)"
    else:
        layout = "a plain torchvision network"
    renamed: dict[str, str] = {}
    for key, name in names.items():
        new = key if ours else _our_name(key, plain=layout.startswith("a plain"))
        if new in renamed:
            raise CheckpointError(f"{path}: holds {renamed[new]} and {name}, which are the same entry")
        renamed[new] = name
    tensors = {new: state[name] for new, name in renamed.items()}
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: {renamed[key]} holds values that are not finite; take another file")
    norm = tensors.get("data_bn.running_mean")
    if coviar and residual_order == "bgr" and norm is not None and norm.shape == (3,):
        _from_bgr(tensors)
        layout += ", BGR residuals turned to RGB"
    classes = tuple(content["classes"]) if ours else None
    return Weights(layout, tensors, renamed, facts, classes)


def fit(
    own: Mapping[str, Tensor],
    weights: Weights,
    classifier: str,
    *,
    fine_tuning: bool = False,
    stem: str | None = None,
    ignore: Sequence[str] = (),
) -> Fit:
    """Lay weights beside a network.

    Args:
        own: the network's state.
        weights: of the file.
        classifier: our name of the network's last layer.
        fine_tuning: a classifier that is not in the file, or of another size, starts anew; a first convolution
            on RGB serves other channels by its mean.
        stem: our name of the first convolution; needed for its mean.
        ignore: the file's names that start with one of these are passed over.
    """
    given, names = dict(weights.tensors), dict(weights.names)
    result = Fit({})
    for key in list(given):
        if ignore and names[key].startswith(tuple(ignore)):
            result.set_aside[names[key]] = "to be ignored"
            del given[key]
        elif key not in own and key.startswith(_TRAINING_HEADS):
            result.set_aside[names[key]] = "a training head"
            del given[key]
    _rename_classifier(own, given, names, classifier)
    if fine_tuning and stem is not None:
        _mean_stem(own, given, f"{stem}.weight")
    head = (f"{classifier}.weight", f"{classifier}.bias")
    refit = fine_tuning and any(key in own and (key not in given or given[key].shape != own[key].shape) for key in head)
    for key, mine in own.items():
        if refit and key in head:
            result.state[key] = mine
            result.fresh[key] = "the classifier, for other classes"
            if key in given:
                result.set_aside[names[key]] = "the classifier of other classes"
        elif key not in given:
            if key.endswith(".num_batches_tracked"):  # PyTorch before 0.4.1 did not count
                result.state[key] = torch.zeros_like(mine)
                result.fresh[key] = "a counter that old files lack"
            else:
                result.missing.append(key)
        elif given[key].shape != mine.shape:
            result.differing[key] = (names[key], tuple(given[key].shape), tuple(mine.shape))
        else:
            result.state[key] = given[key].to(mine.dtype)
            result.used.append(names[key])
    result.left_over.extend(names[key] for key in given if key not in own)
    return result


def class_count(weights: Weights, classifier: str) -> int | None:
    """How many classes the weights tell apart; None if they have no such classifier.

    Args:
        weights: of a file.
        classifier: our name of the network's last layer.
    """
    for name in _forms(classifier):
        tensor = weights.tensors.get(f"{name}.weight")
        if tensor is not None and tensor.ndim > 0:
            return int(tensor.shape[0])
    return None


def input_channels(weights: Weights, stem: str) -> int | None:
    """How many channels the weights take: those of the BatchNorm over the input, or of the first convolution.

    Args:
        weights: of a file.
        stem: our name of the first convolution.
    """
    for name, axis in (("data_bn.running_mean", 0), (f"{stem}.weight", 1)):
        tensor = weights.tensors.get(name)
        if tensor is not None and tensor.ndim > axis:
            return int(tensor.shape[axis])
    return None


def _open(content: Any, path: str) -> tuple[dict[str, Tensor], dict[str, str | int | float]]:
    """The state dict, and the plain values beside it."""
    if isinstance(content, dict):
        for key in _CONTAINERS:
            if isinstance(content.get(key), dict):
                state = content[key]
                values = {
                    str(name): value.item() if torch.is_tensor(value) and value.numel() == 1 else value
                    for name, value in content.items()
                }
                plain = {name: value for name, value in values.items() if isinstance(value, (str, int, float))}
                break
        else:
            state, plain = content, {}
        if state and all(isinstance(key, str) and torch.is_tensor(value) for key, value in state.items()):
            return state, plain
    raise CheckpointError(f"{path}: holds no state dict (a dictionary of tensors)")


def _our_name(key: str, *, plain: bool) -> str:
    if key.startswith("base_model."):
        key = f"backbone.{key.removeprefix('base_model.')}"
    elif plain and not key.startswith("data_bn."):
        key = f"backbone.{key}"
    # torchvision's published DenseNets still have the names of 2017
    return re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)


def _from_bgr(tensors: dict[str, Tensor]) -> None:
    """Residual weights trained on (B, G, R) / std of (R, G, B), changed for (R, G, B) / std of (R, G, B).

    Input channel c becomes s x with s = std[c] / std[2 - c]; the BatchNorm over the input takes that in exactly.
    """
    ratio = torch.tensor([_RGB_STD[c] / _RGB_STD[2 - c] for c in range(3)], dtype=torch.float64)
    mean, variance = (tensors[f"data_bn.running_{what}"].double().flip(0) for what in ("mean", "var"))
    # now in RGB order; theirs is s x for our x
    old = torch.sqrt(variance + _BATCH_NORM_EPS)
    tensors["data_bn.running_mean"] = (mean / ratio).float()
    tensors["data_bn.running_var"] = (variance / ratio**2).float()
    if "data_bn.weight" in tensors:
        new = torch.sqrt(variance / ratio**2 + _BATCH_NORM_EPS)
        tensors["data_bn.weight"] = (tensors["data_bn.weight"].double().flip(0) * ratio * new / old).float()
    if "data_bn.bias" in tensors:
        tensors["data_bn.bias"] = tensors["data_bn.bias"].flip(0)
    convolution = tensors.get("backbone.conv1.weight")  # CoViAR knows ResNets alone
    if convolution is not None and convolution.ndim == 4:
        tensors["backbone.conv1.weight"] = convolution.flip(1)


def _rename_classifier(
    own: Mapping[str, Tensor], given: dict[str, Tensor], names: dict[str, str], classifier: str
) -> None:
    for leaf in ("weight", "bias"):
        wanted = f"{classifier}.{leaf}"
        for form in _forms(classifier):
            other = f"{form}.{leaf}"
            if wanted in own and wanted not in given and other in given and other not in own:
                given[wanted], names[wanted] = given.pop(other), names[other]


def _forms(classifier: str) -> tuple[str, str, str]:
    """Dropout before a classifier makes it a sequence, whose last layer is ``.1``; either form serves the other."""
    return classifier, f"{classifier}.1", classifier.removesuffix(".1")


def _mean_stem(own: Mapping[str, Tensor], given: dict[str, Tensor], key: str) -> None:
    """RGB weights for other channels: each gets their mean (CoViAR; MoCLIP-Lite)."""
    theirs, mine = given.get(key), own.get(key)
    if theirs is None or mine is None or theirs.ndim != 4 or "data_bn.weight" in given:
        return
    if theirs.shape[1] == 3 and mine.shape[1] != 3 and theirs.shape[::2] == mine.shape[::2]:
        given[key] = theirs.mean(dim=1, keepdim=True).expand_as(mine).contiguous()
