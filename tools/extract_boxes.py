#!/usr/bin/env python
"""Compute the MoCrop boxes of a data set ahead of training."""

from __future__ import annotations

import sys

from coviar_mocrop.cli import add_set_argument, add_shard_argument, chosen_shard, is_main_process, parser, run
from coviar_mocrop.clips.boxes import extract_boxes
from coviar_mocrop.clips.loading import PARTS, require_shared
from coviar_mocrop.config import load_configs
from coviar_mocrop.errors import DataError
from coviar_mocrop.files import require_writable

EXAMPLES = """\
  python tools/extract_boxes.py --config configs/ucf101.yaml
  python tools/extract_boxes.py --config configs/ucf101.yaml --set mocrop.area_ratio=0.5 data.on_error=skip
  python tools/extract_boxes.py --config configs/ucf101.yaml --shard 2/8
  torchrun --nproc-per-node 8 tools/extract_boxes.py --config configs/ucf101.yaml --set data.workers=1
"""


def main() -> None:
    """Parse the arguments, compute the boxes, print a summary."""
    arguments = parser(
        "Compute the MoCrop boxes of a data set's lists and keep them in data.cache, where training finds them.\n\n"
        "Boxes that are there already are not computed again, so the command can be stopped and started again.\n"
        "The work is split by --shard (any number of processes, machines, times) or by torchrun. The boxes do not\n"
        "depend on how it is split.",
        EXAMPLES,
    )
    arguments.add_argument("--config", required=True, metavar="FILE", help="YAML settings, see configs/")
    arguments.add_argument(
        "--streams", nargs="+", metavar="NAME", help="runs of the file (default: those of iframe, mv and residual)"
    )
    add_set_argument(arguments)
    arguments.add_argument("--part", choices=PARTS, nargs="+", help="lists (default: all that the settings name)")
    add_shard_argument(arguments)
    given = arguments.parse_args()
    configs = load_configs(given.config, given.streams, given.set)
    require_shared(configs)  # all streams of a clip share its box
    config = next(iter(configs.values()))
    require_writable(config.data.cache, folder=True)
    number, count = shard = chosen_shard(given.shard)
    boxes, errors, computed = extract_boxes(config, given.part or (), shard, progress=is_main_process())
    where = f" (shard {number + 1} of {count})" if count > 1 else ""
    clips = len(boxes) + len(errors)
    for error in errors.values():
        print(error, file=sys.stderr)
    print(
        f"{clips} clips{where}: {computed} boxes computed, {len(boxes) - computed} found in the cache, "
        f"{len(errors)} clips without a box"
    )
    if errors and config.data.on_error == "raise":
        raise DataError(
            f"{len(errors)} of {clips} clips{where} have no box, see above; repair or transcode them, "
            "or leave them out with --set data.on_error=skip"
        )


if __name__ == "__main__":
    run(main)
