"""Networks over features of frozen networks: the trained head of the CLIP stream (MoCLIP-Lite) and zero-shot."""

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
    """The network of a trained motion stream without its classifier, frozen. For an EfficientNet-B0, dim is 1280."""

    def __init__(self, stream: StreamNet) -> None:
        """Take ``stream`` over and remove its classifier."""
        super().__init__()
        last = stream.get_submodule(stream.classifier_name)
        self.dim = int(last.in_features if isinstance(last, nn.Linear) else last.in_channels)  # type: ignore[arg-type]
        set_module(stream, stream.classifier_name, nn.Identity())
        self.stream = stream.to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def forward(self, clips: Tensor) -> Tensor:
        """Input features of the classifier [N, dim], averaged over views and segments, of clips [N, V, T, 2, H, W]."""
        features: Tensor = self.stream(clips)
        return features

    def digest(self) -> str:
        """Fingerprint of the weights and statistics."""
        return digest(self.state_dict())


class CLIPFusionHead(nn.Module):
    """The trained head over the features of a clip.

    Its state holds the head, the frozen motion network, the statistics of the features and CLIP's fingerprint, but not
    CLIP itself.

    Attributes:
        motion: the frozen motion network, or None.
        image_dim, motion_dim: lengths of the two parts of its input; 0 where a part is left out.
        classifier_name: name of the submodule that is the last layer.
    """

    mean: Tensor
    deviation: Tensor
    clip_digest: Tensor

    def __init__(self, settings: CLIPConfig, num_classes: int, image_dim: int, motion: MotionEncoder | None) -> None:
        """Build the head.

        Args:
            settings: width, dropout and standardising.
            num_classes: number of outputs.
            image_dim: length of CLIP's features; 0: the head does not see them.
            motion: the frozen motion network; None: the head does not see motion.
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
        """Clip logits [N, classes] of features [N, image_dim + motion_dim], CLIP's first."""
        logits: Tensor = self.head((features - self.mean) / self.deviation)
        return logits

    def fit(self, features: Tensor, clip: str) -> None:
        """Prepare for training on features [clips, dim]: keep their mean and deviation, if they are standardised.

        Args:
            features: of the training list.
            clip: fingerprint of the CLIP that made the first part; empty if there is none.
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
        """Fingerprint of the CLIP whose features the head was trained on; zeros if it was trained on none."""
        return bytes(self.clip_digest.cpu().tolist()).hex()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights. After :meth:`fit`, weights that were trained on other features are refused.

        Raises:
            RuntimeError: the weights do not fit, or the features differ.
        """
        if self._fitted:
            own = self.state_dict()
            for name in ("clip_digest", "mean", "deviation", *(key for key in own if key.startswith("motion."))):
                if name in state_dict and not torch.equal(state_dict[name].cpu(), own[name].cpu()):
                    raise RuntimeError(f"it was trained on other features: {name} differs")
        return super().load_state_dict(state_dict, strict, assign)


class ZeroShotHead(nn.Module):
    """CLIP's zero-shot classifier: 100 times the cosine similarity of a picture to each class. Nothing is trained."""

    texts: Tensor

    def __init__(self, texts: Tensor) -> None:
        """Keep the text features [classes, D], rows of length 1."""
        super().__init__()
        self.register_buffer("texts", texts)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [N, classes] of picture features [N, D]."""
        logits: Tensor = TEMPERATURE * nn.functional.normalize(features.float(), dim=-1) @ self.texts.T
        return logits
