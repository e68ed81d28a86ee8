"""MoCrop: one crop box per clip, found from its motion vectors."""

from coviar_mocrop.mocrop.box import FULL_FRAME, CropBox
from coviar_mocrop.mocrop.estimate import BoxEstimator, density_of, estimate_box, frames_to_read
from coviar_mocrop.mocrop.search import best_rectangle
from coviar_mocrop.mocrop.settings import MoCropSettings

__all__ = [
    "FULL_FRAME",
    "BoxEstimator",
    "CropBox",
    "MoCropSettings",
    "best_rectangle",
    "density_of",
    "estimate_box",
    "frames_to_read",
]
