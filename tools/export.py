#!/usr/bin/env python
"""Export a trained stream for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from coviar_mocrop.cli import add_set_argument, parser, run
from coviar_mocrop.files import require_writable
from coviar_mocrop.inference.export import FORMATS, export_stream

EXAMPLES = """\
  python tools/export.py --checkpoint runs/demo/mv/best.pt --output exported
  python tools/export.py --checkpoint best.pt --output exported --format safetensors torch_export onnx
  python tools/export.py --checkpoint best.pt --output exported --format onnx --set setting=efficiency
"""


def main() -> None:
    """Parse, export, say what was written."""
    arguments = parser(
        "Write a stream as safetensors, torch.export program (.pt2) or ONNX, with a JSON card beside it: stream,\n"
        "classes, input, scaling, settings, GFLOPs, parameters, checksum, versions. Each file is read back: weights\n"
        "are compared by checksum, programs by their logits. The .safetensors goes wherever a checkpoint goes. ONNX\n"
        "needs pip install -e '.[export]'.",
        EXAMPLES,
    )
    arguments.add_argument("--checkpoint", required=True, metavar="FILE", help="best.pt of a run, or .safetensors")
    arguments.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write to")
    arguments.add_argument(
        "--format", nargs="+", choices=FORMATS, default=["safetensors"], help="what to write (default: safetensors)"
    )
    arguments.add_argument(
        "--tolerance",
        type=_tolerance,
        default=1e-4,
        help="largest difference of logits allowed, relative to the largest logit (default: 1e-4)",
    )
    arguments.add_argument("--overwrite", action="store_true", help="replace another stream's export in the folder")
    add_set_argument(arguments)
    given = arguments.parse_args()
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


if __name__ == "__main__":
    run(main)
