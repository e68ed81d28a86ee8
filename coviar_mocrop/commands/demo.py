"""Run all steps on a small synthetic data set, in minutes on two CPU cores.

Makes the clips, trains the three streams once, tests them in the settings baseline, efficiency and attention, fuses
each setting 2 : 1 : 1 and compares the settings in a table and in TensorBoard. Writes to the output folder a folder
for each stream, the score files, results.json and TensorBoard runs.

With --clip a fourth stream joins: a frozen CLIP (small, with random weights, so nothing is downloaded) and a frozen
motion network under a trained head, which is then compared with a linear probe of each part.

With --real the clips are your own, and the settings are those of configs/folder.yaml. The command of each step is
printed.
"""

from __future__ import annotations

import argparse
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from coviar_mocrop.commands import run_command
from coviar_mocrop.commands.dataset_options import whole_number
from coviar_mocrop.errors import ConfigError, Interrupted
from coviar_mocrop.files import require_writable, write_json

EXAMPLES = """\
  coviar demo
  coviar demo --clip
  coviar demo --real my_videos
  coviar demo --seed 1 --output runs/demo_seed1
"""
STREAMS = ("iframe", "mv", "residual")
_AGAIN = ("--resume", "--overwrite")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="output folder (default: runs/demo; with --real, runs/NAME_OF_DIR)"
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**63 - 1),
        default=0,
        metavar="N",
        help="random seed of clips and training (default: %(default)s)",
    )
    parser.add_argument("--clip", action="store_true", help="add the CLIP stream (not with --real)")
    parser.add_argument(
        "--real",
        type=Path,
        metavar="DIR",
        help="use these videos, in a folder per class; DIR/groups.csv (path, source_video), if it exists, keeps the "
        "clips of one recording in one list",
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue an interrupted demo")
    again.add_argument("--overwrite", action="store_true", help="replace the runs in the output folder")


def main(given: argparse.Namespace) -> None:
    """Run the demo."""
    if given.real and given.clip:
        raise ConfigError("--clip: is for the synthetic clips; leave it out with --real")
    if given.real:
        _real(given.real, given.output, given.seed, resume=given.resume, overwrite=given.overwrite)
        return
    try:
        again = {"resume": given.resume, "overwrite": given.overwrite}
        _synthetic(given.output or Path("runs/demo"), given.seed, given.clip, again)
    except (Interrupted, KeyboardInterrupt) as error:  # also of `make demo`, which has no --resume
        command = ["coviar", "demo", *(word for word in given.words if word not in _AGAIN), "--resume"]
        where = str(error).partition(":")[0] or "stopped"
        raise Interrupted(f"{where}; continue with {shlex.join(command)}") from None


def _synthetic(output: Path, seed: int, clip: bool, again: Mapping[str, bool]) -> None:
    """Train, test and fuse on synthetic clips."""
    from coviar_mocrop.datasets.demo import make_demo
    from coviar_mocrop.inference.testing import score_checkpoints
    from coviar_mocrop.scores import save_scores
    from coviar_mocrop.training.run_folder import RunFolder
    from coviar_mocrop.viz.compare import compare
    from coviar_mocrop.viz.results import SETTINGS, results_table
    from coviar_mocrop.viz.tables import markdown_table

    require_writable(output, folder=True)
    if not any(again.values()):
        for stream in STREAMS:
            RunFolder(str(output / stream)).require_free()
    start = time.perf_counter()
    name = "demo" if seed == 0 else f"demo_seed{seed}"
    root, lists = Path("data") / name, Path("data_lists") / name
    make_demo(root, lists, seed=seed, overwrite=again["overwrite"])
    _show_a_clip(root, output / "crop.png")
    common = [
        f"seed={seed}",
        f"data.root={root}",
        f"data.train_list={lists}/train_split1.txt",
        f"data.test_list={lists}/test_split1.txt",
        f"data.classes={lists}/classes.txt",
    ]
    best = _train(STREAMS, output, common, again)
    if clip:
        best |= _train(("mv_efficientnet",), output, common, again)
        common.append(f"clip.motion={best.pop('mv_efficientnet')}")
        best |= _train(("clip",), output, common, again)
    results = {}
    for setting in SETTINGS:
        scores = score_checkpoints(list(best.values()), [f"setting={setting}"])
        for stream, scored in scores.items():
            save_scores(output / "scores" / f"{stream}_{setting}.npz", scored)
        results = compare(scores, output)
    print(f"\n{results_table(results)}\n")
    if clip:
        probes = _probes(best["clip"], output, common)
        write_json(output / "probes.json", probes)
        rows = [
            ["CLIP stream, same frozen features", "top-1"],
            *([t, f"{100 * top1:.1f}%"] for t, top1 in probes.items()),
        ]
        print(f"{markdown_table(rows, align='lr')}\n")
    print(f"done in {time.perf_counter() - start:.0f} s; the same as JSON: {output}/results.json")
    print(f"open TensorBoard on it: tensorboard --logdir {output}")


def _show_a_clip(root: Path, picture: Path) -> None:
    """Draw one of the clips with its box, so that there is something to look at while the networks train."""
    from coviar_mocrop.bitstream import open_video
    from coviar_mocrop.datasets.videos import videos_below
    from coviar_mocrop.mocrop import MoCropSettings
    from coviar_mocrop.viz.pictures import save_figure
    from coviar_mocrop.viz.show import inspect_clip

    clip = videos_below(root)[0]
    with open_video(clip) as video:
        view = inspect_clip(video, MoCropSettings())
    picture.parent.mkdir(parents=True, exist_ok=True)
    save_figure(view.figure(f"{clip.name}: what the streams see, and the box they share"), picture)
    print(f"a clip, its streams and its box: {picture}", flush=True)


def _real(videos: Path, output: Path | None, seed: int, *, resume: bool, overwrite: bool) -> None:
    """Prepare, train and fuse a folder of videos by the commands for one's own videos, which are printed."""
    from coviar_mocrop.datasets.splits import SIDES, list_name

    start = time.perf_counter()
    name = re.sub(r"\W+", "_", videos.resolve().name)
    output = output or Path("runs", name)
    go_on, replace = ["--resume"] * resume, ["--overwrite"] * overwrite

    def run(command: str, *options: object) -> None:
        words = [str(option) for option in options]
        print(f"+ {shlex.join(['coviar', command, *words])}", flush=True)
        run_command(command, words, f"coviar {command}")

    run("prepare", "folder", videos, "--name", name, "--seed", seed, "--transcode", f"data/{name}", *replace)
    lists = Path("data_lists", name)
    files = {side: lists / list_name(side) for side in SIDES}  # a side without clips has no list
    data = [f"data.{side}_list={file.as_posix() if file.is_file() else 'null'}" for side, file in files.items()]
    data += [f"data.root=data/{name}", f"data.classes={lists.as_posix()}/classes.txt", f"seed={seed}"]
    run("train", "--config", "folder", "--set", *data, "--output", output, *go_on, *replace)
    run("fuse", "--checkpoints", output, "--output", output / "fused")
    print(f"done in {time.perf_counter() - start:.0f} s")


def _train(
    streams: Sequence[str], output: Path, overrides: list[str], again: Mapping[str, bool], folder: str | None = None
) -> dict[str, Path]:
    """Train runs of configs/demo.yaml together; gives the checkpoints by name."""
    from coviar_mocrop.config import load_configs
    from coviar_mocrop.training.trainer import train
    from coviar_mocrop.viz.show import log_pictures

    configs = load_configs("demo", streams, overrides)
    configs = {name: c.model_copy(update={"output": str(output / (folder or name))}) for name, c in configs.items()}
    return train(configs, **again, draw=log_pictures)


def _probes(head: Path, output: Path, overrides: list[str]) -> dict[str, float]:
    """Top-1 of the head, and of a linear layer on the same features of either part, trained by the same recipe."""
    from coviar_mocrop.inference.testing import score_checkpoint

    top1 = {"head on both": score_checkpoint(head).top1}
    for part in ("image", "motion"):
        linear = [f"clip.parts={part}", "clip.hidden=0", "clip.dropout=0"]
        probe = _train(("clip",), output, [*overrides, *linear], {"overwrite": True}, f"probe_{part}")["clip"]
        top1[f"linear probe, {part} feature alone"] = score_checkpoint(probe).top1
    return top1
