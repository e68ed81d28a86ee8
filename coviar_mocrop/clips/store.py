"""Where the videos of a list lie: files below a folder, or members of shards. Reading does not tell them apart."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream import Video, open_video
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.datasets.lists import DataRoot, Form, read_form
from coviar_mocrop.errors import DataError, VideoError


class State(NamedTuple):
    """The state of a video: what was computed from it counts only as long as this does not change."""

    size: int
    """Bytes; -1 if there is no such video."""
    changed: int
    """Of a file, the time of its last change in nanoseconds; of a member of a shard, its checksum."""


NO_VIDEO = State(-1, -1)


class ClipStore(Protocol):
    """The videos of a data set, by the paths that stand in its lists.

    Attributes:
        identity: tells apart, together with a path and a state, what was computed from videos.
        form: what the videos were transcoded to, where they were.
    """

    identity: str
    form: Form | None

    def state(self, name: str) -> State:
        """The state of a video now. To be taken before it is read, so that later changes are noticed.

        Raises:
            DataError: the name leads out of the data root.
        """
        ...

    def open(self, name: str) -> tuple[Video, State]:
        """Open a video; with its state, taken before.

        Raises:
            VideoError: it cannot be read.
            DataError: the name leads out of the data root.
        """
        ...

    def read(self, name: str) -> bytes:
        """The whole file.

        Raises:
            VideoError: it cannot be read.
            DataError: the name leads out of the data root.
        """
        ...

    def fetch(self, names: Sequence[str]) -> None:
        """Begin to bring videos here that will be opened next; nothing where they are near."""
        ...

    def boxes(
        self, names: Sequence[str], made_by: Mapping[str, Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
        """Boxes that lie with the videos.

        Args:
            names: of clips.
            made_by: see :func:`~coviar_mocrop.clips.cache.boxes_made_by`; others are not given.

        Returns:
            int64 [names, 2], the states that they belong to, and float64 [names, 4], NaN where there is none. None: no
            clip has any.
        """
        ...

    def require(self, names: Sequence[str]) -> None:
        """Check that videos are there, as far as it is known without touching them.

        Raises:
            DataError: one is not, and ``data.on_error`` is ``raise``.
        """
        ...


class FileStore:
    """Videos that are files below a folder, the data root."""

    def __init__(self, data: DataConfig) -> None:
        """Name the folder.

        Raises:
            DataError: there is no such folder.
        """
        if not Path(data.root).is_dir():
            raise DataError(f"{data.root}: is no folder; set data.root to where the paths of the lists start")
        self.data = data
        self.below = DataRoot(data.root, follow_links=data.follow_links)
        self.identity = os.path.realpath(data.root)
        self.form = read_form(data.root)

    def state(self, name: str) -> State:
        """See :class:`ClipStore`."""
        _, facts = self.below.find(name)
        return NO_VIDEO if facts is None else State(facts.st_size, facts.st_mtime_ns)

    def open(self, name: str) -> tuple[Video, State]:
        """See :class:`ClipStore`."""
        path, facts = self.below.find(name)
        state = NO_VIDEO if facts is None else State(facts.st_size, facts.st_mtime_ns)
        return open_with(path, self.data, self.data.index_folder), state

    def read(self, name: str) -> bytes:
        """See :class:`ClipStore`."""
        path, _ = self.below.find(name)
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise VideoError(f"{path}: cannot be read ({error.strerror}); check the path") from error

    def fetch(self, names: Sequence[str]) -> None:
        """See :class:`ClipStore`."""

    def boxes(
        self, names: Sequence[str], made_by: Mapping[str, Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
        """See :class:`ClipStore`."""
        return None

    def require(self, names: Sequence[str]) -> None:
        """See :class:`ClipStore`."""


def open_with(source: Any, data: DataConfig, index_cache: str | bytes | None) -> Video:
    """Open a video as the settings say.

    Raises:
        VideoError: it cannot be read.
    """
    return open_video(
        *(source, data.backend, data.anchor_every), index_cache=index_cache, max_frame_pixels=data.max_frame_pixels
    )
