"""The store that the settings name."""

from __future__ import annotations

from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.shards import open_shards
from coviar_mocrop.clips.store import ClipStore, FileStore


def open_store(data: DataConfig) -> ClipStore:
    """Where the videos of a data set lie, by ``data.shards`` or ``data.root``.

    Raises:
        DataError: they are not there.
    """
    return FileStore(data) if data.shards is None else open_shards(data)
