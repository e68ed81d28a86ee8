"""The MoCrop boxes of whole lists, ahead of training, by one process or many."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from coviar_mocrop.clips.boxes import BoxCache, boxes_of_list
from coviar_mocrop.clips.loading import Part
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import Clip, read_classes, read_list
from coviar_mocrop.errors import ConfigError, VideoError


class Extracted(NamedTuple):
    """What came of it, in this process's share."""

    clips: int
    """Different files in the share."""
    computed: int
    """Boxes that the cache did not hold before."""
    errors: dict[str, VideoError]
    """Why the others have none, by path."""


def extract_boxes(
    config: Config,
    parts: Sequence[Part] = ("train", "test"),
    share: tuple[int, int] = (0, 1),
    *,
    progress: bool = True,
) -> Extracted:
    """Compute the boxes that the cache does not hold yet; what was done before an interruption is kept.

    Args:
        config: its lists, data root, cache and MoCrop settings are those that training will use.
        parts: which lists; one that the settings do not name is passed over.
        share: (k, n): every n-th file from the k-th on. Shares may run at the same time, anywhere.
        progress: show a bar.

    Raises:
        ConfigError: the settings name none of the lists.
        ListError: a list does not parse.
        DataError: an entry leaves the data root.
    """
    data = config.data
    lists = {"train": data.train_list, "test": data.test_list}
    paths = [path for part in parts if (path := lists[part]) is not None]
    if not paths:
        raise ConfigError(f"{' and '.join(f'data.{part}_list' for part in parts)}: not set; name a video list")
    classes = read_classes(data.classes)
    clips: list[Clip] = [clip for path in paths for clip in read_list(path, classes).clips]
    cache = BoxCache(data.cache, data.root, config.mocrop, follow_links=data.follow_links)
    boxes, errors = boxes_of_list(
        clips,
        cache,
        backend=data.backend,
        index_cache=data.index_folder,
        workers=data.workers,
        progress=progress,
        share=share,
    )
    return Extracted(len(boxes) + len(errors), cache.added, errors)


def share_of_process(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """This process's share by the variables that torchrun sets; (0, 1) without them.

    Raises:
        ConfigError: they make no sense.
    """
    rank, world = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ConfigError(f"RANK={rank} and WORLD_SIZE={world} name no process; torchrun sets them")
    return int(rank), int(world)
