"""Export the streams of a run for other programs, into one folder.

Writes STREAM.onnx and STREAM.int8.onnx, networks that take windows as they are read (8 bits) and return logits, and
card.json, which says how videos are sampled, cropped and fused. coviar predict --onnx and coviar watch --onnx run the
folder without PyTorch. Other formats: safetensors (goes wherever a checkpoint goes) and torch_export (.pt2).

Every file is read back and checked: weights by their checksum, programs by their logits. int8 is calibrated on clips of
the validation list. The card holds its accuracy and that of fp32. ONNX needs the packages of the extra export (in a
clone: pip install -e '.[export]').
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from coviar_mocrop.cli import add_set_argument
from coviar_mocrop.files import require_writable

EXAMPLES = """\
  coviar export --checkpoints runs/mine --output exported
  coviar export --checkpoints runs/mine --output exported --format onnx --set setting=efficiency
  coviar export --checkpoints best.pt --output exported --format safetensors torch_export
  coviar predict clip.mp4 --onnx exported --precision int8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--checkpoints", nargs="+", required=True, metavar="FILE", help="folder of a run, or best.pt of each stream"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--format",
        nargs="+",
        choices=("onnx", "int8", "safetensors", "torch_export"),
        help="formats to write (default: onnx, and int8 if the run has a validation list)",
    )
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        default=1e-4,
        metavar="SHARE",
        help="largest difference of the logits allowed in fp32, as a share of the largest logit (default: 1e-4)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the export of other streams in the folder")
    add_set_argument(parser)


def main(given: argparse.Namespace) -> None:
    """Export, and say what was written."""
    from coviar_mocrop.inference.export import export_run

    require_writable(given.output, folder=True)
    card = export_run(
        given.checkpoints, given.output, given.format, given.set, tolerance=given.tolerance, overwrite=given.overwrite
    )
    for name, entry in card["streams"].items():
        print(
            f"{name}, {entry['backbone']}, {len(card['classes'])} classes: {entry['parameters']} parameters, "
            f"{entry['gflops_per_frame']:.3f} GFLOPs per frame at {entry['input']['shape'][-1]} pixels"
        )
        for file in entry["files"].values():
            share = file.get("relative_difference")  # earlier exports had another figure
            differs = "" if share is None else f", logits differ by at most {share:.2g} of the largest"
            print(f"  {given.output / file['name']}: {file['bytes'] / 1e6:.1f} MB{differs}")
    print(f"wrote {given.output / 'card.json'}")
    if card["accuracy"]:
        print(_accuracy_table(card["accuracy"]))
    if "onnx" in next(iter(card["streams"].values()))["files"]:
        command = ["coviar", "predict", "VIDEO", *(["--transcode"] if card["videos"] else []), "--onnx", given.output]
        print(f"\nnext: {shlex.join(map(str, command))}")


def _accuracy_table(accuracy: dict[str, Any]) -> str:
    from coviar_mocrop.viz.tables import markdown_table

    top1 = accuracy["top1"]
    rows = [[name, *(f"{100 * top1[precision][name]:.1f}" for precision in top1)] for name in top1["fp32"]]
    title = f"top-1 on {accuracy['clips']} clips of the {accuracy['list']} list, %:"
    fitted = ", ".join(accuracy.get("fitted", ()))
    note = f"\n{fitted}: fitted to these clips, so other clips may give other accuracies" if fitted else ""
    return f"\n{title}\n{markdown_table([['stream', *top1], *rows])}{note}"


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of at least 0")
    return value
