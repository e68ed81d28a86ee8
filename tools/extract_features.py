#!/usr/bin/env python
"""Compute the CLIP stream's features of a data set ahead of training."""

from __future__ import annotations

import os
from collections.abc import Sequence

from coviar_mocrop.cli import add_set_argument, add_shard_argument, chosen_shard, parser, run
from coviar_mocrop.clips.loading import PARTS, Part, open_clips, read_videos
from coviar_mocrop.config import load_config
from coviar_mocrop.datasets.lists import read_classes
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.files import require_writable
from coviar_mocrop.runtime import Group, choose_runtime
from coviar_mocrop.streams.base import create_stream

EXAMPLES = """\
  python tools/extract_features.py --config configs/ucf101.yaml
  python tools/extract_features.py --config configs/ucf101.yaml --set data.workers=8 data.on_error=skip
  python tools/extract_features.py --config configs/ucf101.yaml --shard 2/8
  torchrun --nproc-per-node 8 tools/extract_features.py --config configs/ucf101.yaml --set data.workers=1
"""


def main() -> None:
    """Parse the arguments, compute the features, print a summary."""
    arguments = parser(
        "Run the frozen networks of a CLIP stream over a data set's lists and keep the features in data.cache, where\n"
        "training and testing find them.\n\n"
        "Features that are there already are not computed again, so the command can be stopped and started again.\n"
        "The work is split by --shard (any number of processes, machines, times) or by torchrun. The features do not\n"
        "depend on how it is split.",
        EXAMPLES,
    )
    arguments.add_argument("--config", required=True, metavar="FILE", help="YAML settings, see configs/")
    arguments.add_argument("--streams", default="clip", metavar="NAME", help="run of the file (default: clip)")
    add_set_argument(arguments)
    arguments.add_argument("--part", choices=PARTS, nargs="+", help="lists (default: all that the settings name)")
    add_shard_argument(arguments)
    given = arguments.parse_args()
    config = load_config(given.config, given.set, given.streams)
    require_writable(config.data.cache, folder=True)
    number, count = chosen_shard(given.shard)
    parts: Sequence[Part] = given.part or [part for part in PARTS if getattr(config.data, f"{part}_list")]
    stream = create_stream(config, read_classes(config.data.classes), weights=True)
    # of the processes of torchrun, the first shows a bar, and each takes a GPU of its own
    group = Group(rank=0 if given.shard else number, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    choose_runtime(config.train, group.local_rank).place(stream.network)
    where = f" (shard {number + 1} of {count})" if count > 1 else ""
    for part in parts:
        if part != "test" and not stream.trainable:
            continue
        clips, skipped = open_clips([stream], read_videos(config.data, part, (number, count)), group)
        clips.keep_boxes()
        features = clips.features.get(stream.name)
        if features is None:
            raise ConfigError(f"{given.config}: the {stream.name} stream has no features; clip and zero_shot have")
        print(
            f"{part} list{where}: {len(clips) - len(features.errors)} clips with features, {features.computed} of them "
            f"computed now; {len(skipped.reasons)} clips skipped"
        )
        clips.warn_of_damage(what=f"{part} clips")


if __name__ == "__main__":
    run(main)
