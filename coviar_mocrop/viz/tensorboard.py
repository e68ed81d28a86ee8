"""Fused results in TensorBoard: one run per setting with the same tags in each, so that the runs overlay."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from coviar_mocrop.fusion import Accuracy
from coviar_mocrop.viz.result_figures import accuracy_flops_figure, confusion_figure


def new_run(folder: str | os.PathLike[str], name: str) -> SummaryWriter:
    """Open the TensorBoard run ``folder/name``, replacing an older one."""
    run = Path(folder, name)
    shutil.rmtree(run, ignore_errors=True)
    return SummaryWriter(str(run))


def log_setting(
    folder: str | os.PathLike[str],
    setting: str,
    entry: Mapping[str, Any],
    accuracies: Mapping[str, Accuracy],
    classes: Sequence[str],
    cumulative: Sequence[tuple[float, float]],
) -> None:
    """Write the run of one setting, replacing an older one.

    Scalars: ``top1/<stream>``, ``gflops_per_frame/<stream>``, ``gflops_per_clip/<stream>`` and
    ``ms_per_clip/<stream>`` for every stream and ``fused``; and ``top1_against_mflops``, whose step axis is MFLOPs per
    clip, with one point for each stream that is added to the fusion.

    Args:
        folder: log directory.
        setting: name of the run.
        entry: the setting's entry of ``results.json``.
        accuracies: by stream, and ``fused``.
        classes: names, in the order of the labels.
        cumulative: (GFLOPs per clip, top-1) after the first stream, the second, ...
    """
    with new_run(folder, setting) as writer:
        for name, row in {**entry["streams"], "fused": entry["fused"]}.items():
            for what in ("top1", "gflops_per_frame", "gflops_per_clip", "ms_per_clip"):
                writer.add_scalar(f"{what}/{name}", row[what], 0)
        for gflops, top1 in cumulative:
            writer.add_scalar("top1_against_mflops", top1, round(1e3 * gflops))
        for name, accuracy in accuracies.items():
            title = f"{name}, {setting}: top-1 {accuracy.top1:.1%}"
            writer.add_figure(f"confusion/{name}", confusion_figure(accuracy.confusion, classes, title))
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
        # add_hparams() would open a second run for the same numbers
        for summary in hparams(chosen, metrics):
            writer._get_file_writer().add_summary(summary)


def log_overview(folder: str | os.PathLike[str], results: Mapping[str, Any], table: str) -> None:
    """Write the run ``overview``: accuracy against GFLOPs over all settings, and the table."""
    with new_run(folder, "overview") as writer:
        writer.add_figure("accuracy_against_gflops", accuracy_flops_figure(results["settings"]))
        writer.add_text("results", table)
