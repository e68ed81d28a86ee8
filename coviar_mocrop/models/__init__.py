"""Networks: torchvision backbones turned into streams. Nothing here knows of files, save weights."""

from coviar_mocrop.models.settings import ModelSettings
from coviar_mocrop.models.stream import Representation, StreamNet, create_stream

__all__ = ["ModelSettings", "Representation", "StreamNet", "create_stream"]
