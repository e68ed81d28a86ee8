"""The MoCrop boxes of whole lists, ahead of training, by one process or several."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.bitstream.video import Backend
from coviar_mocrop.clips.cache import Row, compute_rows, open_box_cache
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.loading import PARTS, Part, read_videos
from coviar_mocrop.clips.reader import box_of
from coviar_mocrop.clips.store import open_store
from coviar_mocrop.config import Config
from coviar_mocrop.errors import ConfigError, CoviarMocropError
from coviar_mocrop.mocrop import CropBox, MoCropSettings


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
        return box_of(video, settings)


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
        names: clips of the data set; repeats are ignored.
        data: root or shards, cache, backend, longest GOP, and the number of threads as ``workers``.
        settings: of MoCrop.
        progress: show a bar.
        shard: (k, n): only every n-th clip, from the k-th.

    Raises:
        DataError: a name leads out of the data root.
        CoviarMocropError: the cache cannot be written.
    """

    store = open_store(data)
    cache = open_box_cache(data, settings, store)

    def compute(name: str, missing: Sequence[str]) -> dict[str, Row]:
        video, _ = store.open(name)
        with video:
            return dict.fromkeys(missing, np.array(box_of(video, settings)))

    rows, errors = compute_rows(
        names, {"box": cache}, compute, workers=data.workers, title="crop boxes", progress=progress, shard=shard
    )
    return ListBoxes({name: CropBox(*row["box"].tolist()) for name, row in rows.items()}, errors, cache.added)


def extract_boxes(
    config: Config,
    parts: Sequence[Part] = (),
    shard: tuple[int, int] = (0, 1),
    *,
    progress: bool = True,
) -> ListBoxes:
    """Compute the boxes that are not in the cache yet. An interruption loses at most the last minute of work.

    Args:
        config: its lists, data root, cache and MoCrop settings are those that training will use.
        parts: which lists; none: all that are set.
        shard: (k, n): only every n-th file, from the k-th. Shards may run at the same time on several machines.
        progress: show a bar.

    Raises:
        ConfigError: none of the lists is set.
        ListError: a list does not parse.
        DataError: an entry leads out of the data root.
    """
    data = config.data
    parts = parts or [part for part in PARTS if getattr(data, f"{part}_list")]
    if not parts:
        raise ConfigError("data.train_list, data.val_list, data.test_list: none is set; name a video list")
    names = [clip.path for part in parts for clip in read_videos(data, part).clips]
    return boxes_of_list(names, data, config.mocrop, progress=progress, shard=shard)
