"""Compute the MoCrop boxes of a data set ahead of training.

The boxes of all clips in the data set's lists are kept in data.cache, where training finds them. Boxes that are there
already are not computed again, so the command can be stopped and started again. data.workers processes work, or with
--ray a cluster. The boxes do not depend on that. Clips without a box are listed in boxes/failed.csv of data.cache.
"""

from __future__ import annotations

import argparse
import sys

from coviar_mocrop.cli import add_config_argument, add_part_argument, add_set_argument
from coviar_mocrop.commands.dataset_options import add_ray
from coviar_mocrop.errors import ConfigError, DataError
from coviar_mocrop.failed import shown
from coviar_mocrop.files import require_writable
from coviar_mocrop.torchrun import torchrun_share

EXAMPLES = """\
  coviar prepare boxes --config ucf101 --set data.workers=8
  coviar prepare boxes --config ucf101 --set mocrop.area_ratio=0.5 data.on_error=skip
  coviar prepare boxes --config ucf101 --ray auto
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_config_argument(parser)
    parser.add_argument(
        "--streams", nargs="+", metavar="NAME", help="runs of the settings (default: those of iframe, mv and residual)"
    )
    add_set_argument(parser)
    add_part_argument(parser)
    add_ray(parser)


def main(given: argparse.Namespace) -> None:
    """Compute the boxes, and print how many."""
    from coviar_mocrop.clips.boxes import extract_boxes
    from coviar_mocrop.config import load_configs
    from coviar_mocrop.shared_settings import require_shared

    if torchrun_share()[1] > 1:
        raise ConfigError("does not run under torchrun; use data.workers for more processes, or --ray for a cluster")
    configs = load_configs(given.config, given.streams, given.set)
    require_shared(configs)  # all streams of a clip share its box
    config = next(iter(configs.values()))
    require_writable(config.data.cache, folder=True)
    boxes, errors, computed, failed = extract_boxes(config, given.part or (), ray=given.ray)
    clips = len(boxes) + len(errors)
    for line in shown(errors.values(), failed):
        print(line, file=sys.stderr)
    where = "cache" if config.data.shards is None else "cache or the shards"
    print(
        f"{clips} clips: {computed} boxes computed, {len(boxes) - computed} found in the {where}, "
        f"{len(errors)} clips without a box"
    )
    if errors and config.data.on_error == "raise":
        raise DataError(
            f"{len(errors)} of {clips} clips have no box, see above and {failed}; repair or transcode them, "
            "or leave them out with --set data.on_error=skip"
        )
