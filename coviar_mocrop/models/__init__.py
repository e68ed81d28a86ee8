"""Networks: torchvision backbones turned into streams. Nothing here knows of files, save weights."""

from coviar_mocrop.models.settings import ClipSettings, ModelSettings
from coviar_mocrop.models.stream import Representation, Stream, StreamNet, create_stream

__all__ = ["ClipSettings", "ModelSettings", "Representation", "Stream", "StreamNet", "create_stream"]
