"""Every parameter of MoCrop, named; presets for the two published versions and for what we measured best.

The papers (Huang et al., arXiv 2509.18473, v1 2025-09 and v2 2026-02) leave the static threshold, the number
of samples and the weight of large blocks open; those values are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from coviar_mocrop.base_config import BaseConfig
from coviar_mocrop.errors import ConfigError

Preset = Literal["default", "paper_v1", "paper_v2"]

# what the papers do without
_PLAIN: dict[str, Any] = {
    "max_vectors": None,
    "camera": "none",
    "weight": "count",
    "coherence": 0.0,
    "spread_blocks": False,
    "drop_tickers": False,
    "smoothing": 0,
    "saturation": None,
    "centre_prior": 0.0,
    "tie": "published",
}
_PRESETS: dict[str, dict[str, Any]] = {
    "paper_v1": {**_PLAIN, "rows": 6, "columns": 8},
    "paper_v2": {
        **_PLAIN,
        "rows": 9,
        "columns": 16,
        "static_threshold": 0.0,
        "keep_strongest": 0.01,
        "importance_power": 4.0,
        "sampling": "monte_carlo",
        "sample_share": 0.1,
        "objective": "sum_and_mean",
    },
    "default": {},  # the fields' own defaults: what covers marked action regions best (docs/mocrop.md)
}


class MoCropSettings(BaseConfig):
    """Settings of :func:`~coviar_mocrop.mocrop.estimate_box`; a field that is named overrides its preset.

    Raises:
        ConfigError: a field is unknown, of the wrong type or out of its range, which it names.
    """

    preset: Preset = Field("default", description="default | paper_v1 | paper_v2")
    area_ratio: float = Field(
        0.75,
        gt=0,
        le=1,
        description="share of the frame that the box covers, within area_tolerance: 0.75 is 0.68 to 0.82",
    )
    area_tolerance: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="how far the box's cell count may be from area_ratio, as a share of it: with 0.1, the published "
        "value, an area_ratio of 0.75 gives boxes of 0.68 to 0.82 of the frame, 0.4 of 0.36 to 0.44",
    )
    size: Literal["fixed", "adaptive"] = Field(
        "fixed",
        description="fixed: a box of area_ratio; adaptive: the smallest box that holds motion_share of the motion",
    )
    motion_share: float = Field(0.95, gt=0, le=1, description="share of the motion that an adaptive box holds")
    area_floor: float = Field(0.1, gt=0, le=1, description="smallest adaptive box, as a share of the frame")
    aspect_limit: float = Field(
        2.5, ge=1, le=100, description="longest side of an adaptive box, in pixels, against its other side"
    )
    full_above: float = Field(
        0.75,
        gt=0,
        le=1,
        description="where an adaptive box would need more than this share of the frame, motion is global or "
        "scattered, and the box is the full frame",
    )
    rows: int = Field(18, ge=1, le=128, description="cells of the density grid, top to bottom (v1: 6, v2: 9)")
    columns: int = Field(32, ge=1, le=128, description="cells of the density grid, left to right (v1: 8, v2: 16)")
    camera: Literal["none", "translation", "similarity"] = Field(
        "similarity",
        description="what is subtracted before denoising: each frame's area-weighted median vector (translation), "
        "or zoom and rotation as well, where a robust fit of them can be trusted (similarity)",
    )
    static_threshold: float = Field(
        0.5, ge=0, description="vectors of this many pixels or fewer count as static and are dropped (ours)"
    )
    keep_strongest: float = Field(1.0, gt=0, le=1, description="share of the vectors kept, strongest first (v2: 0.01)")
    weight: Literal["count", "magnitude", "area", "area_magnitude", "area_speed", "speed"] = Field(
        "area_speed",
        description="what a vector adds to its cell: 1 (count), its length m, its block's area, area x m, area x "
        "m^2 / (m^2 + h^2) with h = half_speed (area_speed), or that without area (speed). In the last two, noise, "
        "which is slow, adds little, and speed itself does not add up; with area_speed a block counts by its pixels, "
        "with speed each block counts once, so that the small blocks that encoders cut people into weigh more",
    )
    half_speed: float = Field(
        0.0125, gt=0, le=1, description="frame heights per frame; see weight (area_speed, speed): 3 pixels in 240"
    )
    coherence: float = Field(
        1.0,
        ge=0,
        le=16,
        description="weights are multiplied by coherence**this, the share of the motion around a block that goes one "
        "way: noise and flicker go every way (0: not looked at)",
    )
    max_vectors: int | None = Field(
        16384,
        ge=1,
        description="of more vectors, so many are taken evenly (null: all are), so that the box takes 2 ms",
    )
    spread_blocks: bool = Field(
        True, description="a block adds to all cells it covers, not only to the one that its middle is in"
    )
    importance_power: float = Field(
        0.0, ge=0, le=16, description="beta: importance ~ magnitude**beta (v1: 0, uniform; v2: 4)"
    )
    sampling: Literal["exact", "monte_carlo"] = Field(
        "exact", description="exact is the expectation of monte_carlo: no sampling noise, no seed"
    )
    sample_share: float = Field(
        0.1, gt=0, le=1, description="gamma: samples drawn, as a share of the vectors kept (monte_carlo)"
    )
    seed: int = Field(0, ge=0, description="seed of monte_carlo; the same vectors and seed give the same box")
    drop_tickers: bool = Field(
        True,
        description="leave out thin rows in which something runs sideways, steadily and all the time: news tickers",
    )
    smoothing: int = Field(
        3,
        ge=0,
        le=32,
        description="passes of a 1-2-1 filter over the grid: what moves together counts more than specks",
    )
    saturation: float | None = Field(
        0.75,
        gt=0,
        le=100,
        description="no cell counts for more than this many times the mean of the strongest tenth (null: no limit), "
        "so that one spot that never rests does not outweigh a whole person",
    )
    centre_prior: float = Field(
        0.75, ge=0, le=16, description="how much the middle of the frame counts for: exp(-centre_prior/2) at its edges"
    )
    objective: Literal["sum", "sum_and_mean"] = Field(
        "sum", description="what the search maximises: density inside (v1), or 0.6 sum + 0.4 mean (v2)"
    )
    tie: Literal["published", "central"] = Field(
        "central",
        description="which of several boxes that hold equally much wins: published: the first (height, width, row, "
        "column ascending), which hugs the top and the left; central: the one that lies most evenly round the "
        "motion's centroid, in the frame's own shape if possible",
    )
    sparse: bool = Field(
        False,
        description="where the box is found from a file, read only every sparse_gops-th GOP, and of it only the first "
        "sparse_frames frames: 0.4 of the reading time or less where key frames are frequent",
    )
    sparse_gops: int = Field(2, ge=1, description="see sparse; 1: every GOP")
    sparse_frames: int = Field(10, ge=2, description="see sparse; the I-frame, which has no vectors, counts")

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {**_PRESETS.get(given.get("preset", "default"), {}), **given}

    @classmethod
    def from_items(cls, items: Sequence[str]) -> Self:
        """From ``key=value`` items, as a command line gives them; ``null`` is None.

        Raises:
            ConfigError: an item has no ``=``, or see the class.
        """
        values: dict[str, Any] = {}
        for item in items:
            key, separator, value = item.partition("=")
            if not separator or not key:
                raise ConfigError(f"{item}: expected key=value, such as area_ratio=0.4")
            values[key] = None if value == "null" else value
        return cls(**values)
