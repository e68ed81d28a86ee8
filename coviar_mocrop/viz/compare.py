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
from coviar_mocrop.viz.board import log_overview, log_setting
from coviar_mocrop.viz.figures import accuracy_compute_figure, confusion_figure
from coviar_mocrop.viz.results import merge_results, results_table, setting_results

STREAM_ORDER = ("iframe", "mv", "residual", "clip")


def compare(
    streams: Mapping[str, Scores],
    output: str | os.PathLike[str],
    *,
    weights: Mapping[str, float] | None = None,
    setting: str | None = None,
) -> dict[str, Any]:
    """Fuse, measure, and write everything there is to look at.

    Writes to ``output``: ``results.json`` (settings already there stay), ``scores/fused_<setting>.npz``,
    ``per_class_<setting>.csv``, ``confusion_<setting>.png``, ``accuracy_against_gflops.png`` and one TensorBoard
    run per setting.

    Args:
        streams: scores by stream, of one setting.
        output: folder.
        weights: of the fusion, see :func:`~coviar_mocrop.fusion.fuse`.
        setting: name of the run; None: the one the score files name.

    Returns:
        The content of ``results.json``.

    Raises:
        ScoreError: the score files do not belong together.
    """
    ordered = [*(name for name in STREAM_ORDER if name in streams), *sorted(streams.keys() - set(STREAM_ORDER))]
    streams = {name: streams[name] for name in ordered}
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
    _save(accuracy_compute_figure(results["settings"]), folder / "accuracy_against_gflops.png")
    log_setting(folder, setting, entry, accuracies, classes, _as_streams_join(streams, entry))
    log_overview(folder, results, results_table(results))
    return results


def _common_setting(streams: Mapping[str, Scores]) -> str:
    settings = {name: str(scores.settings.get("setting", "unnamed")) for name, scores in streams.items()}
    if len(set(settings.values())) > 1:
        told = ", ".join(f"{name} is {setting}" for name, setting in settings.items())
        raise ScoreError(f"the score files are of different settings ({told}); name the run with --setting")
    return next(iter(settings.values()))


def _as_streams_join(streams: Mapping[str, Scores], entry: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(GFLOPs per clip, top-1) of the first stream, the first two, ..."""
    points, gflops, names = [], 0.0, list(streams)
    weights = entry["fused"]["weights"]
    for count, name in enumerate(names, 1):
        gflops += entry["streams"][name]["gflops_per_clip"]
        chosen = {key: streams[key] for key in names[:count]}
        if any(weights[key] for key in chosen):
            points.append((gflops, measure(fuse(chosen, {key: weights[key] for key in chosen})).top1))
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
