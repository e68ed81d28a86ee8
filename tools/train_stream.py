#!/usr/bin/env python
"""Train one stream, or several together."""

from __future__ import annotations

import shlex
from pathlib import Path

from coviar_mocrop.cli import add_set_argument, is_main_process, parser, run
from coviar_mocrop.config import load_configs
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.inference.show import log_pictures
from coviar_mocrop.inference.stored_fusion import learn_from_held_out
from coviar_mocrop.training.dry_run import dry_run
from coviar_mocrop.training.fitting import train_streams

EXAMPLES = """\
  python tools/train_stream.py --config configs/demo.yaml
  python tools/train_stream.py --config configs/ucf101.yaml --streams mv --set setting=efficiency data.root=/data/ucf101
  python tools/train_stream.py --config configs/ucf101.yaml --streams mv residual --set streams.mv.train.lr=0.005
  python tools/train_stream.py --config configs/ucf101.yaml --output runs/ucf101 --resume
  python tools/train_stream.py --config configs/ucf101.yaml --dry-run
  torchrun --nproc-per-node 4 tools/train_stream.py --config configs/ucf101.yaml --streams mv
"""


def main() -> None:
    """Parse, train, say where the result is."""
    arguments = parser(
        "Train streams on a video list. Several streams are trained from one decode of each clip, each with its own\n"
        "network, optimizer and schedule; the weights are those of training each alone.\n\n"
        "Writes last.pt, best.pt, settings.yaml, run.json, metrics.jsonl, metrics.csv and TensorBoard files: for one\n"
        "stream to the output folder, for several to a folder STREAM in it.",
        EXAMPLES,
    )
    arguments.add_argument("--config", required=True, metavar="FILE", help="YAML settings, see configs/")
    arguments.add_argument(
        "--streams", nargs="+", metavar="NAME", help="runs of the file to train (default: iframe mv residual)"
    )
    add_set_argument(arguments)
    arguments.add_argument("--output", metavar="DIR", help="output folder (default: 'output' of the settings)")
    arguments.add_argument("--resume", action="store_true", help="continue from last.pt where there is one")
    arguments.add_argument("--overwrite", action="store_true", help="replace the run in the output folder")
    arguments.add_argument(
        "--dry-run",
        action="store_true",
        help="one step and one batch of validation only: shapes, parameters, GFLOPs, memory, time; nothing is written "
        "but caches",
    )
    given = arguments.parse_args()
    if given.resume and given.overwrite:
        raise ConfigError("--resume and --overwrite: go on with the run, or replace it; give one of the two")
    configs = load_configs(given.config, given.streams, given.set, output=given.output)
    if given.dry_run:
        print("\n".join(dry_run(configs)))
        return
    best = train_streams(configs, resume=given.resume, overwrite=given.overwrite, draw=log_pictures)
    if is_main_process():
        print(f"wrote {' '.join(map(str, best.values()))}")
        files = list(best.values())
        together = [file.parent.parent for file in files]
        folder = given.output or together[0]
        runs = [folder] if len(files) > 1 and len(set(together)) == 1 else files
        if learned := learn_from_held_out(files):
            print(f"{learned.report}\nwrote {Path(together[0], 'fusion.json')}, which predict.py uses")
        if len(files) > 1 or next(iter(configs.values())).data.test_list:
            command = ["python", "tools/fuse.py", "--checkpoints", *runs, "--output", f"{folder}/fused"]
            print(f"next: {shlex.join(map(str, command))}")


if __name__ == "__main__":
    run(main)
