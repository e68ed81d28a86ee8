#!/usr/bin/env python
"""Compute the MoCrop boxes of a data set ahead of training."""

from __future__ import annotations

import sys

from coviar_mocrop.cli import add_set_argument, parser, run, shard
from coviar_mocrop.clips.loading import Part
from coviar_mocrop.config import load_config
from coviar_mocrop.errors import ConfigError, DataError
from coviar_mocrop.inference.extract import extract_boxes, share_of_process

EXAMPLES = """\
  python tools/extract_boxes.py --config configs/ucf101/mv.yaml
  python tools/extract_boxes.py --config configs/ucf101/mv.yaml --set mocrop.area_ratio=0.5 data.on_error=skip
  python tools/extract_boxes.py --config configs/ucf101/mv.yaml --shard 2/8
  torchrun --nproc-per-node 8 tools/extract_boxes.py --config configs/ucf101/mv.yaml --set data.workers=1
"""


def main() -> None:
    """Parse, compute, say what came of it."""
    arguments = parser(
        "Compute the MoCrop boxes of a data set's lists and keep them in data.cache, where training finds them.\n\n"
        "What is there already is not computed again, so it can be stopped and started at will. The work is split\n"
        "by --shard (any number of processes, machines, times) or by torchrun; the boxes are the same either way.",
        EXAMPLES,
    )
    arguments.add_argument("--config", required=True, metavar="FILE", help="YAML settings, see configs/")
    add_set_argument(arguments)
    arguments.add_argument("--part", choices=("train", "test", "both"), default="both", help="lists (default: both)")
    arguments.add_argument("--shard", type=shard, metavar="K/N", help="the K-th of N parts of the work, 1/N to N/N")
    given = arguments.parse_args()
    config = load_config(given.config, given.set)
    share = share_of_process()
    if given.shard is not None:
        if share[1] > 1:
            raise ConfigError("--shard: torchrun splits the work already; give one of the two")
        share = given.shard
    first, count = share
    parts: list[Part] = ["train", "test"] if given.part == "both" else [given.part]
    done = extract_boxes(config, parts, share, progress=given.shard is not None or first == 0)
    where = f" (part {first + 1} of {count})" if count > 1 else ""
    for error in done.errors.values():
        print(error, file=sys.stderr)
    print(
        f"{done.clips} clips{where}: {done.computed} boxes computed, "
        f"{done.clips - done.computed - len(done.errors)} known before, {len(done.errors)} without a box"
    )
    if done.errors and config.data.on_error == "raise":
        raise DataError(
            f"{len(done.errors)} of {done.clips} clips{where} have no box, see above; repair or transcode them, "
            "or leave them out with --set data.on_error=skip"
        )


if __name__ == "__main__":
    run(main)
