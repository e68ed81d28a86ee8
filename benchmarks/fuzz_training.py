#!/usr/bin/env python
"""Kill training at random moments, again and again, and compare what comes out with a run that was never killed."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from coviar_mocrop.checkpoint import load_checkpoint
from coviar_mocrop.cli import parser, run
from coviar_mocrop.datasets.demo import make_demo
from coviar_mocrop.errors import CheckpointError

EXAMPLES = """\
  python benchmarks/fuzz_training.py
  python benchmarks/fuzz_training.py --kills 100 --seed 3
  python benchmarks/fuzz_training.py --streams mv
"""
TIMES = ("seconds", "clips_per_second", "waiting_for_data")


def main() -> None:
    """Parse, train without faults, then with injected kills; compare the results."""
    arguments = parser(
        "Train small networks on synthetic clips, killed (kill -9) at random moments and resumed each time, until\n"
        "they are done; then again, until there were enough kills. Weights and metrics of every run must be those of\n"
        "a run that was never killed, bit for bit, and no checkpoint may ever be half-written. Exit code 2 otherwise.",
        EXAMPLES,
    )
    arguments.add_argument("--kills", type=int, default=30, help="number of kills (%(default)s)")
    arguments.add_argument("--seed", type=int, default=0, help="random seed of the moments (%(default)s)")
    arguments.add_argument(
        "--streams", nargs="+", default=["mv", "residual"], metavar="NAME", help="trained together (mv residual)"
    )
    given = arguments.parse_args()
    generator = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write_settings(folder, given.streams)
        seconds = finish(config, folder / "reference")
        expected = outcome(folder / "reference")
        kills = runs = 0
        with tqdm(total=given.kills, unit="kill") as bar:
            while kills < given.kills:
                output = folder / f"run{runs}"
                while kills < given.kills and killed(config, output, generator.uniform(0, seconds)):
                    kills += 1
                    bar.update()
                    for checkpoint in output.rglob("[!.]*.pt"):  # not the file that was being written
                        load_checkpoint(checkpoint)  # raises if it is not whole
                finish(config, output)
                if not same(outcome(output), expected):
                    raise CheckpointError(f"run {runs} does not end like the run that was never killed")
                runs += 1
    print(f"{kills} kills in {runs} runs: the weights and metrics of all are those of a run never killed, bit for bit")


def write_settings(folder: Path, streams: list[str]) -> Path:
    """Make clips and settings. A checkpoint is saved after every step, so that kills hit the writing of many."""
    make_demo(folder / "videos", folder / "lists", train_clips=8, test_clips=8, progress=False)
    lists = folder / "lists"
    settings = {
        "data": {
            "root": str(folder / "videos"),
            "train_list": str(lists / "train_split1.txt"),
            "val_list": str(lists / "test_split1.txt"),
            "classes": str(lists / "classes.txt"),
            "cache": str(folder / "cache"),
            "workers": 0,
        },
        "input": {"full_size": 32, "segments": 1, "test_segments": 1},
        "model": {"backbone": "shufflenet_v2_x0_5", "dropout": 0.2},
        "train": {"epochs": 3, "batch_size": 2, "precision": "fp32", "threads": 1, "save_minutes": 0}
        | {"mixup": 0.3, "val_every": 1},
        "streams": {name: {} for name in streams},
    }
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def start(config: Path, output: Path) -> subprocess.Popen[str]:
    """Train or resume, in a process of its own; returns once Python has started up."""
    code = (
        "import sys\n"
        "from coviar_mocrop.config import load_configs\n"
        "from coviar_mocrop.training.trainer import train\n"
        "print('ready', flush=True)\n"
        "train(load_configs(sys.argv[1], output=sys.argv[2]), resume=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(config), str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def finish(config: Path, output: Path) -> float:
    """Let a run come to its end; returns the seconds it took after its start-up."""
    process = start(config, output)
    since = time.perf_counter()
    _, errors = process.communicate()
    require_success(process, errors, output)
    return time.perf_counter() - since


def killed(config: Path, output: Path, seconds: float) -> bool:
    """Kill a run so long after its start-up; False if it had ended before."""
    process = start(config, output)
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    require_success(process, errors, output)
    return False


def require_success(process: subprocess.Popen[str], errors: str, output: Path) -> None:
    """Raise what a run ended with."""
    if process.returncode:
        raise CheckpointError(f"{output}: the run failed: {errors.strip().splitlines()[-1]}")


def outcome(output: Path) -> dict[str, Any]:
    """By stream: weights of the last and the best checkpoint, and the metrics that do not measure time."""
    found: dict[str, Any] = {}
    for folder in sorted(path.parent for path in output.rglob("last.pt")):
        last, best = load_checkpoint(folder / "last.pt"), load_checkpoint(folder / "best.pt")
        history = [{k: v for k, v in line.items() if k not in TIMES} for line in last["history"]]
        found[str(folder.relative_to(output))] = [last["model"], last["optimizer"]["state"], best["model"], history]
    return found


def same(first: object, second: object) -> bool:
    """Equal, tensors bit for bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


if __name__ == "__main__":
    run(main)
