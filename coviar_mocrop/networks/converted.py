"""Convert weights in the formats of other projects to the networks of this one, and compare them entry by entry.

Known formats are those of the original CoViAR code (``module.base_model.*`` and ``module.data_bn.*`` in a dictionary
with ``state_dict``), of the MoCrop authors' code (``backbone.*`` or ``base_model.*``), of torchvision and timm, and the
checkpoints of this project. Names may have the prefix of a wrapper (``module.`` or ``_orig_mod.``).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from coviar_mocrop.checkpoint import read_tensors, require_kinds
from coviar_mocrop.errors import CheckpointError
from coviar_mocrop.networks.backbones import IMAGENET_STD, average_colours
from coviar_mocrop.networks.timm_backbones import as_timm_loads

logger = logging.getLogger(__name__)
_WRAPPERS = ("module.", "_orig_mod.")
_CONTAINERS = ("state_dict", "model_state_dict", "model")
_TRAINING_HEADS = ("backbone.aux1.", "backbone.aux2.", "backbone.AuxLogits.")


@dataclass(frozen=True)
class Weights:
    """The weights in a file, renamed as in this project's networks.

    Attributes:
        layout: description of the file's format.
        tensors: tensors by name in this project: ``backbone.*`` and ``data_bn.*``. Other entries keep their names.
        names: names in the file, by name in this project.
        facts: plain values beside the weights, such as ``epoch``, ``arch`` and ``best_prec1``.
        classes: class names by label; None unless the file is a checkpoint of this project.
    """

    layout: str
    tensors: dict[str, Tensor]
    names: dict[str, str]
    facts: dict[str, str | int | float] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None


@dataclass
class Fit:
    """The comparison of weights with a network.

    Attributes:
        state: entries to load, by name in the network. They are complete only if there are no ``problems``.
        used: entries that are used, by name in the file.
        missing: entries that the file lacks, by name in the network.
        left_over: entries that the network lacks, by name in the file.
        differing: for entries with different shapes, by name in the network: the name in the file and both shapes, as
            text.
        set_aside: reasons why entries are ignored, by name in the file.
        fresh: entries that keep their initial values, by name in the network.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    differing: dict[str, str] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)

    @property
    def problems(self) -> str:
        """Description of everything that does not fit; empty if everything fits."""
        differing = list(self.differing.values())
        kinds = {"missing": self.missing, "left over": self.left_over, "of another shape": differing}
        return "; ".join(f"{len(names)} {what}, first {names[0]}" for what, names in kinds.items() if names)


def recognise(content: Any, path: str, *, residual_order: str = "bgr") -> Weights:
    """Recognise the format of a weights file, and rename its entries.

    The original CoViAR code reads residuals as BGR but divides them by the standard deviations of R, G and B. Its
    residual weights are converted so that they give the same scores on RGB residuals, which this project uses.

    Args:
        content: content of the file, see :func:`~coviar_mocrop.checkpoint.read_tensors`.
        path: path of the file, for messages.
        residual_order: colour order that residual weights in CoViAR's format were trained on, ``bgr`` or ``rgb``.

    Raises:
        CheckpointError: the file holds no state dict, two entries have the same name, or a value is not finite.
    """
    state, facts = _open(content, path)
    names = {key: key for key in state}
    for wrapper in _WRAPPERS * 2:  # compiled networks inside parallel ones, or vice versa
        if all(key.startswith(wrapper) for key in names):
            names = {key.removeprefix(wrapper): name for key, name in names.items()}
    ours = isinstance(content, dict) and {"format", "config", "classes"} <= content.keys()
    coviar = any(key.startswith("base_model.") for key in names)
    plain = not ours and not any(key.startswith(("base_model.", "backbone.")) for key in names)
    if ours:
        require_kinds(content, path)
        layout = "a checkpoint of this project"
    elif coviar:
        wrapped = state is not content or any(key.startswith("data_bn.") for key in names)
        layout = f"{'the original CoViAR code' if wrapped else 'the code of the MoCrop authors'} (base_model.*)"
    else:
        layout = (
            "a torchvision or timm network"
            if plain
            else "the MoCrop authors' code or an export of this project (backbone.*)"
        )
    renamed: dict[str, str] = {}
    for key, name in names.items():
        new = key if ours else _our_name(key, plain=plain)
        if new in renamed:
            raise CheckpointError(f"{path}: holds {renamed[new]} and {name}, which are the same entry")
        if state[name].is_floating_point() and not bool(state[name].isfinite().all()):
            raise CheckpointError(f"{path}: {name} holds values that are not finite; use another file")
        renamed[new] = name
    tensors = {new: state[name] for new, name in renamed.items()}
    norm = tensors.get("data_bn.running_mean")
    if coviar and residual_order == "bgr" and norm is not None and norm.shape == (3,):
        _from_bgr(tensors)
        layout += ", BGR residuals converted to RGB"
    return Weights(layout, tensors, renamed, facts, tuple(content["classes"]) if ours else None)


def fit(
    own: Mapping[str, Tensor],
    weights: Weights,
    stem: str,
    classifier: str,
    *,
    fine_tuning: bool = False,
    ignore: Sequence[str] = (),
) -> Fit:
    """Compare weights with a network.

    Args:
        own: state dict of the network.
        weights: weights of the file.
        stem: name of the first convolution in the network.
        classifier: name of the last layer in the network.
        fine_tuning: whether entries that depend on the data may differ. If so, the classifier (if missing or of another
            size), the BatchNorm over the input (if missing) and all entries outside the backbone keep their initial
            values. If the input is not RGB, a first convolution on RGB is averaged over the colours (CoViAR;
            MoCLIP-Lite).
        ignore: entries whose name in the file starts with one of these prefixes are ignored.
    """
    given, result = dict(weights.tensors), Fit()
    for key in weights.tensors:
        if weights.names[key].startswith(tuple(ignore)):
            result.set_aside[weights.names[key]] = "to be ignored"
            del given[key]
        elif key not in own and key.startswith(_TRAINING_HEADS):
            result.set_aside[weights.names[key]] = "a training head"
            del given[key]
    names = _match_classifier(own, given, weights.names, classifier)
    if fine_tuning:
        _average_stem(own, given, f"{stem}.weight")
        norm = "data_bn." if _input_norm(given) else "backbone."
        free = {key for key in own if not key.startswith(("backbone.", norm))}
        head = {f"{classifier}.weight", f"{classifier}.bias"} & own.keys()
        if any(key not in given or given[key].shape != own[key].shape for key in head):
            free |= head
            given = {key: tensor for key, tensor in given.items() if key not in head}
    else:
        free = set()
    for key, mine in own.items():
        if key not in given and (key in free or key.endswith(".num_batches_tracked")):  # PyTorch 0.4 has none
            result.state[key] = mine
            result.fresh.append(key)
        elif key not in given:
            result.missing.append(key)
        elif given[key].shape != mine.shape:
            shapes = [" x ".join(map(str, tensor.shape)) or "a number" for tensor in (given[key], mine)]
            result.differing[key] = f"{names[key]} is {shapes[0]}, the stream's {shapes[1]}"
        else:
            result.state[key] = given[key].to(mine.dtype)
            result.used.append(names[key])
    result.left_over.extend(names[key] for key in given if key not in own)
    return result


def wrong_stream(own: Mapping[str, Tensor], weights: Weights, stem: str, *, fine_tuning: bool = False) -> str:
    """Explain in one line why the weights belong to another stream than the network; empty if they do not.

    For the arguments see :func:`fit`.
    """
    theirs, ours = weights.tensors.get(f"{stem}.weight"), own[f"{stem}.weight"].shape[1]
    norm = weights.tensors.get("data_bn.running_mean")
    channels = norm.numel() if norm is not None else theirs.shape[1] if theirs is not None and theirs.ndim > 1 else ours
    if channels != ours and not (fine_tuning and norm is None and channels == 3):
        return f"belongs to a stream of {channels} channels, but this one has {ours}"
    if _input_norm(weights.tensors) - own.keys():
        return "has a BatchNorm over the input (data_bn), this stream has none; is it of residuals?"
    if not fine_tuning and theirs is not None and "data_bn.weight" in own.keys() - weights.tensors.keys():
        return "has no BatchNorm over the input (data_bn), this stream has one; is it of I-frames?"
    return ""


def class_count(weights: Weights, classifier: str) -> int | None:
    """Return the number of classes of the weights; None if they have no layer ``classifier``."""
    found = (weights.tensors.get(f"{name}.weight") for name in _forms(classifier))
    return next((int(tensor.shape[0]) for tensor in found if tensor is not None and tensor.ndim > 0), None)


def read_weights(path: str) -> Weights:
    """Read a weights file in any known format.

    Raises:
        CheckpointError: the file cannot be read, or holds no weights.
    """
    return recognise(read_tensors(path, "check model.weights"), path)


def load_weights(network: nn.Module, weights: Weights, source: str, stem: str, classifier: str) -> None:
    """Load weights into a network for fine-tuning; see :func:`fit`.

    Args:
        network: network with a submodule ``backbone``. Its first and last layers must be replaced already.
        weights: weights of a file.
        source: origin of the weights, for messages.
        stem: name of the first convolution.
        classifier: name of the last layer.

    Raises:
        CheckpointError: the weights belong to another stream or another architecture.
    """
    own, entries = network.state_dict(), len(weights.tensors)
    weights = _by_timm(network.get_submodule("backbone"), weights)
    fitted = fit(own, weights, stem, classifier, fine_tuning=True)
    if problem := wrong_stream(own, weights, stem, fine_tuning=True):
        raise CheckpointError(f"{source}: {problem}")
    if fitted.problems:
        raise CheckpointError(
            f"{source}: does not fit model.backbone ({fitted.problems}); is it of another architecture?"
        )
    if weights.classes is not None and (difference := wrong_stream(own, weights, stem)):  # a checkpoint of this project
        logger.warning(
            "%s: belongs to another stream (it %s), but is used to start this one. streams.NAME.model.weights=FILE "
            "gives each stream its own",
            *(source, difference.partition(";")[0]),
        )
    network.load_state_dict(fitted.state)
    notes = ", the classifier is initialised randomly" if f"{classifier}.weight" in fitted.fresh else ""
    if entries != len(weights.tensors):
        notes += f", {entries - len(weights.tensors)} left out as timm does"
    logger.info("%s: %s, %d entries used%s", source, weights.layout, len(fitted.used), notes)


def _by_timm(net: nn.Module, weights: Weights) -> Weights:
    """Convert the backbone's entries as timm would when it loads them; see :func:`as_timm_loads`."""
    inside = {key.removeprefix("backbone."): key for key in weights.tensors if key.startswith("backbone.")}
    given = {name: weights.tensors[key] for name, key in inside.items()}
    converted = {f"backbone.{name}": tensor for name, tensor in as_timm_loads(net, given).items()}
    tensors = {key: tensor for key, tensor in weights.tensors.items() if key not in inside.values()} | converted
    return replace(weights, tensors=tensors, names={key: weights.names.get(key, key) for key in tensors})


def _open(content: Any, path: str) -> tuple[dict[str, Tensor], dict[str, str | int | float]]:
    """The state dict, and the plain values beside it."""
    state, facts = content, {}
    if isinstance(content, dict):
        state = next((content[key] for key in _CONTAINERS if isinstance(content.get(key), dict)), content)
    if state is not content:
        numbers = {str(k): v.item() if _is_dense(v) and v.numel() == 1 else v for k, v in content.items()}
        facts = {name: value for name, value in numbers.items() if isinstance(value, str | int | float)}
    tensors = isinstance(state, dict) and all(isinstance(k, str) and _is_dense(v) for k, v in state.items())
    if not tensors or not state:
        raise CheckpointError(f"{path}: holds no state dict (a dictionary of dense tensors)")
    return state, facts


def _is_dense(value: Any) -> bool:
    return torch.is_tensor(value) and value.layout == torch.strided and not value.is_meta


def _our_name(key: str, *, plain: bool) -> str:
    if key.startswith("base_model."):
        key = f"backbone.{key.removeprefix('base_model.')}"
    elif plain and not key.startswith("data_bn."):
        key = f"backbone.{key}"
    # torchvision's published DenseNet weights still use names of 2017
    return re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)


def _input_norm(keys: Mapping[str, Tensor]) -> set[str]:
    return {key for key in keys if key.startswith("data_bn.")}


def _from_bgr(tensors: dict[str, Tensor]) -> None:
    """Convert weights for residuals (B, G, R) / std of (R, G, B) to residuals (R, G, B) / std of (R, G, B).

    If x is our input for colour c (0: R, 1: G, 2: B), CoViAR's is s * x with s = std[c] / std[2 - c]. The statistics of
    the BatchNorm over the input absorb s. Its epsilon causes a relative difference below 1e-5.
    """
    std = torch.tensor(IMAGENET_STD)
    ratio = std / std.flip(0)
    for name, factor in (("running_mean", 1 / ratio), ("running_var", 1 / ratio**2), ("weight", 1), ("bias", 1)):
        if (values := tensors.get(f"data_bn.{name}")) is not None:
            tensors[f"data_bn.{name}"] = values.flip(0) * factor
    convolution = tensors.get("backbone.conv1.weight")  # CoViAR has ResNets only
    if convolution is not None and convolution.ndim == 4:
        tensors["backbone.conv1.weight"] = convolution.flip(1)


def _match_classifier(
    own: Mapping[str, Tensor], given: dict[str, Tensor], names: Mapping[str, str], classifier: str
) -> dict[str, str]:
    """Rename the classifier in ``given`` as in ``own``. Returns the names in the file by the new names."""
    names = dict(names)
    for leaf in ("weight", "bias"):
        wanted = f"{classifier}.{leaf}"
        for other in (f"{form}.{leaf}" for form in _forms(classifier)):
            if wanted in own and wanted not in given and other in given and other not in own:
                given[wanted], names[wanted] = given.pop(other), names[other]
    return names


def _forms(classifier: str) -> tuple[str, str, str]:
    """Names of a classifier with and without dropout. With dropout it is a sequence whose last layer is ``.1``."""
    return classifier, f"{classifier}.1", classifier.removesuffix(".1")


def _average_stem(own: Mapping[str, Tensor], given: dict[str, Tensor], key: str) -> None:
    """Average the weights of an RGB stem for other input channels, unless there is a BatchNorm over the input."""
    theirs, mine = given.get(key), own.get(key)
    if theirs is None or mine is None or theirs.ndim != 4 or "data_bn.weight" in given:
        return
    if theirs.shape[1] == 3 and mine.shape[1] != 3 and theirs.shape[::2] == mine.shape[::2]:
        given[key] = average_colours(theirs, mine.shape[1])
