"""Transcode videos or folders of videos to the canonical format, without classes and lists."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from coviar_mocrop.bitstream import transcode
from coviar_mocrop.bitstream.container import name_of
from coviar_mocrop.bitstream.remote import file_name, is_address
from coviar_mocrop.bitstream.transcode import CANONICAL_SIZE, Codec
from coviar_mocrop.datasets.canonical import GOP
from coviar_mocrop.datasets.handling import Handling, for_each
from coviar_mocrop.datasets.lists import RECORD, Form, read_form
from coviar_mocrop.datasets.videos import VIDEO_SUFFIXES, videos_below
from coviar_mocrop.errors import DataError
from coviar_mocrop.failed import write_failed
from coviar_mocrop.files import write_json
from coviar_mocrop.messages import counted

_CONTAINERS = frozenset({".mp4", ".mkv", ".avi", ".mov", ".m4v", ".h264"})
"""Suffixes of containers that can hold the canonical codecs."""

_log = logging.getLogger(__name__)


def find_videos(paths: Sequence[str | os.PathLike[str]]) -> list[Path | str]:
    """Replace folders by the videos below them, sorted by path. Files and addresses stay as they are.

    Hidden files and folders are ignored.

    Raises:
        DataError: a folder holds no video or cannot be listed.
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
    overwrite: bool = False,
    resume: bool = False,
) -> tuple[dict[Path | str, Path], dict[str, str]]:
    """Transcode videos of any codec; see :func:`~coviar_mocrop.bitstream.transcode`.

    Args:
        sources: videos, http or https addresses of videos, or folders of videos at any depth.
        output: a file if there is one video and ``output`` has a suffix, else a folder. In a folder, videos keep their
            names with the suffix ``.mp4``, and their paths relative to the source folder. Their format is recorded in
            ``transcode.json``, so that checkpoints remember it, unless the folder held videos of unknown format.
        codec: ``h264`` or ``mpeg4`` (Part 2).
        size: (width, height), pixels; None: each video keeps its size.
        handling: workers, Ray and progress.
        overwrite: whether existing files may be replaced. A source never is.
        resume: whether existing files are kept, and only the other videos transcoded, to go on after an interruption.

    Returns:
        The targets of the videos that were written or kept, by source; and the reasons why others failed, by source. If
        ``output`` is a folder, the reasons are also written to ``failed.csv`` in it.

    Raises:
        DataError: two videos would become the same file, a video would replace one of the sources, or another file
            exists without ``overwrite`` or ``resume``; the folder's videos were transcoded to another format;
            ``output`` is a file but there are several videos, its suffix is not supported, a folder holds no video, or
            the only source does not exist.
    """
    target_of = _targets([_as_source(source) for source in sources], Path(output))
    existing = _existing(target_of)
    if existing and not (overwrite or resume):
        others = f", as do {len(existing) - 1} others" if len(existing) > 1 else ""
        raise DataError(
            f"{existing[0]}: exists already{others}; choose another target, replace what is there (--overwrite), or "
            "keep it and transcode the rest (--resume)"
        )
    jobs = [_Job(source, target) for source, target in target_of.items()]
    kept = set(existing) if resume else set()
    todo = [job for job in jobs if job.target not in kept]
    if kept:
        _log.info("%s: %s kept", output, counted(len(kept), "video"))
    is_folder = list(target_of.values()) != [Path(output)]
    _record(Path(output), Form(codec, size, GOP), is_folder)
    reasons = for_each(_Transcode(codec, size), todo, "transcoding", handling or Handling())
    failed = {name_of(job.source): reasons[job] for job in jobs if job in reasons}
    if is_folder:
        write_failed(output, failed)
    return {job.source: job.target for job in jobs if job not in reasons}, failed


def _record(output: Path, wanted: Form, is_folder: bool) -> None:
    """Record the format in a folder without videos; refuse a folder that has the record of another format."""
    folder = output if is_folder else output.parent
    made = read_form(folder)
    if made and made != wanted:
        raise DataError(
            f"{folder / RECORD}: the videos there were made as {made}, not as {wanted}; choose another folder"
        )
    if is_folder and not made and not (folder.is_dir() and videos_below(folder)):
        write_json(folder / RECORD, wanted._asdict())


class _Job(NamedTuple):
    """One video to transcode."""

    source: Path | str
    target: Path

    def __str__(self) -> str:
        return name_of(self.source)


@dataclass(frozen=True)
class _Transcode:
    """Transcodes a video. It is a class because closures cannot be pickled for worker processes."""

    codec: Codec
    size: tuple[int, int] | None

    def __call__(self, job: _Job) -> None:
        transcode(job.source, job.target, codec=self.codec, size=self.size)


def _as_source(source: str | os.PathLike[str]) -> Path | str:
    """A path as ``Path``, an address unchanged."""
    return source if isinstance(source, str) and (is_address(source) or "://" in source) else Path(source)


def _targets(sources: Sequence[Path | str], output: Path) -> dict[Path | str, Path]:
    if len(sources) == 1 and isinstance(sources[0], Path) and not sources[0].exists():
        raise DataError(f"{sources[0]}: no such file or folder; check the path")
    single = len(sources) == 1 and not Path(sources[0]).is_dir()
    if single and output.suffix and not output.is_dir():
        if output.suffix.lower() not in _CONTAINERS:
            raise DataError(f"{output}: is not a supported video format; use {', '.join(sorted(_CONTAINERS))}")
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
        if target in taken:
            raise DataError(
                f"{name_of(taken[target])} and {name_of(source)} would both become {target}; transcode them one by one"
            )
        taken[target] = source
    return target_of


def _existing(target_of: Mapping[Path | str, Path]) -> list[Path]:
    """The targets that exist; checks that none of them is a source."""
    # by file, not by name: a.MP4 and a.mp4 are one file on some systems
    sources = {_file(source) for source in target_of if isinstance(source, Path) and source.exists()}
    existing = [target for target in target_of.values() if os.path.lexists(target)]
    for target in existing:
        if target.exists() and _file(target) in sources:
            raise DataError(f"{target}: is one of the videos to transcode and would be replaced; choose another folder")
    return existing


def _file(path: Path) -> tuple[int, int]:
    """What tells a file from others, whatever its name."""
    found = path.stat()
    return found.st_dev, found.st_ino
