"""TensorBoard runs that are written at once and replace older ones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # figures are drawn without torch, too
    from torch.utils.tensorboard import SummaryWriter


def new_run(folder: str | os.PathLike[str], name: str) -> SummaryWriter:
    """Open the run ``folder/name``, replacing an older one."""
    from torch.utils.tensorboard import SummaryWriter

    run = Path(folder, name)
    shutil.rmtree(run, ignore_errors=True)
    return SummaryWriter(str(run))


def add_hparams(writer: SummaryWriter, settings: Mapping[str, str | int], metrics: Mapping[str, float]) -> None:
    """Write a row for TensorBoard's table of settings and metrics.

    ``SummaryWriter.add_hparams`` would open a second run for the same numbers.
    """
    from torch.utils.tensorboard.summary import hparams

    for summary in hparams(dict(settings), dict(metrics)):
        writer._get_file_writer().add_summary(summary)
