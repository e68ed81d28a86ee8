"""From lists of videos to batches of I-frames, motion or residuals, cropped by the clip's shared box."""

from coviar_mocrop.data.boxes import BoxCache, boxes_of_list
from coviar_mocrop.data.dataset import ClipDataset, collate
from coviar_mocrop.data.lists import Clip, VideoList, read_classes, read_list, write_list
from coviar_mocrop.data.settings import DataSettings, InputSettings

__all__ = [
    "BoxCache",
    "Clip",
    "ClipDataset",
    "DataSettings",
    "InputSettings",
    "VideoList",
    "boxes_of_list",
    "collate",
    "read_classes",
    "read_list",
    "write_list",
]
