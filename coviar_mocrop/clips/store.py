"""Stores of videos: a common interface for files in a folder and for members of shards."""

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
    """The state of a video. What was computed from a video is valid only as long as its state does not change."""

    size: int
    """Size in bytes; -1: there is no such video."""
    changed: int
    """Modification time of a file in nanoseconds, or CRC-32 checksum of a member of a shard; -1: there is no video."""


NO_VIDEO = State(-1, -1)


class ClipStore(Protocol):
    """The videos of a data set, by their paths in the lists.

    Attributes:
        identity: identifies the store. Together with path and state it identifies a video in the caches.
        form: format that the videos were transcoded to; None: not transcoded, or not known.
    """

    identity: str
    form: Form | None

    def state(self, name: str) -> State:
        """Return the current state of a video. Call this before reading the video, so that later changes are noticed.

        Raises:
            DataError: the name leads out of the data root.
        """
        ...

    def open(self, name: str) -> tuple[Video, State]:
        """Open a video. Returns the video, and its state just before it was opened.

        Raises:
            VideoError: the video cannot be read.
            DataError: the name leads out of the data root.
        """
        ...

    def read(self, name: str) -> bytes:
        """Return the bytes of the video file.

        Raises:
            VideoError: the video cannot be read.
            DataError: the name leads out of the data root.
        """
        ...

    def fetch(self, names: Sequence[str]) -> None:
        """Start downloading videos that will be opened next. Does nothing for local videos."""
        ...

    def boxes(
        self, names: Sequence[str], made_by: Mapping[str, Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
        """Return boxes that are stored with the videos.

        Args:
            names: names of clips.
            made_by: what the boxes must have been made by; see :func:`~coviar_mocrop.clips.cache.boxes_made_by`.

        Returns:
            The states of the videos that the boxes belong to, int64 [names, 2], and the boxes, float64 [names, 4], NaN
            for clips without a box. None: the store has no such boxes.
        """
        ...

    def require(self, names: Sequence[str]) -> None:
        """Check that videos exist, as far as this is known without opening files.

        Raises:
            DataError: a video is missing and ``data.on_error`` is ``raise``.
        """
        ...


class FileStore:
    """A :class:`ClipStore` whose videos are files below a folder, the data root."""

    def __init__(self, data: DataConfig) -> None:
        """Open the store.

        Args:
            data: settings of the data set.

        Raises:
            DataError: there is no such folder.
        """
        if not Path(data.root).is_dir():
            raise DataError(
                f"{data.root}: is not a folder; make it with coviar prepare, or set data.root to where the paths "
                "of the lists start"
            )
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
    """Open a video with the settings of the data set; see :func:`~coviar_mocrop.bitstream.open_video`.

    Raises:
        VideoError: the video cannot be read.
    """
    return open_video(
        *(source, data.backend, data.anchor_every), index_cache=index_cache, max_frame_pixels=data.max_frame_pixels
    )
