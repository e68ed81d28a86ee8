"""The format of shards: what a tar file of clips holds, and the index beside it.

A shard holds, for each clip, under a number as its key, what the ``webdataset`` library reads as one sample::

    000000123.json   path, class, label, box
    000000123.npz    index of the packets
    000000123.mp4    the video as it is

Beside ``NAME.tar`` lies ``NAME.npz``, which says where in it each video is. So any clip is one read of a range of
bytes, from a disk, a web server or an object store, and shuffling, splitting and resuming are those of files.
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
from coviar_mocrop.datasets.lists import Form, form_of
from coviar_mocrop.errors import DataError

MANIFEST = "shards.json"
"""The file in a folder of shards that names them."""
FORMAT = 1
ROW = np.dtype(
    [
        ("offset", "<i8"),  # of the video in the tar file, bytes
        ("size", "<i8"),
        ("checksum", "<u4"),  # CRC-32
        ("index_offset", "<i8"),
        ("index_size", "<i8"),
        ("box", "<f8", 4),  # fields of a CropBox; NaN: none
    ]
)


class ShardIndex(NamedTuple):
    """Where in a shard each video is.

    Attributes:
        names: bytes [clips], the paths in the lists, UTF-8.
        rows: ``ROW`` [clips].
        tar_bytes: size of the tar file.
        form: what the videos were transcoded to.
        boxes_made_by: everything but the video that decided the boxes; None: there are none.
        made_from: digest of what the shard was packed from.
        left_out: why other clips that belong here are not in it, by name.
    """

    names: NDArray[np.bytes_]
    rows: NDArray[np.void]
    tar_bytes: int
    form: Form | None
    boxes_made_by: Mapping[str, Any] | None
    made_from: str = ""
    left_out: Mapping[str, str] = MappingProxyType({})

    def pack(self) -> bytes:
        """As the bytes of an .npz file."""
        out = io.BytesIO()
        form = self.form and self.form._asdict()
        about: dict[str, Any] = {"format": FORMAT, "tar_bytes": self.tar_bytes, "form": form}
        about |= {"boxes_made_by": self.boxes_made_by, "made_from": self.made_from}
        about["left_out"] = dict(self.left_out)
        np.savez(out, about=json.dumps(about), names=self.names, rows=self.rows)
        return out.getvalue()


def index_path(shard: str) -> str:
    """The file beside a shard that says where in it each video is."""
    return shard.removesuffix(".tar") + ".npz"


def unpack_index(data: bytes, name: str) -> ShardIndex:
    """What :meth:`ShardIndex.pack` made.

    Raises:
        DataError: the bytes are damaged, or of another version.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            about, names, rows = json.loads(str(file["about"])), file["names"], file["rows"]
        version, tar_bytes, made_by = about["format"], int(about["tar_bytes"]), about["boxes_made_by"]
        form = form_of(about["form"])
        left_out = {str(clip): str(why) for clip, why in about.get("left_out", {}).items()}
    except Exception as error:  # zipfile, zlib and numpy fail in many ways on damaged bytes
        raise DataError(f"{name}: is no index of a shard, or damaged; copy it again") from error
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
    """The tar files that ``data.shards`` stands for.

    Args:
        given: patterns such as ``train-{000000..000099}.tar``, or folders (paths or addresses) with the list of their
            shards that packing wrote there.

    Raises:
        DataError: a pattern or the list in a folder is not as it should be.
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
