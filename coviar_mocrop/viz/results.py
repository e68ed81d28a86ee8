"""``results.json`` and its table: the results of the streams and of their fusion, for each setting."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coviar_mocrop.errors import ScoreError
from coviar_mocrop.fusion import Accuracy, fuse, shares
from coviar_mocrop.scores import Scores
from coviar_mocrop.viz.tables import markdown_table

SETTINGS = ("baseline", "efficiency", "attention")


def setting_results(
    streams: Mapping[str, Scores],
    accuracies: Mapping[str, Accuracy],
    weights: Mapping[str, float],
    weights_from: str,
) -> dict[str, Any]:
    """Build one setting's entry of ``results.json``. Late fusion runs all streams, so their costs add up.

    Args:
        streams: scores by stream.
        accuracies: accuracies by stream, and ``fused``.
        weights: fusion weights by stream.
        weights_from: description of how the weights were found.
    """
    entries = {name: _entry(accuracies[name], scores.settings) for name, scores in streams.items()}
    costs = ("gflops_per_frame", "gflops_per_clip", "ms_per_clip")
    fused = {
        **_top(accuracies["fused"]),
        **{cost: sum(entry[cost] for entry in entries.values()) for cost in costs},
        "weights": dict(weights),
        "weights_from": weights_from,
        "shares": shares(streams, weights),
        "top1_default_weights": fuse(streams).top1,
    }
    return {"streams": entries, "fused": fused, "clips": len(next(iter(streams.values())).names)}


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read ``results.json``. If the file does not exist, results without settings are returned.

    Raises:
        ScoreError: the file does not hold results.
    """
    try:
        results: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        results_table(results)
        weights_lines(results)
    except FileNotFoundError:
        return {"settings": {}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ScoreError(f"{path}: does not hold results; move it away or choose another --output") from error
    return results


def add_setting(results: Mapping[str, Any], setting: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return results with the entry of a setting added or replaced. Settings are in the order of ``SETTINGS``."""
    known = {**results["settings"], setting: dict(entry)}
    ordered = [*(name for name in SETTINGS if name in known), *(name for name in known if name not in SETTINGS)]
    return {"settings": {name: known[name] for name in ordered}}


def results_table(results: Mapping[str, Any]) -> str:
    """Format the content of ``results.json`` as a Markdown table with a row per setting and stream."""
    rows: list[list[str]] = [["setting", "stream", "top-1", "GFLOPs per frame", "GFLOPs per clip", "ms per clip"]]
    for setting, entry in results["settings"].items():
        for name, row in {**entry["streams"], "**fused**": entry["fused"]}.items():
            costs = [f"{row['gflops_per_frame']:.3f}", f"{row['gflops_per_clip']:.2f}", f"{row['ms_per_clip']:.0f}"]
            rows.append([setting, name, f"{100 * row['top1']:.1f}%", *costs])
    return markdown_table(rows, align="llr")


def weights_lines(results: Mapping[str, Any]) -> str:
    """Return one line per setting: fusion weights, how they were found, and the top-1 with the default weights."""
    lines = []
    for setting, entry in results["settings"].items():
        fused = entry["fused"]
        if "weights_from" not in fused:  # written by an older version
            continue
        shared = ", ".join(f"{name} {share:.0%}" for name, share in fused["shares"].items())
        line = f"{setting}: weights {weights_text(fused['weights'])} ({fused['weights_from']}); shares {shared}"
        if fused["weights_from"] != "default":
            top1, default = fused["top1"], fused["top1_default_weights"]
            gain = f"{100 * (top1 - default):+.1f} points"
            line += f"; fused top-1 {default:.1%} with the default weights, {top1:.1%} with these ({gain})"
        lines.append(line)
    return "\n".join(lines)


def weights_text(weights: Mapping[str, float]) -> str:
    """Format weights for the option ``--weights``."""
    return " ".join(f"{name}={weight:.3g}" for name, weight in weights.items())


def _entry(accuracy: Accuracy, settings: Mapping[str, Any]) -> dict[str, Any]:
    costs = ("gflops_per_frame", "gflops_per_clip", "ms_read", "ms_network")
    given = {name: settings.get(name) for name in costs}
    measured = {name: float(value) if isinstance(value, int | float) else 0.0 for name, value in given.items()}
    return {
        **_top(accuracy),
        **measured,
        "ms_per_clip": measured["ms_read"] + measured["ms_network"],
        "backbone": settings.get("backbone", ""),
        **{name: settings.get(name, 0) for name in ("size", "segments", "crops")},
    }


def _top(accuracy: Accuracy) -> dict[str, float]:
    """Top-1, and top-5 if there are more than five classes."""
    return {"top1": accuracy.top1, **({} if accuracy.top5 is None else {"top5": accuracy.top5})}
