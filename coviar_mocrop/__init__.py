"""Action recognition straight from compressed video.

Three 2-D networks look at what a codec already found (I-frames, motion vectors, residuals), share one
motion-guided crop per clip (MoCrop) and are fused late (CoViAR).

The names below are imported when they are first used. Only a ``Predictor`` of checkpoints needs torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coviar_mocrop.bitstream import open_video
    from coviar_mocrop.clips.reader import load_clip
    from coviar_mocrop.inference.predictor import Predictor
    from coviar_mocrop.mocrop import CropBox, MoCropSettings, estimate_box

__version__ = "0.1.0"
__all__ = ["CropBox", "MoCropSettings", "Predictor", "estimate_box", "load_clip", "open_video"]

_MODULES = {
    "CropBox": "coviar_mocrop.mocrop",
    "MoCropSettings": "coviar_mocrop.mocrop",
    "Predictor": "coviar_mocrop.inference.predictor",
    "estimate_box": "coviar_mocrop.mocrop",
    "load_clip": "coviar_mocrop.clips.reader",
    "open_video": "coviar_mocrop.bitstream",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value  # found at once from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
