"""The network of any stream, from its settings."""

from __future__ import annotations

from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.clips.features import FeatureDataset
from coviar_mocrop.config import Config
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.networks.fusion_head import ClipNet
from coviar_mocrop.networks.stream_net import StreamNet, create_stream
from coviar_mocrop.streams.clip_stream import NOTHING_TO_TRAIN, create_clip_net


def create_model(
    config: Config, classes: int, dataset: ClipDataset | FeatureDataset | None = None
) -> StreamNet | ClipNet:
    """The network that ``config`` describes.

    Args:
        config: of any stream that is trained.
        classes: outputs.
        dataset: the training list's clips, where training is to begin; None: the weights are still to come, from a
            checkpoint, so none are fetched or read.

    Raises:
        ConfigError: the stream is not trained, or lacks a setting.
        ModelError, CheckpointError: the settings name no network, or weights that cannot be used.
    """
    if config.stream == "zero_shot":
        raise ConfigError(NOTHING_TO_TRAIN)
    if config.stream == "clip":
        return create_clip_net(config, classes, dataset if isinstance(dataset, FeatureDataset) else None)
    settings = config.model if dataset is not None else config.model.model_copy(update={"weights": None})
    return create_stream(config.representation, classes, settings)
