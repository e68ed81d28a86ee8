"""One MoCrop box per clip, computed once, kept on disk and shared by all streams."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.bitstream.video import Backend
from coviar_mocrop.clips.cache import ClipCache, Row, compute_rows
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.errors import CoviarMocropError
from coviar_mocrop.files import DataRoot
from coviar_mocrop.mocrop import CropBox, MoCropSettings, estimate_box, frames_to_read

_VERSION = 1
"""To be increased by every change after which the same settings give other boxes."""


class ListBoxes(NamedTuple):
    """The boxes of a list."""

    boxes: dict[str, CropBox]
    """By the clip's name."""
    errors: dict[str, CoviarMocropError]
    """Why the other clips have none, by name."""
    computed: int
    """Number of boxes that were not in the cache."""


def box_of_file(
    path: str | os.PathLike[str],
    settings: MoCropSettings,
    backend: Backend = "auto",
    anchor_every: int | None = 12,
    index_cache: str | os.PathLike[str] | None = None,
) -> CropBox:
    """The box of one video, from the vectors of all its frames, or of a few if ``settings.sparse``.

    Args:
        path: the video.
        settings: of MoCrop.
        backend: see :func:`~coviar_mocrop.bitstream.open_video`.
        anchor_every: see there; decides which frames are read if ``settings.sparse``.
        index_cache: see there.

    Raises:
        VideoError: the video cannot be read, or has no motion vectors.
    """
    with open_video(path, backend, anchor_every, index_cache=index_cache) as video:
        vectors = video.get_motion_vectors_at(frames_to_read(video.gops, settings))
        return estimate_box(vectors, (video.info.height, video.info.width), settings)


def boxes_made_by(settings: MoCropSettings, anchor_every: int | None) -> dict[str, Any]:
    """Everything but the video that decides a box, as JSON values.

    It belongs to what decides anything computed from cropped clips, see :class:`~coviar_mocrop.clips.cache.ClipCache`.
    """
    made_by = {"version": _VERSION, "mocrop": settings.model_dump(mode="json")}
    return {**made_by, "anchor_every": anchor_every} if settings.sparse else made_by


def open_box_cache(root: DataRoot, data: DataConfig, settings: MoCropSettings) -> ClipCache:
    """The cache of the boxes: rows float64 [4], the fields of a :class:`~coviar_mocrop.mocrop.CropBox`."""
    return ClipCache(data.cache, root, "boxes", boxes_made_by(settings, data.anchor_every), 4, np.float64)


def boxes_of_list(
    names: Iterable[str],
    data: DataConfig,
    settings: MoCropSettings,
    *,
    progress: bool = True,
    shard: tuple[int, int] = (0, 1),
) -> ListBoxes:
    """The boxes of many clips, from the cache if they are there, else computed and added to it.

    Args:
        names: clips below the data root; repeats are ignored.
        data: root, cache, backend, longest GOP, and the number of threads as ``workers``.
        settings: of MoCrop.
        progress: show a bar.
        shard: (k, n): only every n-th clip, from the k-th.

    Raises:
        DataError: a name leads out of the data root.
        CoviarMocropError: the cache cannot be written.
    """

    def compute(name: str, path: str) -> Row:
        return np.array(box_of_file(path, settings, data.backend, data.anchor_every, data.index_folder))

    cache = open_box_cache(DataRoot(data.root, follow_links=data.follow_links), data, settings)
    rows, errors = compute_rows(
        names, cache, compute, workers=data.workers, title="crop boxes", progress=progress, shard=shard
    )
    return ListBoxes({name: CropBox(*row.tolist()) for name, row in rows.items()}, errors, cache.added)
