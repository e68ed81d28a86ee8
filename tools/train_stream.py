#!/usr/bin/env python
"""Train one stream."""

from __future__ import annotations

from coviar_mocrop.cli import add_set_argument, parser, run
from coviar_mocrop.config import load_config
from coviar_mocrop.engine.train import train

EXAMPLES = """\
  python tools/train_stream.py --config configs/demo/iframe.yaml
  python tools/train_stream.py --config configs/ucf101/mv.yaml --set setting=efficiency data.root=/data/ucf101
  python tools/train_stream.py --config configs/ucf101/mv.yaml --output runs/ucf101/mv --resume
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
    given = arguments.parse_args()
    overrides = [*given.set, *([f"output={given.output}"] if given.output else [])]
    best = train(load_config(given.config, overrides), resume=given.resume, overwrite=given.overwrite)
    print(f"wrote {best}; next: python tools/test_stream.py --checkpoint {best} --scores {best.parent}/scores.npz")


if __name__ == "__main__":
    run(main)
