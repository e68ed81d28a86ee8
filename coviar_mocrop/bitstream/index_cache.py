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

_FORMAT = 3
_COLUMNS = {"pts": "i8", "dts": "i8", "key": "?", "discard": "?", "corrupt": "?", "checksum": "u4"}
_OTHERS = {"order": "i8", "starts": "i8", "rotation": "i8"}


class VideoIndex(NamedTuple):
    """What is found by reading all packets of a video once."""

    table: PacketTable
    frames: FrameIndex
    rotation: int
    """Quarter turns, counter-clockwise."""


def pack(index: VideoIndex) -> bytes:
    """Return an index as the bytes of an .npz file. Its table must hold checksums."""
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
    """Return the index that :func:`pack` packed; None if the bytes are damaged or hold no checksums."""
    kinds = _COLUMNS | _OTHERS
    try:
        arrays = dict(zip(kinds, read_arrays(data, *kinds), strict=True))
    except (OSError, ValueError):
        return None
    if any(arrays[name].dtype != kind for name, kind in kinds.items()):
        return None
    order, starts, rotation = (arrays.pop(name) for name in _OTHERS)
    count = arrays["pts"].size
    if any(column.shape != (count,) for column in arrays.values()) or rotation.ndim or not 0 <= rotation < 4:
        return None
    for numbers in (order, starts):  # of different packets
        if numbers.ndim != 1 or not len(numbers) or len(np.unique(numbers)) < len(numbers):
            return None
        if numbers.min() < 0 or numbers.max() >= count:
            return None
    frames = index_from_order(count, order.tolist(), starts.tolist())
    return None if frames is None else VideoIndex(PacketTable(**arrays), frames, int(rotation))


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
