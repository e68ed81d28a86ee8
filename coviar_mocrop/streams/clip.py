"""The CLIP stream: frozen CLIP and motion network, a small trained head (MoCLIP-Lite, arXiv 2509.17084)."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from einops import rearrange
from torch import Tensor, nn

from coviar_mocrop.bitstream import Gop
from coviar_mocrop.checkpoint import load_checkpoint, load_model_state
from coviar_mocrop.clips.batch import Frames
from coviar_mocrop.clips.cache import boxes_made_by
from coviar_mocrop.clips.reader import View
from coviar_mocrop.clips.sampling import middle_frames
from coviar_mocrop.clips.windows import Window, middle_square
from coviar_mocrop.config import build_config
from coviar_mocrop.errors import CheckpointError, ConfigError
from coviar_mocrop.flops import StreamCost, count_flops
from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.networks.clip import CLIPEncoder, FrozenEncoder, feature_dim, picture_tower
from coviar_mocrop.networks.clip import title as clip_title
from coviar_mocrop.networks.fusion_head import CLIPFusionHead, MotionEncoder
from coviar_mocrop.networks.stream_net import StreamNet
from coviar_mocrop.streams.base import Stream, register
from coviar_mocrop.streams.features import FeatureStream
from coviar_mocrop.streams.frames import DECIDE_FEATURES
from coviar_mocrop.streams.mv import MotionStream

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

    def encoders(self) -> dict[str, FrozenEncoder]:
        """See :meth:`FeatureStream.encoders`."""
        return {"image": self.encoder}

    def made_by(self, view: str) -> dict[str, Any]:
        """See :meth:`Stream.made_by`."""
        config = self.config
        return {
            "part": "image",
            "network": self.encoder.digest,
            "frames": config.clip.frames,
            "anchor_every": config.data.anchor_every,
            "box": self._box() if config.clip.crop else None,
        }

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
        return boxes_made_by(self.config.mocrop, self.config.data.anchor_every) if self.config.crops else None

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
    """Features of CLIP and of a frozen motion network, joined by a trained head.

    Attributes:
        motion: the frozen motion stream; None: the head sees CLIP's features only.
    """

    name = "clip"
    title = "CLIP"
    rank = 3
    motion: MotionStream | None = None

    @property
    def head(self) -> CLIPFusionHead:
        """The network of the stream."""
        return cast(CLIPFusionHead, self.network)

    @property
    def trained_with(self) -> str | None:
        """See :attr:`CLIPPictures.trained_with`."""
        return self.head.clip if self.head.image_dim and self.head.clip.strip("0") else None

    def create_network(self, *, weights: bool) -> nn.Module:
        """See :meth:`Stream.create_network`."""
        config, encoder = self.config, None
        if config.clip.parts != "image":
            self.motion = self._create_motion(weights=weights)
            encoder = MotionEncoder(cast(StreamNet, self.motion.network))
        image_dim = feature_dim(config.clip) if config.clip.parts != "motion" else 0
        return CLIPFusionHead(config.clip, len(self.classes), image_dim, encoder)

    def start_training(self, features: Tensor | None) -> None:
        """Keep the mean and deviation of the features of the training list."""
        assert features is not None
        self.head.fit(features, self.encoder.digest if self.head.image_dim else "")

    def views(
        self, num_frames: int, gops: Sequence[Gop], generator: np.random.Generator | None = None
    ) -> dict[str, View]:
        """I-frames for CLIP, and what the motion stream is tested on."""
        views = super().views(num_frames, gops) if self.head.image_dim else {}
        if self.motion is not None:
            views["motion"] = self.motion.views(num_frames, gops)["frames"]
        return views

    def encoders(self) -> dict[str, FrozenEncoder]:
        """See :meth:`FeatureStream.encoders`."""
        encoders = super().encoders() if self.head.image_dim else {}
        return encoders if self.head.motion is None else {**encoders, "motion": self.head.motion}

    def made_by(self, view: str) -> dict[str, Any]:
        """See :meth:`Stream.made_by`."""
        config, motion = self.config, self.head.motion
        if view == "image" or motion is None:
            return super().made_by(view)
        return {
            "part": "motion",
            "network": motion.digest(),
            "model": config.model.model_dump(mode="json", exclude={"weights", "freeze"}),
            "input": config.input.model_dump(mode="json", include=DECIDE_FEATURES),
            "size": config.size,
            "anchor_every": config.data.anchor_every,
            "box": self._box(),
        }

    def encode_view(self, view: str, frames: Frames) -> Tensor:
        """See :meth:`FeatureStream.encode_view`."""
        if view == "image" or self.motion is None:
            return super().encode_view(view, frames)
        features: Tensor = self.motion.network(self.motion.inputs({"frames": frames}))
        return features

    def without_network(self) -> Stream:
        """See :meth:`Stream.without_network`."""
        light = cast(CLIPStream, super().without_network())
        light.motion = None
        return light

    def cost(self) -> StreamCost:
        """CLIP and the head count once per clip, the motion network for every segment."""
        tower = self._tower_flops() if self.head.image_dim else 0
        top, frames = count_flops(self.head, (1, len(self.head.mean))), self.config.clip.frames
        if self.motion is None:
            return StreamCost(tower, frames, top)
        return replace(self.motion.cost(), once=tower * frames + top)

    def description(self) -> dict[str, Any]:
        """See :meth:`Stream.description`."""
        facts, config = super().description(), self.config
        if self.motion is not None:
            image = [clip_title(config.clip)] * bool(self.head.image_dim)
            facts["backbone"] = " + ".join([*image, config.model.backbone])
            facts["segments"], facts["crops"] = config.input.test_segments, config.input.test_crops
        return facts

    def _create_motion(self, *, weights: bool) -> MotionStream:
        """The motion stream, with the weights of ``config.clip.motion`` if ``weights``.

        Raises:
            ConfigError: no checkpoint is named.
            CheckpointError: it cannot be used, is of another stream, or of another network than ``config.model``.
        """
        config, path = self.config, self.config.clip.motion
        if not weights:  # nothing to freeze: all of it is frozen, and it has no classifier
            model = config.model.model_copy(update={"freeze": False})
            return MotionStream(config.model_copy(update={"model": model}), self.classes, weights=False)
        if path is None:
            raise ConfigError(
                "clip.motion is not set; train a motion stream (coviar train) and name its best.pt, or leave "
                "motion out with clip.parts=image"
            )
        content = load_checkpoint(path)
        trained = content["config"]
        if trained.get("stream") != "mv":
            raise CheckpointError(
                f"{path}: is of the {trained.get('stream')} stream; clip.motion must name a motion stream's"
            )
        model = build_config(trained, (), str(path)).model
        if model.freeze:
            raise CheckpointError(
                f"{path}: its network is frozen but for a linear classifier; train a motion stream as a whole "
                "(model.freeze=false), or leave motion out with clip.parts=image"
            )
        for key in ("backbone", "temporal", "motion_squeeze"):
            theirs, ours = getattr(model, key), getattr(config.model, key)
            if theirs != ours:
                raise CheckpointError(f"{path}: its {key} is {theirs}, but model.{key} is {ours}; they must agree")
        lists = trained.get("data", {}).get("train_list"), config.data.train_list
        if None not in lists and os.path.basename(str(lists[0])) != os.path.basename(str(lists[1])):
            logger.warning(
                "%s was trained on %s, the head on %s: scores mean nothing on test clips that were in one of them",
                *(path, *lists),
            )
        motion = MotionStream(config.model_copy(update={"model": model}), content["classes"], weights=False)
        load_model_state(motion.network, content["model"], path)
        return motion
