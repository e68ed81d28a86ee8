#!/usr/bin/env python
"""The whole way on a small synthetic data set: make clips, train the streams, test, fuse, compare."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from coviar_mocrop.cli import parser, run
from coviar_mocrop.config import load_configs
from coviar_mocrop.datasets.demo import make_demo
from coviar_mocrop.datasets.splits import SIDES
from coviar_mocrop.errors import Interrupted
from coviar_mocrop.files import require_writable, write_json
from coviar_mocrop.inference.show import log_pictures
from coviar_mocrop.inference.testing import score_checkpoint, score_checkpoints
from coviar_mocrop.scores import save_scores
from coviar_mocrop.training.trainer import train
from coviar_mocrop.viz.compare import compare
from coviar_mocrop.viz.results import SETTINGS, results_table
from coviar_mocrop.viz.tables import markdown_table

PROJECT = Path(__file__).resolve().parent.parent
STREAMS = ("iframe", "mv", "residual")


def main() -> None:
    """Run the demo."""
    arguments = parser(
        "Make the demo data set, train the three streams once, test them as baseline, efficiency and attention,\n"
        "fuse each setting 2 : 1 : 1 and compare them in TensorBoard. Takes minutes on two CPU cores.\n\n"
        "With --clip a fourth stream joins: a frozen CLIP (small, random weights: nothing is downloaded) and a frozen\n"
        "motion network under a trained head, which is then compared with a linear probe of each part.\n\n"
        "With --real DIR the clips are your own, and the recipe is that of configs/folder.yaml.\n\n"
        "It does what tools/prepare_data.py, train_stream.py, test_stream.py and fuse.py do one by one.",
        "  python tools/demo.py\n  python tools/demo.py --clip\n  python tools/demo.py --real my_videos\n"
        "  python tools/demo.py --seed 1 --output runs/demo_seed1\n",
    )
    arguments.add_argument("--output", type=Path, help="folder of the runs (runs/demo, or runs/ and the name of DIR)")
    arguments.add_argument("--seed", type=int, default=0, help="of clips and training alike (%(default)s)")
    arguments.add_argument("--clip", action="store_true", help="add the CLIP stream")
    arguments.add_argument(
        "--real",
        type=Path,
        metavar="DIR",
        help="videos instead, in a folder for each class; DIR/groups.csv (path, source_video), if it exists, keeps the "
        "clips of one recording on one side",
    )
    arguments.add_argument("--resume", action="store_true", help="go on with an interrupted demo; else start anew")
    given = arguments.parse_args()
    if given.real:
        _real(given.real, given.output, given.seed, resume=given.resume)
        return
    given.output = given.output or Path("runs/demo")
    require_writable(given.output, folder=True)
    start = time.perf_counter()
    name = "demo" if given.seed == 0 else f"demo_seed{given.seed}"
    root, lists = Path("data") / name, Path("data_lists") / name
    make_demo(root, lists, seed=given.seed, overwrite=True)
    common = [
        f"seed={given.seed}",
        f"data.root={root}",
        f"data.train_list={lists}/train_split1.txt",
        f"data.test_list={lists}/test_split1.txt",
        f"data.classes={lists}/classes.txt",
    ]
    best = _train(STREAMS, given.output, common, resume=given.resume)
    if given.clip:
        best |= _train(("mv_efficientnet",), given.output, common, resume=given.resume)
        common.append(f"clip.motion={best.pop('mv_efficientnet')}")
        best |= _train(("clip",), given.output, common, resume=given.resume)
    results = {}
    for setting in SETTINGS:
        scores = score_checkpoints(list(best.values()), [f"setting={setting}"])
        for stream, scored in scores.items():
            save_scores(given.output / "scores" / f"{stream}_{setting}.npz", scored)
        results = compare(scores, given.output)
    print(f"\n{results_table(results)}\n")
    if given.clip:
        probes = _probes(best["clip"], given.output, common)
        write_json(given.output / "probes.json", probes)
        rows = [
            ["CLIP stream, same frozen features", "top-1"],
            *([t, f"{100 * top1:.1f} %"] for t, top1 in probes.items()),
        ]
        print(f"{markdown_table(rows, align='lr')}\n")
    print(f"done in {time.perf_counter() - start:.0f} s; the same as JSON: {given.output}/results.json")
    print(f"open TensorBoard on it: .venv/bin/tensorboard --logdir {given.output}")


def _real(videos: Path, output: Path | None, seed: int, *, resume: bool) -> None:
    """Prepare, train and fuse a folder of videos by the commands for one's own videos, which are printed."""
    start = time.perf_counter()
    name = re.sub(r"\W+", "_", videos.resolve().name)
    output, groups = output or Path("runs", name), videos / "groups.csv"
    data = [f"data.root=data/{name}", f"data.classes=data_lists/{name}/classes.txt", f"seed={seed}"]
    data += [f"data.{side}_list=data_lists/{name}/{side}_split1.txt" for side in SIDES]
    grouped, again = ["--groups", groups] if groups.exists() else [], "--resume" if resume else "--overwrite"
    commands: list[list[object]] = [
        ["prepare_data.py", "folder", videos, "--name", name, "--transcode", f"data/{name}", *grouped, "--overwrite"],
        ["train_stream.py", "--config", PROJECT / "configs/folder.yaml", "--set", *data, "--output", output, again],
        ["fuse.py", "--checkpoints", output, "--output", output / "fused"],
    ]
    for tool, *options in commands:
        command = [sys.executable, str(PROJECT / "tools" / str(tool)), *map(str, options)]
        print(f"+ {shlex.join(['python', *command[1:]])}", flush=True)
        if code := subprocess.run(command, check=False).returncode:
            sys.exit(code)
    print(f"done in {time.perf_counter() - start:.0f} s")


def _train(
    streams: Sequence[str], output: Path, overrides: list[str], folder: str | None = None, *, resume: bool = False
) -> dict[str, Path]:
    """Train runs of configs/demo.yaml together; gives the checkpoints by name."""
    configs = load_configs(PROJECT / "configs" / "demo.yaml", streams, overrides)
    configs = {name: c.model_copy(update={"output": str(output / (folder or name))}) for name, c in configs.items()}
    try:
        return train(configs, resume=resume, overwrite=not resume, draw=log_pictures)
    except Interrupted as error:  # also of `make demo`, which has no --resume
        command = ["python", "tools/demo.py", *(option for option in sys.argv[1:] if option != "--resume"), "--resume"]
        where = str(error).partition(":")[0]
        raise Interrupted(f"{where}; go on with {shlex.join(command)}") from None


def _probes(head: Path, output: Path, overrides: list[str]) -> dict[str, float]:
    """Top-1 of the head, and of a linear layer on the same features of either part, trained by the same recipe."""
    top1 = {"head on both": score_checkpoint(head).top1}
    for part in ("image", "motion"):
        linear = [f"clip.parts={part}", "clip.hidden=0", "clip.dropout=0"]
        probe = _train(("clip",), output, [*overrides, *linear], f"probe_{part}")["clip"]
        top1[f"linear probe, {part} feature alone"] = score_checkpoint(probe).top1
    return top1


if __name__ == "__main__":
    run(main)
