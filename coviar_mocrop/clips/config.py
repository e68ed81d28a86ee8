"""Where clips come from, and what is cut out of them."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field

from coviar_mocrop.base_config import BaseConfig

Setting = Literal["baseline", "efficiency", "attention"]


class DataConfig(BaseConfig):
    """Files, lists and how they are read."""

    root: str = Field("data", description="folder that the paths in the lists start from")
    train_list: str | None = Field(None, description="video list to train on: `path class label` lines")
    test_list: str | None = Field(None, description="video list to test on")
    classes: str = Field(..., description="class names, one a line, in the order of the labels")
    follow_links: bool = Field(
        False, description="whether a list entry may be, or pass through, a symbolic link that leaves the root"
    )
    cache: str = Field(".cache", description="folder of the box cache, and of the index cache where it is used")
    index_cache: bool = Field(
        False,
        description="keep the index of every video, about 10 kB, below `cache`: for long videos, AVI with B-frames "
        "and slow disks; short clips gain little",
    )
    backend: Literal["auto", "pyav", "mvextractor"] = Field("auto", description="reader of the bitstream")
    anchor_every: int | None = Field(12, ge=1, description="longest GOP; longer ones are cut (null: never)")
    on_error: Literal["raise", "skip"] = Field(
        "raise", description="a video that cannot be used: stop, or leave it out and say so"
    )
    workers: int = Field(2, ge=0, description="processes that read; the results do not depend on it")

    @property
    def index_folder(self) -> str | None:
        """Folder of the index cache; None where it is not used."""
        return os.path.join(self.cache, "index") if self.index_cache else None


class InputConfig(BaseConfig):
    """What a network gets to see of a clip."""

    full_size: int = Field(224, ge=16, le=1024, description="input size, pixels, of baseline and attention")
    reduced_size: int = Field(192, ge=16, le=1024, description="input size, pixels, of efficiency")
    segments: int = Field(3, ge=1, description="frames per clip in training")
    test_segments: int = Field(25, ge=1, description="frames per clip in testing")
    test_crops: Literal[1, 10] = Field(1, description="1: the middle; 10: four corners and middle, flipped too")
    scales: tuple[float, ...] = Field(
        (1.0, 0.875, 0.75, 0.66), min_length=1, description="training crops, as shares of the side"
    )
    flip: bool = Field(True, description="flip half of the training clips left to right")
    frames: Literal["iframe", "decoded"] = Field(
        "iframe", description="of the I-frame stream: the I-frame of each sampled frame's GOP, or the frame itself"
    )
    stride: int | None = Field(
        None, ge=1, description="sampled frames this far apart, a stretch of the clip; null: spread over all of it"
    )
