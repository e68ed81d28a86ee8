"""The MoCrop boxes of whole lists, ahead of training, by one process or several."""

from __future__ import annotations

from collections.abc import Sequence

from coviar_mocrop.clips.boxes import ListBoxes, boxes_of_list
from coviar_mocrop.clips.loading import Part
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import read_classes, read_list
from coviar_mocrop.errors import ConfigError


def extract_boxes(
    config: Config,
    parts: Sequence[Part] = ("train", "test"),
    shard: tuple[int, int] = (0, 1),
    *,
    progress: bool = True,
) -> ListBoxes:
    """Compute the boxes that are not in the cache yet. An interruption loses at most the last minute of work.

    Args:
        config: its lists, data root, cache and MoCrop settings are those that training will use.
        parts: which lists; one that is not set is left out.
        shard: (k, n): only every n-th file, from the k-th. Shards may run at the same time on several machines.
        progress: show a bar.

    Raises:
        ConfigError: none of the lists is set.
        ListError: a list does not parse.
        DataError: an entry leads out of the data root.
    """
    data = config.data
    lists = {"train": data.train_list, "test": data.test_list}
    paths = [path for part in parts if (path := lists[part]) is not None]
    if not paths:
        raise ConfigError(f"{' and '.join(f'data.{part}_list' for part in parts)}: not set; name a video list")
    classes = read_classes(data.classes)
    names = [clip.path for path in paths for clip in read_list(path, classes).clips]
    return boxes_of_list(names, data, config.mocrop, progress=progress, shard=shard)
