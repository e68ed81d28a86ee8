"""Compute the MoCrop boxes of whole lists before training, on one machine or several."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.bitstream.video import Backend
from coviar_mocrop.clips.cache import boxes_made_by, open_box_cache
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.lists import PARTS, Part, read_videos
from coviar_mocrop.clips.reader import box_of
from coviar_mocrop.clips.rows import Missing, Rows, compute_rows
from coviar_mocrop.clips.store import ClipStore
from coviar_mocrop.clips.stores import open_store
from coviar_mocrop.config import Config
from coviar_mocrop.errors import ConfigError, CoviarMocropError
from coviar_mocrop.failed import write_failed
from coviar_mocrop.mocrop import CropBox, MoCropSettings


class ListBoxes(NamedTuple):
    """The boxes of a list."""

    boxes: dict[str, CropBox]
    """Boxes by name of the clip."""
    errors: dict[str, CoviarMocropError]
    """Why the other clips have no box, by name."""
    computed: int
    """Number of boxes that were neither in the shards nor in the cache."""
    failed: Path
    """Path of the table of clips without a box. The file exists only if there are any."""


def box_of_file(
    path: str | os.PathLike[str],
    settings: MoCropSettings,
    backend: Backend = "auto",
    anchor_every: int | None = 12,
    index_cache: str | os.PathLike[str] | None = None,
) -> CropBox:
    """Estimate the box of one video from the vectors of all its frames, or of a few if ``settings.sparse``.

    Args:
        path: path of the video.
        settings: settings of MoCrop.
        backend: see :func:`~coviar_mocrop.bitstream.open_video`.
        anchor_every: see :func:`~coviar_mocrop.bitstream.open_video`. If ``settings.sparse``, it affects which frames
            are read.
        index_cache: see :func:`~coviar_mocrop.bitstream.open_video`.

    Raises:
        VideoError: the video cannot be read, or has no motion vectors.
    """
    with open_video(path, backend, anchor_every, index_cache=index_cache) as video:
        return box_of(video, settings)


def boxes_of_list(
    names: Iterable[str], data: DataConfig, settings: MoCropSettings, *, ray: str | None = None, progress: bool = True
) -> ListBoxes:
    """Return the boxes of many clips: from the shards or the cache, else computed and added to the cache.

    Clips without a box are also written to ``boxes/failed.csv`` in the cache folder.

    Args:
        names: names of clips in the data set. Repeats are ignored.
        data: settings of the data set: data root or shards, cache, backend, ``anchor_every``, and ``workers``, the
            number of processes.
        settings: settings of MoCrop.
        ray: see :func:`~coviar_mocrop.parallel.run_map`.
        progress: show a progress bar.

    Raises:
        DataError: there is no data root, or a shard cannot be used.
        CoviarMocropError: the cache cannot be written.
    """
    store = open_store(data)
    cache = open_box_cache(data, settings, store)
    options: dict[str, Any] = {"workers": data.workers, "ray": ray, "progress": progress}
    names = list(dict.fromkeys(names))
    packed = store.boxes(names, boxes_made_by(settings, data.anchor_every))
    stored = [] if packed is None else zip(names, packed[1], strict=True)
    known = {name: box for name, box in stored if not np.isnan(box[0])}
    others = [name for name in names if name not in known]
    rows, failed = compute_rows(others, {"box": cache}, _BoxOf(store, settings), title="crop boxes", **options)
    errors = {name: by_cache["box"] for name, by_cache in failed.items()}
    table = write_failed(cache.folder.parent, {name: str(error) for name, error in errors.items()})
    known |= {name: row["box"] for name, row in rows.items() if row}
    boxes = {name: CropBox(*known[name].tolist()) for name in names if name in known}
    return ListBoxes(boxes, errors, cache.added, table)


@dataclass(frozen=True)
class _BoxOf:
    """Estimates the box of a clip."""

    store: ClipStore
    settings: MoCropSettings

    def __call__(self, missing: Missing) -> Rows:
        video, _ = self.store.open(missing.clip)
        with video:
            return {"box": np.array(box_of(video, self.settings))}


def extract_boxes(
    config: Config, parts: Sequence[Part] = (), *, ray: str | None = None, progress: bool = True
) -> ListBoxes:
    """Compute the boxes of whole lists that are not in the cache yet. If interrupted, boxes computed so far are kept.

    Args:
        config: settings of the data set. Use the lists, data root, cache and MoCrop settings of the training.
        parts: lists to use; empty: all that are set.
        ray: see :func:`~coviar_mocrop.parallel.run_map`.
        progress: show a progress bar.

    Raises:
        ConfigError: none of the lists is set.
        ListError: a list cannot be read.
        DataError: there is no data root, or a shard cannot be used.
        CoviarMocropError: the cache cannot be written.
    """
    data = config.data
    parts = parts or [part for part in PARTS if getattr(data, f"{part}_list")]
    if not parts:
        raise ConfigError("data.train_list, data.val_list, data.test_list: none is set; name a video list")
    names = [clip.path for part in parts for clip in read_videos(data, part).clips]
    return boxes_of_list(names, data, config.mocrop, ray=ray, progress=progress)
