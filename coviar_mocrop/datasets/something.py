"""Prepare Something-Something V1 or V2 from the annotation files and the videos that are on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

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
from coviar_mocrop.datasets.videos import folders_named, videos_named
from coviar_mocrop.errors import DataError

Version = Literal["v1", "v2"]

CLASSES = 174
"""Number of classes of both versions."""
V2_COUNTS: dict[Official, int] = {"train": 168_913, "val": 24_777}
"""Number of annotated clips of version 2."""
V1_FRAME_RATE = 12.0
"""Frame rate of the images of version 1, frames per second."""

_FILES: dict[Official, str] = {"train": "train", "val": "validation"}

_log = logging.getLogger(__name__)


def read_something(folder: str | os.PathLike[str], version: Version) -> Annotations:
    """Read the official annotation files in a folder.

    Version 2: ``train.json``, ``validation.json`` and ``labels.json``, which numbers the classes. Version 1:
    ``train.csv``, ``validation.csv`` and ``labels.csv``; the classes are in alphabetical order. As in older downloads,
    file names may start with ``something-something-v2-`` or ``something-something-v1-``.

    Raises:
        DataError: a file is missing or not as expected, or has a label that is not in the file of labels.
    """
    suffix = "json" if version == "v2" else "csv"
    label_file = _find(folder, version, f"labels.{suffix}")
    classes = _read_labels_v2(label_file) if version == "v2" else _read_labels_v1(label_file)
    entries: list[Entry] = []
    refused: list[str] = []
    for split, stem in _FILES.items():
        file = _find(folder, version, f"{stem}.{suffix}")
        for where, video, label in _rows_v2(file) if version == "v2" else _rows_v1(file):
            if label not in classes:
                raise DataError(f"{where}: the label {label!r} is not in {label_file.name}; do they belong together?")
            if is_id(video):
                entries.append(Entry(video, classes[label], split, video))
            else:
                refused.append(video)
    kept, twice = once(entries)
    names = tuple(classes.values())
    _warn_of_counts(folder, version, names, kept)
    return Annotations(names, kept, tuple(refused), twice)


def prepare_something(
    source: str | os.PathLike[str],
    annotations: Annotations,
    lists: str | os.PathLike[str],
    version: Version,
    *,
    val_share: float = 0.0,
    canonical: Canonical | None = None,
    handling: Handling | None = None,
) -> tuple[Prepared, Coverage]:
    """Write the lists of the annotated clips that are found below a folder, and count the missing ones.

    Args:
        source: folder that holds, at any depth, videos ``<id>.webm`` (version 2; any video suffix is accepted), or
            folders ``<id>`` of JPEG images (version 1).
        annotations: result of :func:`read_something`.
        lists: see :func:`~coviar_mocrop.datasets.annotated.prepare_annotated`.
        version: ``v1`` or ``v2``.
        val_share: see :func:`~coviar_mocrop.datasets.annotated.prepare_annotated`.
        canonical: see :func:`~coviar_mocrop.datasets.annotated.prepare_annotated`. Needed for images and for ``.webm``.
        handling: see :func:`~coviar_mocrop.datasets.annotated.prepare_annotated`.

    Returns:
        The prepared data set, and how many of the annotated clips were found and used.

    Raises:
        DataError: none of the annotated clips was found; clips must be transcoded, but ``canonical`` is None; or see
            :func:`~coviar_mocrop.datasets.preparing.prepare`.
    """
    wanted = {entry.video for entry in annotations.entries}
    find, frame_rate = (folders_named, V1_FRAME_RATE) if version == "v1" else (videos_named, None)
    found: Mapping[str, str] = find(source, wanted)
    files = [path for path in found.values() if version == "v1" or path.lower().endswith(".webm")]
    if files and canonical is None:
        what = "a folder of pictures" if version == "v1" else "VP9 video, which has no motion vectors"
        raise DataError(f"{os.path.join(source, files[0])}: is {what}; give --transcode DIR")
    origins = {name: Origin(os.path.join(source, path), frame_rate=frame_rate) for name, path in found.items()}
    return prepare_annotated(
        source, lists, annotations, origins, val_share=val_share, canonical=canonical, handling=handling
    )


def _find(folder: str | os.PathLike[str], version: Version, name: str) -> Path:
    if not Path(folder).is_dir():
        raise DataError(f"{os.fspath(folder)}: no such folder; give the one of the official annotation files")
    for candidate in (name, f"something-something-{version}-{name}"):
        if (file := Path(folder, candidate)).is_file():
            return file
    raise DataError(f"{Path(folder, name)}: no such file; unpack the annotation files of version {version[1]} there")


def _read_labels_v2(file: Path) -> dict[str, str]:
    """The class name of each label, in the order of the numbers in the file."""
    numbers: dict[str, Any] = read_json(file, dict)
    try:
        order = sorted(numbers, key=lambda label: int(numbers[label]))
        if [int(numbers[label]) for label in order] != list(range(len(order))):
            raise ValueError
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: expected each label with its number, 0 to {len(numbers) - 1}") from error
    return _class_names(order, file)


def _read_labels_v1(file: Path) -> dict[str, str]:
    return _class_names(sorted({line.strip() for line in read_text(file).splitlines() if line.strip()}), file)


def _class_names(labels: Sequence[str], file: Path) -> dict[str, str]:
    names = {label: class_name_of(label, str(file)) for label in labels}
    if len(set(names.values())) < len(names):
        raise DataError(f"{file}: two labels differ in their spaces alone; download it again")
    return names


def _rows_v2(file: Path) -> list[tuple[str, str, str]]:
    """Position in the file, id and label of each clip. Brackets are removed from the templates."""
    rows = []
    for number, value in enumerate(read_json(file, list), 1):
        where = f"{file}, entry {number}"
        try:
            rows.append((where, str(value["id"]), value["template"].replace("[", "").replace("]", "")))
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{where}: expected an object with id and template") from error
    return rows


def _rows_v1(file: Path) -> list[tuple[str, str, str]]:
    rows = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if not line.strip():
            continue
        video, separator, label = line.partition(";")
        if not separator:
            raise DataError(f"{file}, line {number}: expected 'id;label', found {line!r:.60}")
        rows.append((f"{file}, line {number}", video.strip(), label.strip()))
    return rows


def _warn_of_counts(
    folder: str | os.PathLike[str], version: Version, classes: Sequence[str], entries: Sequence[Entry]
) -> None:
    wrong = [f"{len(classes)} classes, published are {CLASSES}"] if len(classes) != CLASSES else []
    for split, expected in V2_COUNTS.items() if version == "v2" else ():
        if (count := sum(entry.split == split for entry in entries)) != expected:
            wrong.append(f"{count} clips in {_FILES[split]}, published are {expected}")
    if wrong:
        _log.warning("%s: names %s", os.fspath(folder), "; ".join(wrong))
