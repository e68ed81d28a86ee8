#!/usr/bin/env python
"""The whole way on a small synthetic data set: make clips, train the streams, test, fuse, compare."""

from __future__ import annotations

import time
from pathlib import Path

from coviar_mocrop.cli import parser, run
from coviar_mocrop.config import load_config
from coviar_mocrop.datasets.demo import make_demo
from coviar_mocrop.fusion import measure
from coviar_mocrop.inference.testing import score_checkpoint
from coviar_mocrop.scores import save_scores
from coviar_mocrop.training.trainer import train
from coviar_mocrop.viz.compare import compare
from coviar_mocrop.viz.results import SETTINGS, results_table

PROJECT = Path(__file__).resolve().parent.parent
STREAMS = ("iframe", "mv", "residual")


def main() -> None:
    """Run the demo."""
    arguments = parser(
        "Make the demo data set, train the three streams once, test them as baseline, efficiency and attention,\n"
        "fuse each setting 2 : 1 : 1 and compare them in TensorBoard. Takes minutes on two CPU cores.\n\n"
        "With --clip a fourth stream joins: a frozen CLIP (small, random weights: nothing is downloaded) and a frozen\n"
        "motion network under a trained head, which is then compared with a linear probe of each part.\n\n"
        "It does what tools/prepare_data.py demo, train_stream.py, test_stream.py and fuse.py do one by one.",
        "  python tools/demo.py\n  python tools/demo.py --clip\n"
        "  python tools/demo.py --seed 1 --output runs/demo_seed1\n",
    )
    arguments.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder of the runs (%(default)s)")
    arguments.add_argument("--seed", type=int, default=0, help="of clips and training alike (%(default)s)")
    arguments.add_argument("--clip", action="store_true", help="add the CLIP stream")
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
    checkpoints = {stream: _train(stream, given.output / stream, common) for stream in STREAMS}
    if given.clip:
        motion = _train("mv_efficientnet", given.output / "mv_efficientnet", common)
        common.append(f"clip.motion={motion}")
        checkpoints["clip"] = _train("clip", given.output / "clip", common)
    results = {}
    for setting in SETTINGS:
        scores = {stream: score_checkpoint(path, [f"setting={setting}"]) for stream, path in checkpoints.items()}
        for stream, scored in scores.items():
            save_scores(given.output / "scores" / f"{stream}_{setting}.npz", scored)
        results = compare(scores, given.output)
    print(f"\n{results_table(results)}\n")
    if given.clip:
        print(f"{_against_probes(checkpoints['clip'], given.output, common)}\n")
    print(f"done in {time.perf_counter() - start:.0f} s; the same as JSON: {given.output}/results.json")
    print(f"open TensorBoard on it: .venv/bin/tensorboard --logdir {given.output}")


def _train(config: str, output: Path, overrides: list[str]) -> Path:
    """Train by a file of configs/demo; gives the checkpoint."""
    file = PROJECT / "configs" / "demo" / f"{config}.yaml"
    return train(load_config(file, [*overrides, f"output={output}"]), overwrite=True)


def _against_probes(head: Path, output: Path, overrides: list[str]) -> str:
    """The head beside a linear layer on the same features of either part, trained by the same recipe: a table."""
    top1 = {"head on both": measure(score_checkpoint(head)).top1}
    for part in ("image", "motion"):
        linear = [f"clip.parts={part}", "clip.hidden=0", "clip.dropout=0"]
        probe = _train("clip", output / f"probe_{part}", [*overrides, *linear])
        top1[f"linear probe, {part} feature alone"] = measure(score_checkpoint(probe)).top1
    lines = [f"| {title} | {100 * share:.1f} % |" for title, share in top1.items()]
    return "\n".join(["| CLIP stream, same frozen features | top-1 |", "|---|---:|", *lines])


if __name__ == "__main__":
    run(main)
