"""What predict and watch share: which networks, from checkpoints or from an export."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from coviar_mocrop.card import NAME, read_card
from coviar_mocrop.cli import parse_weights
from coviar_mocrop.errors import ConfigError

if TYPE_CHECKING:
    from coviar_mocrop.inference.predictor import Predictor


def add_networks_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--checkpoints``, ``--onnx`` and ``--precision``."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--checkpoints", nargs="+", metavar="FILE", help="folder of a run, or best.pt of each stream")
    group.add_argument(
        "--onnx", metavar="DIR", help="folder made by coviar export; ONNX Runtime computes, PyTorch is not needed"
    )
    parser.add_argument(
        "--precision", choices=("fp32", "int8"), help="networks of the export to use (default: fp32; only with --onnx)"
    )


def read_classes(given: argparse.Namespace) -> list[str]:
    """The classes of the networks that the options name, without building a network; of an export without PyTorch.

    Raises:
        CheckpointError: the export or the checkpoint cannot be used.
    """
    classes: list[str]
    if given.onnx:
        classes = read_card(Path(given.onnx, NAME))["classes"]
    else:
        from coviar_mocrop.checkpoint import load_checkpoint
        from coviar_mocrop.inference.testing import find_checkpoints

        classes = load_checkpoint(find_checkpoints(given.checkpoints)[0])["classes"]
    return classes


def open_predictor(given: argparse.Namespace) -> Predictor:
    """Load the networks that the options name.

    Raises:
        CoviarMocropError: of whatever kind the options deserve.
    """
    from coviar_mocrop.inference.predictor import Predictor

    if given.precision and not given.onnx:
        raise ConfigError("--precision is for networks of an export (--onnx); for others: --set train.precision=bf16")
    return Predictor(
        given.checkpoints or (),
        given.set,
        parse_weights(given.weights),
        onnx=given.onnx,
        precision=given.precision or "fp32",
        transcode=given.transcode,
    )
