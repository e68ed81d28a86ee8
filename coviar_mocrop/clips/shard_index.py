"""The format of shards: tar files of clips, each with an index file beside it.

For each clip, a shard holds these files, which the ``webdataset`` library reads as one sample. The key is a number::

    000000123.json   path, class, label, box
    000000123.npz    packet index
    000000123.mp4    the unchanged video file

The file ``NAME.npz`` beside ``NAME.tar`` gives the position of each video. So a clip can be read as one range of bytes,
from a disk, a web server or an object store. Shuffling, splitting and resuming work as for single files.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop import storage
from coviar_mocrop.arrays import read_arrays
from coviar_mocrop.datasets.lists import Form, form_of
from coviar_mocrop.errors import DataError

MANIFEST = "shards.json"
"""File in a folder of shards that lists their names."""
FORMAT = 1
ROW = np.dtype(
    [
        ("offset", "<i8"),  # position of the video in the tar file; all sizes and positions in bytes
        ("size", "<i8"),
        ("checksum", "<u4"),  # CRC-32
        ("index_offset", "<i8"),
        ("index_size", "<i8"),
        ("box", "<f8", 4),  # fields of a CropBox; NaN: none
    ]
)


class ShardIndex(NamedTuple):
    """The index of a shard.

    Attributes:
        names: paths of the clips in the lists, UTF-8 bytes [clips].
        rows: positions, checksums and boxes, ``ROW`` [clips].
        tar_bytes: size of the tar file, bytes.
        form: format that the videos were transcoded to; None: not transcoded, or not known.
        boxes_made_by: what the boxes were made by, see :func:`~coviar_mocrop.clips.cache.boxes_made_by`; None: there
            are no boxes.
        made_from: digest of what the shard was packed from.
        left_out: reasons why clips of this shard were left out, by name.
    """

    names: NDArray[np.bytes_]
    rows: NDArray[np.void]
    tar_bytes: int
    form: Form | None
    boxes_made_by: Mapping[str, Any] | None
    made_from: str = ""
    left_out: Mapping[str, str] = MappingProxyType({})

    def pack(self) -> bytes:
        """Return the index as the bytes of an .npz file."""
        out = io.BytesIO()
        form = self.form and self.form._asdict()
        about: dict[str, Any] = {"format": FORMAT, "tar_bytes": self.tar_bytes, "form": form}
        about |= {"boxes_made_by": self.boxes_made_by, "made_from": self.made_from}
        about["left_out"] = dict(self.left_out)
        np.savez(out, about=json.dumps(about), names=self.names, rows=self.rows)
        return out.getvalue()


def index_path(shard: str) -> str:
    """Return the path of the index of a shard: ``NAME.npz`` for ``NAME.tar``."""
    return shard.removesuffix(".tar") + ".npz"


def unpack_index(data: bytes, name: str) -> ShardIndex:
    """Read an index from the bytes that :meth:`ShardIndex.pack` returned.

    Args:
        data: the bytes.
        name: path of the file, for error messages.

    Raises:
        DataError: the bytes are damaged, or have another format version.
    """
    try:
        text, names, rows = read_arrays(data, "about", "names", "rows")
        about = json.loads(str(text))
        version, tar_bytes, made_by = about["format"], int(about["tar_bytes"]), about["boxes_made_by"]
        form = form_of(about["form"])
        left_out = {str(clip): str(why) for clip, why in about.get("left_out", {}).items()}
    except Exception as error:  # what is read may be anything
        raise DataError(f"{name}: is not the index of a shard, or is damaged; copy it again") from error
    if version != FORMAT:
        raise DataError(f"{name}: is of version {version}, this program reads {FORMAT}; install a newer one")
    sound = (
        0 <= tar_bytes < 2**62
        and names.ndim == 1
        and names.dtype.kind == "S"
        and rows.dtype == ROW
        and rows.shape == names.shape
    )
    for start, size in (("offset", "size"), ("index_offset", "index_size")) if sound else ():
        sound = sound and bool((rows[start] >= 0).all() and (rows[size] >= 0).all())
        sound = sound and bool((rows[size] <= tar_bytes).all() and (rows[start] <= tar_bytes - rows[size]).all())
    if sound:
        box = rows["box"]
        known = ~np.isnan(box).all(axis=1)
        sound = bool(((box[known] >= -1e-6) & (box[known] <= 1 + 1e-6)).all())
        sound = sound and bool((box[known, 2:] > box[known, :2]).all())
    if not sound or not (made_by is None or isinstance(made_by, dict)):
        raise DataError(f"{name}: is damaged; copy it again")
    return ShardIndex(names, rows, tar_bytes, form, made_by, str(about.get("made_from", "")), left_out)


def find_shards(given: str | Sequence[str] | None) -> list[str]:
    """Return the tar files that ``data.shards`` stands for.

    Args:
        given: value of ``data.shards``: patterns such as ``train-{000000..000099}.tar``, or folders with a
            ``MANIFEST``. Both can be paths or addresses. None: no shards.

    Raises:
        DataError: a pattern or a manifest is invalid, an address contains a password, or there are no shards.
    """
    found = []
    for pattern in (given,) if isinstance(given, str) else given or ():
        storage.require_no_password(pattern)
        if pattern.endswith(".tar"):
            found += storage.expand(pattern)
            continue
        folder = pattern.rstrip("/")
        manifest = storage.beside(f"{folder}/", MANIFEST)
        try:
            listed = json.loads(storage.read(manifest))
            names = listed["shards"]
            sound = listed["format"] == FORMAT and isinstance(names, list) and bool(names)
            sound = sound and all(isinstance(name, str) and re.fullmatch(r"[\w. -]+\.tar", name) for name in names)
        except (ValueError, KeyError, TypeError, RecursionError):
            sound = False
        except DataError as error:
            raise DataError(
                f"{error} (data.shards names .tar files, such as train-{{000000..000099}}.tar, or a folder that coviar "
                "prepare shards has written)"
            ) from error
        if not sound:
            raise DataError(
                f"{manifest}: is damaged; copy it again, or name the shards, such as train-{{000000..000099}}.tar"
            )
        found += [storage.beside(f"{folder}/", name) for name in names]
    if given is not None and not found:
        raise DataError("data.shards: names no shard; give a folder of shards, or tar files")
    return list(dict.fromkeys(found))
