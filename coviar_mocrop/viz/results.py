"""``results.json`` and its table: the streams and their fusion, setting by setting."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coviar_mocrop.files import write_json
from coviar_mocrop.fusion import Accuracy
from coviar_mocrop.scores import Scores
from coviar_mocrop.viz.tables import markdown_table

SETTINGS = ("baseline", "efficiency", "attention")


def setting_results(
    streams: Mapping[str, Scores],
    accuracies: Mapping[str, Accuracy],
    weights: Mapping[str, float],
) -> dict[str, Any]:
    """Build one setting's entry of ``results.json``. Late fusion runs all streams, so their costs add up.

    Args:
        streams: score files by stream.
        accuracies: by stream, and ``fused``.
        weights: fusion weights by stream.
    """
    entries = {name: _entry(accuracies[name], scores.settings) for name, scores in streams.items()}
    costs = ("gflops_per_frame", "gflops_per_clip", "ms_per_clip")
    fused = {
        **_top(accuracies["fused"]),
        **{cost: sum(entry[cost] for entry in entries.values()) for cost in costs},
        "weights": dict(weights),
    }
    return {"streams": entries, "fused": fused, "clips": len(next(iter(streams.values())).names)}


def merge_results(path: str | os.PathLike[str], setting: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Write a setting's entry into ``results.json`` and return all of it. The other settings stay."""
    try:
        known = dict(json.loads(Path(path).read_text(encoding="utf-8"))["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        known = {}
    known[setting] = dict(entry)
    ordered = [*(name for name in SETTINGS if name in known), *(name for name in known if name not in SETTINGS)]
    results = {"settings": {name: known[name] for name in ordered}}
    write_json(path, results)
    return results


def results_table(results: Mapping[str, Any]) -> str:
    """Format the content of ``results.json`` as a Markdown table with a row per setting and stream."""
    rows: list[list[str]] = [["setting", "stream", "top-1", "GFLOPs per frame", "GFLOPs per clip", "ms per clip"]]
    for setting, entry in results["settings"].items():
        for name, row in {**entry["streams"], "**fused**": entry["fused"]}.items():
            costs = [f"{row['gflops_per_frame']:.3f}", f"{row['gflops_per_clip']:.2f}", f"{row['ms_per_clip']:.0f}"]
            rows.append([setting, name, f"{100 * row['top1']:.1f} %", *costs])
    return markdown_table(rows, align="llr")


def _entry(accuracy: Accuracy, settings: Mapping[str, Any]) -> dict[str, Any]:
    costs = ("gflops_per_frame", "gflops_per_clip", "ms_read", "ms_network")
    measured = {name: float(settings.get(name, 0.0)) for name in costs}
    return {
        **_top(accuracy),
        **measured,
        "ms_per_clip": measured["ms_read"] + measured["ms_network"],
        "backbone": settings.get("backbone", ""),
        **{name: settings.get(name, 0) for name in ("size", "segments", "crops")},
    }


def _top(accuracy: Accuracy) -> dict[str, float]:
    """Top-1, and top-5 where there are more than five classes."""
    return {"top1": accuracy.top1, **({} if accuracy.top5 is None else {"top5": accuracy.top5})}
