"""The frozen CLIP of the CLIP stream, through open_clip: pictures and prompts to features, nothing trained."""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from coviar_mocrop.errors import CheckpointError, ModelError
from coviar_mocrop.messages import first_line, quiet
from coviar_mocrop.networks.config import CLIPConfig
from coviar_mocrop.tensors import digest, read_tensors

TEMPERATURE = 100.0
"""What cosines are multiplied by to become logits (CLIP; MoCLIP-Lite)."""


class CLIPEncoder(nn.Module):
    """A frozen CLIP: always in evaluation mode, no gradient, nothing in it ever changes.

    Attributes:
        dim: length of its features.
        size: side of the pictures it takes, pixels.
        resample: filter that they are resized with, ``bicubic`` or ``bilinear``.
        title: the architecture's name, for people.
        digest: of all weights and of all that decides what comes out.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: CLIPConfig, seed: int = 0) -> None:
        """Build the network and load its weights.

        Args:
            settings: architecture and weights.
            seed: of random weights, where ``settings.pretrained`` is null.

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
        self.model = freeze(model)
        picture = dict(open_clip.get_model_preprocess_cfg(model))
        self.title = title(settings)
        self.size = _side(picture["size"])
        self.resample: Literal["bilinear", "bicubic"] = (
            "bilinear" if picture.get("interpolation") == "bilinear" else "bicubic"
        )
        self.register_buffer("mean", torch.tensor(picture["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(picture["std"]).view(3, 1, 1), persistent=False)
        self._tokenizer: Any = None
        self._settings = settings
        parts = json.dumps([settings.model, model.__class__.__name__, picture], sort_keys=True, default=list)
        # the activation has no weights, so it must be told apart by name
        activation = sorted({type(module).__name__ for module in model.modules()})
        self.digest = hashlib.sha256(f"{digest(model.state_dict())} {parts} {activation}".encode()).hexdigest()
        with torch.no_grad():
            self.dim = int(self(torch.zeros(1, 3, self.size, self.size)).shape[1])

    def normalise(self, pictures: Tensor) -> Tensor:
        """Pictures uint8 [N, 3, size, size] RGB, resized by ``resample``, as this CLIP wants them: float32."""
        values: Tensor = (pictures.float() / 255 - self.mean) / self.std
        return values

    def forward(self, pictures: Tensor) -> Tensor:
        """Features [T, dim], not normalised, of normalised pictures [T, 3, size, size]."""
        features: Tensor = self.model.encode_image(pictures, normalize=False)  # type: ignore[operator]
        return features

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Features float32 [texts, dim], not normalised, of texts.

        Raises:
            ModelError: the architecture's tokenizer cannot be had.
        """
        if self._tokenizer is None:
            self._tokenizer = _tokenizer(_open_clip(), self._settings)
        with torch.no_grad():
            features: Tensor = self.model.encode_text(self._tokenizer(list(texts)), normalize=False)  # type: ignore
        return features.float()

    def train(self, mode: bool = True) -> CLIPEncoder:
        """Frozen means frozen: stays in evaluation mode."""
        return super().train(False)


def class_features(prompts: Sequence[Sequence[str]], encode: Callable[[Sequence[str]], Tensor]) -> Tensor:
    """One text feature a class: its prompts' features, each of length 1, averaged and brought to length 1.

    Args:
        prompts: by class, one or more.
        encode: texts to features [texts, D]; all prompts of a class at once.

    Returns:
        float32 [classes, D], rows of length 1 (MoCLIP-Lite, zero-shot).
    """
    rows = [nn.functional.normalize(encode(texts).float(), dim=-1).mean(dim=0) for texts in prompts]
    return nn.functional.normalize(torch.stack(rows), dim=-1)


def picture_tower(settings: CLIPConfig) -> tuple[nn.Module, int]:
    """The part that pictures go through, without memory (on PyTorch's meta device), and its input's side in pixels.

    For counting; no weights are read or downloaded.

    Raises:
        ModelError: open_clip is not installed or the architecture is unknown.
    """
    open_clip = _open_clip()
    with quiet(), torch.device("meta"):
        model = _build(open_clip, settings.model_copy(update={"pretrained": None}), device="meta")
    return model.get_submodule("visual"), _side(open_clip.get_model_preprocess_cfg(model)["size"])


def feature_dim(settings: CLIPConfig) -> int:
    """Length of the picture features; nothing is computed, read or downloaded. See :func:`picture_tower`."""
    tower, size = picture_tower(settings)
    with torch.no_grad():
        features = tower.eval()(torch.empty(1, 3, size, size, device="meta"))
    return int((features if torch.is_tensor(features) else features[0]).shape[-1])


def title(settings: CLIPConfig) -> str:
    """The architecture's name, for people."""
    return settings.model if isinstance(settings.model, str) else "CLIP of its own description"


def freeze(module: nn.Module) -> nn.Module:
    """Evaluation mode and no gradients; gives the module back."""
    return module.eval().requires_grad_(False)


def _open_clip() -> ModuleType:
    try:
        import open_clip
    except ImportError as error:
        raise ModelError(
            f'the CLIP stream needs open_clip, which cannot be imported ({error}): pip install -e ".[clip]"'
        ) from error
    return open_clip


def _build(open_clip: ModuleType, settings: CLIPConfig, device: str = "cpu") -> nn.Module:
    architecture, weights = settings.model, settings.pretrained
    local = weights is not None and (os.sep in weights or os.path.splitext(weights)[1] != "")
    if isinstance(architecture, dict):
        if weights is not None and not local:
            raise ModelError(
                f"clip.pretrained is {weights!r}, but a CLIP of its own description has no published weights; give "
                "the path of a weights file, or null for random ones"
            )
        model = _described(open_clip, architecture)
    else:
        model = _named(open_clip, architecture, None if local else weights, device)
    if local:
        assert weights is not None
        _load_local(open_clip, model, weights)
    return model


def _described(open_clip: ModuleType, architecture: dict[str, Any]) -> nn.Module:
    description = copy.deepcopy(architecture)
    kind = open_clip.CustomTextCLIP if description.pop("custom_text", False) else open_clip.CLIP
    try:
        model: nn.Module = kind(**description)
    except (TypeError, ValueError, AssertionError, RuntimeError, AttributeError) as error:
        raise ModelError(
            f"clip.model: is no description of a CLIP in open_clip's form ({first_line(error)}); it wants embed_dim, "
            "vision_cfg and text_cfg"
        ) from error
    open_clip.set_model_preprocess_cfg(model, _defaults(model.get_submodule("visual").image_size))
    return model


def _named(open_clip: ModuleType, name: str, tag: str | None, device: str) -> nn.Module:
    if name not in open_clip.list_models():
        near = difflib.get_close_matches(name, open_clip.list_models(), 1)
        hint = f"did you mean {near[0]}?" if near else "see open_clip.list_models()"
        raise ModelError(f"clip.model {name!r} is not an architecture of open_clip; {hint}")
    quick = False
    if tag is not None:
        published = open_clip.get_pretrained_cfg(name, tag)
        if not published:
            from open_clip.pretrained import list_pretrained_tags_by_model

            tags = list_pretrained_tags_by_model(name)
            raise ModelError(
                f"clip.pretrained: {name} has no weights {tag!r}; choose from {', '.join(tags) or 'none'}, the path "
                "of a local file, or null for random ones"
            )
        # the same layers with another activation: weights trained with it give nonsense without
        quick = bool(published.get("quick_gelu", False))
    try:
        return open_clip.create_model(
            name,
            pretrained=tag,
            force_quick_gelu=quick,
            pretrained_image=False,
            pretrained_text=False,
            device=device,
            weights_only=True,
        )
    except (RuntimeError, OSError, ValueError, ImportError) as error:
        if tag is None:
            raise ModelError(f"clip.model {name!r} cannot be built ({first_line(error)})") from error
        raise ModelError(
            f"the weights {tag!r} of CLIP {name} cannot be downloaded or loaded ({first_line(error)}); download them "
            "where there is a network and give the file's path in clip.pretrained"
        ) from error


def _load_local(open_clip: ModuleType, model: nn.Module, path: str) -> None:
    remedy = "give a weights file of open_clip (.pt, .bin, .safetensors) in clip.pretrained"
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: no such weights file; {remedy}, or a published tag")
    read_tensors(path, remedy)  # refuses what is damaged or would run something
    try:
        left = open_clip.load_checkpoint(model, path, strict=True, weights_only=True)
    except Exception as error:  # safetensors, open_clip and PyTorch each fail in their own ways on foreign bytes
        raise CheckpointError(
            f"{path}: does not fit the CLIP in clip.model, or is damaged ({first_line(error)}); {remedy}"
        ) from error
    if left and (left.missing_keys or left.unexpected_keys):
        raise CheckpointError(f"{path}: does not fit the CLIP in clip.model; {remedy}")


def _tokenizer(open_clip: ModuleType, settings: CLIPConfig) -> Any:
    try:
        with quiet():
            if isinstance(settings.model, str):
                return open_clip.get_tokenizer(settings.model)
            length = settings.model.get("text_cfg", {}).get("context_length", 77)
            return open_clip.SimpleTokenizer(context_length=length)
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise ModelError(
            f"the tokenizer of CLIP {title(settings)} cannot be had ({first_line(error)}); architectures named "
            "ViT-* and RN* bring their own"
        ) from error


def _defaults(size: Any) -> dict[str, Any]:
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    return {
        "size": size,
        "mode": "RGB",
        "mean": OPENAI_DATASET_MEAN,
        "std": OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }


def _side(size: int | Sequence[int]) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise ModelError(f"clip.model takes pictures of {size}; only square ones are supported")
    return int(next(iter(sides)))
