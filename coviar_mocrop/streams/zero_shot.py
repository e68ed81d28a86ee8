"""CLIP's zero-shot classifier as a stream. It uses the names of the classes, and nothing is trained."""

from __future__ import annotations

from torch import nn

from coviar_mocrop.flops import StreamCost
from coviar_mocrop.networks.clip import class_features
from coviar_mocrop.networks.fusion_head import ZeroShotHead
from coviar_mocrop.networks.prompts import read_prompts
from coviar_mocrop.streams.base import register
from coviar_mocrop.streams.clip import CLIPPictures


@register
class ZeroShotStream(CLIPPictures):
    """Cosine similarity of CLIP's picture feature to the text feature of each class (MoCLIP-Lite, zero-shot)."""

    name = "zero_shot"
    title = "CLIP zero-shot"
    rank = 4
    trainable = False

    def create_network(self, *, weights: bool) -> nn.Module:
        """See :meth:`Stream.create_network`."""
        prompts = read_prompts(self.config.clip.prompts, self.classes)
        return ZeroShotHead(class_features(prompts, self.encoder.encode_text))

    def cost(self) -> StreamCost:
        """See :meth:`Stream.cost`: CLIP's image tower on each frame."""
        return StreamCost(self._tower_flops(), self.config.clip.frames)
