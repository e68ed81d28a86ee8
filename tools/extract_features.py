#!/usr/bin/env python
"""Compute the CLIP stream's features of a data set ahead of training."""

from __future__ import annotations

import os

from coviar_mocrop.cli import add_set_argument, parser, run, shard
from coviar_mocrop.clips.features import FeatureDataset
from coviar_mocrop.clips.loading import Part, open_clips
from coviar_mocrop.config import load_config
from coviar_mocrop.distributed import Group
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.inference.extract import share_of_process

EXAMPLES = """\
  python tools/extract_features.py --config configs/ucf101/clip.yaml
  python tools/extract_features.py --config configs/ucf101/clip.yaml --set data.workers=8 data.on_error=skip
  python tools/extract_features.py --config configs/ucf101/clip.yaml --shard 2/8
  torchrun --nproc-per-node 8 tools/extract_features.py --config configs/ucf101/clip.yaml --set data.workers=1
"""


def main() -> None:
    """Parse, compute, say what came of it."""
    arguments = parser(
        "Run the CLIP stream's frozen networks over a data set's lists and keep the features in data.cache, where\n"
        "training and testing find them.\n\n"
        "What is there already is not computed again, so it can be stopped and started at will. The work is split by\n"
        "--shard (any number of processes, machines, times) or by torchrun; the features are the same either way.",
        EXAMPLES,
    )
    arguments.add_argument(
        "--config", required=True, metavar="FILE", help="YAML settings of a clip or zero_shot stream"
    )
    add_set_argument(arguments)
    arguments.add_argument("--part", choices=("train", "test", "both"), default="both", help="lists (default: both)")
    arguments.add_argument("--shard", type=shard, metavar="K/N", help="the K-th of N parts of the work, 1/N to N/N")
    given = arguments.parse_args()
    config = load_config(given.config, given.set)
    number, count = share_of_process()
    if given.shard is not None:
        if count > 1:
            raise ConfigError("--shard: torchrun splits the work already; give one of the two")
        number, count = given.shard
    both: tuple[Part, ...] = ("train", "test") if config.stream == "clip" else ("test",)
    parts: tuple[Part, ...] = both if given.part == "both" else (given.part,)
    # of torchrun's processes the first shows a bar, and each takes a GPU of its own
    me = Group(rank=0 if given.shard else number, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    where = f", part {number + 1} of {count}" if count > 1 else ""
    for part in parts:
        clips, skipped = open_clips(config, part, me, shard=(number, count))
        if not isinstance(clips, FeatureDataset):
            raise ConfigError(f"{given.config}: the {config.stream} stream has no features; clip and zero_shot have")
        print(
            f"{part} list{where}: {len(clips)} clips with features, {clips.computed} of them computed now, "
            f"{len(skipped.reasons)} skipped"
        )


if __name__ == "__main__":
    run(main)
