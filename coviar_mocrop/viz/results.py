"""``results.json`` and its table: streams and fusion, setting by setting."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coviar_mocrop.files import write_json
from coviar_mocrop.flops import fused_cost
from coviar_mocrop.fusion import Accuracy
from coviar_mocrop.scores import Scores

SETTINGS = ("baseline", "efficiency", "attention")


def setting_results(
    streams: Mapping[str, Scores],
    accuracies: Mapping[str, Accuracy],
    weights: Mapping[str, float],
) -> dict[str, Any]:
    """One setting's entry of ``results.json``.

    Args:
        streams: score files by stream.
        accuracies: by stream, and ``fused``.
        weights: of the fusion.
    """
    entries = {name: _entry(accuracies[name], scores.settings) for name, scores in streams.items()}
    per_frame, per_clip = fused_cost([(e["gflops_per_frame"], e["gflops_per_clip"]) for e in entries.values()])
    fused = {
        "top1": accuracies["fused"].top1,
        "top5": accuracies["fused"].top5,
        "gflops_per_frame": per_frame,
        "gflops_per_clip": per_clip,
        "ms_per_clip": sum(entry["ms_per_clip"] for entry in entries.values()),
        "weights": dict(weights),
    }
    return {"streams": entries, "fused": fused, "clips": len(next(iter(streams.values())).names)}


def merge_results(path: str | os.PathLike[str], setting: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Put a setting's entry into ``results.json``; the other settings stay. Returns all of it."""
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
        known = dict(results["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        known = {}
    known[setting] = dict(entry)
    ordered = [*(name for name in SETTINGS if name in known), *(name for name in known if name not in SETTINGS)]
    results = {"settings": {name: known[name] for name in ordered}}
    write_json(path, results)
    return results


def results_table(results: Mapping[str, Any]) -> str:
    """A Markdown table: a row per stream and setting."""
    lines = [
        "| setting | stream | top-1 | GFLOPs per frame | GFLOPs per clip | ms per clip |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for setting, entry in results["settings"].items():
        for name, row in {**entry["streams"], "fused": entry["fused"]}.items():
            cells = [
                setting,
                f"**{name}**" if name == "fused" else name,
                f"{100 * row['top1']:.1f} %",
                f"{row['gflops_per_frame']:.3f}",
                f"{row['gflops_per_clip']:.2f}",
                f"{row['ms_per_clip']:.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _entry(accuracy: Accuracy, settings: Mapping[str, Any]) -> dict[str, Any]:
    read, network = float(settings.get("ms_read", 0.0)), float(settings.get("ms_network", 0.0))
    return {
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "gflops_per_frame": float(settings.get("gflops_per_frame", 0.0)),
        "gflops_per_clip": float(settings.get("gflops_per_clip", 0.0)),
        "ms_per_clip": read + network,
        "ms_read": read,
        "ms_network": network,
        "backbone": settings.get("backbone", ""),
        "size": settings.get("size", 0),
        "segments": settings.get("segments", 0),
        "crops": settings.get("crops", 0),
    }
