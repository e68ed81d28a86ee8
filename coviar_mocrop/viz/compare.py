"""Fuse the streams of one setting, and write the results beside those of other settings."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coviar_mocrop.errors import ScoreError
from coviar_mocrop.files import atomic_write, write_json
from coviar_mocrop.fusion import Accuracy, fuse, measure
from coviar_mocrop.scores import Scores, save_scores
from coviar_mocrop.viz.pictures import save_figure
from coviar_mocrop.viz.result_figures import accuracy_flops_figure, confusion_figure
from coviar_mocrop.viz.results import add_setting, read_results, results_table, setting_results, weights_lines
from coviar_mocrop.viz.tensorboard import add_hparams, new_run

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_TAKEN = ("scores", "overview")
"""Names of folders in the results that cannot be names of settings."""


def compare(
    streams: Mapping[str, Scores],
    output: str | os.PathLike[str],
    *,
    weights: Mapping[str, float] | None = None,
    weights_from: str | None = None,
    setting: str | None = None,
) -> dict[str, Any]:
    """Fuse the streams of one setting, measure their accuracies, and write the results.

    Writes to ``output``: ``results.json`` (other settings in it are kept), ``scores/fused_<setting>.npz``,
    ``per_class_<setting>.csv``, ``confusion_<setting>.png``, ``accuracy_against_gflops.png``, one TensorBoard run per
    setting, and the run ``overview`` with the table. The runs of all settings have the same tags, so that TensorBoard
    overlays them.

    The scalars of a setting's run are ``top1/<stream>``, ``gflops_per_frame/<stream>``, ``gflops_per_clip/<stream>``
    and ``ms_per_clip/<stream>`` for every stream and ``fused``; and ``top1_against_mflops``, whose step axis is MFLOPs
    per clip, with one point for each stream that is added to the fusion.

    Args:
        streams: scores of one setting by stream. Tables and figures keep their order.
        output: folder of the results.
        weights: fusion weights, see :func:`~coviar_mocrop.fusion.fuse`.
        weights_from: description of how the weights were found; None: ``given``, or ``default`` without ``weights``.
        setting: name of the setting in the results; None: the one in the score files.

    Returns:
        The content of ``results.json``.

    Raises:
        ScoreError: the score files do not belong together, ``setting`` cannot be the name of a folder, or an existing
            ``results.json`` does not hold results.
    """
    fused = fuse(streams, weights)
    setting = setting or _common_setting(streams)
    if not re.fullmatch(r"\w[\w.+-]*", setting) or setting in _TAKEN:
        raise ScoreError(f"{setting!r} cannot name a run; choose another --setting, of letters, digits, _ . + and -")
    accuracies = {name: measure(scores) for name, scores in {**streams, "fused": fused}.items()}
    found = weights_from or ("given" if weights else "default")
    entry = setting_results(streams, accuracies, fused.settings["weights"], found)
    folder, classes = Path(output), fused.classes.tolist()
    results = add_setting(read_results(folder / "results.json"), setting, entry)
    save_scores(folder / "scores" / f"fused_{setting}.npz", fused)
    _write_per_class(folder / f"per_class_{setting}.csv", classes, accuracies)
    confusions = {
        name: confusion_figure(accuracy.confusion, classes, f"{name}, {setting}: top-1 {accuracy.top1:.1%}")
        for name, accuracy in accuracies.items()
    }
    save_figure(confusions["fused"], folder / f"confusion_{setting}.png")
    write_json(folder / "results.json", results)
    overview = accuracy_flops_figure(results["settings"])
    save_figure(overview, folder / "accuracy_against_gflops.png")
    with new_run(folder, setting) as writer:
        _log_setting(writer, setting, entry)
        for gflops, top1 in _cumulative(streams, entry):
            writer.add_scalar("top1_against_mflops", top1, round(1e3 * gflops))
        for name, figure in confusions.items():
            writer.add_figure(f"confusion/{name}", figure)
    with new_run(folder, "overview") as writer:
        writer.add_figure("accuracy_against_gflops", overview)
        writer.add_text("results", f"{results_table(results)}\n\n{weights_lines(results)}")
    return results


def _common_setting(streams: Mapping[str, Scores]) -> str:
    settings = {name: str(scores.settings.get("setting", "unnamed")) for name, scores in streams.items()}
    if len(set(settings.values())) > 1:
        told = ", ".join(f"{name} is {setting}" for name, setting in settings.items())
        raise ScoreError(f"the score files are of different settings ({told}); name the run with --setting")
    return next(iter(settings.values()))


def _cumulative(streams: Mapping[str, Scores], entry: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(GFLOPs per clip, top-1) of the first stream alone, of the first two fused, and so on."""
    points, gflops, weights = [], 0.0, entry["fused"]["weights"]
    joined: dict[str, Scores] = {}
    for name, scores in streams.items():
        joined[name] = scores
        gflops += entry["streams"][name]["gflops_per_clip"]
        if any(weights[key] for key in joined):
            points.append((gflops, measure(fuse(joined, {key: weights[key] for key in joined})).top1))
    return points


def _log_setting(writer: SummaryWriter, setting: str, entry: Mapping[str, Any]) -> None:
    rows = {**entry["streams"], "fused": entry["fused"]}
    for what in ("top1", "gflops_per_frame", "gflops_per_clip", "ms_per_clip"):
        for name, row in rows.items():
            writer.add_scalar(f"{what}/{name}", row[what], 0)
    first = next(iter(rows.values()))
    chosen = {
        "setting": setting,
        "input_size": first["size"],
        "segments": first["segments"],
        "crops": first["crops"],
        "streams": "+".join(entry["streams"]),
        "weights": ":".join(f"{weight:g}" for weight in entry["fused"]["weights"].values()),
    }
    names = ("top1", "gflops_per_frame", "gflops_per_clip")
    add_hparams(writer, chosen, {f"{name}/fused": entry["fused"][name] for name in names})


def _write_per_class(path: Path, classes: list[str], accuracies: Mapping[str, Accuracy]) -> None:
    clips = accuracies["fused"].confusion.sum(axis=1)
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "clips", *accuracies])
        for label, name in enumerate(classes):
            shares = [float(accuracy.per_class[label]) for accuracy in accuracies.values()]
            writer.writerow([name, clips[label], *("" if math.isnan(share) else f"{share:.4f}" for share in shares)])
