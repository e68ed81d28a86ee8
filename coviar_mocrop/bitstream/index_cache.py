"""The index of a video on disk, so that the next one who opens it reads only the packets that are needed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from coviar_mocrop.bitstream.index import FrameIndex, index_from_order
from coviar_mocrop.bitstream.packets import PacketTable
from coviar_mocrop.errors import CoviarMocropError
from coviar_mocrop.files import atomic_write

_FORMAT = 3


def load(folder: str | os.PathLike[str], path: str) -> tuple[PacketTable, FrameIndex, int] | None:
    """What :func:`save` kept of ``path``: its packets, its frames and its rotation in quarter turns.

    Returns None where nothing is kept, the video has another size or time of change, or the file is damaged.
    """
    try:
        with np.load(_place(folder, path), allow_pickle=False) as kept:
            columns = {name: kept[name] for name in ("pts", "dts", "key", "discard", "corrupt", "checksum")}
            order, starts, rotation = kept["order"], kept["starts"], int(kept["rotation"])
    except Exception:  # a damaged zip file makes zipfile, zlib and numpy raise nearly anything
        return None
    table = PacketTable(**columns)
    count = len(table)
    whole = all(column.shape == (count,) for column in columns.values())
    if not whole or not len(order) or not all(((part >= 0) & (part < count)).all() for part in (order, starts)):
        return None
    index = index_from_order(count, order.tolist(), starts.tolist())
    return None if index is None else (table, index, rotation)


def save(folder: str | os.PathLike[str], path: str, table: PacketTable, index: FrameIndex, rotation: int) -> None:
    """Keep what :func:`load` gives, whole or not at all; where it cannot be written, it is not kept."""
    try:
        with atomic_write(_place(folder, path)) as temporary:
            np.savez(
                temporary,
                pts=table.pts,
                dts=table.dts,
                key=table.key,
                discard=table.discard,
                corrupt=table.corrupt,
                checksum=table.checksum,
                order=index.packet_of_frame,
                starts=index.key_packets,
                rotation=np.int64(rotation),
            )
    except (CoviarMocropError, OSError):
        return


def _place(folder: str | os.PathLike[str], path: str) -> Path:
    """Another file for every state of a video."""
    facts = os.stat(path)
    state = f"{_FORMAT} {facts.st_size} {facts.st_mtime_ns} {os.path.abspath(path)}"
    name = hashlib.sha256(os.fsencode(state)).hexdigest()[:32]
    return Path(folder, name[:2], f"{name}.npz")
