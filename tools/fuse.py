#!/usr/bin/env python
"""Fuse the score files of several streams and compare settings in TensorBoard."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from coviar_mocrop.cli import parser, run
from coviar_mocrop.errors import ScoreError
from coviar_mocrop.files import whole_file
from coviar_mocrop.fusion import Accuracy, common_clips, fuse, measure
from coviar_mocrop.report.board import log_overview, log_setting, stream_order
from coviar_mocrop.report.figures import confusion_figure
from coviar_mocrop.report.results import merge_results, results_table, setting_results
from coviar_mocrop.scores import Scores, load_scores, save_scores

EXAMPLES = """\
  python tools/fuse.py --scores iframe=A.npz mv=B.npz residual=C.npz --output runs/fused
  python tools/fuse.py --scores iframe=A.npz mv=B.npz residual=C.npz --weights iframe=2 mv=1 residual=1 --output out
"""


def main() -> None:
    """Parse, fuse, measure, write."""
    arguments = parser(
        "Late fusion: the weighted sum of the streams' clip scores, 2 : 1 : 1 by default.\n\n"
        "Writes to the output folder: results.json (settings already there stay), fused scores, per-class accuracy\n"
        "(CSV), the confusion matrix (PNG), and one TensorBoard run per setting, so that settings overlay.",
        EXAMPLES,
    )
    arguments.add_argument("--scores", nargs="+", required=True, metavar="STREAM=FILE", help="score files by stream")
    arguments.add_argument("--weights", nargs="+", default=[], metavar="STREAM=NUMBER", help="fusion weights")
    arguments.add_argument("--output", required=True, metavar="DIR", help="folder of the results")
    arguments.add_argument("--setting", help="name of the run (default: the setting in the score files)")
    arguments.add_argument(
        "--common", action="store_true", help="fuse the clips that all files hold, where some were skipped"
    )
    given = arguments.parse_args()
    streams = {name: load_scores(file) for name, file in _pairs(given.scores, "--scores").items()}
    streams = {name: streams[name] for name in stream_order(list(streams))}
    if given.common:
        before = {name: len(scores.names) for name, scores in streams.items()}
        streams = common_clips(streams)
        kept = len(next(iter(streams.values())).names)
        print(f"{kept} clips in common; {', '.join(f'{name} has {n}' for name, n in before.items())}")
    weights = {name: _number(text) for name, text in _pairs(given.weights, "--weights").items()}
    setting = given.setting or _setting(streams)
    fused = fuse(streams, weights)
    accuracies = {name: measure(scores) for name, scores in streams.items()} | {"fused": measure(fused)}
    entry = setting_results(streams, accuracies, fused.settings["weights"])
    output = Path(given.output)
    results = merge_results(output / "results.json", setting, entry)
    save_scores(output / "scores" / f"fused_{setting}.npz", fused)
    _write_per_class(output / f"per_class_{setting}.csv", fused, accuracies)
    title = f"fused, {setting}: top-1 {accuracies['fused'].top1:.1%}"
    with whole_file(output / f"confusion_{setting}.png") as temporary:
        confusion_figure(accuracies["fused"].confusion, fused.classes.tolist(), title).savefig(temporary, dpi=110)
    table = results_table(results)
    log_setting(output, setting, entry, accuracies, fused.classes.tolist(), _cumulative(streams, entry, weights))
    log_overview(output, results, table)
    print(table)
    print(f"\nwrote {output}/results.json; compare in TensorBoard: tensorboard --logdir {output}")


def _cumulative(streams: dict[str, Scores], entry: dict, weights: dict[str, float]) -> list[tuple[float, float]]:
    """(GFLOPs per clip, top-1) as streams are added in order."""
    points, names, gflops = [], list(streams), 0.0
    for count, name in enumerate(names, 1):
        gflops += entry["streams"][name]["gflops_per_clip"]
        chosen = {key: streams[key] for key in names[:count]}
        some = {key: weight for key, weight in weights.items() if key in chosen}
        if any(some.get(key, 1.0) for key in chosen):
            points.append((gflops, measure(fuse(chosen, some)).top1))
    return points


def _write_per_class(path: Path, fused: Scores, accuracies: dict[str, Accuracy]) -> None:
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "clips", *accuracies])
        clips = accuracies["fused"].confusion.sum(axis=1)
        for label, name in enumerate(fused.classes.tolist()):
            shares = [float(accuracy.per_class[label]) for accuracy in accuracies.values()]
            writer.writerow([name, clips[label], *("" if math.isnan(s) else f"{s:.4f}" for s in shares)])


def _setting(streams: dict[str, Scores]) -> str:
    settings = {name: str(scores.settings.get("setting", "unnamed")) for name, scores in streams.items()}
    if len(set(settings.values())) > 1:
        told = ", ".join(f"{name} is {setting}" for name, setting in settings.items())
        raise ScoreError(
            f"the score files are of different settings ({told}); give --setting to fuse them all the same"
        )
    return next(iter(settings.values()))


def _pairs(items: list[str], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator or not name or not value:
            raise ScoreError(f"{option} {item}: expected stream=value, such as iframe=A.npz")
        if name in pairs:
            raise ScoreError(f"{option}: {name} is given twice")
        pairs[name] = value
    return pairs


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ScoreError(f"--weights: {text!r} is not a number") from error


if __name__ == "__main__":
    run(main)
