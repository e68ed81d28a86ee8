"""Pack a data set into shards, for shared disks, web servers and object stores.

A shard is a tar file of some hundred megabytes that holds videos as they are, each with its label, its MoCrop box and
the index of its packets. Training and testing read the videos where they lie (data.shards), with the same results as
from files, bit for bit. The webdataset library reads shards, too. Shards that are there already are kept, so the
command can be stopped and started again. The shards do not depend on the number of workers.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from coviar_mocrop.cli import add_config_argument, add_part_argument, add_set_argument
from coviar_mocrop.commands.dataset_options import add_ray, whole_number
from coviar_mocrop.failed import shown
from coviar_mocrop.files import require_writable

EXAMPLES = """\
  coviar prepare shards --config ucf101 --output shards/ucf101
  coviar prepare shards --config ucf101 --output shards/ucf101 --part train --clips 500 --set data.workers=8

  # then, on any machine that reaches them
  coviar train --config ucf101 --set data.shards=shards/ucf101
  coviar train --config ucf101 --set data.shards=s3://bucket/ucf101
"""
_MOST = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_config_argument(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write the shards to")
    parser.add_argument(
        "--clips",
        type=whole_number(1, _MOST),
        default=1000,
        metavar="N",
        help="clips per shard (default: %(default)s)",
    )
    parser.add_argument("--streams", nargs="+", metavar="NAME", help="runs of the settings (default: as in training)")
    add_set_argument(parser)
    add_part_argument(parser)
    add_ray(parser)


def main(given: argparse.Namespace) -> None:
    """Pack, and print how many."""
    from coviar_mocrop.clips.packing import pack_shards
    from coviar_mocrop.config import load_configs
    from coviar_mocrop.shared_settings import require_shared

    configs = load_configs(given.config, given.streams, given.set)
    require_shared(configs)
    require_writable(given.output, folder=True)
    config = next(iter(configs.values()))
    packed = pack_shards(config, given.output, given.part or (), clips_per_shard=given.clips, ray=given.ray)
    for line in shown(packed.errors.values(), packed.failed):
        print(f"left out {line}", file=sys.stderr)
    there = len(packed.shards) - packed.made
    print(
        f"{packed.clips} clips in {len(packed.shards)} shards, {packed.video_bytes / 1e6:.1f} MB of video"
        f"{f' ({there} shards were there already)' if there else ''}; {packed.left_out} clips left out"
    )
    settings = [*(item for item in given.set if not item.startswith("data.root=")), f"data.shards={given.output}"]
    streams = ["--streams", *given.streams] if given.streams else []
    print("next:\n  " + shlex.join(["coviar", "train", "--config", given.config, *streams, "--set", *settings]))
