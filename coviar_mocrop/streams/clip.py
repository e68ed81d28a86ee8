"""The CLIP stream: frozen CLIP and motion network, a small trained head (MoCLIP-Lite, arXiv 2509.17084)."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from einops import rearrange
from torch import Tensor, nn

from coviar_mocrop.bitstream import Gop
from coviar_mocrop.checkpoint import load_checkpoint, load_model_state
from coviar_mocrop.clips.dataset import Frames
from coviar_mocrop.clips.reader import View
from coviar_mocrop.clips.sampling import middle_frames, motion_frames
from coviar_mocrop.clips.windows import Window, middle_square, testing_windows
from coviar_mocrop.errors import CheckpointError, ConfigError
from coviar_mocrop.flops import StreamCost, count_flops
from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.networks.clip import CLIPEncoder, feature_dim, picture_tower
from coviar_mocrop.networks.clip import title as clip_title
from coviar_mocrop.networks.config import ModelConfig
from coviar_mocrop.networks.fusion_head import CLIPFusionHead, MotionEncoder
from coviar_mocrop.networks.stream_net import create_network
from coviar_mocrop.streams.base import Stream, register
from coviar_mocrop.streams.features import FeatureStream, FrozenPart
from coviar_mocrop.streams.frames import both_ways
from coviar_mocrop.streams.mv import MotionStream, mirror_motion, normalise_motion

logger = logging.getLogger(__name__)


class CLIPPictures(FeatureStream):
    """What the CLIP streams with and without training share: frozen CLIP over the middle I-frames."""

    _encoder: CLIPEncoder | None = None

    @property
    def encoder(self) -> CLIPEncoder:
        """The frozen CLIP, loaded when it is needed first.

        Raises:
            ModelError, CheckpointError: it cannot be had, or is another than the one that the stream was trained with.
        """
        if self._encoder is None:
            config = self.config.clip
            encoder = CLIPEncoder(config, self.config.seed)
            if self.trained_with not in (None, encoder.digest):
                raise CheckpointError(
                    f"the stream was trained on features of another CLIP than {encoder.title} with weights "
                    f"{config.pretrained or 'from the seed'}; set clip.model and clip.pretrained as in its training"
                )
            self._encoder = encoder
        return self._encoder

    @property
    def trained_with(self) -> str | None:
        """Fingerprint of the CLIP that the network's weights belong to; None: not trained yet."""
        return None

    def views(
        self, num_frames: int, gops: Sequence[Gop], generator: np.random.Generator | None = None
    ) -> dict[str, View]:
        """The middle I-frames, in the clip's box or else the middle square, resized as CLIP was trained."""
        frames = middle_frames(num_frames, self.config.clip.frames, "iframe")

        def windows(frame_size: tuple[int, int], box: CropBox | None) -> list[Window]:
            return middle_square(frame_size, box if self.config.clip.crop else None)

        encoder = self.encoder
        return {"image": View("iframe", frames, windows, encoder.size, encoder.resample)}

    def parts(self) -> dict[str, FrozenPart]:
        """See :meth:`FeatureStream.parts`."""
        config, encoder = self.config, self.encoder
        made_by = {
            "part": "image",
            "network": encoder.digest,
            "frames": config.clip.frames,
            "anchor_every": config.data.anchor_every,
            "box": self._box() if config.clip.crop else None,
        }
        return {"image": FrozenPart(encoder, encoder.dim, made_by)}

    def encode_view(self, view: str, frames: Frames) -> Tensor:
        """See :meth:`FeatureStream.encode_view`: the mean over the pictures of each clip."""
        pictures = rearrange(frames.pixels, "n v t c h w -> (n v t) c h w")
        features = self.encoder(self.encoder.normalise(pictures))
        mean: Tensor = rearrange(features, "(n f) d -> n f d", n=len(frames.pixels)).mean(dim=1)
        return mean

    def without_network(self) -> Stream:
        """See :meth:`Stream.without_network`."""
        light = super().without_network()
        light.__dict__.pop("_encoder", None)
        return light

    def _box(self) -> Any:
        return self.config.mocrop.model_dump(mode="json") if self.config.crops else None

    def _tower_flops(self) -> int:
        visual, size = picture_tower(self.config.clip)
        return count_flops(visual, (1, 3, size, size))

    def description(self) -> dict[str, Any]:
        """See :meth:`Stream.description`."""
        return {
            **super().description(),
            "backbone": clip_title(self.config.clip),
            "segments": self.config.clip.frames,
            "crops": 1,
            "gflops_once": self.cost().once / 1e9,
        }


@register
class CLIPStream(CLIPPictures):
    """Features of CLIP and of a frozen motion network, joined by a trained head."""

    name = "clip"
    title = "CLIP"
    rank = 3

    @property
    def head(self) -> CLIPFusionHead:
        """The stream's network."""
        return cast(CLIPFusionHead, self.network)

    @property
    def trained_with(self) -> str | None:
        """See :attr:`CLIPPictures.trained_with`."""
        return self.head.clip if self.head.image_dim and self.head.clip.strip("0") else None

    def create_network(self, *, weights: bool) -> nn.Module:
        """See :meth:`Stream.create_network`."""
        config, motion = self.config, None
        if config.clip.parts != "image":
            motion = self._trained_motion() if weights else self._empty_motion()
        image_dim = feature_dim(config.clip) if config.clip.parts != "motion" else 0
        return CLIPFusionHead(config.clip, len(self.classes), image_dim, motion)

    def start_training(self, features: Tensor | None) -> None:
        """Take over mean and deviation of the training list's features."""
        assert features is not None
        self.head.fit(features, self.encoder.digest if self.head.image_dim else "")

    def views(
        self, num_frames: int, gops: Sequence[Gop], generator: np.random.Generator | None = None
    ) -> dict[str, View]:
        """I-frames for CLIP, and motion of the test segments."""
        views = super().views(num_frames, gops) if self.head.image_dim else {}
        if self.head.motion is not None:
            inputs = self.config.input
            frames = motion_frames(gops, middle_frames(num_frames, inputs.test_segments, "mv"))

            def windows(frame_size: tuple[int, int], box: CropBox | None) -> list[Window]:
                return testing_windows(frame_size, box, inputs.test_crops)

            views["motion"] = View("mv", frames, windows, self.config.size)
        return views

    def parts(self) -> dict[str, FrozenPart]:
        """See :meth:`FeatureStream.parts`."""
        config, motion = self.config, self.head.motion
        parts = super().parts() if self.head.image_dim else {}
        if motion is not None:
            made_by = {
                "part": "motion",
                "network": motion.digest(),
                "model": config.model.model_dump(mode="json", exclude={"weights"}),
                "segments": config.input.test_segments,
                "crops": config.input.test_crops,
                "size": config.size,
                "anchor_every": config.data.anchor_every,
                "box": self._box(),
            }
            parts["motion"] = FrozenPart(motion, motion.dim, made_by)
        return parts

    def encode_view(self, view: str, frames: Frames) -> Tensor:
        """See :meth:`FeatureStream.encode_view`."""
        if view == "image":
            return super().encode_view(view, frames)
        features: Tensor = self.head.motion(normalise_motion(both_ways(frames, mirror_motion)))  # type: ignore[misc]
        return features

    def cost(self) -> StreamCost:
        """CLIP and head once a clip, the motion network on every segment."""
        config, head = self.config, self.head
        tower = self._tower_flops() if head.image_dim else 0
        top = count_flops(head, (1, head.image_dim + head.motion_dim))
        if head.motion is None:
            return StreamCost(tower, config.clip.frames, top)
        per_segment = count_flops(head.motion, (1, 1, 1, head.motion.in_channels, config.size, config.size))
        segments = config.input.test_segments * config.input.test_crops
        return StreamCost(per_segment, segments, tower * config.clip.frames + top)

    def description(self) -> dict[str, Any]:
        """See :meth:`Stream.description`."""
        facts, config = super().description(), self.config
        if self.head.motion is not None:
            image = [clip_title(config.clip)] * bool(self.head.image_dim)
            facts["backbone"] = " + ".join([*image, config.model.backbone])
            facts["segments"], facts["crops"] = config.input.test_segments, config.input.test_crops
        return facts

    def _trained_motion(self) -> MotionEncoder:
        """The motion network of ``config.clip.motion``, frozen, without its classifier.

        Raises:
            ConfigError: no checkpoint is named.
            CheckpointError: it cannot be used, is of another stream, or of another backbone than ``config.model``'s.
        """
        config, path = self.config, self.config.clip.motion
        if path is None:
            raise ConfigError(
                "clip.motion is not set; train a motion stream (tools/train_stream.py) and name its best.pt, or leave "
                "motion out with clip.parts=image"
            )
        content = load_checkpoint(path)
        trained = content["config"]
        if trained.get("stream") != "mv":
            raise CheckpointError(
                f"{path}: is of the {trained.get('stream')} stream; clip.motion wants a motion stream's"
            )
        backbone = trained.get("model", {}).get("backbone")
        if backbone != config.model.backbone:
            raise CheckpointError(
                f"{path}: its backbone is {backbone}, but model.backbone is {config.model.backbone}; they must agree"
            )
        lists = trained.get("data", {}).get("train_list"), config.data.train_list
        if None not in lists and os.path.basename(str(lists[0])) != os.path.basename(str(lists[1])):
            logger.warning(
                "%s was trained on %s, the head on %s: where its clips are among those tested, scores say nothing",
                *(path, *lists),
            )
        model = ModelConfig.model_validate({**trained["model"], "weights": None})
        network = create_network(2, len(content["classes"]), model, input_norm=MotionStream.input_norm)
        load_model_state(network, content["model"], path)
        return MotionEncoder(network)

    def _empty_motion(self) -> MotionEncoder:
        model = self.config.model.model_copy(update={"weights": None})
        return MotionEncoder(create_network(2, 1, model, input_norm=MotionStream.input_norm))
