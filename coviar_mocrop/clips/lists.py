"""Read the lists of a data set that are named in its settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from coviar_mocrop import storage
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.stores import open_store
from coviar_mocrop.datasets.lists import VideoList, groups_beside, read_classes, read_list
from coviar_mocrop.errors import ConfigError

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")


def read_videos(data: DataConfig, part: Part, shard: tuple[int, int] = (0, 1)) -> VideoList:
    """Read a list of the data set.

    Args:
        data: settings of the data set.
        part: which list.
        shard: (k, n): read only every n-th clip, starting with clip k, from 0. The default reads all clips.

    Raises:
        ConfigError: the settings name no such list.
        ListError: the list or the class list cannot be read.
        DataError: there is no data root, or the videos are not in the shards.
    """
    path = {"train": data.train_list, "val": data.val_list, "test": data.test_list}[part]
    if path is None:
        raise ConfigError(f"data.{part}_list is not set; name a video list")
    store = open_store(data)
    videos = read_list(path, read_classes(data.classes))
    clips = videos.clips[shard[0] :: shard[1]]
    store.require([clip.path for clip in clips])
    return replace(videos, clips=clips, form=store.form, group_of=groups_beside(storage.beside(path, "")))
