"""Settings of the clips: the videos, how they are read, and how frames are sampled and cropped."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field

from coviar_mocrop.base_config import BaseConfig

Setting = Literal["baseline", "efficiency", "attention"]
_MOST_SEGMENTS = 256
"""With more, a clip takes gigabytes while it is computed."""


class DataConfig(BaseConfig):
    """Videos, lists and how they are read."""

    root: str = Field("data", description="Data root. Paths in the lists are relative to it.")
    shards: str | tuple[str, ...] | None = Field(
        None,
        description="Shards that hold the videos, in place of the data root: a folder that coviar prepare shards has "
        "written, tar files such as train-{000000..000099}.tar, or a list of these. Each is a path or an address "
        "(https://, s3://).",
    )
    train_list: str | None = Field(None, description="Training list: one clip per line, `path class label`.")
    val_list: str | None = Field(
        None,
        description="Validation list, used to choose the best epoch (null: no validation, the last epoch is kept). "
        "With model.freeze, it is added to the training list.",
    )
    test_list: str | None = Field(None, description="Test list, in the format of the training list.")
    classes: str = Field(..., description="Class list: one class name per line, in the order of the labels.")
    follow_links: bool = Field(
        False,
        description="Accept list entries that leave the data root through a symbolic link. By default they are "
        "refused.",
    )
    cache: str = Field(
        ".cache", description="Cache folder. It holds what is computed once per video, such as MoCrop boxes."
    )
    index_cache: bool = Field(
        False,
        description="Store the index of every video in the cache folder (64 bytes per frame). This helps with long "
        "videos, AVI files with B-frames and slow disks. Short clips gain little.",
    )
    backend: Literal["auto", "pyav", "mvextractor"] = Field(
        "auto",
        description="Library that reads the bitstream. auto: PyAV. mvextractor gives the same vectors for "
        "undamaged videos without B-frames.",
    )
    anchor_every: int | None = Field(
        12, ge=1, description="Maximum GOP length in frames. Longer GOPs are split into virtual ones (null: never)."
    )
    max_frame_pixels: int = Field(
        8192 * 4320,
        ge=1,
        description="Maximum frame size of a video, width x height in pixels. Videos with larger frames are refused "
        "before memory is allocated for them.",
    )
    on_error: Literal["raise", "skip"] = Field(
        "raise",
        description="What to do if a video cannot be read. raise: stop with an error. skip: leave the clip out and "
        "report it.",
    )
    workers: int = Field(2, ge=0, le=512, description="Number of data-loading processes. Does not affect results.")
    start_method: Literal["fork", "forkserver", "spawn"] | None = Field(
        None,
        description="How data-loading processes are started (null: the default of the system, on Linux fork). They "
        "never use a GPU. Does not affect results.",
    )

    @property
    def index_folder(self) -> str | None:
        """Folder of the index cache, or None if it is not used."""
        return os.path.join(self.cache, "index") if self.index_cache else None


class InputConfig(BaseConfig):
    """Input of the network: its size, and how frames are sampled, cropped and augmented."""

    full_size: int = Field(
        224, ge=16, le=1024, description="Input size in pixels for the settings baseline and attention."
    )
    reduced_size: int = Field(192, ge=16, le=1024, description="Input size in pixels for the setting efficiency.")
    segments: int = Field(
        3, ge=1, le=_MOST_SEGMENTS, description="Number of segments, and so of sampled frames, per clip in training."
    )
    test_segments: int = Field(
        25, ge=1, le=_MOST_SEGMENTS, description="Number of segments, and so of sampled frames, per clip in tests."
    )
    val_segments: int | None = Field(
        None,
        ge=1,
        le=_MOST_SEGMENTS,
        description="Number of segments per clip in validations during training (null: as many as in training).",
    )
    test_crops: Literal[1, 10] = Field(
        1,
        description="Number of crops in tests. 1: the MoCrop box, or the centre square if the setting uses no box. 10: "
        "the four corners and the centre, each also mirrored.",
    )
    scales: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (1.0, 0.875, 0.75, 0.66),
        min_length=1,
        description="Multi-scale cropping in training: possible crop sizes, relative to the shorter side of the frame "
        "or to the sides of the MoCrop box.",
    )
    flip: bool = Field(True, description="Mirror training clips horizontally with probability 0.5.")
    frames: Literal["iframe", "decoded"] = Field(
        "iframe",
        description="Frames of the I-frame stream. iframe: the I-frame of each sampled frame's GOP. decoded: the "
        "sampled frame itself.",
    )
    stride: int | None = Field(
        None,
        ge=1,
        description="Distance between sampled frames, in frames (dense sampling). null: one frame from each of the "
        "equal segments of the clip (TSN).",
    )
