"""Export a trained stream for other programs, as safetensors, torch.export program or ONNX.

Writes STREAM.safetensors, STREAM.pt2 or STREAM.onnx, and STREAM.json, a card that describes the stream: classes, input,
scaling, settings, GFLOPs, parameters, checksum and versions. Each file is read back and checked: weights by their
checksum, programs by their logits. The .safetensors file goes wherever a checkpoint goes. ONNX needs the packages of
pip install 'coviar_mocrop[export]'.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from coviar_mocrop.cli import add_set_argument
from coviar_mocrop.files import require_writable

EXAMPLES = """\
  coviar export --checkpoint runs/demo/mv/best.pt --output exported
  coviar export --checkpoint best.pt --output exported --format safetensors torch_export onnx
  coviar export --checkpoint best.pt --output exported --format onnx --set setting=efficiency
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="best.pt of a run, or .safetensors")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--format",
        nargs="+",
        choices=("safetensors", "torch_export", "onnx"),
        default=["safetensors"],
        help="formats to write (default: safetensors)",
    )
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        default=1e-4,
        metavar="SHARE",
        help="largest difference of the logits allowed, as a share of the largest logit (default: 1e-4)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace another stream's export in the folder")
    add_set_argument(parser)


def main(given: argparse.Namespace) -> None:
    """Export, and say what was written."""
    from coviar_mocrop.inference.export import export_stream

    require_writable(given.output, folder=True)
    card = export_stream(
        given.checkpoint, given.output, given.format, given.set, tolerance=given.tolerance, overwrite=given.overwrite
    )
    print(
        f"{card['stream']}, {card['backbone']}, {len(card['classes'])} classes: {card['parameters']} parameters, "
        f"{card['gflops_per_frame']:.3f} GFLOPs per frame at {card['input']['size']} pixels"
    )
    for kind in given.format:
        file = card["files"][kind]
        shape, difference = " x ".join(map(str, file["input"])), file["max_abs_difference"]
        print(f"wrote {given.output / file['name']}: input {shape}, largest difference {difference:.2g}")
    print(f"wrote {given.output / card['stream']}.json")


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of at least 0")
    return value
