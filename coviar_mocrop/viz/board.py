"""Fused results in TensorBoard: one run per setting, the same tags in each, so that they overlay."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from coviar_mocrop.fusion import Accuracy
from coviar_mocrop.viz.figures import accuracy_compute_figure, confusion_figure


def log_setting(
    folder: str | os.PathLike[str],
    setting: str,
    entry: Mapping[str, Any],
    accuracies: Mapping[str, Accuracy],
    classes: list[str],
    cumulative: list[tuple[float, float]],
) -> None:
    """Write the run of one setting, replacing an older one.

    Scalars: ``top1/<stream>``, ``gflops_per_frame/<stream>``, ``gflops_per_clip/<stream>``, ``ms_per_clip/<stream>``
    for every stream and ``fused``; and ``top1_against_mflops``, whose step axis is MFLOPs per clip, one point for
    each stream that is added to the fusion.

    Args:
        folder: log directory; the run is ``folder/setting``.
        setting: name of the run.
        entry: of ``results.json``.
        accuracies: by stream, and ``fused``.
        classes: names.
        cumulative: (GFLOPs per clip, top-1) after the first stream, the second, ...
    """
    run = Path(folder) / setting
    shutil.rmtree(run, ignore_errors=True)
    rows = {**entry["streams"], "fused": entry["fused"]}
    with SummaryWriter(str(run)) as board:
        for name, row in rows.items():
            for what in ("top1", "gflops_per_frame", "gflops_per_clip", "ms_per_clip"):
                board.add_scalar(f"{what}/{name}", row[what], 0)
        for gflops, top1 in cumulative:
            board.add_scalar("top1_against_mflops", top1, round(1e3 * gflops))
        for name, accuracy in accuracies.items():
            title = f"{name}, {setting}: top-1 {accuracy.top1:.1%}"
            board.add_figure(f"confusion/{name}", confusion_figure(accuracy.confusion, classes, title))
        first = next(iter(entry["streams"].values()))
        chosen = {
            "setting": setting,
            "input_size": first["size"],
            "segments": first["segments"],
            "crops": first["crops"],
            "streams": "+".join(entry["streams"]),
            "weights": ":".join(f"{weight:g}" for weight in entry["fused"]["weights"].values()),
        }
        metrics = {f"{what}/fused": entry["fused"][what] for what in ("top1", "gflops_per_frame", "gflops_per_clip")}
        writer = board._get_file_writer()  # add_hparams() would open a second run for the same numbers
        for summary in hparams(chosen, metrics):
            writer.add_summary(summary)


def log_overview(folder: str | os.PathLike[str], results: Mapping[str, Any], table: str) -> None:
    """Write the run ``overview``: accuracy against GFLOPs over all settings, and the table."""
    run = Path(folder) / "overview"
    shutil.rmtree(run, ignore_errors=True)
    with SummaryWriter(str(run)) as board:
        board.add_figure("accuracy_against_gflops", accuracy_compute_figure(results["settings"]))
        board.add_text("results", table)
