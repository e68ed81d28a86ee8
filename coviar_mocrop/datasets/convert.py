"""What preparing any data set shares: finding videos, the canonical form, the check, writing the lists."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from tqdm import tqdm

from coviar_mocrop.bitstream import open_video, transcode
from coviar_mocrop.bitstream.transcode import CANONICAL_SIZE, Codec
from coviar_mocrop.datasets.lists import Clip, write_classes, write_list
from coviar_mocrop.errors import DataError, NoMotionVectorsError, VideoError
from coviar_mocrop.files import DataRoot, write_json

VIDEO_SUFFIXES = frozenset(
    {
        ".3g2", ".3gp", ".264", ".asf", ".avi", ".divx", ".f4v", ".flv", ".h264", ".m2t", ".m2ts", ".m2v", ".m4v",
        ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv",
    }
)  # fmt: skip
RECORD = "transcode.json"
"""In a folder of transcoded videos: what they were made from, and how."""

_GOP = 12
_SHOWN = 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Canonical:
    """The canonical form: where it goes and what it is like.

    Attributes:
        folder: root of the transcoded videos; of one data set, below no class folder of the source.
        codec: ``h264`` or ``mpeg4``.
        size: (width, height); None keeps each video's.
    """

    folder: Path
    codec: Codec = "h264"
    size: tuple[int, int] | None = CANONICAL_SIZE


@dataclass(frozen=True)
class Handling:
    """How videos are gone through.

    Attributes:
        check: open each one and look for motion vectors.
        on_error: a video that cannot be used: ``raise`` once all have been tried, or ``skip`` it with a warning.
        workers: videos worked on at once.
        progress: show a bar.
        follow_links: whether videos that are not transcoded may be symbolic links to elsewhere.
    """

    check: bool = True
    on_error: Literal["raise", "skip"] = "raise"
    workers: int = 2
    progress: bool = True
    follow_links: bool = False


@dataclass(frozen=True)
class SplitCounts:
    """Clips per class, in the order of the labels, on either side of a split."""

    train: dict[str, int]
    test: dict[str, int]

    @classmethod
    def of(cls, train: Iterable[Clip], test: Iterable[Clip], classes: Sequence[str]) -> SplitCounts:
        """Count the clips of two lists."""
        per_side = [Counter(clip.class_name for clip in clips) for clips in (train, test)]
        return cls(*({name: counts[name] for name in classes} for counts in per_side))


@dataclass(frozen=True)
class Prepared:
    """A data set that is ready.

    Attributes:
        root: what the lists' paths start from.
        lists: folder of ``classes.txt`` and ``{train,test}_split<k>.txt``.
        classes: names by label.
        splits: counts of split 1, 2, ...
        left_out: videos that cannot be used, and why.
    """

    root: Path
    lists: Path
    classes: tuple[str, ...]
    splits: tuple[SplitCounts, ...]
    left_out: dict[str, str]


# -- finding ---------------------------------------------------------------------------------------------


def by_name(name: str) -> tuple[str, str]:
    """Sort key of class names: without regard to case; capitals decide only where nothing else does."""
    return name.lower(), name


def videos_by_folder(root: str | os.PathLike[str]) -> dict[str, list[str]]:
    """The videos below each folder of ``root``, as list paths in order; folders without one are left out.

    Hidden files and folders are passed over: temporary files and macOS's shadows have videos' suffixes too.

    Raises:
        DataError: the root is missing, holds no video, or a file's name cannot stand in a list.
    """
    base = Path(root)
    if not base.is_dir():
        raise DataError(f"{base}: no such folder; give the one that holds a folder of videos per class")
    found: dict[str, list[str]] = {}
    try:
        for folder in sorted(entry.name for entry in base.iterdir() if entry.is_dir()):
            if folder.startswith("."):
                continue
            videos = sorted(_videos_below(base / folder, base))
            if videos:
                found[folder] = videos
            else:
                _log.info("%s: holds no video, so it is no class", base / folder)
    except OSError as error:
        raise DataError(f"{error.filename or base}: cannot be listed ({error.strerror}); mend its access") from error
    if not found:
        raise DataError(f"{base}: no folder in it holds a video; expected {base}/<class>/<video>")
    return found


def _videos_below(folder: Path, root: Path) -> Iterable[str]:
    def refuse(error: OSError) -> None:
        raise error  # else a folder without access would look empty

    seen = set()
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith("."):
                path = (Path(place) / name).relative_to(root).as_posix()
                _require_listable(path, root)
                yield path


def _require_listable(path: str, root: Path) -> None:
    """Refuse names that a list, which is lines of text, would give back changed."""
    try:
        path.encode("utf-8")
        readable = path == path.strip() and not path.startswith("#") and path.splitlines() == [path]
    except UnicodeEncodeError:
        readable = False
    if not readable:
        raise DataError(
            f"{root}: the name {path!r} cannot stand in a list (it starts with a space or #, or is not plain "
            "text); rename it"
        )


# -- using -----------------------------------------------------------------------------------------------


def usable_clips(
    root: str | os.PathLike[str],
    clips: Sequence[Clip],
    canonical: Canonical | None = None,
    handling: Handling | None = None,
) -> tuple[Path, dict[str, Clip], dict[str, str]]:
    """Transcode the clips (where asked to), check them (where asked to), and tell which can be used.

    Returns:
        The root that the usable clips are below; the usable clips by their path below the given root; and
        why the others, by the same path, cannot be used.

    Raises:
        DataError: a clip cannot be used and ``on_error`` is ``raise``, or none can; or the folder for the
            transcoded videos is already used for something else.
    """
    source = Path(root)
    handling = handling or Handling()
    if canonical is None:
        target, targets = source, {clip.path: clip for clip in clips}
    else:
        target, targets = canonical.folder, _targets(source, clips)
        _claim(source, canonical)
    failed: dict[str, str] = {}
    if canonical is not None:
        failed = _transcode(source, targets, canonical, handling)
    left = [path for path in targets if path not in failed]
    if canonical is None:
        below = DataRoot(source, follow_links=handling.follow_links)
        for path in left:
            below.find(path)  # training would refuse it, long after
    if handling.check:
        failed |= for_each(lambda path: check_video(target / targets[path].path), left, "checking", handling)
    failed = {path: failed[path] for path in targets if path in failed}
    _report(source, failed, len(targets), handling)
    return target, {path: clip for path, clip in targets.items() if path not in failed}, failed


def check_video(path: str | os.PathLike[str]) -> None:
    """Open a video and see that it carries motion vectors.

    Raises:
        NoMotionVectorsError: its codec exports none, or all its frames are key frames.
        VideoError: it cannot be read.
    """
    with open_video(path, "pyav") as video:
        frames = video.info.num_frames
        start = min(frames, _GOP + 1)
        # nearly always the second frame has some; the rest is decoded only where the first ones have none
        if any(map(len, video.vectors(range(start)))) or any(map(len, video.vectors(range(start, frames)))):
            return
    if frames == 1:
        raise NoMotionVectorsError(f"{os.fspath(path)}: is a single frame, which has no motion; leave it out")
    raise NoMotionVectorsError(
        f"{os.fspath(path)}: none of its {frames} frames has motion vectors (all key frames, or damaged); "
        "transcode it (--transcode), or leave it out"
    )


def form_of_folder(folder: str | os.PathLike[str]) -> Canonical | None:
    """What the videos of a folder were transcoded to, as the record beside them tells; None if there is none."""
    try:
        made = json.loads((Path(folder) / RECORD).read_text(encoding="utf-8"))
        size = None if made["size"] is None else (int(made["size"][0]), int(made["size"][1]))
        return Canonical(Path(folder), made["codec"], size) if made["codec"] in get_args(Codec) else None
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _targets(source: Path, clips: Sequence[Clip]) -> dict[str, Clip]:
    targets: dict[str, Clip] = {}
    taken: dict[str, str] = {}
    for clip in clips:
        path = PurePosixPath(clip.path).with_suffix(".mp4").as_posix()
        if path in taken:
            raise DataError(f"{source}: {taken[path]} and {clip.path} would both become {path}; rename one of them")
        taken[path] = clip.path
        targets[clip.path] = clip._replace(path=path)
    return targets


def _claim(source: Path, canonical: Canonical) -> None:
    """See that the target folder is new, or holds this very thing, so that no other video passes for a target."""
    folder, record = canonical.folder, canonical.folder / RECORD
    if folder.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{folder}: lies inside the source {source}, as if it were a class; choose a folder outside")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is no folder; choose another for the transcoded videos")
    wanted = {
        "source": source.resolve().name,
        "codec": canonical.codec,
        "size": None if canonical.size is None else list(canonical.size),
        "gop": _GOP,
    }
    if not record.exists():
        if folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise DataError(f"{folder}: already holds other files; choose an empty folder for the transcoded videos")
        write_json(record, wanted)
        return
    try:
        made = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        made = "something that cannot be read"
    if made != wanted:
        raise DataError(
            f"{record}: the videos there were made as {made}, not as {wanted}; choose another folder, or delete "
            f"{folder}"
        )


def _transcode(source: Path, targets: Mapping[str, Clip], canonical: Canonical, handling: Handling) -> dict[str, str]:
    todo = [path for path, clip in targets.items() if not _is_current(source / path, canonical.folder / clip.path)]
    if len(todo) < len(targets):
        _log.info("%s: %d videos are there already", canonical.folder, len(targets) - len(todo))

    def work(path: str) -> None:
        target = canonical.folder / targets[path].path
        transcode(source / path, target, codec=canonical.codec, size=canonical.size, gop=_GOP)

    return for_each(work, todo, "transcoding", handling)


def _is_current(source: Path, target: Path) -> bool:
    try:
        return target.stat().st_mtime_ns >= source.stat().st_mtime_ns
    except OSError:
        return False


def for_each(work: Callable[[str], None], paths: Sequence[str], doing: str, handling: Handling) -> dict[str, str]:
    """Do ``work`` on all paths with a bar; gives the reasons of those that raised :class:`VideoError`."""
    failed: dict[str, str] = {}
    pool = ThreadPoolExecutor(max(handling.workers, 1))  # threads: decoding and encoding let go of Python's lock
    try:
        jobs = {pool.submit(work, path): path for path in paths}
        for done in tqdm(as_completed(jobs), doing, len(jobs), unit="video", disable=not (handling.progress and paths)):
            try:
                done.result()
            except VideoError as error:
                failed[jobs[done]] = str(error)
    finally:
        pool.shutdown(cancel_futures=True)  # whoever stops it does not want to wait for what is queued
    return failed


def _report(source: Path, failed: Mapping[str, str], total: int, handling: Handling) -> None:
    fatal = bool(failed) and (handling.on_error == "raise" or len(failed) == total)
    named = list(failed.values())[fatal:]  # the error itself names the first
    for reason in named[:_SHOWN]:
        _log.warning("cannot be used: %s", reason)
    if len(named) > _SHOWN:
        _log.warning("... and %d more", len(named) - _SHOWN)
    if fatal:
        advice = "" if len(failed) == total else ", or leave them out with --on-error skip"
        raise DataError(
            f"{source}: {len(failed)} of {total} videos cannot be used; mend or remove them{advice}. "
            f"The first: {next(iter(failed.values()))}"
        )


# -- writing ---------------------------------------------------------------------------------------------


def write_splits(
    lists: Path, classes: Sequence[str], splits: Sequence[tuple[Sequence[Clip], Sequence[Clip]]]
) -> tuple[SplitCounts, ...]:
    """Write ``classes.txt`` and the (train, test) lists of split 1, 2, ...; more splits than these are removed.

    Returns:
        Counts of each split. A class without a clip on one side is warned of.
    """
    write_classes(lists / "classes.txt", classes)
    counts = []
    for number, sides in enumerate(splits, 1):
        for side, clips in zip(("train", "test"), sides, strict=True):
            write_list(lists / f"{side}_split{number}.txt", sorted(clips, key=lambda clip: (clip.label, clip.path)))
        counts.append(SplitCounts.of(*sides, classes))
        for side, per_class in (("train", counts[-1].train), ("test", counts[-1].test)):
            empty = [name for name, clips_of in per_class.items() if not clips_of]
            if empty:
                names = ", ".join(empty[:_SHOWN]) + (", ..." if len(empty) > _SHOWN else "")
                _log.warning("split %d: no %s clip of %s", number, side, names)
    number = len(splits) + 1
    while stale := [path for side in ("train", "test") if (path := lists / f"{side}_split{number}.txt").exists()]:
        for path in stale:  # of an earlier run with more splits: mixed with the new ones, they would leak
            path.unlink()
            _log.info("%s: removed, it belongs to an earlier division", path)
        number += 1
    return tuple(counts)
