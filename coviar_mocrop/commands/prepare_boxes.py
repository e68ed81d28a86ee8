"""Compute the MoCrop boxes of a data set ahead of training.

The boxes of all clips in the data set's lists are kept in data.cache, where training finds them. Boxes that are there
already are not computed again, so the command can be stopped and started again. The work is split by --shard (any
number of processes, machines or times) or by torchrun. The boxes do not depend on how it is split.
"""

from __future__ import annotations

import argparse
import sys

from coviar_mocrop.cli import (
    add_config_argument,
    add_part_argument,
    add_set_argument,
    add_shard_argument,
    chosen_shard,
    is_main_process,
)
from coviar_mocrop.errors import DataError
from coviar_mocrop.files import require_writable

EXAMPLES = """\
  coviar prepare boxes --config ucf101
  coviar prepare boxes --config ucf101 --set mocrop.area_ratio=0.5 data.on_error=skip
  coviar prepare boxes --config ucf101 --shard 2/8
  torchrun --nproc-per-node 8 -m coviar_mocrop prepare boxes --config ucf101 --set data.workers=1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_config_argument(parser)
    parser.add_argument(
        "--streams", nargs="+", metavar="NAME", help="runs of the settings (default: those of iframe, mv and residual)"
    )
    add_set_argument(parser)
    add_part_argument(parser)
    add_shard_argument(parser)


def main(given: argparse.Namespace) -> None:
    """Compute the boxes, and print how many."""
    from coviar_mocrop.clips.boxes import extract_boxes
    from coviar_mocrop.config import load_configs
    from coviar_mocrop.shared_settings import require_shared

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
