"""Prepare a data set: transcode and check its clips, divide them, and write the lists."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.datasets.canonical import GOP, Canonical, Origin, canonical_clips, transcode_missing
from coviar_mocrop.datasets.handling import Handling, for_each
from coviar_mocrop.datasets.lists import Clip, DataRoot
from coviar_mocrop.datasets.splits import (
    Side,
    Sides,
    Split,
    find_leak,
    require_replaceable,
    same_files,
    write_splits,
)
from coviar_mocrop.errors import DataError, NoMotionVectorsError
from coviar_mocrop.failed import shown, write_failed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A prepared data set.

    Attributes:
        root: data root. Paths in the lists are relative to it.
        lists: folder of ``classes.txt`` and ``{train,val,test}_split<k>.txt``.
        classes: class names by label.
        splits: the splits, from split 1 on.
        left_out: reasons why videos were left out, by path in the source.
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
    """Transcode and check the clips of a data set, divide the usable ones, and write the lists.

    Args:
        source: data root of ``clips``.
        lists: folder for ``classes.txt`` and ``{train,val,test}_split<k>.txt``.
        classes: class names by label.
        clips: all clips.
        sides: the sides of each split.
        sides_of: function that assigns the usable clips to sides.
        canonical: transcode to this form first; the lists then name the transcoded videos. None: do not transcode.
        handling: checks, workers, and what to do about unusable videos and existing lists.
        group_of: group of each clip, by path, to write beside the lists. None: clips have no groups.
        origins: source of each clip, by path. These paths end in ``.mp4`` and are relative to ``canonical.folder``.
            Ignored without ``canonical``. None: the source of a clip is the file at its path below ``source``.
        official: whether the splits are published ones. Then identical files in two lists are a warning, not an error.

    Raises:
        DataError: a clip cannot be used and ``on_error`` is ``raise``, or no clip can be used; a clip lies outside
            ``source``; the folder for transcoded videos is in use for something else; two lists of a split share a
            file; or the folder holds other lists and ``overwrite`` is false.
    """
    source, lists, handling = Path(source), Path(lists), handling or Handling()
    if canonical is None:
        root, targets = source, {clip.path: clip for clip in clips}
        below = DataRoot(root, follow_links=handling.follow_links)
        for path in targets:
            below.find(path)  # raises what training would raise later
    else:
        root, targets = canonical.folder, canonical_clips(source, clips)
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
    if handling.on_error == "raise":  # all clips are used, or none: so raise now what would be raised in the end
        planned = divided(clips)
    else:
        sides_of(clips)
    failed: dict[str, str] = {}
    if canonical is not None:
        failed = transcode_missing(source, canonical, targets, origins, handling)
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
        copied = "1 copy of another file" if number == 1 else f"{number} copies of other files"
        _log.warning("%s: holds %s, such as %s of %s", source, copied, *copies[0][1::-1])
    write_splits(lists, classes, splits, groups(usable))
    return Prepared(root, lists, classes, splits, left_out)


def check_video(path: str | os.PathLike[str]) -> None:
    """Open a video and check that it carries motion vectors.

    Raises:
        NoMotionVectorsError: FFmpeg exports no vectors for its codec, or no frame has vectors.
        VideoError: the video cannot be read.
    """
    with open_video(path, "pyav") as video:
        frames = video.info.num_frames
        start = min(frames, GOP + 1)
        # the second frame nearly always has vectors; decode the rest only if the first frames have none
        if any(any(map(len, video.get_motion_vectors_at(part))) for part in (range(start), range(start, frames))):
            return
    if frames == 1:
        raise NoMotionVectorsError(f"{os.fspath(path)}: is a single frame, which has no motion; leave it out")
    raise NoMotionVectorsError(
        f"{os.fspath(path)}: none of its {frames} frames has motion vectors (all key frames, or damaged); "
        "transcode it (--transcode), or leave it out"
    )


def _report(source: Path, failed: Mapping[str, str], total: int, handling: Handling, table: Path) -> None:
    fatal = bool(failed) and (handling.on_error == "raise" or len(failed) == total)
    named = list(failed.values()) if len(failed) > 1 or not fatal else []  # the error itself names a single failure
    for line in shown(named, table):
        _log.warning("cannot be used: %s", line)
    if fatal:
        advice = "" if len(failed) == total else ", or leave them out with --on-error skip"
        raise DataError(
            f"{source}: {len(failed)} of {total} videos cannot be used"
            f"{f', see above and {table}' if named else f' ({next(iter(failed.values()))})'}; "
            f"repair or remove them{advice}"
        )
