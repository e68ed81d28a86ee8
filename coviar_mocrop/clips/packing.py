"""Pack the videos of a data set into shards, with their MoCrop boxes and packet indexes, in several processes."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import tarfile
import zlib
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from coviar_mocrop import storage
from coviar_mocrop.clips.cache import boxes_made_by, open_box_cache
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.lists import PARTS, Part, read_videos
from coviar_mocrop.clips.reader import box_of
from coviar_mocrop.clips.shard_index import FORMAT, MANIFEST, ROW, ShardIndex, find_shards, index_path, unpack_index
from coviar_mocrop.clips.shards import NamedBytes
from coviar_mocrop.clips.store import ClipStore, open_with
from coviar_mocrop.clips.stores import open_store
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import GROUPS, Clip, VideoList, format_classes, format_groups, format_list
from coviar_mocrop.errors import ConfigError, CoviarMocropError, DataError, NoMotionVectorsError
from coviar_mocrop.failed import write_failed
from coviar_mocrop.files import atomic_write, write_json, write_text
from coviar_mocrop.mocrop import MoCropSettings
from coviar_mocrop.parallel import run_map

CLIPS = 1000
"""Default number of clips per shard. With canonical videos of ten seconds, a shard has a few hundred megabytes."""
_HEADER = tarfile.BLOCKSIZE


class Packed(NamedTuple):
    """The result of packing.

    Attributes:
        shards: paths of the shards, in the order of the lists.
        clips: number of clips in the shards.
        video_bytes: total size of their videos, bytes.
        made: number of shards that were written; the others existed already.
        left_out: number of clips that are in no shard.
        errors: why clips were left out, by name.
        failed: path of the table of these clips. The file exists only if clips were left out.
    """

    shards: tuple[Path, ...]
    clips: int
    video_bytes: int
    made: int
    left_out: int
    errors: dict[str, str]
    failed: Path


@dataclass(frozen=True)
class _Plan:
    """A shard to write: its clips with their numbers in the list, and their boxes (None: not known yet)."""

    path: str
    clips: tuple[tuple[int, Clip], ...]
    boxes: tuple[tuple[float, ...] | None, ...] = field(repr=False)
    made_from: str
    """Digest of the clips, the states of their videos, and the settings of the boxes."""

    def __str__(self) -> str:
        return self.path


def pack_shards(
    config: Config,
    output: str | os.PathLike[str],
    parts: Sequence[Part] = (),
    *,
    clips_per_shard: int = CLIPS,
    ray: str | None = None,
    progress: bool = True,
) -> Packed:
    """Write the clips of the data set's lists into shards, and the lists beside them.

    The clips of a list are distributed over its shards in a fixed random order, so that each shard holds a mix of
    classes. The same clips and settings give the same bytes, for any number of processes. Existing shards of the same
    videos and settings are kept, so an interrupted run can be continued.

    Args:
        config: settings of the data set. Use the lists, videos, cache and MoCrop settings of the training.
        output: folder for ``train-000000.tar``, ..., ``shards.json``, ``classes.txt`` and the lists under their names.
        parts: lists to pack; empty: all that are set. A clip in several lists is packed once.
        clips_per_shard: number of clips per shard. The last shard of a list may have fewer.
        ray: see :func:`~coviar_mocrop.parallel.run_map`. All machines need access to the videos and ``output``.
        progress: show a progress bar.

    Raises:
        ConfigError: none of the lists is set, or the shards would replace those that they are made from.
        DataError: a clip cannot be read and ``data.on_error`` is ``raise``, or no clip can be read.
        CoviarMocropError: the folder cannot be written to.
    """
    data, folder = config.data, Path(output)
    parts = parts or [part for part in PARTS if getattr(data, f"{part}_list")]
    if not parts:
        raise ConfigError("data.train_list, data.val_list, data.test_list: none is set; name a video list")
    own = os.path.realpath(folder)
    if any(os.path.realpath(os.path.dirname(shard)) == own for shard in find_shards(data.shards)):
        raise ConfigError(f"{folder}: holds the shards that are read (data.shards); choose another folder")
    lists = {part: read_videos(data, part) for part in parts}
    store = open_store(data)
    plans = _plans(config, store, lists, folder, clips_per_shard)
    work = _PackShard(data, config.mocrop)
    todo = [plan for plan in plans if _made_from(plan.path) != plan.made_from]
    errors: dict[str, str] = {}
    made = 0
    packing = run_map(work, todo, workers=data.workers, ray=ray, title="packing", unit="shard", progress=progress)
    with closing(packing):
        for plan, found in packing:
            if isinstance(found, CoviarMocropError):
                raise found
            errors |= found
            made += Path(plan.path).exists()
    clips = sum(len(plan.clips) for plan in plans)
    there = [Path(plan.path) for plan in plans if _made_from(plan.path) == plan.made_from]
    indexes = [unpack_index(storage.read(index_path(str(path))), str(path)) for path in there]
    errors |= {clip: why for index in indexes for clip, why in index.left_out.items()}
    order = [clip.path for videos in lists.values() for clip in videos.clips]
    errors = {clip: errors[clip] for clip in order if clip in errors}
    table = write_failed(folder, errors)
    if errors and (data.on_error == "raise" or len(errors) == clips):
        more = f" (and {len(errors) - 1} more, see {table})" if len(errors) > 1 else ""
        hint = "" if data.on_error == "skip" else "; repair it, or leave such clips out with --set data.on_error=skip"
        raise DataError(f"{next(iter(errors.values()))}{more}{hint}")
    _write_lists(folder, data, lists)
    others = [name for name in _listed(folder) if not name.startswith(tuple(f"{part}-" for part in lists))]
    write_json(folder / MANIFEST, {"format": FORMAT, "shards": [*others, *(path.name for path in there)]})
    size = sum(int(index.rows["size"].sum()) for index in indexes)
    packed = sum(len(index.names) for index in indexes)
    return Packed(tuple(there), packed, size, made, clips - packed, errors, table)


def _plans(
    config: Config, store: ClipStore, lists: dict[Part, VideoList], folder: Path, clips_per_shard: int
) -> list[_Plan]:
    cache = open_box_cache(config.data, config.mocrop, store)
    made_by = boxes_made_by(config.mocrop, config.data.anchor_every)
    seen: set[str] = set()
    plans = []
    for part, videos in lists.items():
        clips = [(number, clip) for number, clip in enumerate(videos.clips) if clip.path not in seen]
        seen.update(clip.path for _, clip in clips)
        order = np.random.default_rng(0).permutation(len(clips)).tolist()
        for start in range(0, len(clips), clips_per_shard):
            chosen = tuple(clips[place] for place in order[start : start + clips_per_shard])
            boxes = [cache.get(clip.path) for _, clip in chosen]
            states = [[number, *clip, *store.state(clip.path)] for number, clip in chosen]
            digest = hashlib.blake2b(json.dumps([FORMAT, made_by, states]).encode(), digest_size=16).hexdigest()
            path = folder / f"{part}-{start // clips_per_shard:06d}.tar"
            known = tuple(None if box is None else tuple(box.tolist()) for box in boxes)
            plans.append(_Plan(str(path), chosen, known, digest))
    return plans


def _made_from(path: str) -> str | None:
    """The digest of what an existing shard was made from; None if the shard is missing or incomplete."""
    with suppress(CoviarMocropError, OSError):
        index = unpack_index(storage.read(index_path(path)), path)
        if os.stat(path).st_size == index.tar_bytes:
            return index.made_from
    return None


def _listed(folder: Path) -> list[str]:
    """The names of the shards in the folder's manifest; empty if there is no valid manifest."""
    try:
        return [os.path.basename(shard) for shard in find_shards(str(folder))]
    except DataError:
        return []


def _write_lists(folder: Path, data: DataConfig, lists: dict[Part, VideoList]) -> None:
    paths = {part: str(getattr(data, f"{part}_list") or "") for part in PARTS}
    for part, videos in lists.items():
        name = os.path.basename(paths[part])
        of_that_name = {path for path in paths.values() if os.path.basename(path) == name}
        write_text(folder / (name if len(of_that_name) == 1 else f"{part}_{name}"), format_list(videos.clips))
        write_text(folder / "classes.txt", format_classes(videos.classes))
    if group_of := {path: group for videos in lists.values() for path, group in videos.group_of.items()}:
        write_text(folder / GROUPS, format_groups(group_of))


@dataclass(frozen=True)
class _PackShard:
    """Writes a shard and its index. Calling it returns the reasons why clips were left out, by name.

    If a clip cannot be read and ``data.on_error`` is ``raise``, or no clip can be read, the shard is not written.
    """

    data: DataConfig
    mocrop: MoCropSettings

    def __call__(self, plan: _Plan) -> dict[str, str]:
        store = open_store(self.data)
        errors: dict[str, str] = {}
        rows: list[Any] = []
        names: list[bytes] = []
        beside = Path(index_path(plan.path))
        with suppress(_LeftOut), atomic_write(plan.path) as temporary:
            with temporary.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for (number, clip), box in zip(plan.clips, plan.boxes, strict=True):
                    try:
                        rows.append(self._add(tar, f"{number:09d}", clip, store.read(clip.path), box))
                    except CoviarMocropError as error:
                        errors[clip.path] = str(error)
                        continue
                    names.append(clip.path.encode())
            if errors and (self.data.on_error == "raise" or not names):
                raise _LeftOut
            beside.unlink(missing_ok=True)  # it belongs to the shard that is about to be replaced
            tar_bytes = temporary.stat().st_size
        if not errors or (self.data.on_error == "skip" and names):
            made_by = boxes_made_by(self.mocrop, self.data.anchor_every)
            index = ShardIndex(
                np.array(names, np.bytes_), np.array(rows, ROW), tar_bytes, store.form, made_by, plan.made_from, errors
            )
            with atomic_write(beside) as temporary:
                temporary.write_bytes(index.pack())
        return errors

    def _add(
        self, tar: tarfile.TarFile, key: str, clip: Clip, video: bytes, box: tuple[float, ...] | None
    ) -> tuple[Any, ...]:
        """Add the members of a clip. Returns its row of the index."""
        with open_with(NamedBytes(video, clip.path), self.data, b"") as opened:
            packets = opened.packed_index()
            if box is None:
                with suppress(NoMotionVectorsError):
                    box = tuple(box_of(opened, self.mocrop))
        about = {"path": clip.path, "class": clip.class_name, "label": clip.label, "box": box}
        _member(tar, f"{key}.json", json.dumps(about).encode())
        index_offset = _member(tar, f"{key}.npz", packets)
        offset = _member(tar, f"{key}{PurePosixPath(clip.path).suffix.lower() or '.mp4'}", video)
        return offset, len(video), zlib.crc32(video), index_offset, len(packets), box or (math.nan,) * 4


class _LeftOut(Exception):
    """Raised to discard a shard instead of writing it."""


def _member(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a file. Returns the offset of its first byte."""
    offset = int(tar.offset) + _HEADER
    about = tarfile.TarInfo(name)  # without time and owner, so that the bytes are always the same
    about.size, about.mode = len(data), 0o644
    tar.addfile(about, io.BytesIO(data))
    return offset
