"""A frozen backbone, and a linear classifier on what it gives: for lists too short to train a network on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coviar_mocrop.checkpoint import digest
from coviar_mocrop.networks.backbones import set_module
from coviar_mocrop.networks.linear import DEFAULT_STRENGTH, cross_validate, fit_linear
from coviar_mocrop.networks.stream_net import StreamNet


class FrozenNet(nn.Module):
    """The mean and the spread, over the frames of a clip, of a frozen backbone's features; a linear classifier on them.

    Attributes:
        dim: length of the features of a clip.
        in_channels, mean, std, temporal: see :class:`StreamNet`.
        classifier: linear, on standardised features.
        feature_mean, feature_deviation: float32 [dim], over the training clips.
    """

    feature_mean: Tensor
    feature_deviation: Tensor

    def __init__(self, network: StreamNet, num_classes: int) -> None:
        """Take ``network`` over: its classifier is removed, the rest never changes."""
        super().__init__()
        last = network.get_submodule(network.classifier_name)
        width = int(last.in_features if isinstance(last, nn.Linear) else last.in_channels)  # type: ignore[arg-type]
        set_module(network, network.classifier_name, nn.Identity())
        norm = network.data_bn
        if isinstance(norm, nn.BatchNorm2d) and network.in_channels == 2 and bool((norm.weight == 1).all()):
            # nothing will train it: motion gets the spread of the pictures that the backbone knows
            nn.init.constant_(norm.weight, len(network.std) / sum(network.std))
        self.backbone = network.requires_grad_(False).eval()
        self.dim = 2 * width
        self.in_channels, self.mean, self.std, self.temporal = network.in_channels, network.mean, network.std, False
        self.classifier = nn.Linear(self.dim, num_classes)
        self.classifier_name = "classifier"
        self.register_buffer("feature_mean", torch.zeros(self.dim))
        self.register_buffer("feature_deviation", torch.ones(self.dim))

    def train(self, mode: bool = True) -> FrozenNet:
        """Stay in evaluation mode, whatever ``mode`` is: the statistics of BatchNorm are frozen too."""
        return super().train(False)

    def features(self, clips: Tensor) -> Tensor:
        """Features float32 [N, dim] of clips [N, T, C, H, W] or [N, views, T, C, H, W]; the views are averaged.

        What the backbone gives for a frame is brought to its signed square root first, so that a few strong channels do
        not drown the others (power normalisation, Perronnin et al., ECCV 2010, section 2.3).
        """
        outputs = self.backbone.frame_outputs(clips).flatten(3).float()
        outputs = outputs.sign() * outputs.abs().sqrt()
        deviation, mean = torch.std_mean(outputs, dim=2, correction=0)
        return torch.cat([mean, deviation], dim=2).mean(dim=1)

    def forward(self, clips: Tensor) -> Tensor:
        """Logits float32 [N, classes] of clips (see :meth:`features`), or of their features [N, dim].

        The classifier computes in double precision, as it was fitted (single on MPS, which has no other): the logits of
        a clip do not depend on the batch, nor on the precision of the backbone.
        """
        features = clips if clips.dim() == 2 else self.features(clips)
        kind = torch.float32 if features.device.type == "mps" else torch.float64
        inputs = (features.to(kind) - self.feature_mean) / self.feature_deviation
        return F.linear(inputs, self.classifier.weight.to(kind), self.classifier.bias.to(kind)).float()

    def fit(self, features: Tensor, labels: Tensor, folds: Tensor | None) -> tuple[float, Tensor | None]:
        """Fit the classifier on features [clips, dim] and labels int64 [clips], which takes seconds.

        Args:
            features, labels: of the clips.
            folds: int64 [divisions, clips], by which cross-validation chooses the regularisation; None: its default.

        Returns:
            The strength of the regularisation, and the logits of the clips held out; see :func:`cross_validate`.
        """
        classes = self.classifier.out_features
        strength, held_out = DEFAULT_STRENGTH, None
        if folds is not None:
            strength, held_out = cross_validate(features, labels, folds, classes)
        (found,) = fit_linear(features, labels, classes, [strength])
        with torch.no_grad():
            for own, value in zip(
                (self.feature_mean, self.feature_deviation, self.classifier.weight, self.classifier.bias),
                found,
                strict=True,
            ):
                own.copy_(value)
        return strength, held_out

    def digest(self) -> str:
        """Fingerprint of the backbone: its weights and statistics."""
        return digest(self.backbone.state_dict())
