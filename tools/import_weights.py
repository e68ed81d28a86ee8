#!/usr/bin/env python
"""Turn other people's weights into a checkpoint."""

from __future__ import annotations

from pathlib import Path

from coviar_mocrop.cli import add_set_argument, parser, run
from coviar_mocrop.config import load_config
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.files import require_writable
from coviar_mocrop.inference.import_weights import inspect_weights

EXAMPLES = """\
  python tools/import_weights.py ucf101_mv_model_best.pth.tar --config configs/ucf101.yaml \\
    --streams mv --set setting=baseline --output runs/coviar/mv/best.pt
  python tools/import_weights.py Res50_ucf101_best.pth.tar --config configs/ucf101.yaml \\
    --streams iframe --set model.backbone=resnet50 setting=efficiency input.test_segments=8 --output runs/theirs/best.pt
  python tools/import_weights.py weights.safetensors --config configs/ucf101.yaml --streams mv --output best.pt \\
    --ignore ema.
"""


def main() -> None:
    """Parse, compare, report, write."""
    arguments = parser(
        "Turn a file of weights into a checkpoint for tools/test_stream.py, fuse.py, predict.py and export.py.\n\n"
        "Known layouts: the original CoViAR code, the MoCrop authors' code, torchvision, checkpoints of this project;\n"
        "saved by PyTorch (old formats too) or as safetensors. The settings say which stream, backbone and classes\n"
        "it is of; class names stand in the order of its outputs. It must fit exactly: every entry that is missing,\n"
        "left over or of another shape is printed. To fine-tune in place of testing, set model.weights=FILE in\n"
        "tools/train_stream.py; there the classifier may be of other classes. Nothing in the file is executed.",
        EXAMPLES,
    )
    arguments.add_argument("input", metavar="FILE", help="weights (.pth, .pth.tar, .pt, .safetensors)")
    arguments.add_argument("--config", required=True, metavar="FILE", help="YAML settings of the stream, see configs/")
    arguments.add_argument("--streams", metavar="NAME", help="run of the settings file, such as mv")
    add_set_argument(arguments)
    arguments.add_argument("--output", required=True, metavar="FILE", help="checkpoint to write, such as best.pt")
    arguments.add_argument("--overwrite", action="store_true", help="replace the output if it is there already")
    arguments.add_argument(
        "--ignore", nargs="+", default=[], metavar="PREFIX", help="pass over entries whose names start so"
    )
    arguments.add_argument(
        "--residual-order",
        choices=("bgr", "rgb"),
        default="bgr",
        help="colours a residual network in CoViAR's layout was trained on (default: bgr, as the original code reads)",
    )
    given = arguments.parse_args()
    if Path(given.output).suffix not in (".pt", ".pth"):  # others are taken for other kinds of files
        raise ConfigError(f"--output {given.output}: a checkpoint ends in .pt; choose another name")
    require_writable(given.output)
    config = load_config(given.config, given.set, given.streams)
    weights = inspect_weights(given.input, config, ignore=given.ignore, residual_order=given.residual_order)
    print(weights.report(), flush=True)
    weights.save(given.output, overwrite=given.overwrite)
    print(f"wrote {given.output}; next: python tools/test_stream.py --checkpoint {given.output} --scores scores.npz")


if __name__ == "__main__":
    run(main)
