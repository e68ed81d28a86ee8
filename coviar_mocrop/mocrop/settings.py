"""Every parameter of MoCrop, named; presets for the two published versions and for what we measured best.

The papers (Huang et al., arXiv 2509.18473, v1 2025-09 and v2 2026-02) leave the static threshold, the number
of samples and the weight of large blocks open; those values are ours.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Preset = Literal["default", "paper_v1", "paper_v2"]

_PRESETS: dict[str, dict[str, Any]] = {
    "paper_v1": {
        "rows": 6,
        "columns": 8,
        "camera": "none",
        "weight": "count",
        "keep_strongest": 1.0,
        "importance_power": 0.0,
        "objective": "sum",
    },
    "paper_v2": {
        "rows": 9,
        "columns": 16,
        "camera": "none",
        "static_threshold": 0.0,
        "weight": "count",
        "keep_strongest": 0.01,
        "importance_power": 4.0,
        "sampling": "monte_carlo",
        "sample_share": 0.1,
        "objective": "sum_and_mean",
    },
    # what covers marked action regions best (docs/mocrop.md): see each field
    "default": {
        "rows": 9,
        "columns": 16,
        "camera": "translation",
        "weight": "area_magnitude",
        "keep_strongest": 1.0,
        "importance_power": 0.0,
        "objective": "sum",
    },
}


class MoCropSettings(BaseModel):
    """Settings of :func:`~coviar_mocrop.mocrop.estimate_box`; a field that is named overrides its preset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Preset = Field("default", description="default | paper_v1 | paper_v2")
    area_ratio: float = Field(0.75, gt=0, le=1, description="share of the frame that the box covers")
    area_tolerance: float = Field(
        0.1, ge=0, lt=1, description="how far the box's cell count may be from area_ratio, as a share of it"
    )
    rows: int = Field(9, ge=1, le=128, description="cells of the density grid, top to bottom")
    columns: int = Field(16, ge=1, le=128, description="cells of the density grid, left to right")
    camera: Literal["none", "translation"] = Field(
        "translation",
        description="subtract each frame's area-weighted median vector before denoising (translation)",
    )
    static_threshold: float = Field(
        0.5, ge=0, description="vectors of this many pixels or fewer count as static and are dropped (ours)"
    )
    keep_strongest: float = Field(1.0, gt=0, le=1, description="share of the vectors kept, strongest first (v2: 0.01)")
    weight: Literal["count", "magnitude", "area", "area_magnitude"] = Field(
        "area_magnitude",
        description="what a vector adds to its cell: 1, its length, its block's area, or both",
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
    objective: Literal["sum", "sum_and_mean"] = Field(
        "sum", description="what the search maximises: density inside (v1), or 0.6 sum + 0.4 mean (v2)"
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {**_PRESETS.get(given.get("preset", "default"), {}), **given}
