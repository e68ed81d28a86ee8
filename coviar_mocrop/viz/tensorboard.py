"""TensorBoard runs that are written at once and replace older ones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams


def new_run(folder: str | os.PathLike[str], name: str) -> SummaryWriter:
    """Open the run ``folder/name``, replacing an older one."""
    run = Path(folder, name)
    shutil.rmtree(run, ignore_errors=True)
    return SummaryWriter(str(run))


def add_hparams(writer: SummaryWriter, settings: Mapping[str, str | int], metrics: Mapping[str, float]) -> None:
    """Write a row for TensorBoard's table of settings and metrics.

    ``SummaryWriter.add_hparams`` would open a second run for the same numbers.
    """
    for summary in hparams(dict(settings), dict(metrics)):
        writer._get_file_writer().add_summary(summary)
