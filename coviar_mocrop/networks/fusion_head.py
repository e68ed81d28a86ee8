"""Heads on top of frozen networks: the trained head of the CLIP stream (MoCLIP-Lite), and zero-shot classification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from coviar_mocrop.checkpoint import digest
from coviar_mocrop.networks.backbones import set_module
from coviar_mocrop.networks.clip import TEMPERATURE, FrozenEncoder
from coviar_mocrop.networks.config import CLIPConfig
from coviar_mocrop.networks.linear import column_statistics
from coviar_mocrop.networks.stream_net import StreamNet


class MotionEncoder(FrozenEncoder):
    """The frozen network of a trained motion stream, without its classifier. With EfficientNet-B0, ``dim`` is 1280."""

    def __init__(self, stream: StreamNet) -> None:
        """Take over ``stream``, which is changed in place: its classifier is removed, and the rest is frozen."""
        super().__init__()
        last = stream.get_submodule(stream.classifier_name)
        self.dim = int(last.in_features if isinstance(last, nn.Linear) else last.in_channels)  # type: ignore[arg-type]
        set_module(stream, stream.classifier_name, nn.Identity())
        self.stream = stream.to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def forward(self, clips: Tensor) -> Tensor:
        """Encode clips [N, views, T, 2, H, W] as features [N, dim], averaged over views and segments."""
        features: Tensor = self.stream(clips)
        return features

    def digest(self) -> str:
        """Return a fingerprint of the weights and statistics."""
        return digest(self.state_dict())


class CLIPFusionHead(nn.Module):
    """The trained head of the CLIP stream, on the features of a clip.

    Its state dict holds the head, the frozen motion network, the statistics of the features and CLIP's fingerprint, but
    not CLIP itself.

    Attributes:
        motion: the frozen motion network; None: the head does not use motion.
        image_dim: length of CLIP's features; 0: the head does not use them.
        motion_dim: length of the motion features; 0: the head does not use them.
        classifier_name: name of the last layer's submodule.
        mean: mean of the features over the training clips, float32 [image_dim + motion_dim].
        deviation: standard deviation of the features over the training clips, float32 [image_dim + motion_dim].
        clip_digest: fingerprint of CLIP, uint8 [32].
    """

    mean: Tensor
    deviation: Tensor
    clip_digest: Tensor

    def __init__(self, settings: CLIPConfig, num_classes: int, image_dim: int, motion: MotionEncoder | None) -> None:
        """Build the head.

        Args:
            settings: hidden width, dropout, and whether features are standardised.
            num_classes: number of outputs.
            image_dim: length of CLIP's features; 0: the head does not use them.
            motion: the frozen motion network; None: the head does not use motion.
        """
        super().__init__()
        self.motion = motion
        self.image_dim, self.motion_dim = image_dim, motion.dim if motion is not None else 0
        inputs = self.image_dim + self.motion_dim
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("deviation", torch.ones(inputs))
        self.register_buffer("clip_digest", torch.zeros(32, dtype=torch.uint8))
        self.standardise = settings.standardise
        layers: list[nn.Module] = []
        if settings.hidden:
            layers += [nn.Linear(inputs, settings.hidden), nn.ReLU(), nn.Dropout(settings.dropout)]
        layers.append(nn.Linear(settings.hidden or inputs, num_classes))
        self.head = nn.Sequential(*layers)
        self.classifier_name = f"head.{len(layers) - 1}"
        self._fitted = False

    def forward(self, features: Tensor) -> Tensor:
        """Compute clip logits [N, classes] from features [N, image_dim + motion_dim], CLIP's features first."""
        logits: Tensor = self.head((features - self.mean) / self.deviation)
        return logits

    def fit(self, features: Tensor, clip: str) -> None:
        """Prepare for training: store CLIP's fingerprint and, if features are standardised, their statistics.

        Args:
            features: features of the training clips, [clips, image_dim + motion_dim].
            clip: fingerprint of CLIP, hexadecimal; empty if CLIP's features are not used.
        """
        if clip:
            self.clip_digest.copy_(torch.tensor(list(bytes.fromhex(clip)), dtype=torch.uint8))
        if self.standardise:
            mean, deviation = column_statistics(features)
            self.mean.copy_(mean)
            self.deviation.copy_(deviation)
        self._fitted = True

    @property
    def clip(self) -> str:
        """Fingerprint of the CLIP network whose features the head uses, 64 hexadecimal digits; zeros: it uses none."""
        return bytes(self.clip_digest.cpu().tolist()).hex()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights, as :meth:`torch.nn.Module.load_state_dict`.

        After :meth:`fit`, weights that were trained on other features are refused.

        Raises:
            RuntimeError: the weights do not fit, or were trained on other features.
        """
        if self._fitted:
            own = self.state_dict()
            for name in ("clip_digest", "mean", "deviation", *(key for key in own if key.startswith("motion."))):
                if name in state_dict and not torch.equal(state_dict[name].cpu(), own[name].cpu()):
                    raise RuntimeError(f"it was trained on other features: {name} differs")
        return super().load_state_dict(state_dict, strict, assign)


class ZeroShotHead(nn.Module):
    """CLIP's zero-shot classifier: 100 times the cosine similarity of an image to each class. Nothing is trained.

    Attributes:
        texts: text features of the classes, float32 [classes, D], rows of length 1.
    """

    texts: Tensor

    def __init__(self, texts: Tensor) -> None:
        """Set the text features of the classes, float32 [classes, D], rows of length 1."""
        super().__init__()
        self.register_buffer("texts", texts)

    def forward(self, features: Tensor) -> Tensor:
        """Compute logits [N, classes] of image features [N, D]."""
        logits: Tensor = TEMPERATURE * nn.functional.normalize(features.float(), dim=-1) @ self.texts.T
        return logits
