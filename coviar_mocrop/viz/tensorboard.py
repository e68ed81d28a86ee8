"""TensorBoard runs with results, which replace older runs of the same name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # figures are drawn without torch, too
    from torch.utils.tensorboard import SummaryWriter


_SUFFIX = ".results"
"""Suffix of event files written here. Event files of a training in the same folder lack it, and are kept."""


def new_run(folder: str | os.PathLike[str], name: str) -> SummaryWriter:
    """Open a writer for the run ``folder/name``, and delete event files of an older one. Other files are kept."""
    from torch.utils.tensorboard import SummaryWriter

    run = Path(folder, name)
    has_training = any(run.glob("*.pt"))  # otherwise, files without the suffix are of an older version
    for old in run.glob(f"events.out.tfevents.*{_SUFFIX if has_training else ''}"):
        old.unlink()
    return SummaryWriter(str(run), filename_suffix=_SUFFIX)


def add_hparams(writer: SummaryWriter, settings: Mapping[str, str | int], metrics: Mapping[str, float]) -> None:
    """Write a row of settings and metrics for TensorBoard's HPARAMS table.

    Unlike ``SummaryWriter.add_hparams``, this does not open a second run for the same numbers.
    """
    from torch.utils.tensorboard.summary import hparams

    for summary in hparams(dict(settings), dict(metrics)):
        writer._get_file_writer().add_summary(summary)
