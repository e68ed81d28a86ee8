"""What is computed once a clip and kept on disk, a row of numbers for each: crop boxes, CLIP features."""

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

from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.store import NO_VIDEO, ClipStore, State
from coviar_mocrop.errors import DataError
from coviar_mocrop.files import atomic_write
from coviar_mocrop.mocrop import MoCropSettings

_FORMAT = 4
_BOX_VERSION = 1
"""To be increased by every change after which the same settings give other boxes."""

Row = NDArray[Any]
"""One clip's numbers: [dim], of the cache's dtype."""


class ClipCache:
    """A map from clips to rows of numbers, on disk.

    Each call of :meth:`put` writes one new file, completely or not at all, and no file is changed afterwards. So any
    number of processes, on any number of machines, can add rows at the same time without a lock, and none is lost.
    If several rows of one clip were added, the latest counts. A cache file that is damaged counts as empty.

    Attributes:
        store: the videos.
        folder: where the files of this cache are.
        dim: length of a row.
        dtype: of the rows.
        added: number of rows that were added through this object.
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
            kind: what the rows are; names a subfolder.
            made_by: everything else that decides the rows, as JSON values: settings, fingerprints of networks. Rows
                made by something else are never found.
            dim: length of a row.
            dtype: of the rows, such as ``np.float32``.
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
        """The row of a clip; None if there is none, or the file has changed since.

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
        """The rows of many clips, whether or not their videos have changed since.

        Returns:
            int64 [names, 2], the states that they were computed from, and the rows [names, dim]. Where there is none,
            the state is that of no video, and the row is zero.
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
            entries: state of the file before it was read, and the row, by the clip's name.

        Raises:
            DataError: a number is not finite.
            CoviarMocropError: the folder cannot be written to.
        """
        if not entries:
            return
        names = np.array(list(entries))
        states = np.array([state for state, _ in entries.values()], dtype=np.int64)
        rows = np.stack([self.checked(name, row) for name, (_, row) in entries.items()])
        # sorted by name, the files are in the order of time, whoever wrote them
        path = self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.npz"
        with atomic_write(path) as temporary:
            about = json.dumps(self._about)  # for people; never read
            np.savez(temporary, names=names, states=states, rows=rows, about=about)
        self._loaded.add(path.name)
        self._add(names, states, rows)
        self.added += len(entries)

    def checked(self, name: str, row: Row) -> Row:
        """The row in the dtype of the cache, as :meth:`get` will give it.

        Raises:
            DataError: a number is not finite.
        """
        with np.errstate(over="ignore"):  # too large for the dtype: infinite, so refused below
            row = np.asarray(row, dtype=self.dtype)
        if row.shape != (self.dim,):
            raise ValueError(f"{name}: a row of shape {row.shape} for a cache of rows [{self.dim}]")
        if not np.isfinite(row).all():
            raise DataError(f"{name}: a number computed from it is not finite; are the weights damaged?")
        return row

    def refresh(self) -> None:
        """Load what other processes have added since."""
        for path in sorted(self.folder.glob("[0-9]*.npz")):  # temporary files start with a dot
            if path.name not in self._loaded:
                self._loaded.add(path.name)
                self._load(path)

    def _load(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as file:
                names, states, rows = file["names"], file["states"], file["rows"]
        except Exception:  # zipfile, zlib and numpy fail in many ways on damaged bytes
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
    """Everything but the video that decides a box, as JSON values.

    It belongs to what decides anything computed from cropped clips, see :class:`ClipCache`.
    """
    made_by = {"version": _BOX_VERSION, "mocrop": settings.model_dump(mode="json")}
    return {**made_by, "anchor_every": anchor_every} if settings.sparse else made_by


def open_box_cache(data: DataConfig, settings: MoCropSettings, store: ClipStore) -> ClipCache:
    """The cache of the boxes: rows float64 [4], the fields of a :class:`~coviar_mocrop.mocrop.CropBox`."""
    return ClipCache(data.cache, store, "boxes", boxes_made_by(settings, data.anchor_every), 4, np.float64)
