"""What preparing any data set shares: the canonical form, the check of the videos, the splits."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, TypeVar

from coviar_mocrop.bitstream import open_video, transcode
from coviar_mocrop.bitstream.pictures import transcode_pictures
from coviar_mocrop.bitstream.transcode import CANONICAL_SIZE, Codec
from coviar_mocrop.datasets.lists import RECORD, Clip, DataRoot
from coviar_mocrop.datasets.splits import (
    Side,
    Sides,
    Split,
    find_leak,
    require_replaceable,
    same_files,
    write_splits,
)
from coviar_mocrop.errors import CoviarMocropError, DataError, NoMotionVectorsError, VideoError
from coviar_mocrop.failed import shown, write_failed
from coviar_mocrop.files import write_json
from coviar_mocrop.parallel import run_map

_GOP = 12
_PARTS = "parts.json"
"""The file in a folder of transcoded videos that says which second each starts and ends at, where it is a part."""

Item = TypeVar("Item")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Canonical:
    """The canonical form: fixed GOPs, no B-frames, one reference.

    Attributes:
        folder: root of the transcoded videos of one data set; outside the source.
        codec: ``h264`` or ``mpeg4`` (Part 2).
        size: (width, height), pixels; None keeps each video's.
    """

    folder: Path
    codec: Codec = "h264"
    size: tuple[int, int] | None = CANONICAL_SIZE


class Origin(NamedTuple):
    """What a clip is made from.

    Attributes:
        file: a video, or a folder of JPEG pictures.
        start: second of the video at which the clip starts; None: the first frame.
        end: second at which it ends; None: the last frame.
        frame_rate: frames per second of a folder of pictures; None: it is a video.
    """

    file: str
    start: float | None = None
    end: float | None = None
    frame_rate: float | None = None


@dataclass(frozen=True)
class Handling:
    """How the videos are processed.

    Attributes:
        check: open each video and look for motion vectors.
        on_error: what to do about videos that cannot be used: ``raise`` after all have been tried, or ``skip`` them
            with a warning.
        workers: number of processes.
        ray: address of a Ray cluster that works instead; see :func:`~coviar_mocrop.parallel.run_map`.
        progress: show a bar.
        follow_links: whether videos that are not transcoded may be symbolic links out of the data folder.
        overwrite: whether lists in the folder may be replaced by others.
    """

    check: bool = True
    on_error: Literal["raise", "skip"] = "raise"
    workers: int = 2
    ray: str | None = None
    progress: bool = True
    follow_links: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Prepared:
    """A data set that is ready.

    Attributes:
        root: folder that the paths in the lists start from.
        lists: folder of ``classes.txt`` and ``{train,val,test}_split<k>.txt``.
        classes: names by label.
        splits: split 1, 2, ...
        left_out: why videos cannot be used, by their path in the source.
    """

    root: Path
    lists: Path
    classes: tuple[str, ...]
    splits: tuple[Split, ...]
    left_out: dict[str, str]


def prepare(
    source: str | os.PathLike[str],
    lists: str | os.PathLike[str],
    classes: tuple[str, ...],
    clips: Sequence[Clip],
    sides: Sequence[Side],
    sides_of: Callable[[Sequence[Clip]], Sides],
    canonical: Canonical | None = None,
    handling: Handling | None = None,
    *,
    group_of: Mapping[str, str] | None = None,
    origins: Mapping[str, Origin] | None = None,
    official: bool = False,
) -> Prepared:
    """Transcode and check the clips of a data set, divide those that can be used, and write the lists.

    Args:
        source: data root of ``clips``.
        lists: folder to write ``classes.txt`` and ``{train,val,test}_split<k>.txt`` to.
        classes: names by label.
        clips: all clips.
        sides: the sides that each split should have.
        sides_of: divides the clips that can be used.
        canonical: transcode to this first; the lists then refer to its folder.
        handling: checks, workers, what to do about videos that cannot be used and about lists that are there.
        group_of: group of each clip, by its path, where the division goes by groups.
        origins: what each clip is made from, by its path, which ends in ``.mp4`` and is below ``canonical.folder``.
            None, or without ``canonical``: from the file of its path below ``source``.
        official: the division is a published one: a file that is on two of its sides is a warning, not an error.

    Raises:
        DataError: a clip cannot be used and ``on_error`` is ``raise``, or none can; the folder for the transcoded
            videos is in use for something else; two sides of a split share a file; or the lists there are others.
    """
    source, lists, handling = Path(source), Path(lists), handling or Handling()
    if canonical is None:
        root, targets = source, {clip.path: clip for clip in clips}
        below = DataRoot(root, follow_links=handling.follow_links)
        for path in targets:
            below.find(path)  # raises what training would raise later
    else:
        root, targets = canonical.folder, _targets(source, clips)
    if canonical is None or origins is None:
        origins = {path: Origin(os.path.join(source, path)) for path in targets}
    videos = {origins[path].file: path for path in targets if origins[path].frame_rate is None}
    same = same_files({path: file for file, path in videos.items()})

    def groups(usable: Sequence[Clip]) -> dict[str, str] | None:
        return {targets[clip.path].path: group_of[clip.path] for clip in usable} if group_of else None

    def divided(usable: Sequence[Clip]) -> tuple[Sides, tuple[Split, ...]]:
        side_of = sides_of(usable)
        if not official and (leak := find_leak(same, side_of)):
            raise DataError(f"{source}: {leak}; remove one of the two")
        ordered = sorted(usable, key=lambda clip: (clip.label, targets[clip.path].path))
        splits = tuple(
            {side: [targets[clip.path] for clip in ordered if side_of[clip.path][number] == side] for side in sides}
            for number in range(len(side_of[ordered[0].path]))
        )
        if not handling.overwrite:
            require_replaceable(lists, classes, splits, groups(usable))
        return side_of, splits

    planned = None
    if handling.on_error == "raise":  # all clips are used, or none: what would be refused in the end is refused now
        planned = divided(clips)
    else:
        sides_of(clips)
    failed: dict[str, str] = {}
    if canonical is not None:
        _claim(source, canonical)
        jobs = [_Job(path, origins[path], os.path.join(root, clip.path)) for path, clip in targets.items()]
        _forget_other_parts(root, jobs)
        todo = [job for job in jobs if not _is_current(job.origin.file, job.target)]
        if len(todo) < len(targets):
            _log.info("%s: %d videos are there already", root, len(targets) - len(todo))
        reasons = for_each(_Transcode(canonical), todo, "transcoding", handling)
        failed = {job.path: reason for job, reason in reasons.items()}
    if handling.check:
        path_of = {os.path.join(root, clip.path): path for path, clip in targets.items() if path not in failed}
        reasons_of = for_each(check_video, list(path_of), "checking", handling)
        failed |= {path_of[file]: reason for file, reason in reasons_of.items()}
    left_out = {path: failed[path] for path in targets if path in failed}
    _report(source, left_out, len(targets), handling, write_failed(lists, left_out))
    usable = [clip for clip in clips if clip.path not in failed]
    side_of, splits = planned or divided(usable)
    if leak := find_leak(same, side_of):
        _log.warning("%s: %s", source, leak)
    if copies := [used for paths in same if len(used := [path for path in paths if path in side_of]) > 1]:
        number = sum(len(used) - 1 for used in copies)
        _log.warning("%s: holds %d copies of other files, such as %s of %s", source, number, *copies[0][1::-1])
    write_splits(lists, classes, splits, groups(usable))
    return Prepared(root, lists, classes, splits, left_out)


class _Job(NamedTuple):
    """One clip to transcode."""

    path: str
    origin: Origin
    target: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class _Transcode:
    """Transcodes a clip: a class, because processes cannot be sent a closure."""

    canonical: Canonical

    def __call__(self, job: _Job) -> None:
        codec, size = self.canonical.codec, self.canonical.size
        file, start, end, frame_rate = job.origin
        if frame_rate is None:
            transcode(file, job.target, codec=codec, size=size, gop=_GOP, start=start, end=end)
        else:
            transcode_pictures(file, job.target, frame_rate=frame_rate, codec=codec, size=size, gop=_GOP)


def check_video(path: str | os.PathLike[str]) -> None:
    """Open a video and check that it carries motion vectors.

    Raises:
        NoMotionVectorsError: its codec exports none, or all its frames are key frames.
        VideoError: it cannot be read.
    """
    with open_video(path, "pyav") as video:
        frames = video.info.num_frames
        start = min(frames, _GOP + 1)
        # nearly always the second frame has some; the rest is decoded only if the first ones have none
        if any(any(map(len, video.get_motion_vectors_at(part))) for part in (range(start), range(start, frames))):
            return
    if frames == 1:
        raise NoMotionVectorsError(f"{os.fspath(path)}: is a single frame, which has no motion; leave it out")
    raise NoMotionVectorsError(
        f"{os.fspath(path)}: none of its {frames} frames has motion vectors (all key frames, or damaged); "
        "transcode it (--transcode), or leave it out"
    )


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
    """Check that the target folder is new or was made from the same videos in the same way, and record how."""
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


def _forget_other_parts(folder: Path, jobs: Sequence[_Job]) -> None:
    """Remove the clips that were made from another part of their video, and record the parts of all."""
    record = folder / _PARTS
    try:
        made = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        made = {}
    wanted = {
        os.path.relpath(job.target, folder): [job.origin.start, job.origin.end]
        for job in jobs
        if (job.origin.start, job.origin.end) != (None, None)
    }
    made = made if isinstance(made, dict) else {}
    for name in [os.path.relpath(job.target, folder) for job in jobs] if made or wanted else ():
        if made.get(name) != wanted.get(name):
            (folder / name).unlink(missing_ok=True)
            made.pop(name, None)
    if made | wanted or record.exists():
        write_json(record, made | wanted)


def _is_current(source: str, target: str) -> bool:
    try:
        return os.stat(target).st_mtime_ns >= os.stat(source).st_mtime_ns
    except OSError:
        return False


def for_each(work: Callable[[Item], None], items: Sequence[Item], doing: str, handling: Handling) -> dict[Item, str]:
    """Do ``work`` on all items with a bar; gives the reasons of those that raised :class:`VideoError`.

    Args:
        work, items: see :func:`~coviar_mocrop.parallel.run_map`.
        doing: title of the bar.
        handling: workers, progress.

    Raises:
        CoviarMocropError: ``work`` raised another one of ours: the disk is full.
    """
    failed: dict[Item, str] = {}
    outcomes = run_map(work, items, workers=handling.workers, ray=handling.ray, title=doing, progress=handling.progress)
    with closing(outcomes):
        for item, outcome in outcomes:
            if isinstance(outcome, VideoError):
                failed[item] = str(outcome)
            elif isinstance(outcome, CoviarMocropError):
                raise outcome
    return failed


def _report(source: Path, failed: Mapping[str, str], total: int, handling: Handling, table: Path) -> None:
    fatal = bool(failed) and (handling.on_error == "raise" or len(failed) == total)
    named = list(failed.values()) if len(failed) > 1 or not fatal else []  # the error itself names a single one
    for line in shown(named, table):
        _log.warning("cannot be used: %s", line)
    if fatal:
        advice = "" if len(failed) == total else ", or leave them out with --on-error skip"
        raise DataError(
            f"{source}: {len(failed)} of {total} videos cannot be used"
            f"{f', see above and {table}' if named else f' ({next(iter(failed.values()))})'}; "
            f"mend or remove them{advice}"
        )
