"""Data sets whose annotation files name all clips, of which some may be missing on disk: Kinetics and
Something-Something."""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from coviar_mocrop.datasets.canonical import Canonical, Origin
from coviar_mocrop.datasets.handling import Handling
from coviar_mocrop.datasets.lists import Clip
from coviar_mocrop.datasets.preparing import Prepared, prepare
from coviar_mocrop.datasets.splits import Side, Sides, hold_out, some
from coviar_mocrop.datasets.videos import require_listable
from coviar_mocrop.errors import DataError
from coviar_mocrop.files import write_json

Official = Literal["train", "val"]
"""The official splits with published labels. Papers report results on ``val``, so it becomes the test list."""
COVERAGE = "coverage.json"
"""File beside the lists that records which of the annotated clips were found and used."""

_SIDE_OF: dict[Official, Side] = {"train": "train", "val": "test"}
_NAMES: dict[Official, str] = {"train": "training", "val": "validation"}
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHOWN = 5

_log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """A clip in the annotation files.

    Attributes:
        name: name of the clip's file, without suffix.
        class_name: see :func:`class_name_of`.
        split: official split.
        video: id of the video that the clip was cut from.
        start: start of the clip within the video, seconds; None: the clip is the whole video.
        end: end of the clip within the video, seconds; None: the clip is the whole video.
    """

    name: str
    class_name: str
    split: Official
    video: str
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Annotations:
    """The content of a data set's annotation files.

    Attributes:
        classes: class names by label.
        entries: clips of both official splits, each once.
        refused: invalid video ids, such as paths. Their rows are ignored.
        named_twice: names of clips that appear in several rows. They are used once.
    """

    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    refused: tuple[str, ...] = ()
    named_twice: tuple[str, ...] = ()


@dataclass(frozen=True)
class Coverage:
    """How many of the annotated clips were found and used.

    Attributes:
        annotated: number of annotated clips, by official split.
        found: number of clips with a file on disk, by official split.
        used: number of clips in the lists, by official split: found, and not left out as unusable.
        missing: names of the clips without a file, by official split.
        in_both_splits: ids of videos with clips in both official splits.
        named_twice: see :class:`Annotations`.
        refused: see :class:`Annotations`.
    """

    annotated: Mapping[Official, int]
    found: Mapping[Official, int]
    used: Mapping[Official, int]
    missing: Mapping[Official, Sequence[str]]
    in_both_splits: Sequence[str]
    named_twice: Sequence[str] = field(default=())
    refused: Sequence[str] = field(default=())

    def table(self) -> str:
        """Return a table with one line per official split."""
        lines = [f"{'official split':16}{'annotated':>11}{'on the disk':>20}{'used':>11}"]
        for split, total in self.annotated.items():
            found = f"{self.found[split]} ({self.found[split] / total if total else 0:.1%})"
            lines.append(f"  {_NAMES[split]:14}{total:>11}{found:>20}{self.used[split]:>11}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``COVERAGE``."""
        splits = {
            split: {
                "annotated": total,
                "found": self.found[split],
                "share": round(self.found[split] / total, 6) if total else 0.0,
                "used": self.used[split],
                "missing": list(self.missing[split]),
            }
            for split, total in self.annotated.items()
        }
        others = ("in_both_splits", "named_twice", "refused")
        return {"splits": splits, **{name: list(getattr(self, name)) for name in others}}


# -- annotation files ------------------------------------------------------------------------------------


def read_text(file: Path) -> str:
    """Read the text of an annotation file.

    Raises:
        DataError: the file is missing, empty, or not text.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file; give the official annotation files") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as text ({error})") from error
    if not text.strip():
        raise DataError(f"{file}: is empty; download it again")
    return text


def read_json(file: Path, kind: type[Any]) -> Any:
    """Read a JSON annotation file.

    Args:
        file: the file.
        kind: expected type of the value, ``dict`` or ``list``.

    Raises:
        DataError: the file is missing or not JSON, or its value is empty or not of type ``kind``.
    """
    try:
        value = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: is not JSON ({error}); download it again") from error
    if not isinstance(value, kind) or not value:
        raise DataError(f"{file}: expected a JSON {'object' if kind is dict else 'list'} with entries")
    return value


def class_name_of(label: object, where: str) -> str:
    """Turn a label into a class name that can name a folder: spaces become ``_``.

    Args:
        label: label from an annotation file.
        where: position of the label, for the error message.

    Raises:
        DataError: the label cannot be a class name.
    """
    name = "_".join(label.split()) if isinstance(label, str) else ""
    if not name.isprintable() or not name or name[0] in ".#" or "/" in name or "\\" in name:
        raise DataError(f"{where}: the label {label!r} cannot be a class name; correct it")
    return name


def is_id(video: object) -> bool:
    """Whether ``video`` can be the id of a video, which is part of a file name: 1 to 64 letters, digits, - and _."""
    return isinstance(video, str) and _ID.fullmatch(video) is not None


def once(entries: Iterable[Entry]) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Remove repeated entries. Returns the entries, each name once, and the names that were repeated.

    The first entry of a name is kept, except that a validation entry replaces a training entry. So the test list stays
    complete.
    """
    kept: dict[str, Entry] = {}
    twice: dict[str, None] = {}
    for entry in entries:
        before = kept.setdefault(entry.name, entry)
        if before is not entry:
            twice[entry.name] = None
            if (before.split, entry.split) == ("train", "val"):
                kept[entry.name] = entry
    return tuple(kept.values()), tuple(twice)


# -- files -----------------------------------------------------------------------------------------------


def prepare_annotated(
    source: str | os.PathLike[str],
    lists: str | os.PathLike[str],
    annotations: Annotations,
    origins: Mapping[str, Origin],
    *,
    val_share: float = 0.0,
    canonical: Canonical | None = None,
    handling: Handling | None = None,
) -> tuple[Prepared, Coverage]:
    """Write the lists of the clips that were found, and ``COVERAGE`` beside them.

    Args:
        source: folder of the files.
        lists: folder for ``classes.txt``, ``train_split1.txt``, ``test_split1.txt`` (the official validation split)
            and, if ``val_share`` is above 0, ``val_split1.txt``.
        annotations: content of the annotation files.
        origins: source of each clip, by the clip's name. Missing clips have none.
        val_share: share of each class's training clips to hold out for validation. Clips of one video stay together,
            so the share is approximate.
        canonical: transcode the clips to ``<folder>/<official split>/<class>/<name>.mp4``. None: the lists name the
            files in ``source``.
        handling: see :func:`~coviar_mocrop.datasets.preparing.prepare`.

    Returns:
        The prepared data set, and how many of the annotated clips were found and used.

    Raises:
        DataError: none of the annotated clips was found; or see :func:`~coviar_mocrop.datasets.preparing.prepare`.
    """
    entries = [entry for entry in annotations.entries if entry.name in origins]
    splits = get_args(Official)
    missing: dict[Official, list[str]] = {split: [] for split in splits}
    for entry in annotations.entries:
        if entry.name not in origins:
            missing[entry.split].append(entry.name)
    if not entries:
        example = annotations.entries[0].name if annotations.entries else "any video"
        raise DataError(
            f"{os.fspath(source)}: holds none of the {len(annotations.entries)} annotated videos, such as {example}; "
            "do folder and annotation files belong together?"
        )
    both = _in_both_splits(annotations.entries)
    _warn(source, annotations, both)
    _log.info("%s: %d of %d annotated clips are there", os.fspath(source), len(entries), len(annotations.entries))
    label_of = {name: label for label, name in enumerate(annotations.classes)}
    root = os.path.join(source, "")
    clip_of: dict[str, Entry] = {}
    for entry in entries:
        if canonical is None:
            path = origins[entry.name].file.removeprefix(root).replace(os.sep, "/")
            require_listable(path, Path(source))
        else:
            path = f"{entry.split}/{entry.class_name}/{entry.name}.mp4"
        clip_of[path] = entry
    clips = [Clip(path, entry.class_name, label_of[entry.class_name]) for path, entry in clip_of.items()]
    sides: Sides = {path: [_SIDE_OF[entry.split]] for path, entry in clip_of.items()}

    def sides_of(usable: Sequence[Clip]) -> Sides:
        videos = {clip.path: clip_of[clip.path].video for clip in usable}
        return hold_out(usable, sides, videos, val_share) if val_share else {path: sides[path] for path in videos}

    wanted: list[Side] = ["train", "val", "test"] if val_share else ["train", "test"]
    files = {path: origins[entry.name] for path, entry in clip_of.items()}
    prepared = prepare(
        *(source, lists, annotations.classes, clips, wanted, sides_of, canonical, handling),
        origins=files,
        official=True,
    )
    there = Counter(entry.split for entry in entries)
    lost = Counter(clip_of[path].split for path in prepared.left_out)
    coverage = Coverage(
        annotated={split: there[split] + len(missing[split]) for split in splits},
        found={split: there[split] for split in splits},
        used={split: there[split] - lost[split] for split in splits},
        missing=missing,
        in_both_splits=both,
        named_twice=annotations.named_twice,
        refused=annotations.refused,
    )
    write_json(Path(lists) / COVERAGE, coverage.as_json())
    return prepared, coverage


def _in_both_splits(entries: Iterable[Entry]) -> list[str]:
    splits: defaultdict[str, set[Official]] = defaultdict(set)
    for entry in entries:
        splits[entry.video].add(entry.split)
    return [video for video, of in splits.items() if len(of) > 1]


def _warn(source: str | os.PathLike[str], annotations: Annotations, both: Sequence[str]) -> None:
    for number, what in (
        (len(annotations.refused), f"rows with an invalid id, not used: {some(annotations.refused, _SHOWN)}"),
        (
            len(annotations.named_twice),
            f"clips in several rows, used once: {some(annotations.named_twice, _SHOWN)}",
        ),
        (len(both), f"videos with clips in both official splits, kept as published: {some(both, _SHOWN)}"),
    ):
        if number:
            _log.warning("%s: %d %s", os.fspath(source), number, what)
