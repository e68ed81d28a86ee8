"""Read videos from shards, clip by clip, without unpacking the shards."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from coviar_mocrop import storage
from coviar_mocrop.bitstream import Video
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.shard_index import ROW, ShardIndex, find_shards, index_path, unpack_index
from coviar_mocrop.clips.store import NO_VIDEO, State, open_with
from coviar_mocrop.datasets.splits import some
from coviar_mocrop.errors import CoviarMocropError, DataError, VideoError
from coviar_mocrop.files import atomic_write
from coviar_mocrop.locks import ForkSafeLock

_READERS = 16
"""Number of parallel reads of indexes and clips, to hide latency."""
_turn = ForkSafeLock()
"""Held while one thread tests a server or copies a shard; the other threads wait for the result."""
logger = logging.getLogger(__name__)


def open_shards(data: DataConfig) -> ShardStore:
    """Return the store of ``data.shards``; the same object as before if the settings and files have not changed.

    Raises:
        DataError: no shard is usable, or one is missing, damaged or cut short and ``data.on_error`` is ``raise``.
    """
    shards = find_shards(data.shards)
    states = tuple(_file_state(path) for shard in shards for path in (shard, index_path(shard)))
    return _opened(data, tuple(shards), states)


def _file_state(path: str) -> tuple[int, int] | None:
    try:
        facts = os.stat(path)
        return facts.st_size, facts.st_mtime_ns
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=2)
def _opened(data: DataConfig, shards: tuple[str, ...], states: tuple[tuple[int, int] | None, ...]) -> ShardStore:
    return ShardStore(data, shards)


class ShardStore:
    """A :class:`~coviar_mocrop.clips.store.ClipStore` whose videos are members of tar files.

    Clips are described in arrays, which data-loading processes share. Shards at an address are read clip by clip. If
    the server sends only whole files, each shard is copied to the cache folder when it is needed.
    """

    identity = "shards"

    def __init__(self, data: DataConfig, shards: Sequence[str]) -> None:
        """Read the indexes of ``shards``.

        Args:
            data: settings of the data set.
            shards: paths or addresses of tar files.

        Raises:
            DataError: no shard is usable, or one is missing, damaged or cut short and ``data.on_error`` is ``raise``;
                or two shards hold different videos with the same name.
        """
        self.data, self.shards = data, tuple(shards)
        found = self._load_indexes()
        self.form = next((index.form for index in found if index is not None), None)
        self._made_by = [index and index.boxes_made_by for index in found]
        self._versions = [("", 0) if index is None else (index.made_from, index.tar_bytes) for index in found]
        self._ranges: dict[str, bool] = {}
        self._wrong_sizes: dict[str, int] = {}
        kept = [(number, index) for number, index in enumerate(found) if index is not None]
        names = np.concatenate([index.names for _, index in kept] or [np.empty(0, "S1")])
        order = np.argsort(names, kind="stable")
        self._names = names[order]
        self._rows = np.concatenate([index.rows for _, index in kept] or [np.empty(0, ROW)])[order]
        self._shard_of = np.repeat([number for number, _ in kept], [len(i.names) for _, i in kept]).astype(int)[order]
        self._require_one_of_each()
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        self._coming: dict[str, Future[tuple[_Place, bytes]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle for another process, without threads."""
        return {**self.__dict__, "_pool": None, "_coming": {}}

    def _load_indexes(self) -> list[ShardIndex | None]:
        problems: list[CoviarMocropError] = []

        def load(shard: str) -> ShardIndex | None:
            try:
                index = _read_index(shard)
                state = None if storage.is_address(shard) else _file_state(shard)
                if state is not None and state[0] != index.tar_bytes:
                    raise _wrong_size(shard, state[0], index.tar_bytes)
                if state is None and not storage.is_address(shard):
                    raise DataError(f"{shard}: no such shard; copy it again")
                return index
            except CoviarMocropError as error:
                problems.append(error)
                return None

        with ThreadPoolExecutor(_READERS) as pool:
            loaded = pool.map(load, self.shards)
            found = list(tqdm(loaded, "shards", len(self.shards), unit="shard", leave=False, delay=2))
        problems.sort(key=str)
        for error in problems:
            if isinstance(error, storage.Unreachable):  # the shard may be sound
                raise error
        if problems and (self.data.on_error == "raise" or len(problems) == len(self.shards)):
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            hint = "" if self.data.on_error == "skip" else "; to leave out its clips: --set data.on_error=skip"
            raise DataError(f"{problems[0]}{more}{hint}")
        for error in problems:
            logger.warning("left out %s", error)
        if problems:
            logger.warning(
                "%d of %d shards are left out; their clips count as skipped", len(problems), len(self.shards)
            )
        return found

    def _require_one_of_each(self) -> None:
        same = np.flatnonzero(self._names[1:] == self._names[:-1])
        for place in same[np.any([self._rows[c][same] != self._rows[c][same + 1] for c in ("size", "checksum")], 0)]:
            both = (self.shards[self._shard_of[place]], self.shards[self._shard_of[place + 1]])
            raise DataError(f"{self._name(place)}: {both[0]} and {both[1]} hold different videos of this name")

    def _name(self, place: int) -> str:
        return bytes(self._names[place]).decode(errors="replace")

    def _places(self, names: Sequence[str]) -> NDArray[np.int64]:
        """The row number of each clip; -1 if it is in no shard."""
        if not len(self._names):
            return np.full(len(names), -1)
        encoded = np.array([name.encode() for name in names], np.bytes_)
        wanted = encoded.astype(self._names.dtype)  # with another dtype, searchsorted would copy all names
        at = np.minimum(np.searchsorted(self._names, wanted), len(self._names) - 1)
        return np.where(self._names[at] == encoded, at, -1)

    def require(self, names: Sequence[str]) -> None:
        """See :class:`~coviar_mocrop.clips.store.ClipStore`."""
        missing = [names[number] for number in np.flatnonzero(self._places(names) < 0).tolist()]
        if missing and self.data.on_error == "raise":
            raise DataError(
                f"{some(missing)}: in none of {len(self.shards)} shards ({some(self.shards)}); data.shards names those "
                "of all lists that are used, or a folder of them; to leave out such clips: --set data.on_error=skip"
            )

    def state(self, name: str) -> State:
        """See :class:`~coviar_mocrop.clips.store.ClipStore`."""
        (place,) = self._places([name])
        return NO_VIDEO if place < 0 else State(int(self._rows["size"][place]), int(self._rows["checksum"][place]))

    def boxes(
        self, names: Sequence[str], made_by: Mapping[str, Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
        """See :class:`~coviar_mocrop.clips.store.ClipStore`."""
        made_by = json.loads(json.dumps(made_by))
        fits = np.array([given == made_by for given in self._made_by])
        if not fits.any() or not len(self._names):
            return None
        places = self._places(names)
        rows = self._rows[places]
        states = np.stack([rows["size"], rows["checksum"].astype(np.int64)], axis=1)
        known = (places >= 0) & fits[self._shard_of[places]]
        return states, np.where(known[:, None], rows["box"], np.nan)

    def open(self, name: str) -> tuple[Video, State]:
        """See :class:`~coviar_mocrop.clips.store.ClipStore`."""
        place, data = self._found(name)
        video, state = self._video(place, data)
        where = f"{name} in {place.shard}"
        return open_with(NamedBytes(video, where), self.data, data[: place.index_size] or None), state

    def read(self, name: str) -> bytes:
        """See :class:`~coviar_mocrop.clips.store.ClipStore`."""
        return self._video(*self._found(name))[0]

    def fetch(self, names: Sequence[str]) -> None:
        """See :class:`~coviar_mocrop.clips.store.ClipStore`."""
        self._coming.clear()
        if not any(map(storage.is_address, self.shards)):
            return
        if self._pool is None or self._pool[0] != os.getpid():  # threads do not survive a fork
            self._pool = (os.getpid(), ThreadPoolExecutor(_READERS, "fetch"))
        self._coming = {name: self._pool[1].submit(self._read_range, name) for name in names}

    def _found(self, name: str) -> tuple[_Place, bytes]:
        coming = self._coming.pop(name, None)
        return self._read_range(name) if coming is None else coming.result()

    def _read_range(self, name: str) -> tuple[_Place, bytes]:
        """Read the bytes from a clip's packet index (or, if it has none, its video) to the end of its video.

        Raises:
            VideoError: the clip is in no shard, or cannot be read.
            Unreachable: the server cannot be reached.
        """
        (number,) = self._places([name])
        if number < 0:
            raise VideoError(f"{name}: is in none of {len(self.shards)} shards; pack it, or leave it out of the list")
        offset, size, checksum, index_offset, index_size, _ = self._rows[number].item()
        start = index_offset if index_size and index_offset < offset else offset
        wanted = offset + size - start
        place = _Place(name, self.shards[self._shard_of[number]], size, checksum, index_size if start < offset else 0)
        try:
            data = self._bytes_of(place.shard, start, wanted)
        except storage.Unreachable:
            raise
        except CoviarMocropError as error:
            raise VideoError(f"{name}: {error}") from error
        if len(data) < wanted:
            raise VideoError(f"{name}: {place.shard} ends before it does; the shard was cut short, copy it again")
        return place, data

    @staticmethod
    def _video(place: _Place, data: bytes) -> tuple[bytes, State]:
        video = data[len(data) - place.size :]
        if zlib.crc32(video) != place.checksum:
            raise VideoError(
                f"{place.name}: {place.shard} holds other bytes than were packed (wrong checksum); copy it again"
            )
        return video, State(place.size, place.checksum)

    def _bytes_of(self, shard: str, start: int, size: int) -> bytes:
        """Read a range of a shard. If its server sends only whole files, read from a copy in the cache folder."""
        if not storage.is_address(shard):
            return storage.read(shard, start, size)
        if not self._sends_ranges(shard):
            return storage.read(self._copy(shard), start, size)
        return storage.read(shard, start, size)

    def _sends_ranges(self, shard: str) -> bool:
        """Whether the server of an address supports range requests. Each process asks a server once."""
        server = "/".join(shard.split("/", 3)[:3])
        with _turn:
            if server not in self._ranges:
                try:
                    storage.read(index_path(shard), 0, 1)  # a small file
                    self._ranges[server] = True
                except storage.WholeFilesOnly:
                    self._ranges[server] = False
                    folder = Path(self.data.cache, "shards")
                    logger.warning("%s: sends whole files only, so shards are copied to %s", server, folder)
            return self._ranges[server]

    def _copy(self, shard: str) -> Path:
        """Path of a shard's copy in the cache folder. The shard is copied if necessary.

        Raises:
            DataError: the shard is not the one whose index was read. It is copied only once to find this out.
        """
        made_from, tar_bytes = self._versions[self.shards.index(shard)]
        digest = hashlib.blake2b(f"{shard} {made_from} {tar_bytes}".encode(), digest_size=8).hexdigest()
        path = Path(self.data.cache, "shards", f"{digest}.tar")
        with _turn:  # one at a time, and each only once in a process
            if shard not in self._wrong_sizes and (not path.exists() or path.stat().st_size != tar_bytes):
                with atomic_write(path) as temporary:
                    storage.copy(shard, temporary)
                    if (size := temporary.stat().st_size) != tar_bytes:
                        self._wrong_sizes[shard] = size
                        raise _wrong_size(shard, size, tar_bytes)
            if shard in self._wrong_sizes:
                raise _wrong_size(shard, self._wrong_sizes[shard], tar_bytes)
        return path


def _wrong_size(shard: str, size: int, expected: int) -> DataError:
    return DataError(f"{shard}: has {size} bytes instead of {expected}; it was cut short or replaced, copy it again")


def _read_index(shard: str) -> ShardIndex:
    name = index_path(shard)
    try:
        return unpack_index(storage.read(name), name)
    except storage.NoSuchFile as error:
        raise DataError(
            f"{shard}: has no index beside it ({name}); coviar prepare shards writes both, copy them together"
        ) from error


class _Place(NamedTuple):
    """Position of a clip in its shard."""

    name: str
    shard: str
    size: int
    checksum: int
    index_size: int
    """Size of the packet index in front of the video, bytes; 0: there is none."""


class NamedBytes(io.BytesIO):
    """A binary file in memory with a name for error messages."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name
