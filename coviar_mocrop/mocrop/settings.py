"""Settings of MoCrop, with presets for the two published versions and for the values that we measured to be best.

The paper (Huang et al., arXiv 2509.18473, v1 2025-09 and v2 2026-02) leaves the static threshold, the number of samples
and the weight of large blocks open. These values are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from coviar_mocrop.base_config import BaseConfig
from coviar_mocrop.errors import ConfigError

Preset = Literal["default", "paper_v1", "paper_v2"]

# steps that the published versions do not have
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
    "default": {},  # the fields' own defaults, which cover marked action regions best (docs/results/mocrop.md)
}


class MoCropSettings(BaseConfig):
    """Settings of the MoCrop box (``estimate_box``). A field that is given overrides the preset.

    Raises:
        ConfigError: a field is unknown, of the wrong type or out of range. The message names the field.
    """

    preset: Preset = Field(
        "default",
        description="Values of all fields that are not given. default: ours, chosen on real footage. paper_v1, "
        "paper_v2: the two published versions.",
    )
    area_ratio: float = Field(
        0.75, gt=0, le=1, description="Share of the frame that the box covers, within area_tolerance."
    )
    area_tolerance: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Largest deviation of the box from area_ratio, relative to it. With 0.1, the published value, an "
        "area_ratio of 0.75 gives boxes of 0.68 to 0.82 of the frame, and 0.4 gives 0.36 to 0.44.",
    )
    size: Literal["fixed", "adaptive"] = Field(
        "fixed",
        description="Size of the box. fixed: area_ratio. adaptive: the smallest box that holds motion_share of the "
        "motion.",
    )
    motion_share: float = Field(0.95, gt=0, le=1, description="Share of the motion that an adaptive box holds.")
    area_floor: float = Field(0.1, gt=0, le=1, description="Smallest size of an adaptive box, as a share of the frame.")
    aspect_limit: float = Field(
        2.5, ge=1, le=100, description="Largest ratio of an adaptive box's longer side to its shorter side, in pixels."
    )
    full_above: float = Field(
        0.75,
        gt=0,
        le=1,
        description="If an adaptive box would cover more than this share of the frame, the full frame is used, because "
        "motion is then global or scattered.",
    )
    rows: int = Field(18, ge=1, le=128, description="Number of rows of the density grid (v1: 6, v2: 9).")
    columns: int = Field(32, ge=1, le=128, description="Number of columns of the density grid (v1: 8, v2: 16).")
    camera: Literal["none", "translation", "similarity"] = Field(
        "similarity",
        description="Camera motion that is subtracted from each frame's vectors. translation: the area-weighted median "
        "vector. similarity: also zoom and rotation, if a robust fit of them can be trusted.",
    )
    static_threshold: float = Field(
        0.5, ge=0, description="Vectors of this length in pixels or less are dropped as static (our value)."
    )
    keep_strongest: float = Field(
        1.0, gt=0, le=1, description="Share of the vectors that is kept, longest first (v2: 0.01)."
    )
    weight: Literal["count", "magnitude", "area", "area_magnitude", "area_speed", "speed"] = Field(
        "area_speed",
        description="What a vector of length m adds to its cell. count: 1. magnitude: m. area: the area of its block. "
        "area_magnitude: area x m. area_speed: area x m^2 / (m^2 + h^2), h being half_speed. speed: the same without "
        "area. In the last two, slow noise adds little, and fast motion adds at most its area, or 1. With "
        "speed every block counts once, so the small blocks into which encoders divide people weigh more.",
    )
    half_speed: float = Field(
        0.0125,
        gt=0,
        le=1,
        description="Speed at which a vector counts half (weight area_speed and speed), in frame heights per frame. "
        "The default is 3 pixels per frame for a frame 240 pixels high.",
    )
    coherence: float = Field(
        1.0,
        ge=0,
        le=16,
        description="Weights are multiplied by coherence to this power (0: not at all). Coherence is the share of the "
        "motion around a block that has one direction. It is low for noise and flicker, which have all directions.",
    )
    max_vectors: int | None = Field(
        16384,
        ge=1,
        description="Maximum number of vectors (null: no limit). If a clip has more, this many are taken, evenly "
        "spaced. With the default, the box takes 2.5 ms.",
    )
    spread_blocks: bool = Field(
        True,
        description="Distribute the weight of a block over the cells that it covers. false: add it to the cell of its "
        "centre.",
    )
    importance_power: float = Field(
        0.0, ge=0, le=16, description="Beta of the papers: importance is magnitude**beta (v1: 0, uniform; v2: 4)."
    )
    sampling: Literal["exact", "monte_carlo"] = Field(
        "exact",
        description="How vectors are sampled. monte_carlo: at random, by importance. exact: the expected value of such "
        "samples, without noise and without a seed.",
    )
    sample_share: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Gamma of the papers: number of samples as a share of the vectors kept (monte_carlo only).",
    )
    seed: int = Field(0, ge=0, description="Random seed of monte_carlo. The same vectors and seed give the same box.")
    drop_tickers: bool = Field(
        True,
        description="Ignore news tickers, that is, thin rows with steady sideways motion all the time.",
    )
    smoothing: int = Field(
        3,
        ge=0,
        le=32,
        description="Number of passes of a 1-2-1 filter over the grid. Smoothing favours large moving objects over "
        "small ones.",
    )
    saturation: float | None = Field(
        0.75,
        gt=0,
        le=100,
        description="Largest value of a cell, relative to the mean of the strongest tenth of the cells (null: no "
        "limit). It keeps a small spot that moves all the time from outweighing a whole person.",
    )
    centre_prior: float = Field(
        0.75,
        ge=0,
        le=16,
        description="Preference for the middle of the frame: cells at its edges are multiplied by "
        "exp(-centre_prior/2).",
    )
    objective: Literal["sum", "sum_and_mean"] = Field(
        "sum",
        description="What the search maximises. sum: the density inside the box (v1). sum_and_mean: 0.6 sum + 0.4 mean "
        "(v2).",
    )
    tie: Literal["published", "central"] = Field(
        "central",
        description="Choice among boxes that hold the same amount of motion. published: the first one (height, width, "
        "row, column ascending), which lies at the top left. central: the one that is centred best on the motion's "
        "centroid, in the frame's own shape if possible.",
    )
    sparse: bool = Field(
        False,
        description="When the box is estimated from a file, read only every sparse_gops-th GOP, and only the first "
        "sparse_frames frames of it. If key frames are frequent, reading takes at most 0.4 times as long.",
    )
    sparse_gops: int = Field(2, ge=1, description="Distance between the GOPs that sparse reads (1: every GOP).")
    sparse_frames: int = Field(
        10,
        ge=2,
        description="Number of frames that sparse reads of each GOP. This includes the I-frame, which has no vectors.",
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        preset = given.get("preset")
        return {**(_PRESETS.get(preset, {}) if isinstance(preset, str) else {}), **given}

    @classmethod
    def from_items(cls, items: Sequence[str]) -> Self:
        """Make settings from ``key=value`` items, as they stand on a command line.

        Args:
            items: such as ``["area_ratio=0.4", "max_vectors=null"]``. ``null`` means None.

        Raises:
            ConfigError: an item is not of the form ``key=value``, or a field is wrong (see the class).
        """
        values: dict[str, Any] = {}
        for item in items:
            key, separator, value = item.partition("=")
            if not separator or not key:
                raise ConfigError(f"{item}: expected key=value, such as area_ratio=0.4")
            values[key] = None if value == "null" else value
        return cls(**values)
