"""Transcode single videos, or folders of them, to the canonical format.

The canonical format has a key frame every 12 frames, no B-frames and one size; audio is dropped. The source may have
any codec that FFmpeg decodes, including those without motion vectors (HEVC, VP9, AV1). For data sets see coviar prepare
folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from coviar_mocrop.commands.dataset_options import add_form, add_overwrite, add_ray, add_workers
from coviar_mocrop.errors import DataError
from coviar_mocrop.failed import NAME, shown

EXAMPLES = """\
  coviar prepare transcode phone.mov phone.mp4
  coviar prepare transcode a.webm b.mkv more/ transcoded/
  coviar prepare transcode phone.mov phone.mp4 --codec mpeg4 --size keep
  coviar prepare transcode videos/ transcoded/ --resume
  coviar prepare transcode /shared/videos /shared/transcoded --ray auto
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "source", nargs="+", metavar="SOURCE", help="videos, addresses of videos (http), or folders of videos"
    )
    parser.add_argument(
        "target",
        type=Path,
        metavar="TARGET",
        help="file to write; for several videos, or without a suffix, a folder",
    )
    again = parser.add_mutually_exclusive_group()
    add_overwrite(again, "existing files")
    again.add_argument("--resume", action="store_true", help="keep existing files, transcode the other videos")
    add_form(parser, codec="h264")
    add_workers(parser)
    add_ray(parser)


def main(given: argparse.Namespace) -> None:
    """Transcode, and print what was written."""
    from coviar_mocrop.bitstream.container import name_of
    from coviar_mocrop.datasets.handling import Handling
    from coviar_mocrop.datasets.transcoding import transcode_files

    written, failed = transcode_files(
        given.source,
        given.target,
        codec=given.codec,
        size=given.size,
        handling=Handling(workers=given.workers, ray=given.ray),
        overwrite=given.overwrite,
        resume=given.resume,
    )
    for source, target in written.items():
        print(f"{name_of(source)} -> {target}")
    reasons = list(failed.values())
    for line in shown(reasons, given.target / NAME) if written or len(reasons) > 1 else []:
        print(f"skipped {line}", file=sys.stderr)  # of the only one, the error says it
    if not written:
        raise DataError(reasons[0] if len(reasons) == 1 else f"none of {len(reasons)} could be transcoded, see above")
    if failed:
        raise SystemExit(1)
