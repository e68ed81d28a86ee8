"""The CLIP stream's own network: a frozen motion network and a small trained head over features (MoCLIP-Lite)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from coviar_mocrop.networks.backbones import set_module
from coviar_mocrop.networks.clip import TEMPERATURE, freeze
from coviar_mocrop.networks.config import CLIPConfig
from coviar_mocrop.networks.stream_net import StreamNet
from coviar_mocrop.tensors import digest


class MotionEncoder(nn.Module):
    """A trained motion stream without its classifier, frozen: clips to the features that the classifier got.

    Attributes:
        dim: length of its features (EfficientNet-B0: 1280).
        in_channels: 2.
    """

    def __init__(self, stream: StreamNet) -> None:
        """Take ``stream`` over; its classifier is dropped."""
        super().__init__()
        last = stream.get_submodule(stream.classifier_name)
        self.dim = int(last.in_features if isinstance(last, nn.Linear) else last.in_channels)  # type: ignore[arg-type]
        set_module(stream, stream.classifier_name, nn.Identity())
        self.stream = freeze(stream)
        self.in_channels = stream.in_channels

    def forward(self, clips: Tensor) -> Tensor:
        """Features [N, dim]: the mean over views and segments of clips [N, V, T, 2, H, W]."""
        count, length = clips.shape[0], clips.shape[2]
        frames = rearrange(clips, "n v t c h w -> (n v t) c h w").contiguous(memory_format=torch.channels_last)
        features = self.stream.frame_logits(frames, length).flatten(1)  # type: ignore[operator]
        return rearrange(features, "(n f) d -> n f d", n=count).mean(dim=1)

    def digest(self) -> str:
        """Of all weights and statistics."""
        return digest(self.state_dict())

    def train(self, mode: bool = True) -> MotionEncoder:
        """Frozen means frozen: BatchNorm statistics included."""
        return super().train(False)


class CLIPFusionHead(nn.Module):
    """The head over a clip's features; what it was trained on comes with it in its state.

    The state holds the head, the frozen motion network and CLIP's fingerprint, never CLIP itself.

    Attributes:
        image_dim, motion_dim: lengths of the two parts of its input; 0 where a part is left out.
        classifier_name: the last layer, as name of a submodule.
        stem_names: empty; no layer of the head is rated as one.
    """

    mean: Tensor
    deviation: Tensor
    clip_digest: Tensor

    def __init__(self, settings: CLIPConfig, num_classes: int, image_dim: int, motion: MotionEncoder | None) -> None:
        """Build the head.

        Args:
            settings: width, dropout, standardising.
            num_classes: outputs.
            image_dim: length of CLIP's features; 0: the head sees none.
            motion: the frozen motion network; None: the head sees no motion.
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
        self.stem_names: tuple[str, ...] = ()
        self._fitted = False

    def forward(self, features: Tensor) -> Tensor:
        """Clip logits [N, classes] of features [N, image_dim + motion_dim], CLIP's first."""
        logits: Tensor = self.head((features - self.mean) / self.deviation)
        return logits

    def fit(self, features: Tensor, clip: str) -> None:
        """Make ready for training on features [clips, dim]; CLIP's part is made by the one of fingerprint ``clip``.

        Takes over their mean and deviation, where standardising is wanted.
        """
        if clip:
            self.clip_digest.copy_(torch.tensor(list(bytes.fromhex(clip)), dtype=torch.uint8))
        if self.standardise:
            deviation, mean = torch.std_mean(features.double(), dim=0, correction=0)
            flat = deviation <= 1e-6 * features.double().abs().amax(dim=0).clamp(min=1e-6)
            self.mean.copy_(mean)
            self.deviation.copy_(deviation.masked_fill(flat, 1.0))
        self._fitted = True

    @property
    def clip(self) -> str:
        """Fingerprint of the CLIP whose features the head was trained on; zeros where it sees none."""
        return bytes(self.clip_digest.cpu().tolist()).hex()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights; a head whose features are at hand takes none that were trained on others.

        Raises:
            RuntimeError: as any module's; or the frozen networks are others than those of the features.
        """
        if self._fitted:
            own = self.state_dict()
            for name in ("clip_digest", "mean", "deviation", *(key for key in own if key.startswith("motion."))):
                if name in state_dict and not torch.equal(state_dict[name].cpu(), own[name].cpu()):
                    raise RuntimeError(f"it was trained on other features: {name} differs")
        return super().load_state_dict(state_dict, strict, assign)


class ZeroShotHead(nn.Module):
    """Cosine similarity of CLIP's picture feature to each class's text feature, times 100; nothing is trained.

    Attributes:
        image_dim: length of CLIP's features; ``motion_dim`` is 0.
    """

    motion_dim = 0
    motion = None
    texts: Tensor

    def __init__(self, texts: Tensor, clip: str) -> None:
        """Keep ``texts`` [classes, D], rows of length 1, made by the CLIP of fingerprint ``clip``."""
        super().__init__()
        self.register_buffer("texts", texts)
        self.image_dim = int(texts.shape[1])
        self.clip = clip

    def forward(self, features: Tensor) -> Tensor:
        """Logits [N, classes] of features [N, D]."""
        logits: Tensor = TEMPERATURE * nn.functional.normalize(features.float(), dim=-1) @ self.texts.T
        return logits
