#!/usr/bin/env python
"""The whole way on a small synthetic data set: make clips, train three streams, test, fuse, compare."""

from __future__ import annotations

import time
from pathlib import Path

from coviar_mocrop.cli import parser, run
from coviar_mocrop.config import load_config
from coviar_mocrop.data.synthetic import make_demo
from coviar_mocrop.engine.evaluate import score_checkpoint
from coviar_mocrop.engine.train import train
from coviar_mocrop.report.compare import compare
from coviar_mocrop.report.results import SETTINGS, results_table
from coviar_mocrop.scores import save_scores

PROJECT = Path(__file__).resolve().parent.parent
STREAMS = ("iframe", "mv", "residual")


def main() -> None:
    """Run the demo."""
    arguments = parser(
        "Make the demo data set, train the three streams once, test them as baseline, efficiency and attention,\n"
        "fuse each setting 2 : 1 : 1 and compare them in TensorBoard. Takes minutes on two CPU cores.\n\n"
        "It does what tools/prepare_data.py demo, train_stream.py, test_stream.py and fuse.py do one by one.",
        "  python tools/demo.py\n  python tools/demo.py --seed 1 --output runs/demo_seed1\n",
    )
    arguments.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder of the runs (%(default)s)")
    arguments.add_argument("--seed", type=int, default=0, help="of clips and training alike (%(default)s)")
    given = arguments.parse_args()
    start = time.perf_counter()
    name = "demo" if given.seed == 0 else f"demo_seed{given.seed}"
    root, lists = Path("data") / name, Path("data_lists") / name
    make_demo(root, lists, seed=given.seed)
    common = [
        f"seed={given.seed}",
        f"data.root={root}",
        f"data.train_list={lists}/train_split1.txt",
        f"data.test_list={lists}/test_split1.txt",
        f"data.classes={lists}/classes.txt",
    ]
    checkpoints = {}
    for stream in STREAMS:
        config = load_config(
            PROJECT / "configs" / "demo" / f"{stream}.yaml", [*common, f"output={given.output / stream}"]
        )
        checkpoints[stream] = train(config, overwrite=True)
    results = {}
    for setting in SETTINGS:
        scores = {stream: score_checkpoint(path, [f"setting={setting}"]) for stream, path in checkpoints.items()}
        for stream, scored in scores.items():
            save_scores(given.output / "scores" / f"{stream}_{setting}.npz", scored)
        results = compare(scores, given.output)
    print(f"\n{results_table(results)}\n")
    print(f"done in {time.perf_counter() - start:.0f} s; the same as JSON: {given.output}/results.json")
    print(f"open TensorBoard on it: .venv/bin/tensorboard --logdir {given.output}")


if __name__ == "__main__":
    run(main)
