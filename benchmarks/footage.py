"""Recognition on real clips by the recipe of configs/folder.yaml: every stream, box and fusion, cross-validated.

All clips are divided into folds by group, several times. What is chosen for a fold (regularisation, fusion weights) is
chosen on the other folds alone, as training does. The features of a clip are computed once for each box.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from coviar_mocrop.clips.loading import open_clips, read_videos
from coviar_mocrop.config import Config, load_configs
from coviar_mocrop.datasets.convert import Canonical
from coviar_mocrop.datasets.folder import prepare_folder
from coviar_mocrop.datasets.lists import VideoList
from coviar_mocrop.datasets.splits import divide, group_sizes
from coviar_mocrop.errors import DataError
from coviar_mocrop.files import atomic_write
from coviar_mocrop.fusion import fuse
from coviar_mocrop.fusion_weights import tune_weights
from coviar_mocrop.runtime import choose_runtime
from coviar_mocrop.scores import Scores
from coviar_mocrop.streams.base import Stream, create_stream
from coviar_mocrop.training.fitting import fold_of
from coviar_mocrop.viz.tables import markdown_table

PROJECT = Path(__file__).resolve().parent.parent
BOXES: dict[str, list[str]] = {
    "centre crop (baseline)": ["setting=baseline"],
    "whole frame": ["mocrop.area_ratio=1"],
    "box of 0.75": ["mocrop.area_ratio=0.75"],
    "box of 0.4": ["mocrop.area_ratio=0.4"],
    "box of 0.4 at 192 pixels (efficiency)": ["mocrop.area_ratio=0.4", "setting=efficiency"],
    "adaptive box": ["mocrop.size=adaptive"],
}
"""Settings on top of the recipe's."""
FUSIONS = ("fused, 2 : 1 : 1", "fused, 1 : 1 : 1", "fused, learned")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options of ``benchmark.py footage``."""
    command.add_argument("footage", type=Path, metavar="DIR", help="a folder for each class, and groups.csv")
    command.add_argument("--group-column", default="source_video", metavar="NAME", help="of groups.csv (%(default)s)")
    command.add_argument("--divisions", type=int, default=3, metavar="N", help="into folds (%(default)s)")
    command.add_argument("--seeds", type=int, default=3, metavar="N", help="of the inner folds (%(default)s)")
    command.add_argument("--folds", type=int, default=5, metavar="N", help="of a division (%(default)s)")
    command.add_argument("--boxes", nargs="+", choices=BOXES, default=list(BOXES), metavar="NAME", help="(all)")
    command.add_argument("--output", type=Path, default=Path("runs/footage"), metavar="DIR", help="(%(default)s)")
    command.add_argument("--figure", type=Path, metavar="FILE", help="also draw the table")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Prepare the clips, cross-validate, print the table."""
    logging.getLogger("coviar_mocrop.streams").setLevel(logging.WARNING)  # hundreds of fits
    groups = given.footage / "groups.csv"
    if not groups.exists():
        raise DataError(f"{groups}: no such file; it names the group of each clip")
    prepared = prepare_folder(
        given.footage,
        given.output / "lists",
        canonical=Canonical(given.output / "clips"),
        groups=groups,
        group_column=given.group_column,
        test_share=0,
        val_share=0,
    )
    shared = [f"data.root={prepared.root}", "data.val_list=null", f"data.cache={given.output / 'cache'}"]
    shared += [
        f"data.{key}={prepared.lists / name}"
        for key, name in (("train_list", "train_split1.txt"), ("classes", "classes.txt"))
    ]
    results: dict[str, Any] = {}
    for box in given.boxes:
        configs = load_configs(PROJECT / "configs/folder.yaml", overrides=[*shared, "model.freeze=true", *BOXES[box]])
        start = time.perf_counter()
        videos, streams, features = _features(configs)
        seconds = time.perf_counter() - start
        rounds = [
            _cross_validate(videos, streams, features, division, seed, given.folds)
            for division in tqdm(range(given.divisions), desc=box, unit="division")
            for seed in range(given.seeds)
        ]
        top1 = {name: [row[name] for row in rounds] for name in rounds[0]}
        gflops = sum(stream.cost().gflops_per_clip for stream in streams)
        results[box] = {"top1": top1, "gflops_per_clip": gflops, "seconds_of_features": seconds}
    print(f"\n{len(videos)} clips, {given.divisions} divisions into {given.folds} folds x {given.seeds} seeds\n")
    print(_table(results))
    if given.figure:
        _draw(results, given.figure)
    return results


def _features(configs: Mapping[str, Config]) -> tuple[VideoList, list[Stream], dict[str, Tensor]]:
    """All clips, the streams, and the features float32 [clips, dim] of each."""
    first = next(iter(configs.values()))
    runtime, videos = choose_runtime(first.train), read_videos(first.data, "train")
    streams = []
    for config in configs.values():
        torch.manual_seed(config.seed)
        streams.append(create_stream(config, videos.classes, weights=True))
        runtime.place(streams[-1].network)
    dataset, _ = open_clips(streams, videos)
    return videos, streams, {name: found.rows for name, found in dataset.features.items()}


def _cross_validate(
    videos: VideoList, streams: Sequence[Stream], features: Mapping[str, Tensor], division: int, seed: int, folds: int
) -> dict[str, float]:
    """Top-1 over all clips, each in a fold that was held out, by stream and fusion."""
    labels = torch.tensor([clip.label for clip in videos.clips])
    group_of = {clip.path: videos.group_of.get(clip.path, clip.path) for clip in videos.clips}
    part_of = divide(group_sizes(videos.clips, group_of), [1 / folds] * folds, division)
    fold = np.array([part_of[group_of[clip.path]] for clip in videos.clips])
    right: dict[str, list[NDArray[np.bool_]]] = {}
    for number in np.unique(fold):
        held_out: dict[str, Scores] = {}
        tested: dict[str, Scores] = {}
        inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        inner = fold_of([videos.clips[i] for i in inside], videos.group_of, seed)
        for stream in streams:
            rows = features[stream.name]
            logits = stream.fit(rows[inside], labels[inside], inner)
            assert logits is not None
            with torch.inference_mode():
                scored = stream.network(rows[outside]).float()
            held_out[stream.name] = _scores(videos, inside, logits, stream)
            tested[stream.name] = _scores(videos, outside, scored, stream)
        learned = tune_weights(held_out).weights
        equal = dict.fromkeys(tested, 1.0)
        fused = [fuse(tested), fuse(tested, equal), fuse(tested, learned)]
        for name, scores in {**tested, **dict(zip(FUSIONS, fused, strict=True))}.items():
            right.setdefault(name, []).append(scores.scores.argmax(axis=1) == scores.labels)
    titles = {stream.name: stream.title for stream in streams}
    return {titles.get(name, name): float(np.concatenate(parts).mean()) for name, parts in right.items()}


def _scores(videos: VideoList, rows: NDArray[np.intp], logits: Tensor, stream: Stream) -> Scores:
    clips = [videos.clips[row] for row in rows]
    return Scores(
        names=np.array([clip.path for clip in clips]),
        labels=np.array([clip.label for clip in clips]),
        scores=logits.float().numpy(),
        classes=np.array(videos.classes),
        settings={"stream": stream.name, "fusion_weight": stream.fusion_weight},
    )


def _table(results: Mapping[str, Any]) -> str:
    names = list(next(iter(results.values()))["top1"])
    rows = [["top-1, mean (lowest to highest)", *names, "GFLOPs per clip"]]
    for box, found in results.items():
        cells = [100 * np.array(found["top1"][name]) for name in names]
        shown = [f"{cell.mean():.1f} % ({cell.min():.1f} to {cell.max():.1f})" for cell in cells]
        rows.append([box, *shown, f"{found['gflops_per_clip']:.1f}"])
    return markdown_table(rows, align="l" + "r" * (len(names) + 1))


def _draw(results: Mapping[str, Any], path: Path) -> None:
    """Bars of the means, with lines from the lowest to the highest."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots()
    names = list(next(iter(results.values()))["top1"])
    width = 0.8 / len(results)
    for number, (box, found) in enumerate(results.items()):
        values = [100 * np.array(found["top1"][name]) for name in names]
        means = np.array([value.mean() for value in values])
        spread = [means - [value.min() for value in values], [value.max() for value in values] - means]
        places = np.arange(len(names)) + (number - (len(results) - 1) / 2) * width
        axes.bar(places, means, width, yerr=spread, label=box, error_kw={"linewidth": 0.8})
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("top-1, %")
    axes.set_ylim(50, 100)
    axes.axhline(50, color="black", linewidth=0.8)
    axes.legend(fontsize=8, ncols=3)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
