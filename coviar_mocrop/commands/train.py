"""Train one stream, or several together.

Several streams are trained from one decode of each clip, each with its own network, optimizer and schedule. The
weights are the same as if each stream were trained alone.

Writes best.pt, last.pt, settings.yaml, run.json, metrics.jsonl, metrics.csv and TensorBoard files. Each stream is
written to a folder of its name in 'output' of the settings, or in --output. With --output and one stream, it is
written to that folder itself. So is what a file without 'streams' describes.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from coviar_mocrop.cli import add_config_argument, add_set_argument
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.torchrun import is_main_process

EXAMPLES = """\
  coviar train --config demo
  coviar train --config ucf101 --streams mv --set setting=efficiency data.root=/data/ucf101
  coviar train --config ucf101 --streams mv residual --set streams.mv.train.lr=0.005
  coviar train --config ucf101 --output runs/ucf101 --resume
  coviar train --config my_settings.yaml --dry-run
  torchrun --nproc-per-node 4 -m coviar_mocrop train --config ucf101 --streams mv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_config_argument(parser)
    parser.add_argument(
        "--streams", nargs="+", metavar="NAME", help="runs of the file to train (default: iframe mv residual)"
    )
    add_set_argument(parser)
    parser.add_argument("--output", metavar="DIR", help="output folder (default: 'output' of the settings)")
    parser.add_argument("--resume", action="store_true", help="continue from last.pt if there is one")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in the output folder")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="take one step and validate one batch (of frozen networks: compute the features); shapes, parameters, "
        "GFLOPs, memory and time; writes only caches",
    )


def main(given: argparse.Namespace) -> None:
    """Train, and say where the result is."""
    from coviar_mocrop.config import load_configs
    from coviar_mocrop.inference.stored_fusion import learn_from_held_out
    from coviar_mocrop.streams.base import stream_names
    from coviar_mocrop.training.dry_run import dry_run
    from coviar_mocrop.training.fitting import train_streams
    from coviar_mocrop.viz.show import log_pictures

    if given.resume and given.overwrite:
        raise ConfigError("--resume and --overwrite: continue the run, or replace it; give one of the two")
    configs = load_configs(given.config, given.streams, given.set, output=given.output)
    if given.dry_run:
        print("\n".join(dry_run(configs, again=given.resume or given.overwrite)))
        return
    best = train_streams(configs, resume=given.resume, overwrite=given.overwrite, draw=log_pictures)
    if is_main_process():
        print(f"wrote {' '.join(map(str, best.values()))}")
        files = list(best.values())
        together = files[0].parent.parent
        folder = given.output or together
        named = (Path(folder, name, "best.pt") for name in stream_names())
        beside = {file for file in named if file.is_file()}  # those that were trained before, too
        runs = [folder] if len(beside) > 1 and beside.issuperset(files) else files
        if learned := learn_from_held_out(files):
            print(f"{learned.report}\nwrote {together / 'fusion.json'}, which coviar predict uses")
        if len(files) > 1 or next(iter(configs.values())).data.test_list:
            command = ["coviar", "fuse", "--checkpoints", *runs, "--output", f"{folder}/fused"]
            print(f"next: {shlex.join(map(str, command))}")
