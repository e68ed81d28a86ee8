"""Single videos, or folders of them, to the canonical form: no classes, no lists."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from coviar_mocrop.bitstream import transcode
from coviar_mocrop.bitstream.remote import file_name, is_address
from coviar_mocrop.bitstream.transcode import CANONICAL_SIZE, Codec
from coviar_mocrop.datasets.convert import Handling, for_each
from coviar_mocrop.datasets.videos import VIDEO_SUFFIXES, videos_below
from coviar_mocrop.errors import DataError
from coviar_mocrop.failed import write_failed

_CONTAINERS = frozenset({".mp4", ".mkv", ".avi", ".mov", ".m4v", ".h264"})
"""Suffixes of files that the canonical codecs can be written to."""


def find_videos(paths: Sequence[str | os.PathLike[str]]) -> list[Path | str]:
    """Files and addresses as they are, and the videos below folders, in order; hidden files there are left out.

    Raises:
        DataError: a folder holds no video.
    """
    found: list[Path | str] = []
    for path in map(_as_source, paths):
        if isinstance(path, str):
            found.append(path)
            continue
        videos = videos_below(path) if path.is_dir() else [path]
        if not videos:
            raise DataError(f"{path}: holds no video ({', '.join(sorted(VIDEO_SUFFIXES))})")
        found += videos
    return found


def transcode_files(
    sources: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    codec: Codec = "h264",
    size: tuple[int, int] | None = CANONICAL_SIZE,
    handling: Handling | None = None,
) -> tuple[dict[Path | str, Path], dict[str, str]]:
    """Transcode videos of any codec; see :func:`~coviar_mocrop.bitstream.transcode`.

    Args:
        sources: videos, http or https addresses of videos, or folders, whose videos are taken at any depth.
        output: for one video a file to write, if it has a suffix; else a folder. A video gets its name there, with
            the suffix .mp4, and keeps its place below the folder that was given.
        codec: ``h264`` or ``mpeg4`` (Part 2).
        size: (width, height); None keeps each video's.
        handling: workers, Ray and progress.

    Returns:
        Target by source of what was written, and by source why others could not be, which also stands in
        ``failed.csv`` of the folder.

    Raises:
        DataError: two videos would become one file, one would replace itself, or ``output`` names one file for
            several videos.
    """
    target_of = _targets([_as_source(source) for source in sources], Path(output))
    jobs = [_Job(source, target) for source, target in target_of.items()]
    reasons = for_each(_Transcode(codec, size), jobs, "transcoding", handling or Handling())
    failed = {str(job.source): reasons[job] for job in jobs if job in reasons}
    if list(target_of.values()) != [Path(output)]:
        write_failed(output, failed)
    return {job.source: job.target for job in jobs if job not in reasons}, failed


class _Job(NamedTuple):
    """One video to transcode."""

    source: Path | str
    target: Path

    def __str__(self) -> str:
        return str(self.source)


@dataclass(frozen=True)
class _Transcode:
    """Transcodes a video: a class, because processes cannot be sent a closure."""

    codec: Codec
    size: tuple[int, int] | None

    def __call__(self, job: _Job) -> None:
        transcode(job.source, job.target, codec=self.codec, size=self.size)


def _as_source(source: str | os.PathLike[str]) -> Path | str:
    """A path, or an address as it stands."""
    return source if isinstance(source, str) and (is_address(source) or "://" in source) else Path(source)


def _targets(sources: Sequence[Path | str], output: Path) -> dict[Path | str, Path]:
    single = len(sources) == 1 and not Path(sources[0]).is_dir()
    if single and output.suffix and not output.is_dir():
        if output.suffix.lower() not in _CONTAINERS:
            raise DataError(f"{output}: is no kind of video that can be written; use {', '.join(sorted(_CONTAINERS))}")
        target_of = {sources[0]: output}
    elif output.suffix.lower() in VIDEO_SUFFIXES and not output.is_dir():
        raise DataError(f"{output}: names one video for several; give a folder")
    else:
        target_of = {}
        for source in sources:
            is_folder = Path(source).is_dir()
            for video in find_videos([source]):
                name = Path(video).relative_to(source) if is_folder else file_name(video)
                target_of[video] = Path(output, name).with_suffix(".mp4")
    taken: dict[Path, Path | str] = {}
    for source, target in target_of.items():
        if target.exists() and os.path.exists(source) and os.path.samefile(source, target):
            raise DataError(f"{target}: would replace the video that it is made from; choose another folder")
        if target in taken:
            raise DataError(f"{taken[target]} and {source} would both become {target}; transcode them one by one")
        taken[target] = source
    return target_of
