"""Turn other people's weights into a checkpoint.

Writes a checkpoint for coviar test, fuse, predict and export. Known layouts: the original CoViAR code, the MoCrop
authors' code, torchvision, timm and this project, saved by PyTorch (old formats too) or as safetensors. The settings
say which stream, backbone and classes the weights are of; the class names must be in the order of the outputs. The
weights must fit exactly: every entry that is missing, left over or of another shape is printed. Nothing in the file is
executed.

To fine-tune the weights, no checkpoint is needed: coviar train --set model.weights=FILE. The classes may differ there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from coviar_mocrop.cli import add_config_argument, add_set_argument
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.files import require_writable

EXAMPLES = """\
  coviar import ucf101_mv_model_best.pth.tar --config ucf101 --streams mv --set setting=baseline \\
    --output runs/coviar/mv/best.pt
  coviar import Res50_ucf101_best.pth.tar --config ucf101 --streams iframe \\
    --set model.backbone=resnet50 setting=efficiency input.test_segments=8 --output runs/theirs/best.pt
  coviar import weights.safetensors --config ucf101 --streams mv --output best.pt --ignore ema.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("input", metavar="FILE", help="weights (.pth, .pth.tar, .pt, .safetensors)")
    add_config_argument(parser)
    parser.add_argument("--streams", metavar="NAME", help="run of the settings, such as mv")
    add_set_argument(parser)
    parser.add_argument("--output", required=True, metavar="FILE", help="checkpoint to write, such as best.pt")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument(
        "--ignore", nargs="+", default=[], metavar="PREFIX", help="ignore entries whose names start with a prefix"
    )
    parser.add_argument(
        "--residual-order",
        choices=("bgr", "rgb"),
        default="bgr",
        help="colour order that a residual network in CoViAR's layout was trained on (default: bgr, the order in which "
        "the original code reads)",
    )


def main(given: argparse.Namespace) -> None:
    """Compare, report, write."""
    from coviar_mocrop.config import load_config
    from coviar_mocrop.inference.import_weights import inspect_weights

    if Path(given.output).suffix not in (".pt", ".pth"):  # others are taken for other kinds of files
        raise ConfigError(f"--output {given.output}: a checkpoint ends in .pt; choose another name")
    require_writable(given.output)
    config = load_config(given.config, given.set, given.streams)
    weights = inspect_weights(given.input, config, ignore=given.ignore, residual_order=given.residual_order)
    print(weights.report(), flush=True)
    weights.save(given.output, overwrite=given.overwrite)
    print(f"wrote {given.output}; next: coviar test --checkpoint {given.output} --scores scores.npz")
