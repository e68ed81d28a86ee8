"""Fuse the streams of one setting and put the result beside those of other settings."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coviar_mocrop.errors import ScoreError
from coviar_mocrop.files import atomic_write
from coviar_mocrop.fusion import Accuracy, fuse, measure
from coviar_mocrop.scores import Scores, save_scores
from coviar_mocrop.viz.result_figures import accuracy_flops_figure, confusion_figure
from coviar_mocrop.viz.results import merge_results, results_table, setting_results
from coviar_mocrop.viz.tensorboard import log_overview, log_setting


def compare(
    streams: Mapping[str, Scores],
    output: str | os.PathLike[str],
    *,
    weights: Mapping[str, float] | None = None,
    setting: str | None = None,
) -> dict[str, Any]:
    """Fuse the streams of one setting, measure their accuracies, and write the results.

    Writes to ``output``: ``results.json`` (settings already there stay), ``scores/fused_<setting>.npz``,
    ``per_class_<setting>.csv``, ``confusion_<setting>.png``, ``accuracy_against_gflops.png`` and one TensorBoard
    run per setting.

    Args:
        streams: scores of one setting by stream. Tables and figures keep their order.
        output: folder of the results.
        weights: fusion weights, see :func:`~coviar_mocrop.fusion.fuse`.
        setting: name of the run; None takes the one in the score files.

    Returns:
        The content of ``results.json``.

    Raises:
        ScoreError: the score files do not belong together.
    """
    fused = fuse(streams, weights)
    setting = setting or _common_setting(streams)
    accuracies = {name: measure(scores) for name, scores in streams.items()} | {"fused": measure(fused)}
    entry = setting_results(streams, accuracies, fused.settings["weights"])
    folder, classes = Path(output), fused.classes.tolist()
    save_scores(folder / "scores" / f"fused_{setting}.npz", fused)
    _write_per_class(folder / f"per_class_{setting}.csv", classes, accuracies)
    title = f"fused, {setting}: top-1 {accuracies['fused'].top1:.1%}"
    _save(confusion_figure(accuracies["fused"].confusion, classes, title), folder / f"confusion_{setting}.png")
    results = merge_results(folder / "results.json", setting, entry)
    _save(accuracy_flops_figure(results["settings"]), folder / "accuracy_against_gflops.png")
    log_setting(folder, setting, entry, accuracies, classes, _cumulative(streams, entry))
    log_overview(folder, results, results_table(results))
    return results


def _common_setting(streams: Mapping[str, Scores]) -> str:
    settings = {name: str(scores.settings.get("setting", "unnamed")) for name, scores in streams.items()}
    if len(set(settings.values())) > 1:
        told = ", ".join(f"{name} is {setting}" for name, setting in settings.items())
        raise ScoreError(f"the score files are of different settings ({told}); name the run with --setting")
    return next(iter(settings.values()))


def _cumulative(streams: Mapping[str, Scores], entry: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(GFLOPs per clip, top-1) of the first stream, the first two, ..."""
    points, gflops, weights = [], 0.0, entry["fused"]["weights"]
    joined: dict[str, Scores] = {}
    for name, scores in streams.items():
        joined[name] = scores
        gflops += entry["streams"][name]["gflops_per_clip"]
        if any(weights[key] for key in joined):
            points.append((gflops, measure(fuse(joined, {key: weights[key] for key in joined})).top1))
    return points


def _write_per_class(path: Path, classes: list[str], accuracies: Mapping[str, Accuracy]) -> None:
    clips = accuracies["fused"].confusion.sum(axis=1)
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "clips", *accuracies])
        for label, name in enumerate(classes):
            shares = [float(accuracy.per_class[label]) for accuracy in accuracies.values()]
            writer.writerow([name, clips[label], *("" if math.isnan(share) else f"{share:.4f}" for share in shares)])


def _save(figure: Any, path: Path) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
