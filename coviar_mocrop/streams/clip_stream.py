"""The CLIP stream from its settings: frozen parts, features as a data set, the head's network, what it costs."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace

from coviar_mocrop.checkpoint import load_checkpoint, load_model_state
from coviar_mocrop.clips.features import FeatureDataset, stack
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import VideoList
from coviar_mocrop.distributed import ALONE, Group
from coviar_mocrop.errors import CheckpointError, ConfigError, CoviarMocropError
from coviar_mocrop.flops import StreamCost, count_flops
from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.networks.clip import CLIPEncoder, class_features, feature_dim, picture_tower
from coviar_mocrop.networks.config import ModelConfig
from coviar_mocrop.networks.fusion_head import ClipNet, MotionEncoder, ZeroShotNet
from coviar_mocrop.networks.prompts import read_prompts
from coviar_mocrop.networks.stream_net import create_stream
from coviar_mocrop.streams.features import FrozenParts, features_of_clips, time_of_clips

FEATURE_STREAMS = ("clip", "zero_shot")
"""Streams that look at cached features instead of frames."""
NOTHING_TO_TRAIN = (
    "the zero_shot stream has nothing to train; score it: tools/test_stream.py --config FILE --scores OUT.npz"
)
_TIMED = 4
"""Clips whose extraction is timed, where a score file says what a clip takes."""
logger = logging.getLogger(__name__)


def create_clip_net(config: Config, classes: int, dataset: FeatureDataset | None) -> ClipNet:
    """The head and its frozen motion network.

    Args:
        config: of the CLIP stream.
        classes: outputs.
        dataset: the training list's features: the motion network comes from ``config.clip.motion``. None: all
            weights are still to come, from a checkpoint.

    Raises:
        ConfigError, CheckpointError, ModelError: as the settings deserve.
    """
    motion = None
    if config.clip.parts != "image":
        motion = load_motion(config) if dataset is not None else _empty_motion(config)
    image_dim = feature_dim(config.clip) if config.clip.parts != "motion" else 0
    net = ClipNet(config.clip, classes, image_dim, motion)
    if dataset is not None:
        net.fit(dataset.features, dataset.clip_digest)
    return net


def create_zero_shot(config: Config, classes: tuple[str, ...]) -> ZeroShotNet:
    """CLIP's zero-shot classifier of these classes.

    Raises:
        ConfigError: the prompts cannot be used.
        ModelError, CheckpointError: CLIP cannot be had.
    """
    encoder = CLIPEncoder(config.clip, config.seed)
    prompts = read_prompts(config.clip.prompts, classes)
    return ZeroShotNet(class_features(prompts, encoder.encode_text), encoder.digest)


def open_parts(config: Config, net: ClipNet | ZeroShotNet | None = None) -> FrozenParts:
    """The frozen networks that make a stream's features.

    Args:
        config: of the stream.
        net: the stream's network where there is one already: its motion network is used, and CLIP must be the one
            that it was made with. None: the motion network comes from ``config.clip.motion``.

    Raises:
        CheckpointError: the CLIP of the settings is another than the one ``net`` was made with.
    """
    image = motion = None
    if config.stream == "zero_shot" or config.clip.parts != "motion":
        image = CLIPEncoder(config.clip, config.seed)
        if net is not None and net.clip != image.digest:
            raise CheckpointError(
                f"the stream was trained on features of another CLIP than {image.title} with weights "
                f"{config.clip.pretrained or 'from the seed'}; set clip.model and clip.pretrained as in its training"
            )
    if config.stream == "clip" and config.clip.parts != "image":
        motion = load_motion(config) if net is None else net.motion
    return FrozenParts(image, motion)


def feature_clips(
    config: Config,
    videos: VideoList,
    boxes: Mapping[str, CropBox] | None,
    net: ClipNet | ZeroShotNet | None,
    group: Group = ALONE,
    *,
    training: bool,
) -> tuple[FeatureDataset, dict[str, CoviarMocropError]]:
    """The clips of a list as features, from the cache or computed.

    Among several processes (torchrun) each computes its share first, and then all read all.

    Returns:
        Those that can be used, and the errors of the others by name.
    """
    parts = open_parts(config, net)
    names = [clip.path for clip in videos.clips]
    if group.world > 1:
        features_of_clips(config, parts, names[group.rank :: group.world], boxes, group)
        group.gather(None)  # until all are done
    features, errors, computed = features_of_clips(config, parts, names, boxes, group)
    usable = replace(videos, clips=tuple(clip for clip in videos.clips if clip.path not in errors))
    chosen = [clip.path for clip in usable.clips]
    dataset = FeatureDataset(
        usable,
        stack(features, chosen),
        training=training,
        computed=computed,
        clip_digest=parts.image.digest if parts.image is not None else "",
        stopwatch=lambda: time_of_clips(config, parts, chosen[:_TIMED], boxes),
    )
    return dataset, errors


def load_motion(config: Config) -> MotionEncoder:
    """The motion network of ``config.clip.motion``, frozen, without its classifier.

    Raises:
        ConfigError: no checkpoint is named.
        CheckpointError: it cannot be used, is of another stream, or of another backbone than ``config.model``'s.
    """
    path = config.clip.motion
    if path is None:
        raise ConfigError(
            "clip.motion is not set; train a motion stream (tools/train_stream.py) and name its best.pt, or leave "
            "motion out with clip.parts=image"
        )
    content = load_checkpoint(path)
    made_with = content["config"]
    if made_with.get("stream") != "mv":
        raise CheckpointError(
            f"{path}: is of the {made_with.get('stream')} stream; clip.motion wants a motion stream's"
        )
    backbone = made_with.get("model", {}).get("backbone")
    if backbone != config.model.backbone:
        raise CheckpointError(
            f"{path}: its backbone is {backbone}, but model.backbone is {config.model.backbone}; they must agree"
        )
    lists = made_with.get("data", {}).get("train_list"), config.data.train_list
    if None not in lists and os.path.basename(str(lists[0])) != os.path.basename(str(lists[1])):
        logger.warning(
            "%s was trained on %s, the head on %s: where its clips are among those tested, scores say nothing",
            *(path, *lists),
        )
    settings = ModelConfig.model_validate({**made_with["model"], "weights": None})
    stream = create_stream("mv", len(content["classes"]), settings)
    load_model_state(stream, content["model"], path)
    return MotionEncoder(stream)


def _empty_motion(config: Config) -> MotionEncoder:
    return MotionEncoder(create_stream("mv", 1, config.model.model_copy(update={"weights": None})))


def clip_cost(net: ClipNet | ZeroShotNet, config: Config) -> StreamCost:
    """What a clip costs, features included: CLIP and head once, the motion network on every segment."""
    tower = 0
    if net.image_dim:
        visual, size = picture_tower(config.clip)
        tower = count_flops(visual, (1, 3, size, size))
    head = count_flops(net, (1, net.image_dim + net.motion_dim)) if isinstance(net, ClipNet) else 0
    if net.motion is None:
        return StreamCost(tower, config.clip.frames, head)
    per_segment = count_flops(net.motion, (1, 1, net.motion.in_channels, config.size, config.size))
    segments = config.input.test_segments * config.input.test_crops
    return StreamCost(per_segment, segments, tower * config.clip.frames + head)
