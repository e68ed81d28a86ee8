"""The accuracies on the synthetic clips in README and docs, over several seeds.

Trains and tests as the tools do, one run after the other, and prints the mean over the seeds, with the lowest and the
highest. What is done already below the output folder is kept, and said to be, so an interrupted run goes on. After a
change of settings or code, give another folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from coviar_mocrop.errors import DataError
from coviar_mocrop.viz.results import SETTINGS
from coviar_mocrop.viz.tables import markdown_table

PROJECT = Path(__file__).resolve().parent.parent
Rows = dict[tuple[str, str], dict[int, float]]
"""Top-1 by setting and stream, then by seed."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options of ``benchmark.py tables``."""
    command.add_argument("--only", nargs="+", choices=_MAKERS, help="which tables (default: all)")
    command.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="one run each (0 1 2)")
    folder = "folder of the runs (%(default)s)"
    command.add_argument("--output", type=Path, default=Path("runs/tables"), metavar="DIR", help=folder)


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Run what is not done yet, print the tables."""
    results, output = {}, given.output.resolve()
    for name in given.only or _MAKERS:
        rows: Rows = {}
        for seed in given.seeds:
            for place, top1 in _MAKERS[name](output / f"{name}_{seed}", seed).items():
                rows.setdefault(place, {})[seed] = top1
        print(f"\n{name}, seeds {' '.join(map(str, given.seeds))}\n\n{_markdown(rows)}")
        results[name] = {f"{setting} {stream}": by_seed for (setting, stream), by_seed in rows.items()}
    return results


def _demo(folder: Path, seed: int) -> dict[tuple[str, str], float]:
    """``tools/demo.py``: three streams on the synthetic clips."""
    if not _is_kept(folder / "results.json", set(SETTINGS)):
        _tool("demo", "--resume", "--seed", seed, "--output", folder)
    return _top1(folder / "results.json")


def _clip(folder: Path, seed: int) -> dict[tuple[str, str], float]:
    """``tools/demo.py --clip``: with the CLIP stream, its probes, and weights for all four."""
    if not _is_kept(folder / "probes.json"):
        _tool("demo", "--resume", "--clip", "--seed", seed, "--output", folder)
    probes = json.loads((folder / "probes.json").read_text())
    return {**_top1(folder / "results.json"), **{("attention", title): top1 for title, top1 in probes.items()}}


def _squeeze(folder: Path, seed: int) -> dict[tuple[str, str], float]:
    """The I-frame stream on eight decoded frames with MotionSqueeze and without."""
    name = "demo" if seed == 0 else f"demo_seed{seed}"
    lists, found = f"data_lists/{name}", {}
    _tool("prepare_data", "demo", "--seed", seed, "--output", f"data/{name}", "--lists", lists)
    for title, squeeze in (("with MotionSqueeze", "true"), ("without", "false")):
        run_folder = folder / f"squeeze_{squeeze}"
        chosen = [f"seed={seed}", f"model.motion_squeeze={squeeze}", *_data(f"data/{name}", lists)]
        if not _is_kept(run_folder / "results.json"):
            stream = ["--streams", "iframe_motion_squeeze"]
            _train("configs/demo.yaml", *stream, "--set", *chosen, "--output", run_folder)
            _tool("fuse", "--checkpoints", run_folder, "--output", run_folder)
        found["attention", f"I-frame, {title}"] = _top1(run_folder / "results.json")["attention", "iframe"]
    return found


_MAKERS = {"demo": _demo, "clip": _clip, "squeeze": _squeeze}


def _data(root: str, lists: str) -> list[str]:
    parts = [f"data.{part}_list={lists}/{part}_split1.txt" for part in ("train", "test")]
    return [f"data.root={root}", f"data.classes={lists}/classes.txt", *parts]


def _train(config: str, *options: object) -> None:
    """Begin a run, or go on with it."""
    _tool("train_stream", "--config", config, "--resume", *options)


def _tool(name: str, *options: object) -> None:
    command = [sys.executable, f"tools/{name}.py", *map(str, options)]
    print(f"+ {shlex.join(['python', *command[1:]])}", flush=True)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    if subprocess.run(command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
        raise DataError(f"tools/{name}.py: failed, see above; start again when it is mended, what is done is kept")


def _is_kept(file: Path, settings: Set[str] = frozenset()) -> bool:
    """Whether a file of results is there, with all these settings; says so."""
    if not file.exists() or not {setting for setting, _ in (_top1(file) if settings else ())} >= settings:
        return False
    print(f"kept: {file}, of {datetime.fromtimestamp(file.stat().st_mtime):%Y-%m-%d %H:%M}", flush=True)
    return True


def _top1(file: Path) -> dict[tuple[str, str], float]:
    """Top-1 by setting and stream, of a results.json."""
    try:
        settings: Mapping[str, Any] = json.loads(file.read_text())["settings"]
    except OSError:
        return {}
    return {
        (setting, name): float(row["top1"])
        for setting, entry in settings.items()
        for name, row in {**entry["streams"], "fused": entry["fused"]}.items()
    }


def _markdown(rows: Rows) -> str:
    table: list[Sequence[str]] = [("setting", "stream", "top-1, mean", "lowest to highest")]
    for (setting, stream), by_seed in rows.items():
        shares = 100 * np.array(list(by_seed.values()))
        table.append((setting, stream, f"{shares.mean():.1f}%", f"{shares.min():.1f} to {shares.max():.1f}"))
    return markdown_table([list(row) for row in table], align="llrr")
