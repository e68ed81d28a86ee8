"""Keep the packet index of a video on disk, so that opening it again reads only the packets that are needed."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coviar_mocrop.arrays import read_arrays
from coviar_mocrop.bitstream.index import FrameIndex, index_from_order
from coviar_mocrop.bitstream.packets import PacketTable
from coviar_mocrop.errors import CoviarMocropError
from coviar_mocrop.files import atomic_write

_FORMAT = 4
_ROWS = 8
"""Rows of a packed index: those of the packet table, the frame in display order or -1, whether a GOP starts here."""
_FLAGS = [2, 3, 4, 7]
"""Those of the rows that hold 0 or 1."""


class VideoIndex(NamedTuple):
    """What is found by reading all packets of a video once."""

    table: PacketTable
    frames: FrameIndex
    rotation: int
    """Quarter turns, counter-clockwise."""


def pack(index: VideoIndex) -> bytes:
    """Return an index as the bytes of an .npz file. Its table must hold checksums."""
    table, frames = index.table, index.frames
    starts = np.isin(np.arange(len(table)), frames.key_packets)
    columns = (table.pts, table.dts, table.key, table.discard, table.corrupt, table.checksum)
    out = io.BytesIO()
    # few arrays, because NumPy takes longer to read the header of an array than its content
    np.savez(out, packets=np.stack([*columns, frames.frame_of_packet, starts]), rotation=np.int64(index.rotation))
    return out.getvalue()


def unpack(data: bytes) -> VideoIndex | None:
    """Return the index that :func:`pack` packed; None if the bytes are damaged or hold no checksums."""
    try:
        rows, rotation = read_arrays(data, "packets", "rotation")
    except (OSError, ValueError):
        return None
    if any(array.dtype != np.int64 for array in (rows, rotation)) or rows.ndim != 2 or len(rows) != _ROWS:
        return None
    if rotation.ndim or not 0 <= rotation < 4 or (rows[_FLAGS] & ~1).any():
        return None
    pts, dts, key, discard, corrupt, checksum, frame, starts = rows
    shown = np.flatnonzero(frame >= 0)
    order = shown[np.argsort(frame[shown])]
    if not starts.any() or (frame[order] != np.arange(len(order))).any() or (checksum >> 32).any():
        return None
    frames = index_from_order(len(pts), order.tolist(), np.flatnonzero(starts).tolist())
    key, discard, corrupt = (row.astype(np.bool_) for row in (key, discard, corrupt))
    table = PacketTable(pts, dts, key, discard, corrupt, checksum.astype(np.uint32))
    return None if frames is None else VideoIndex(table, frames, int(rotation))


def load(folder: str | os.PathLike[str], path: str) -> VideoIndex | None:
    """Return the index that :func:`save` kept of ``path``.

    The result is None if none is kept, the size or modification time of the video has changed, or the file is damaged.
    """
    try:
        return unpack(_place(folder, path).read_bytes())
    except OSError:
        return None


def save(folder: str | os.PathLike[str], path: str, index: VideoIndex) -> None:
    """Write an index for :func:`load`, completely or not at all. If it cannot be written, it is not kept."""
    try:
        with atomic_write(_place(folder, path)) as temporary:
            temporary.write_bytes(pack(index))
    except (CoviarMocropError, OSError):
        return


def _place(folder: str | os.PathLike[str], path: str) -> Path:
    """The file of an index. It differs if path, size or modification time of the video differ."""
    facts = os.stat(path)
    state = f"{_FORMAT} {facts.st_size} {facts.st_mtime_ns} {os.path.abspath(path)}"
    name = hashlib.sha256(os.fsencode(state)).hexdigest()[:32]
    return Path(folder, name[:2], f"{name}.npz")
