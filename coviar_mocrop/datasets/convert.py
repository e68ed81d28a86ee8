"""What preparing any data set shares: the canonical form, the check, writing the lists."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
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

RECORD = "transcode.json"
"""The file in a folder of transcoded videos that says what they were made from, and how."""

_GOP = 12
_SHOWN = 20

Side = Literal["train", "test"] | None
"""Where a clip is in a split; None: it is not used."""
Split = tuple[list[Clip], list[Clip]]
"""The training and the test clips of a split."""

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


@dataclass(frozen=True)
class Handling:
    """How the videos are processed.

    Attributes:
        check: open each video and look for motion vectors.
        on_error: what to do about videos that cannot be used: ``raise`` after all have been tried, or ``skip`` them
            with a warning.
        workers: number of videos processed at the same time.
        progress: show a bar.
        follow_links: whether videos that are not transcoded may be symbolic links out of the data folder.
    """

    check: bool = True
    on_error: Literal["raise", "skip"] = "raise"
    workers: int = 2
    progress: bool = True
    follow_links: bool = False


@dataclass(frozen=True)
class Prepared:
    """A data set that is ready.

    Attributes:
        root: folder that the paths in the lists start from.
        lists: folder of ``classes.txt`` and ``{train,test}_split<k>.txt``.
        classes: names by label.
        splits: split 1, 2, ...
        left_out: why videos cannot be used, by their path in the source.
    """

    root: Path
    lists: Path
    classes: tuple[str, ...]
    splits: tuple[Split, ...]
    left_out: dict[str, str]


def some(names: Sequence[str], most: int = 1) -> str:
    """The first ``most`` names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def prepare(
    source: str | os.PathLike[str],
    lists: str | os.PathLike[str],
    classes: tuple[str, ...],
    clips: Sequence[Clip],
    sides_of: Callable[[Sequence[Clip]], Mapping[str, Sequence[Side]]],
    canonical: Canonical | None = None,
    handling: Handling | None = None,
) -> Prepared:
    """Transcode and check the clips of a data set, divide those that can be used, and write the lists.

    Args:
        source: data root of ``clips``.
        lists: folder to write ``classes.txt`` and ``{train,test}_split<k>.txt`` to.
        classes: names by label.
        clips: all clips.
        sides_of: gives the side in each split, by the clip's path, of the clips that can be used.
        canonical: transcode to this first; the lists then refer to its folder.
        handling: checks, workers, what to do about videos that cannot be used.

    Raises:
        DataError: a clip cannot be used and ``on_error`` is ``raise``, or none can; or the folder for the transcoded
            videos is in use for something else.
    """
    source, lists, handling = Path(source), Path(lists), handling or Handling()
    if canonical is None:
        root, targets, failed = source, {clip.path: clip for clip in clips}, {}
        below = DataRoot(root, follow_links=handling.follow_links)
        for path in targets:
            below.find(path)  # raises what training would raise later
    else:
        root, targets = canonical.folder, _targets(source, clips)
        _claim(source, canonical)
        todo = [path for path, clip in targets.items() if not _is_current(source / path, root / clip.path)]
        if len(todo) < len(targets):
            _log.info("%s: %d videos are there already", root, len(targets) - len(todo))

        def work(path: str) -> None:
            transcode(source / path, root / targets[path].path, codec=canonical.codec, size=canonical.size, gop=_GOP)

        failed = for_each(work, todo, "transcoding", handling)
    if handling.check:
        left = [path for path in targets if path not in failed]
        failed |= for_each(lambda path: check_video(root / targets[path].path), left, "checking", handling)
    left_out = {path: failed[path] for path in targets if path in failed}
    _report(source, left_out, len(targets), handling)
    usable = [clip for clip in clips if clip.path not in failed]
    sides = sides_of(usable)
    splits = []
    for number in range(len(next(iter(sides.values())))):
        train, test = (
            [targets[clip.path] for clip in usable if sides[clip.path][number] == side] for side in ("train", "test")
        )
        splits.append((train, test))
    _write(lists, classes, splits)
    return Prepared(root, lists, classes, tuple(splits), left_out)


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


def _is_current(source: Path, target: Path) -> bool:
    try:
        return target.stat().st_mtime_ns >= source.stat().st_mtime_ns
    except OSError:
        return False


def for_each(work: Callable[[str], None], paths: Sequence[str], doing: str, handling: Handling) -> dict[str, str]:
    """Do ``work`` on all paths with a bar; gives the reasons of those that raised :class:`VideoError`."""
    failed: dict[str, str] = {}
    pool = ThreadPoolExecutor(max(handling.workers, 1))  # threads: decoding and encoding release Python's lock
    try:
        futures = {pool.submit(work, path): path for path in paths}
        hidden = not (handling.progress and paths)
        for future in tqdm(as_completed(futures), doing, len(futures), unit="video", disable=hidden):
            try:
                future.result()
            except VideoError as error:
                failed[futures[future]] = str(error)
    finally:
        pool.shutdown(cancel_futures=True)  # after an interruption, what is queued is not done
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


def _write(lists: Path, classes: Sequence[str], splits: Sequence[Split]) -> None:
    """Write the lists; those of an earlier run with more splits are removed, because mixed splits would leak."""
    write_classes(lists / "classes.txt", classes)
    for number, split in enumerate(splits, 1):
        for side, clips in zip(("train", "test"), split, strict=True):
            write_list(lists / f"{side}_split{number}.txt", sorted(clips, key=lambda clip: (clip.label, clip.path)))
            there = {clip.class_name for clip in clips}
            if absent := [name for name in classes if name not in there]:
                _log.warning("split %d: no %s clip of %s", number, side, some(absent, _SHOWN))
    number = len(splits) + 1
    while stale := [path for side in ("train", "test") if (path := lists / f"{side}_split{number}.txt").exists()]:
        for path in stale:
            path.unlink()
            _log.info("%s: removed, it belongs to an earlier division", path)
        number += 1
