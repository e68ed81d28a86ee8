"""The frozen CLIP network of the CLIP streams, built by open_clip. It encodes images and texts as features."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from coviar_mocrop.checkpoint import digest, is_file_name, read_tensors
from coviar_mocrop.errors import CheckpointError, ModelError
from coviar_mocrop.messages import first_line, pip_install, quiet
from coviar_mocrop.networks.config import CLIPConfig

logger = logging.getLogger(__name__)

TEMPERATURE = 100.0
"""Factor by which cosine similarities are multiplied to give logits (CLIP; MoCLIP-Lite)."""


class FrozenEncoder(nn.Module):
    """Base class of frozen networks from images or clips to features. They get no gradients and never change.

    Attributes:
        dim: length of the features.
    """

    dim: int

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stay in evaluation mode, whatever ``mode`` is: BatchNorm statistics are frozen too."""
        return super().train(False)


class CLIPEncoder(FrozenEncoder):
    """A frozen CLIP network.

    Attributes:
        size: side of its square input images, pixels.
        resample: filter for resizing images, ``bicubic`` or ``bilinear``.
        title: display name of the architecture.
        digest: fingerprint of everything that the features depend on, such as weights and normalisation: SHA-256, 64
            hexadecimal digits.
        mean: mean of the input images, float32 [3, 1, 1].
        std: standard deviation of the input images, float32 [3, 1, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: CLIPConfig, seed: int = 0) -> None:
        """Build the network and load its weights.

        Args:
            settings: architecture and weights.
            seed: random seed of the weights if ``settings.pretrained`` is None.

        Raises:
            ModelError: open_clip is not installed, the architecture or tag is unknown, or the weights cannot be
                downloaded.
            CheckpointError: a local weights file is missing, damaged, unsafe or of another architecture.
        """
        super().__init__()
        open_clip = _open_clip()
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _build(open_clip, settings)
        self.model = model.eval().requires_grad_(False)
        picture = dict(open_clip.get_model_preprocess_cfg(model))
        self.title = title(settings)
        self.size = _side(picture["size"])
        self.resample: Literal["bilinear", "bicubic"] = (
            "bilinear" if picture.get("interpolation") == "bilinear" else "bicubic"
        )
        self.register_buffer("mean", torch.tensor(picture["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(picture["std"]).view(3, 1, 1), persistent=False)
        self._settings = settings
        parts = json.dumps([settings.model, model.__class__.__name__, picture], sort_keys=True, default=list)
        # activations have no weights, so they are identified by class name
        activation = sorted({type(module).__name__ for module in model.modules()})
        self.digest = hashlib.sha256(f"{digest(model.state_dict())} {parts} {activation}".encode()).hexdigest()
        with torch.no_grad():
            self.dim = int(self(torch.zeros(1, 3, self.size, self.size)).shape[1])

    def normalise(self, pictures: Tensor) -> Tensor:
        """Normalise images for :meth:`forward`: uint8 [N, 3, size, size] RGB to float32 of the same shape."""
        values: Tensor = (pictures.float() / 255 - self.mean) / self.std
        return values

    def forward(self, pictures: Tensor) -> Tensor:
        """Encode normalised images [N, 3, size, size] as features [N, dim], which are not normalised."""
        features: Tensor = self.model.encode_image(pictures, normalize=False)  # type: ignore[operator]
        return features

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Encode texts as features float32 [texts, dim], which are not normalised.

        Raises:
            ModelError: the tokenizer of the architecture cannot be loaded.
        """
        with torch.no_grad():
            features: Tensor = self.model.encode_text(self._tokenizer(list(texts)), normalize=False)  # type: ignore
        return features.float()

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            with quiet(), _name(self._settings.model) as name:
                return _open_clip().get_tokenizer(name)
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            raise ModelError(
                f"the tokenizer of CLIP {self.title} cannot be loaded ({first_line(error)}); architectures named ViT-* "
                "and RN* need no download for it"
            ) from error


def class_features(prompts: Sequence[Sequence[str]], encode: Callable[[Sequence[str]], Tensor]) -> Tensor:
    """Compute one text feature per class: the normalised mean of the normalised features of its prompts.

    This is the zero-shot classifier of CLIP and MoCLIP-Lite.

    Args:
        prompts: one or more prompts for each class.
        encode: function from texts to features [texts, D].

    Returns:
        float32 [classes, D]. Rows have length 1.
    """
    rows = [nn.functional.normalize(encode(texts).float(), dim=-1).mean(dim=0) for texts in prompts]
    return nn.functional.normalize(torch.stack(rows), dim=-1)


def picture_tower(settings: CLIPConfig) -> tuple[nn.Module, int]:
    """Build CLIP's image encoder without weights (on PyTorch's meta device), to count multiply-adds.

    Nothing is read or downloaded.

    Returns:
        The network, and the side of its input in pixels.

    Raises:
        ModelError: open_clip is not installed, or the architecture is unknown or takes images that are not square.
    """
    open_clip = _open_clip()
    with quiet(), torch.device("meta"):
        model = _build(open_clip, settings.model_copy(update={"pretrained": None}), device="meta")
    return model.get_submodule("visual"), _side(open_clip.get_model_preprocess_cfg(model)["size"])


def feature_dim(settings: CLIPConfig) -> int:
    """Return the length of CLIP's image features. Nothing is read or downloaded.

    Raises:
        ModelError: see :func:`picture_tower`.
    """
    tower, size = picture_tower(settings)
    with torch.no_grad():
        features = tower.eval()(torch.empty(1, 3, size, size, device="meta"))
    return int((features if torch.is_tensor(features) else features[0]).shape[-1])


def title(settings: CLIPConfig) -> str:
    """Return the display name of the architecture."""
    return settings.model if isinstance(settings.model, str) else "a CLIP of your own description"


def _open_clip() -> ModuleType:
    try:
        import open_clip
    except ImportError as error:
        raise ModelError(
            f"the CLIP stream needs open_clip, which cannot be imported ({error}); {pip_install('clip')}"
        ) from error
    return open_clip


@contextmanager
def _name(model: str | dict[str, Any]) -> Iterator[str]:
    """The name by which open_clip can build an architecture. A description is written to a temporary folder for it."""
    if isinstance(model, str):
        yield model
        return
    with TemporaryDirectory() as folder:
        Path(folder, "open_clip_config.json").write_text(json.dumps({"model_cfg": model}), encoding="utf-8")
        yield f"local-dir:{folder}"


def _build(open_clip: ModuleType, settings: CLIPConfig, device: str = "cpu") -> nn.Module:
    architecture, weights = settings.model, settings.pretrained
    tag = None if is_file_name(weights) else weights
    quick = _check_names(open_clip, architecture, tag)
    if tag is not None:
        logger.info("CLIP %s: loading the weights %s, which are downloaded the first time", architecture, tag)
    try:
        with _name(architecture) as name:
            model: nn.Module = open_clip.create_model(
                name,
                pretrained=tag,
                force_quick_gelu=quick,
                pretrained_image=False,
                pretrained_text=False,
                device=device,
                weights_only=True,
            )
    except Exception as error:  # a wrong description fails in many ways
        if isinstance(architecture, dict):
            raise ModelError(
                f"clip.model: is not a description of a CLIP in open_clip's format ({first_line(error)}); it must have "
                "embed_dim, vision_cfg and text_cfg"
            ) from error
        if tag is None:
            raise ModelError(f"clip.model {architecture!r} cannot be built ({first_line(error)})") from error
        raise ModelError(
            f"the weights {tag!r} of CLIP {architecture} cannot be downloaded or loaded ({first_line(error)}); "
            "download them where there is a network and give the path of the file in clip.pretrained"
        ) from error
    if weights is not None and tag is None:
        _load_local(open_clip, model, weights)
    return model


def _check_names(open_clip: ModuleType, architecture: str | dict[str, Any], tag: str | None) -> bool:
    """Check that open_clip knows the architecture and the tag.

    Returns:
        Whether the weights were trained with the activation QuickGELU, which cannot be seen from the weights.
    """
    if isinstance(architecture, dict):
        if tag is not None:
            raise ModelError(
                f"clip.pretrained is {tag!r}, but there are no published weights for a CLIP of your own description; "
                "give the path of a weights file, or null for random weights"
            )
        return False
    if architecture not in open_clip.list_models():
        near = difflib.get_close_matches(architecture, open_clip.list_models(), 1)
        hint = f"did you mean {near[0]}?" if near else "see open_clip.list_models()"
        raise ModelError(f"clip.model {architecture!r} is not an architecture of open_clip; {hint}")
    published = {} if tag is None else open_clip.get_pretrained_cfg(architecture, tag)
    if tag is not None and not published:
        tags = [tag for name, tag in open_clip.list_pretrained() if name == architecture]
        raise ModelError(
            f"clip.pretrained: {architecture} has no weights {tag!r}; choose from {', '.join(tags) or 'none'}, the "
            "path of a local file, or null for random weights"
        )
    return bool(published.get("quick_gelu", False))


def _load_local(open_clip: ModuleType, model: nn.Module, path: str) -> None:
    remedy = "give a weights file of open_clip (.pt, .bin, .safetensors) in clip.pretrained"
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: no such weights file; {remedy}, or a published tag")
    read_tensors(path, remedy)  # refuses damaged files and pickles that run code
    try:
        open_clip.load_checkpoint(model, path, strict=True, weights_only=True)
    except Exception as error:  # safetensors, open_clip and PyTorch each fail in their own ways on unknown bytes
        raise CheckpointError(
            f"{path}: does not fit the CLIP in clip.model, or is damaged ({first_line(error)}); {remedy}"
        ) from error


def _side(size: int | Sequence[int]) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise ModelError(f"clip.model takes pictures of {size}; only square ones are supported")
    return int(next(iter(sides)))
