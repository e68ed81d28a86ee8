"""Cache on disk for what is computed once per clip: crop boxes and features, one row of numbers per clip."""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from coviar_mocrop.arrays import read_arrays
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.store import NO_VIDEO, ClipStore, State
from coviar_mocrop.errors import DataError
from coviar_mocrop.files import atomic_write
from coviar_mocrop.mocrop import MoCropSettings

_FORMAT = 4
_BOX_VERSION = 1
"""Increase this with every change of the code after which the same settings give different boxes."""

Row = NDArray[Any]
"""The numbers of one clip: [dim], in the cache's dtype."""


class ClipCache:
    """A map from clips to rows of numbers, on disk.

    Each call of :meth:`put` writes one new file atomically, and files are never changed afterwards. So any number of
    processes and machines can add rows at the same time without a lock, and no row is lost. If a clip has several rows,
    the latest one counts. Damaged cache files are ignored.

    Attributes:
        store: the videos.
        folder: folder of this cache's files.
        dim: length of a row.
        dtype: dtype of the rows.
        added: number of rows added through this object.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        store: ClipStore,
        kind: Literal["boxes", "features"],
        made_by: Mapping[str, Any],
        dim: int,
        dtype: DTypeLike,
    ) -> None:
        """Open a cache. Nothing is written before the first row is added.

        Args:
            folder: folder of all caches.
            store: the videos.
            kind: kind of the rows, which is the name of a subfolder.
            made_by: everything but the videos that the rows depend on, as JSON values: settings and fingerprints of
                networks. Each value of ``made_by`` has a cache of its own.
            dim: length of a row.
            dtype: dtype of the rows, such as ``np.float32``.
        """
        self.store, self.dim, self.dtype = store, dim, np.dtype(dtype)
        self._about = {
            "format": _FORMAT,
            "root": store.identity,
            "dim": dim,
            "dtype": self.dtype.str,
            "made_by": dict(made_by),
        }
        digest = hashlib.blake2b(json.dumps(self._about, sort_keys=True).encode(), digest_size=8)
        self.folder = Path(folder, kind, digest.hexdigest())
        self.added = 0
        self._blocks: list[tuple[NDArray[np.int64], NDArray[Any]]] = []  # states [N, 2] and rows [N, dim] of each file
        self._index: dict[str, tuple[int, int]] = {}  # name -> number of the block, number of the row in it
        self._loaded: set[str] = set()
        self.refresh()

    def get(self, name: str) -> Row | None:
        """Return the row of a clip; None if there is none, or the video has changed since it was computed.

        Raises:
            DataError: the name leads out of the data root.
        """
        if name not in self._index:
            return None
        block, number = self._index[name]
        states, rows = self._blocks[block]
        state = self.store.state(name)
        return rows[number] if state == State(*states[number].tolist()) != NO_VIDEO else None

    def kept(self, names: Sequence[str]) -> tuple[NDArray[np.int64], Row]:
        """Return the rows of many clips, without checking whether their videos have changed since.

        Returns:
            The states of the videos that the rows were computed from, int64 [names, 2], and the rows [names, dim].
            Clips without a row have the state ``NO_VIDEO`` and a row of zeros.
        """
        places = np.array([self._index.get(name, (-1, -1)) for name in names], np.int64).reshape(-1, 2)
        states = np.full((len(places), 2), NO_VIDEO, np.int64)
        found = np.zeros((len(places), self.dim), self.dtype)
        for block in np.unique(places[:, 0]).tolist():
            if block >= 0:
                here = places[:, 0] == block
                states[here], found[here] = (part[places[here, 1]] for part in self._blocks[block])
        return states, found

    def put(self, entries: Mapping[str, tuple[State, Row]]) -> None:
        """Add rows, in one new file.

        Args:
            entries: by name of the clip, the state of the video before it was read, and the row.

        Raises:
            DataError: a number is not finite.
            ValueError: a row has the wrong shape.
            CoviarMocropError: the folder cannot be written to.
        """
        if not entries:
            return
        names = np.array(list(entries))
        states = np.array([state for state, _ in entries.values()], dtype=np.int64)
        rows = np.stack([self.checked(name, row) for name, (_, row) in entries.items()])
        # the order of file names is the order of time, for files of all processes
        path = self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.npz"
        with atomic_write(path) as temporary:
            about = json.dumps(self._about)  # information for people; not read by the program
            np.savez(temporary, names=names, states=states, rows=rows, about=about)
        self._loaded.add(path.name)
        self._add(names, states, rows)
        self.added += len(entries)

    def checked(self, name: str, row: Row) -> Row:
        """Convert a row to the dtype of the cache, as :meth:`get` will return it.

        Raises:
            DataError: a number is not finite.
            ValueError: the row has the wrong shape.
        """
        with np.errstate(over="ignore"):  # numbers too large for the dtype become infinite and are refused below
            row = np.asarray(row, dtype=self.dtype)
        if row.shape != (self.dim,):
            raise ValueError(f"{name}: a row of shape {row.shape} for a cache of rows [{self.dim}]")
        if not np.isfinite(row).all():
            raise DataError(f"{name}: a number computed from it is not finite; are the weights damaged?")
        return row

    def refresh(self) -> None:
        """Load rows that other processes have added since."""
        for path in sorted(self.folder.glob("[0-9]*.npz")):  # temporary files start with a dot
            if path.name not in self._loaded:
                self._loaded.add(path.name)
                self._load(path)

    def _load(self, path: Path) -> None:
        try:
            names, states, rows = read_arrays(path, "names", "states", "rows")
        except (OSError, ValueError):
            return
        count = len(names) if names.ndim == 1 and names.dtype.kind == "U" else -1
        whole = states.shape == (count, 2) and states.dtype == np.int64
        if whole and rows.shape == (count, self.dim) and rows.dtype == self.dtype and np.isfinite(rows).all():
            self._add(names, states, rows)

    def _add(self, names: NDArray[np.str_], states: NDArray[np.int64], rows: NDArray[Any]) -> None:
        block = len(self._blocks)
        self._blocks.append((states, rows))
        self._index.update((name, (block, number)) for number, name in enumerate(names.tolist()))


def boxes_made_by(settings: MoCropSettings, anchor_every: int | None) -> dict[str, Any]:
    """Return everything but the video that a box depends on, as JSON values.

    Whatever is computed from cropped clips depends on it too, so it must be part of their ``made_by``; see
    :class:`ClipCache`.
    """
    made_by = {"version": _BOX_VERSION, "mocrop": settings.model_dump(mode="json")}
    return {**made_by, "anchor_every": anchor_every} if settings.sparse else made_by


def open_box_cache(data: DataConfig, settings: MoCropSettings, store: ClipStore) -> ClipCache:
    """Open the cache of boxes. Its rows are the fields of a :class:`~coviar_mocrop.mocrop.CropBox`, float64 [4]."""
    return ClipCache(data.cache, store, "boxes", boxes_made_by(settings, data.anchor_every), 4, np.float64)
