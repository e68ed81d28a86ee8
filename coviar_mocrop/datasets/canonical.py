"""Transcode the clips of a data set to the canonical format, in a folder of their own."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from coviar_mocrop.bitstream import transcode
from coviar_mocrop.bitstream.pictures import transcode_pictures
from coviar_mocrop.bitstream.transcode import CANONICAL_SIZE, Codec
from coviar_mocrop.datasets.handling import Handling, for_each
from coviar_mocrop.datasets.lists import RECORD, Clip
from coviar_mocrop.errors import DataError
from coviar_mocrop.files import write_json

GOP = 12
"""Key frame interval of the canonical format, frames."""
_PARTS = "parts.json"
"""File in a folder of transcoded videos that records the source of each: start and end in seconds, and the size and
modification time of the source file."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Canonical:
    """Target of transcoding to the canonical format: GOPs of fixed length, no B-frames, one reference frame.

    Attributes:
        folder: root folder of the transcoded videos of one data set. It must not lie inside the source.
        codec: ``h264`` or ``mpeg4`` (Part 2).
        size: (width, height), pixels; None: each video keeps its size.
    """

    folder: Path
    codec: Codec = "h264"
    size: tuple[int, int] | None = CANONICAL_SIZE


class Origin(NamedTuple):
    """The source of a clip.

    Attributes:
        file: path of a video, or of a folder of JPEG images.
        start: start of the clip within the video, seconds; None: the first frame.
        end: end of the clip within the video, seconds; None: the last frame.
        frame_rate: frames per second if ``file`` is a folder of images; None: it is a video.
    """

    file: str
    start: float | None = None
    end: float | None = None
    frame_rate: float | None = None


def canonical_clips(source: Path, clips: Sequence[Clip]) -> dict[str, Clip]:
    """Map the path of each clip in the source to the clip in the canonical folder, which has the suffix ``.mp4``.

    Raises:
        DataError: two clips would become the same file.
    """
    targets: dict[str, Clip] = {}
    taken: dict[str, str] = {}
    for clip in clips:
        path = PurePosixPath(clip.path).with_suffix(".mp4").as_posix()
        if path in taken:
            raise DataError(f"{source}: {taken[path]} and {clip.path} would both become {path}; rename one of them")
        taken[path] = clip.path
        targets[clip.path] = clip._replace(path=path)
    return targets


def transcode_missing(
    source: Path, canonical: Canonical, clips: Mapping[str, Clip], origins: Mapping[str, Origin], handling: Handling
) -> dict[str, str]:
    """Transcode the clips that are not in the canonical folder yet, or whose source has changed.

    Args:
        source: data root. The keys of ``clips`` are relative to it.
        canonical: target folder, codec and frame size.
        clips: clips in the target folder, by path in the source; see :func:`canonical_clips`.
        origins: source of each clip, by path in the source.
        handling: workers, progress.

    Returns:
        The reasons why videos could not be transcoded, by path in the source.

    Raises:
        DataError: the folder lies inside the source, holds other files, or holds videos made with other settings.
    """
    _claim(source, canonical)
    jobs = [_Job(path, origins[path], os.path.join(canonical.folder, clip.path)) for path, clip in clips.items()]
    _forget_outdated(canonical.folder, jobs)
    todo = [job for job in jobs if not os.path.exists(job.target)]
    if len(todo) < len(jobs):
        _log.info("%s: %d videos are there already", canonical.folder, len(jobs) - len(todo))
    reasons = for_each(_Transcode(canonical), todo, "transcoding", handling)
    return {job.path: reason for job, reason in reasons.items()}


def _claim(source: Path, canonical: Canonical) -> None:
    """Check that the target folder is new, or was made from the same source with the same settings; record them."""
    folder, record = canonical.folder, canonical.folder / RECORD
    if folder.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{folder}: lies inside the source {source}, as if it were a class; choose a folder outside")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is not a folder; choose another path for the transcoded videos")
    wanted = {
        "source": source.resolve().name,
        "codec": canonical.codec,
        "size": None if canonical.size is None else list(canonical.size),
        "gop": GOP,
    }
    if not record.exists():
        if folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise DataError(f"{folder}: already holds other files; choose an empty folder for the transcoded videos")
        write_json(record, wanted)
        return
    try:
        made = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        made = "something that cannot be read"
    if made != wanted:
        raise DataError(
            f"{record}: the videos there were made as {made}, not as {wanted}; choose another folder, or delete "
            f"{folder}"
        )


def _forget_outdated(folder: Path, jobs: Sequence[_Job]) -> None:
    """Remove transcoded clips whose source file or part of it has changed; record the source of every clip."""
    record = folder / _PARTS
    try:
        made = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        made = {}
    made = made if isinstance(made, dict) else {}
    wanted = {}
    for job in jobs:
        name = os.path.relpath(job.target, folder)
        wanted[name] = [job.origin.start, job.origin.end, *_state(job.origin.file)]
        before = made.get(name)
        before = before if isinstance(before, list) else [None, None]  # older versions record neither size nor time
        # a data set that was copied has other times, so a file of the same size and older than the clip is the same
        same = before[:3] == wanted[name][: len(before[:3])] and _is_newer(job.target, job.origin.file)
        if before != wanted[name] and not same:
            Path(job.target).unlink(missing_ok=True)
    if made != made | wanted:
        write_json(record, made | wanted)


def _state(file: str) -> tuple[int, int] | tuple[None, None]:
    """Size (bytes) and modification time (ns) of a video or a folder of images; (None, None) if it does not exist."""
    try:
        found = os.stat(file)
    except OSError:
        return None, None
    return found.st_size, found.st_mtime_ns


def _is_newer(target: str, source: str) -> bool:
    """Whether a clip is newer than its source."""
    try:
        return os.stat(target).st_mtime_ns >= os.stat(source).st_mtime_ns
    except OSError:
        return False


class _Job(NamedTuple):
    """One clip to transcode."""

    path: str
    origin: Origin
    target: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class _Transcode:
    """Transcodes a clip. It is a class because closures cannot be pickled for worker processes."""

    canonical: Canonical

    def __call__(self, job: _Job) -> None:
        codec, size = self.canonical.codec, self.canonical.size
        file, start, end, frame_rate = job.origin
        if frame_rate is None:
            transcode(file, job.target, codec=codec, size=size, gop=GOP, start=start, end=end)
        else:
            transcode_pictures(file, job.target, frame_rate=frame_rate, codec=codec, size=size, gop=GOP)
