"""Compute the features of a CLIP stream's frozen networks ahead of training.

The features of all clips in the data set's lists are kept in data.cache, where training and testing find them.
Features that are there already are not computed again, so the command can be stopped and started again. With torchrun,
each process takes a GPU and its share of the clips; with --ray, a cluster works. The features do not depend on that.
Clips without features are listed in features/failed.csv of data.cache.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coviar_mocrop.cli import add_config_argument, add_part_argument, add_set_argument
from coviar_mocrop.commands.dataset_options import add_ray
from coviar_mocrop.errors import ConfigError, DataError
from coviar_mocrop.failed import write_failed
from coviar_mocrop.files import require_writable
from coviar_mocrop.torchrun import torchrun_share

if TYPE_CHECKING:
    from coviar_mocrop.clips.lists import Part

EXAMPLES = """\
  coviar prepare features --config ucf101
  coviar prepare features --config ucf101 --set data.workers=8 data.on_error=skip
  coviar prepare features --config ucf101 --ray auto
  torchrun --nproc-per-node 8 -m coviar_mocrop prepare features --config ucf101 --set data.workers=1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_config_argument(parser)
    parser.add_argument("--streams", default="clip", metavar="NAME", help="run of the settings (default: %(default)s)")
    add_set_argument(parser)
    add_part_argument(parser)
    add_ray(parser)


def main(given: argparse.Namespace) -> None:
    """Compute the features, and print how many."""
    from coviar_mocrop.clips.lists import PARTS, read_videos
    from coviar_mocrop.clips.loading import open_clips
    from coviar_mocrop.config import load_config
    from coviar_mocrop.datasets.lists import read_classes
    from coviar_mocrop.runtime import Group, choose_runtime
    from coviar_mocrop.streams.base import create_stream

    chosen = load_config(given.config, given.set, given.streams)
    # all clips are tried, whatever is to become of those that fail
    config = chosen.model_copy(update={"data": chosen.data.model_copy(update={"on_error": "skip"})})
    require_writable(config.data.cache, folder=True)
    number, count = torchrun_share()
    if given.ray and count > 1:
        raise ConfigError("--ray: torchrun splits the work already; give one of the two")
    parts: Sequence[Part] = given.part or [part for part in PARTS if getattr(config.data, f"{part}_list")]
    stream = create_stream(config, read_classes(config.data.classes), weights=True)
    # of the processes of torchrun, the first shows a bar, and each takes a GPU of its own
    group = Group(rank=number, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    choose_runtime(config.train, group.local_rank).place(stream.network)
    where = f" (share {number + 1} of {count})" if count > 1 else ""
    total, reasons = 0, dict[str, str]()
    for part in parts:
        if part != "test" and not stream.trainable:
            continue
        clips, skipped = open_clips([stream], read_videos(config.data, part, (number, count)), group, ray=given.ray)
        features = clips.features.get(stream.name)
        if features is None:
            raise ConfigError(f"{given.config}: the {stream.name} stream has no features; clip and zero_shot have")
        print(
            f"{part} list{where}: {len(clips) - len(features.errors)} clips with features, {features.computed} of them "
            f"computed now; {len(skipped.reasons)} clips skipped"
        )
        clips.warn_of_damage(what=f"{part} clips")
        total, reasons = total + len(clips), reasons | skipped.reasons
    failed = write_failed(Path(config.data.cache, "features"), reasons) if count == 1 else None
    if reasons and chosen.data.on_error == "raise":
        raise DataError(
            f"{len(reasons)} of {total} clips{where} have no features, see above{f' and {failed}' if failed else ''}; "
            "repair or transcode them, or leave them out with --set data.on_error=skip"
        )
