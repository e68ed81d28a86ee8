#!/usr/bin/env python
"""Train one stream."""

from __future__ import annotations

from coviar_mocrop.cli import add_set_argument, is_main_process, parser, run
from coviar_mocrop.config import load_config
from coviar_mocrop.training.dry_run import dry_run
from coviar_mocrop.training.trainer import train

EXAMPLES = """\
  python tools/train_stream.py --config configs/demo/iframe.yaml
  python tools/train_stream.py --config configs/ucf101/mv.yaml --set setting=efficiency data.root=/data/ucf101
  python tools/train_stream.py --config configs/ucf101/mv.yaml --output runs/ucf101/mv --resume
  python tools/train_stream.py --config configs/ucf101/mv.yaml --dry-run
  torchrun --nproc-per-node 4 tools/train_stream.py --config configs/ucf101/mv.yaml --set train.sync_bn=true
"""


def main() -> None:
    """Parse, train, say where the result is."""
    arguments = parser(
        "Train one stream (I-frame, motion vectors or residual) on a video list.\n\n"
        "Writes last.pt, best.pt, settings.yaml, metrics.jsonl and TensorBoard files to the output folder.",
        EXAMPLES,
    )
    arguments.add_argument("--config", required=True, metavar="FILE", help="YAML settings, see configs/")
    add_set_argument(arguments)
    arguments.add_argument("--output", metavar="DIR", help="folder of the run (default: 'output' of the settings)")
    arguments.add_argument("--resume", action="store_true", help="continue from last.pt if the output folder has one")
    arguments.add_argument("--overwrite", action="store_true", help="replace the run in the output folder")
    arguments.add_argument(
        "--dry-run",
        action="store_true",
        help="one step and one test batch only: shapes, parameters, GFLOPs, memory, time; nothing is written",
    )
    given = arguments.parse_args()
    overrides = [*given.set, *([f"output={given.output}"] if given.output else [])]
    if given.dry_run:
        print("\n".join(dry_run(load_config(given.config, overrides)).lines))
        return
    best = train(load_config(given.config, overrides), resume=given.resume, overwrite=given.overwrite)
    if is_main_process():
        print(f"wrote {best}; next: python tools/test_stream.py --checkpoint {best} --scores {best.parent}.npz")


if __name__ == "__main__":
    run(main)
