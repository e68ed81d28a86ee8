"""Data sets whose annotation files name the clips, while the disk holds those that could be had: Kinetics,
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

from coviar_mocrop.datasets.convert import Canonical, Handling, Origin, Prepared, prepare
from coviar_mocrop.datasets.lists import Clip
from coviar_mocrop.datasets.splits import Side, Sides, hold_out, some
from coviar_mocrop.datasets.videos import require_listable
from coviar_mocrop.errors import DataError
from coviar_mocrop.files import write_json

Official = Literal["train", "val"]
"""The official splits with published labels. Papers report on ``val``, so it becomes the test list."""
COVERAGE = "coverage.json"
"""The file beside the lists that says which of the annotated clips there are."""

_SIDE_OF: dict[Official, Side] = {"train": "train", "val": "test"}
_NAMES: dict[Official, str] = {"train": "training", "val": "validation"}
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHOWN = 5

_log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """A clip that the annotation files name.

    Attributes:
        name: of its file, without suffix; each stands once.
        class_name: see :func:`class_name_of`.
        split: the official one.
        video: the id of the video that it is, or is a part of.
        start, end: seconds of that video; None: the clip is a whole video.
    """

    name: str
    class_name: str
    split: Official
    video: str
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Annotations:
    """What the annotation files of a data set say.

    Attributes:
        classes: class names by label.
        entries: the clips of both official splits.
        refused: ids that are none, such as paths; their rows are not used.
        named_twice: clips that several rows name. They are used once.
    """

    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    refused: tuple[str, ...] = ()
    named_twice: tuple[str, ...] = ()


@dataclass(frozen=True)
class Coverage:
    """Which of the annotated clips there are.

    Attributes:
        annotated: clips by official split.
        found: those of them whose file is on the disk.
        used: those of them that can be read.
        missing: names of those without a file.
        in_both_splits: ids of videos that both official splits have clips of.
        named_twice, refused: see :class:`Annotations`.
    """

    annotated: Mapping[Official, int]
    found: Mapping[Official, int]
    used: Mapping[Official, int]
    missing: Mapping[Official, Sequence[str]]
    in_both_splits: Sequence[str]
    named_twice: Sequence[str] = field(default=())
    refused: Sequence[str] = field(default=())

    def table(self) -> str:
        """One line for each official split."""
        lines = [f"{'official split':16}{'annotated':>11}{'on the disk':>20}{'used':>11}"]
        for split, total in self.annotated.items():
            found = f"{self.found[split]} ({self.found[split] / total if total else 0:.1%})"
            lines.append(f"  {_NAMES[split]:14}{total:>11}{found:>20}{self.used[split]:>11}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """What :data:`COVERAGE` holds."""
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
    """The text of an annotation file.

    Raises:
        DataError: it is missing, empty, or no text.
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
    """The value in an annotation file.

    Raises:
        DataError: it is missing, no JSON, or not of ``kind``, or holds nothing.
    """
    try:
        value = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: is no JSON ({error}); download it again") from error
    if not isinstance(value, kind) or not value:
        raise DataError(f"{file}: expected a JSON {'object' if kind is dict else 'list'} with entries")
    return value


def class_name_of(label: object, where: str) -> str:
    """A label as a class name: without spaces, and fit for the name of a folder.

    Raises:
        DataError: naming ``where``.
    """
    name = "_".join(label.split()) if isinstance(label, str) else ""
    if not name.isprintable() or not name or name[0] in ".#" or "/" in name or "\\" in name:
        raise DataError(f"{where}: the label {label!r} cannot be a class name; correct it")
    return name


def is_id(video: object) -> bool:
    """Whether this can be the id of a video, and so part of a file name: letters, digits, - and _."""
    return isinstance(video, str) and _ID.fullmatch(video) is not None


def once(entries: Iterable[Entry]) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Each clip once, and the names of those that stand more than once.

    Of several entries one for validation is kept, so that what is tested stays whole, else the first.
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
    """Write the lists of the clips that are there, and :data:`COVERAGE` beside them.

    Args:
        source: folder of the files.
        lists: folder to write ``classes.txt``, ``train_split1.txt``, ``test_split1.txt`` (the official validation
            split) and, with a ``val_share``, ``val_split1.txt`` to.
        annotations: of the data set.
        origins: what each clip is made from, by its name; without those that are missing.
        val_share: share of the training clips of each class, as near as whole videos allow, that is held out for
            validation.
        canonical: transcode to ``<folder>/<official split>/<class>/<name>.mp4``. None: the lists name the files.
        handling: see :func:`~coviar_mocrop.datasets.convert.prepare`.

    Raises:
        DataError: there is no video at all, or see :func:`~coviar_mocrop.datasets.convert.prepare`.
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
        (len(annotations.refused), f"rows whose id is none, not used: {some(annotations.refused, _SHOWN)}"),
        (
            len(annotations.named_twice),
            f"clips that several rows name, used once: {some(annotations.named_twice, _SHOWN)}",
        ),
        (len(both), f"videos of which both official splits have clips, kept as published: {some(both, _SHOWN)}"),
    ):
        if number:
            _log.warning("%s: %d %s", os.fspath(source), number, what)
