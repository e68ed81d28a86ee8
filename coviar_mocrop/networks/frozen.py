"""A frozen backbone with a linear classifier on its features, for data sets too small to train a network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coviar_mocrop.checkpoint import digest
from coviar_mocrop.networks.backbones import set_module
from coviar_mocrop.networks.linear import DEFAULT_STRENGTH, cross_validate, fit_linear
from coviar_mocrop.networks.stream_net import StreamNet


class FrozenNet(nn.Module):
    """A linear classifier on the mean and standard deviation of a frozen backbone's features over the frames of a clip.

    Attributes:
        backbone: the frozen network without its classifier.
        dim: length of the features of a clip.
        in_channels: see :class:`StreamNet`.
        mean: see :class:`StreamNet`.
        std: see :class:`StreamNet`.
        temporal: False, because the features of a clip are a mean over its frames. (With the temporal shift, those of a
            frame also depend on its neighbours.)
        classifier: linear layer on standardised features.
        classifier_name: name of the classifier's submodule.
        feature_mean: mean of the features over the training clips, float32 [dim].
        feature_deviation: standard deviation of the features over the training clips, float32 [dim].
    """

    feature_mean: Tensor
    feature_deviation: Tensor

    def __init__(self, network: StreamNet, num_classes: int) -> None:
        """Take over ``network``, which is changed in place: its classifier is removed, and the rest is frozen.

        Args:
            network: the network.
            num_classes: number of outputs.
        """
        super().__init__()
        last = network.get_submodule(network.classifier_name)
        width = int(last.in_features if isinstance(last, nn.Linear) else last.in_channels)  # type: ignore[arg-type]
        set_module(network, network.classifier_name, nn.Identity())
        norm = network.data_bn
        if isinstance(norm, nn.BatchNorm2d) and network.in_channels == 2 and bool((norm.weight == 1).all()):
            # this layer will not be trained, so scale motion to the standard deviation of the backbone's images
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
        """Compute features float32 [N, dim] of clips [N, T, C, H, W] or [N, views, T, C, H, W]. Views are averaged.

        The signed square root is taken of the backbone's outputs first, so that a few strong channels do not dominate
        (power normalisation, Perronnin et al., ECCV 2010, section 2.3).
        """
        outputs = self.backbone.frame_outputs(clips).flatten(3).float()
        outputs = outputs.sign() * outputs.abs().sqrt()
        deviation, mean = torch.std_mean(outputs, dim=2, correction=0)
        return torch.cat([mean, deviation], dim=2).mean(dim=1)

    def forward(self, clips: Tensor) -> Tensor:
        """Compute logits float32 [N, classes] of clips (see :meth:`features`), or of their features [N, dim].

        The classifier is computed in float64, as it was fitted (in float32 on MPS, which has no float64). So the logits
        of given features depend neither on the batch nor on the precision of the backbone.
        """
        features = clips if clips.dim() == 2 else self.features(clips)
        kind = torch.float32 if features.device.type == "mps" else torch.float64
        inputs = (features.to(kind) - self.feature_mean) / self.feature_deviation
        return F.linear(inputs, self.classifier.weight.to(kind), self.classifier.bias.to(kind)).float()

    def fit(self, features: Tensor, labels: Tensor, folds: Tensor | None) -> tuple[float, Tensor | None]:
        """Fit the classifier. This takes seconds.

        Args:
            features: features of the clips, [clips, dim].
            labels: int64 [clips].
            folds: folds for the cross-validation that chooses the strength of the regularisation, int64 [divisions,
                clips]; None: the default strength is used.

        Returns:
            The strength of the regularisation; and the logits of the held-out clips, float64 [clips, classes], or None
            without ``folds``. See :func:`cross_validate`.
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
        """Return a fingerprint of the backbone's weights and statistics."""
        return digest(self.backbone.state_dict())
