"""Action recognition straight from compressed video.

Three 2-D networks use what the codec has stored: I-frames, motion vectors and residuals. They share one crop box per
clip, which is estimated from the motion vectors (MoCrop). Their scores are combined as a weighted sum (late fusion,
CoViAR).

The names below are imported on first use. Only a ``Predictor`` that loads checkpoints needs torch.
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
    globals()[name] = value  # so that the next access does not call this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
