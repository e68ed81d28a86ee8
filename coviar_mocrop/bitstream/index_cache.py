"""The index of a video on disk, so that the next one who opens it reads only the packets that are needed."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coviar_mocrop.bitstream.index import FrameIndex, index_from_order
from coviar_mocrop.bitstream.packets import PacketTable
from coviar_mocrop.errors import CoviarMocropError
from coviar_mocrop.files import atomic_write

_FORMAT = 3
_COLUMNS = ("pts", "dts", "key", "discard", "corrupt", "checksum")


class VideoIndex(NamedTuple):
    """What goes through a video's packets once and for all."""

    table: PacketTable
    frames: FrameIndex
    rotation: int
    """Quarter turns, counter-clockwise."""


def pack(index: VideoIndex) -> bytes:
    """An index as the bytes of an .npz file. Its table holds checksums."""
    out = io.BytesIO()
    columns = {name: getattr(index.table, name) for name in _COLUMNS}
    np.savez(
        out,
        order=index.frames.packet_of_frame,
        starts=index.frames.key_packets,
        rotation=np.int64(index.rotation),
        **columns,
    )
    return out.getvalue()


def unpack(data: bytes) -> VideoIndex | None:
    """What :func:`pack` made; None where the bytes are damaged."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as kept:
            columns = {name: kept[name] for name in _COLUMNS}
            order, starts, rotation = kept["order"], kept["starts"], int(kept["rotation"])
    except Exception:  # a damaged zip file makes zipfile, zlib and numpy raise nearly anything
        return None
    table = PacketTable(**columns)
    count = len(table)
    whole = all(column.shape == (count,) for column in columns.values())
    if not whole or not len(order) or not all(((part >= 0) & (part < count)).all() for part in (order, starts)):
        return None
    frames = index_from_order(count, order.tolist(), starts.tolist())
    return None if frames is None else VideoIndex(table, frames, rotation)


def load(folder: str | os.PathLike[str], path: str) -> VideoIndex | None:
    """What :func:`save` kept of ``path``.

    Returns None where nothing is kept, the video has another size or time of change, or the file is damaged.
    """
    try:
        return unpack(_place(folder, path).read_bytes())
    except OSError:
        return None


def save(folder: str | os.PathLike[str], path: str, index: VideoIndex) -> None:
    """Keep what :func:`load` gives, whole or not at all; where it cannot be written, it is not kept."""
    try:
        with atomic_write(_place(folder, path)) as temporary:
            temporary.write_bytes(pack(index))
    except (CoviarMocropError, OSError):
        return


def _place(folder: str | os.PathLike[str], path: str) -> Path:
    """Another file for every state of a video."""
    facts = os.stat(path)
    state = f"{_FORMAT} {facts.st_size} {facts.st_mtime_ns} {os.path.abspath(path)}"
    name = hashlib.sha256(os.fsencode(state)).hexdigest()[:32]
    return Path(folder, name[:2], f"{name}.npz")
