"""Prepare Kinetics-400, -600 or -700 from the annotation files and the videos that are on disk."""

from __future__ import annotations

import csv
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coviar_mocrop.datasets.annotated import (
    Annotations,
    Coverage,
    Entry,
    Official,
    class_name_of,
    is_id,
    once,
    prepare_annotated,
    read_json,
    read_text,
)
from coviar_mocrop.datasets.canonical import Canonical, Origin
from coviar_mocrop.datasets.handling import Handling
from coviar_mocrop.datasets.preparing import Prepared
from coviar_mocrop.datasets.splits import some
from coviar_mocrop.datasets.videos import videos_named
from coviar_mocrop.errors import DataError

CLASS_COUNTS = (400, 600, 700)

_COLUMNS = ("youtube_id", "time_start", "time_end", "split")
_SPLITS: dict[str, Official | None] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation"), "val"),
    **dict.fromkeys(("test", "testing", "holdout", "holdout_test"), None),
}
_SHOWN = 5

_log = logging.getLogger(__name__)

Row = tuple[str, object, object, object, object, object]
"""Position in the file, label, id, start, end, split."""


def read_kinetics(files: Sequence[str | os.PathLike[str]]) -> Annotations:
    """Read official annotation files: CSV with the columns ``label, youtube_id, time_start, time_end, split``, or JSON.

    Args:
        files: annotation files of the training and validation splits. Rows of the test split are ignored, because its
            labels are not always published.

    Raises:
        DataError: a file cannot be read or has an unexpected row, or there is no training or validation clip. The
            message names the file and the line.
    """
    entries: list[Entry] = []
    refused: list[str] = []
    names: dict[str, str] = {}
    for file in map(Path, files):
        for where, label, video, start, end, split in _json_rows(file) if _is_json(file) else _csv_rows(file):
            if not isinstance(split, str) or split.strip().lower() not in _SPLITS:
                raise DataError(f"{where}: the split {split!r} is none of train, validate, test")
            official = _SPLITS[split.strip().lower()]
            if official is None:
                continue
            if not is_id(video):
                refused.append(str(video))
                continue
            first, last = _seconds(start, where), _seconds(end, where)
            if first >= last:
                raise DataError(f"{where}: the clip ends at {end} s, before it starts at {start} s")
            text = str(label)
            name = names.get(text) or names.setdefault(text, class_name_of(label, where))
            stem = f"{video}_{int(first):06d}_{int(last):06d}"  # the file name that the official crawler uses
            entries.append(Entry(stem, name, official, str(video), first, last))
    if not entries:
        raise DataError(
            f"{some([os.fspath(file) for file in files], _SHOWN)}: no training or validation clip; give both files"
        )
    kept, twice = once(entries)
    return Annotations(tuple(sorted(set(names.values()))), kept, tuple(refused), twice)


def kinetics_name(annotations: Annotations) -> str:
    """Return ``kinetics400``, ``kinetics600`` or ``kinetics700``, according to the number of classes.

    Raises:
        DataError: there is another number of classes.
    """
    if len(annotations.classes) not in CLASS_COUNTS:
        raise DataError(
            f"the annotation files name {len(annotations.classes)} classes, Kinetics has "
            f"{', '.join(map(str, CLASS_COUNTS))}; give the whole files, or --name for a part of the data set"
        )
    return f"kinetics{len(annotations.classes)}"


def prepare_kinetics(
    source: str | os.PathLike[str],
    annotations: Annotations,
    lists: str | os.PathLike[str],
    *,
    trimmed: bool = False,
    val_share: float = 0.0,
    canonical: Canonical | None = None,
    handling: Handling | None = None,
) -> tuple[Prepared, Coverage]:
    """Write the lists of the annotated clips that are found below a folder, and count the missing ones.

    Args:
        source: folder of videos, at any depth. ``<id>_<start>_<end>.mp4``, with times as six digits, is a clip.
            ``<id>.mp4`` is the whole video, from which the clip is cut. Any video suffix is accepted. If several files
            have the same name, the first path in alphabetical order is used.
        annotations: result of :func:`read_kinetics`.
        lists: see :func:`~coviar_mocrop.datasets.annotated.prepare_annotated`.
        trimmed: whether ``<id>.mp4`` is the clip itself, not the whole video.
        val_share: see :func:`~coviar_mocrop.datasets.annotated.prepare_annotated`.
        canonical: see :func:`~coviar_mocrop.datasets.annotated.prepare_annotated`. Needed if clips have to be cut.
        handling: see :func:`~coviar_mocrop.datasets.annotated.prepare_annotated`.

    Returns:
        The prepared data set, and how many of the annotated clips were found and used.

    Raises:
        DataError: none of the annotated clips was found; clips have to be cut, but ``canonical`` is None; or see
            :func:`~coviar_mocrop.datasets.preparing.prepare`.
    """
    wanted = {entry.name for entry in annotations.entries} | {entry.video for entry in annotations.entries}
    found = videos_named(source, wanted)
    origins, unclear = _origins(source, annotations.entries, found, trimmed)
    uncut = [origin for origin in origins.values() if origin.start is not None]
    if uncut and canonical is None:
        raise DataError(
            f"{os.fspath(source)}: {len(uncut)} videos, such as {uncut[0].file}, are named by their id alone, so that "
            "the annotated parts have to be cut; give --transcode DIR, or --trimmed if they were cut already"
        )
    if unclear:
        _log.warning(
            "%s: %d files could be several clips of their video, so none is used: %s",
            *(os.fspath(source), len(unclear), some(unclear, _SHOWN)),
        )
    return prepare_annotated(
        source, lists, annotations, origins, val_share=val_share, canonical=canonical, handling=handling
    )


def _origins(
    source: str | os.PathLike[str], entries: Sequence[Entry], found: Mapping[str, str], trimmed: bool
) -> tuple[dict[str, Origin], list[str]]:
    """The source of each clip by its name; and the trimmed files that could be any of several clips of their video."""
    clips_of = Counter(entry.video for entry in entries) if trimmed else Counter()
    origins: dict[str, Origin] = {}
    unclear: dict[str, None] = {}
    for entry in entries:
        if path := found.get(entry.name):
            origins[entry.name] = Origin(os.path.join(source, path))
        elif path := found.get(entry.video):
            file = os.path.join(source, path)
            if clips_of[entry.video] > 1:
                unclear[path] = None
            else:
                origins[entry.name] = Origin(file) if trimmed else Origin(file, entry.start, entry.end)
    return origins, list(unclear)


def _is_json(file: Path) -> bool:
    return file.suffix.lower() == ".json"


def _csv_rows(file: Path) -> Iterator[Row]:
    rows = csv.reader(read_text(file).splitlines())
    try:
        header = [name.strip() for name in next(rows)]
        if missing := [name for name in _COLUMNS if name not in header]:
            raise DataError(
                f"{file}: has no column {missing[0]!r}; its first line names {', '.join(header)}. The official files "
                "have label,youtube_id,time_start,time_end,split"
            )
        places = [header.index(name) for name in _COLUMNS]
        label = header.index("label") if "label" in header else None  # some test splits have no labels
        for row in rows:
            if not row:
                continue
            where = f"{file}, line {rows.line_num}"
            if len(row) < len(header):
                raise DataError(f"{where}: has {len(row)} of {len(header)} columns")
            video, start, end, split = (row[place] for place in places)
            yield where, None if label is None else row[label], video, start, end, split
    except csv.Error as error:
        raise DataError(f"{file}, line {rows.line_num}: cannot be read as CSV ({error})") from error


def _json_rows(file: Path) -> Iterator[Row]:
    values: dict[str, Any] = read_json(file, dict)
    for video, value in values.items():
        where = f"{file}, {video!r:.40}"
        try:
            split, annotation = value["subset"], value.get("annotations") or {}
            start, end = annotation.get("segment") or (None, None)
            yield where, annotation.get("label"), video, start, end, split
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{where}: expected subset, and annotations with label and segment") from error


def _seconds(value: object, where: str) -> float:
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < 1e6:
        raise DataError(f"{where}: the time {value!r} is not a number of seconds")
    return seconds
