"""Recognition on real clips by the recipe of configs/folder.yaml: every stream, box and fusion, cross-validated.

All clips are divided into folds by group, several times. What is chosen for a fold (regularisation, fusion weights) is
chosen on the other folds alone, as training does. The features of a clip are computed once for each box. For comparison
there are statistics of the motion vectors without a network, and motion networks of which all weights are trained.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from benchmarks.footage_training import TRAINED, train_fold
from benchmarks.motion_statistics import motion_statistics
from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.clips.features import time_features
from coviar_mocrop.clips.lists import read_videos
from coviar_mocrop.clips.loading import open_clips
from coviar_mocrop.commands.dataset_options import whole_number
from coviar_mocrop.config import Config, load_configs
from coviar_mocrop.datasets.canonical import Canonical
from coviar_mocrop.datasets.folder import prepare_folder
from coviar_mocrop.datasets.handling import Handling
from coviar_mocrop.datasets.lists import VideoList
from coviar_mocrop.datasets.splits import divide, group_sizes
from coviar_mocrop.errors import DataError
from coviar_mocrop.fusion import fuse
from coviar_mocrop.fusion_weights import tune_weights
from coviar_mocrop.messages import counted
from coviar_mocrop.networks.linear import cross_validate, fit_linear
from coviar_mocrop.runtime import choose_runtime
from coviar_mocrop.scores import Scores
from coviar_mocrop.streams.base import Stream, create_stream, stream_class
from coviar_mocrop.training.fitting import fold_of
from coviar_mocrop.viz.pictures import require_picture, save_figure
from coviar_mocrop.viz.tables import markdown_table

RECIPE = Path(__file__).resolve().parent.parent / "configs/folder.yaml"
BOXES: dict[str, list[str]] = {
    "centre crop (baseline)": ["setting=baseline"],
    "whole frame": ["mocrop.area_ratio=1"],
    "box of 0.75": ["mocrop.area_ratio=0.75"],
    "box of 0.4": ["mocrop.area_ratio=0.4"],
    "box of 0.4 at 192 pixels (efficiency)": ["mocrop.area_ratio=0.4", "setting=efficiency"],
    "box of 0.4, weight: speed": ["mocrop.area_ratio=0.4", "mocrop.weight=speed"],
    "box of 0.4, 8 I-frames, motion at 112 pixels": [
        "mocrop.area_ratio=0.4",
        "streams.iframe.input.test_segments=8",
        "streams.mv.input.full_size=112",
    ],
    "adaptive box": ["mocrop.size=adaptive"],
}
"""Settings on top of the recipe's."""
FLOOR = "statistics of motion vectors, no network"
NO_NETWORK = ["model.freeze=false", "model.backbone=resnet18", "model.weights=null"]
"""Settings without weights to read and features to compute."""
ROWS = (FLOOR, *BOXES, *TRAINED)
COSTS = {"gflops_per_clip": ".1f", "ms_per_clip": ".0f"}
"""Last columns of the table: key, and how it is written."""
FUSIONS = ("fused, 2 : 1 : 1", "fused, 1 : 1 : 1", "fused, learned")

Method = Callable[[NDArray[np.intp], NDArray[np.intp], Tensor | None], tuple[Tensor, Tensor]]
"""Fits on clips, given by number, and scores others; the third argument is the folds of the first, for what is chosen.

Gives the logits of the first when they were held out, and of the others.
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options of ``benchmark.py footage``."""
    command.add_argument("footage", type=Path, metavar="DIR", help="a folder for each class, and groups.csv")
    command.add_argument(
        "--group-column", default="source_video", metavar="NAME", help="column of groups.csv (%(default)s)"
    )
    for name, least, default, text in (
        ("--divisions", 1, 3, "divisions into folds"),
        ("--seeds", 1, 3, "seeds of the inner folds"),
        ("--folds", 2, 5, "folds of a division"),
    ):
        number = whole_number(least, 1000)
        command.add_argument(name, type=number, default=default, metavar="N", help=f"{text} (%(default)s)")
    command.add_argument(
        "--rows",
        nargs="+",
        choices=ROWS,
        default=[FLOOR, *BOXES],
        metavar="NAME",
        help=f"rows of the table (default: all but {' and '.join(map(repr, TRAINED))}, which take minutes a fold)",
    )
    command.add_argument(
        "--output", type=Path, default=Path("runs/footage"), metavar="DIR", help="folder of the runs (%(default)s)"
    )
    command.add_argument("--figure", type=Path, metavar="FILE", help="also draw the table")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Prepare the clips, cross-validate, print the table."""
    logging.getLogger("coviar_mocrop.streams").setLevel(logging.WARNING)  # hundreds of fits
    if given.figure:
        require_picture(given.figure)
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
        handling=Handling(overwrite=True),  # the lists are the benchmark's own
    )
    shared = [f"data.root={prepared.root}", "data.val_list=null", f"data.cache={given.output / 'cache'}"]
    shared += [
        f"data.{key}={prepared.lists / name}"
        for key, name in (("train_list", "train_split1.txt"), ("classes", "classes.txt"))
    ]
    results: dict[str, Any] = {}
    videos = read_videos(next(iter(load_configs(RECIPE, overrides=shared).values())).data, "train")
    for row in given.rows:
        overrides = [*shared, *(NO_NETWORK if row == FLOOR else ["model.freeze=true"]), *BOXES.get(row, [])]
        if row in TRAINED:
            results[row] = _trained(given, row, overrides, videos)
            continue
        configs = load_configs(RECIPE, overrides=overrides)
        streams, dataset = _open(configs, videos)
        if row == FLOOR:
            methods, facts = {"mv": _linear(motion_statistics(dataset), videos)}, {}
        else:
            methods, facts = {s.name: _frozen(s, dataset, videos) for s in streams}, _cost(streams, dataset)
        titles = {stream.name: stream.title for stream in streams}
        rounds = [
            _cross_validate(videos, methods, division, seed, given.folds)
            for division in tqdm(range(given.divisions), desc=row, unit="division")
            for seed in range(given.seeds)
        ]
        results[row] = {"top1": _by_title(rounds, titles), **facts}
    print(f"\n{counted(given.divisions, 'division')} into {given.folds} folds, {counted(given.seeds, 'seed')}\n")
    print(_table(results))
    if given.figure:
        _draw(results, given.figure, 100 / len(videos.classes))
    return results


def _open(configs: Mapping[str, Config], videos: VideoList) -> tuple[list[Stream], ClipDataset]:
    """The streams, and the data set with the features float32 [clips, dim] of those that are frozen."""
    runtime = choose_runtime(next(iter(configs.values())).train)
    streams = []
    for config in configs.values():
        torch.manual_seed(config.seed)
        streams.append(create_stream(config, videos.classes, weights=True))
        runtime.place(streams[-1].network)
    return streams, open_clips(streams, videos)[0]


def _cost(streams: Sequence[Stream], dataset: ClipDataset) -> dict[str, float]:
    """What a clip takes: multiply-adds, and milliseconds on one thread (reading, boxes and crops included)."""
    gflops = sum(stream.cost().gflops_per_clip for stream in streams)
    seconds = sum(sum(times) for times in time_features(streams, dataset).values())
    return {"gflops_per_clip": gflops, "ms_per_clip": 1e3 * seconds}


def _frozen(stream: Stream, dataset: ClipDataset, videos: VideoList) -> Method:
    rows, labels = dataset.features[stream.name].rows, _labels(videos)

    def method(inside: NDArray[np.intp], outside: NDArray[np.intp], folds: Tensor | None) -> tuple[Tensor, Tensor]:
        logits = stream.fit(rows[inside], labels[inside], folds)
        assert logits is not None
        with torch.inference_mode():
            return logits, stream.network(rows[outside])

    return method


def _linear(rows: Tensor, videos: VideoList) -> Method:
    labels, classes = _labels(videos), len(videos.classes)

    def method(inside: NDArray[np.intp], outside: NDArray[np.intp], folds: Tensor | None) -> tuple[Tensor, Tensor]:
        assert folds is not None
        strength, logits = cross_validate(rows[inside], labels[inside], folds, classes)
        (found,) = fit_linear(rows[inside], labels[inside], classes, [strength])
        return logits, found.logits(rows[outside])

    return method


def _labels(videos: VideoList) -> Tensor:
    return torch.tensor([clip.label for clip in videos.clips])


def _folds(videos: VideoList, division: int, folds: int) -> NDArray[np.intp]:
    """The fold of each clip, whole groups together."""
    group_of = {clip.path: videos.group_of.get(clip.path, clip.path) for clip in videos.clips}
    part_of = divide(group_sizes(videos.clips, group_of), [1 / folds] * folds, division)
    return np.array([part_of[group_of[clip.path]] for clip in videos.clips])


def _cross_validate(
    videos: VideoList, methods: Mapping[str, Method], division: int, seed: int, folds: int
) -> dict[str, float]:
    """Top-1 over all clips, each in a fold that was held out, by stream and fusion."""
    fold = _folds(videos, division, folds)
    right: dict[str, list[NDArray[np.bool_]]] = {}
    for number in np.unique(fold):
        held_out: dict[str, Scores] = {}
        tested: dict[str, Scores] = {}
        inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        inner = fold_of([videos.clips[i] for i in inside], videos.group_of, seed)
        for name, method in methods.items():
            logits, scored = method(inside, outside, inner)
            held_out[name] = _scores(videos, inside, logits, name)
            tested[name] = _scores(videos, outside, scored, name)
        _count(tested, tune_weights(held_out).weights if len(tested) > 1 else {}, right)
    return {name: float(np.concatenate(parts).mean()) for name, parts in right.items()}


def _count(
    tested: Mapping[str, Scores], learned: Mapping[str, float], right: dict[str, list[NDArray[np.bool_]]]
) -> None:
    """Add which clips are right to ``right``, by stream and, of several streams, by fusion."""
    found = dict(tested)
    if len(tested) > 1:
        fused = (fuse(tested), fuse(tested, dict.fromkeys(tested, 1.0)), fuse(tested, learned))
        found |= dict(zip(FUSIONS, fused, strict=True))
    for name, scores in found.items():
        right.setdefault(name, []).append(scores.scores.argmax(axis=1) == scores.labels)


def _trained(given: argparse.Namespace, row: str, shared: Sequence[str], videos: VideoList) -> dict[str, Any]:
    """Top-1 of a row with a network that is trained, in as many divisions and seeds; see :func:`train_fold`."""
    rounds, gflops = [], 0.0
    for division in range(given.divisions):
        fold = _folds(videos, division, given.folds)
        for seed in range(given.seeds):
            right: dict[str, list[NDArray[np.bool_]]] = {}
            for number in tqdm(np.unique(fold), desc=f"{row}, division {division}, seed {seed}", unit="fold"):
                folder = given.output / f"trained{list(TRAINED).index(row)}" / f"{division}_{seed}_{number}"
                tested, learned, gflops = train_fold(RECIPE, shared, row, videos, fold == number, seed, folder)
                _count(tested, learned, right)
            rounds.append({name: float(np.concatenate(parts).mean()) for name, parts in right.items()})
    titles = {name: stream_class(name).title for name in ("iframe", "mv", "residual")}
    return {"top1": _by_title(rounds, titles), "gflops_per_clip": gflops}


def _by_title(rounds: Sequence[Mapping[str, float]], titles: Mapping[str, str]) -> dict[str, list[float]]:
    return {titles.get(name, name): [found[name] for found in rounds] for name in rounds[0]}


def _scores(videos: VideoList, rows: NDArray[np.intp], logits: Tensor, stream: str) -> Scores:
    clips = [videos.clips[row] for row in rows]
    return Scores(
        names=np.array([clip.path for clip in clips]),
        labels=np.array([clip.label for clip in clips]),
        scores=logits.float().numpy(),
        classes=np.array(videos.classes),
        settings={"stream": stream, "fusion_weight": stream_class(stream).fusion_weight},
    )


def _table(results: Mapping[str, Any]) -> str:
    names = max((list(found["top1"]) for found in results.values()), key=len)
    rows = [["top-1, mean (lowest to highest)", *names, "GFLOPs per clip", "ms per clip"]]
    for row, found in results.items():
        cells = [_cell(found["top1"].get(name, [])) for name in names]
        costs = [f"{found[key]:{form}}" if key in found else "" for key, form in COSTS.items()]
        rows.append([row, *cells, *costs])
    return markdown_table(rows, align="l" + "r" * (len(rows[0]) - 1))


def _cell(top1: Sequence[float]) -> str:
    values = 100 * np.array(top1)
    spread = f" ({values.min():.1f} to {values.max():.1f})" if len(values) > 1 else ""
    return f"{values.mean():.1f}%{spread}" if len(values) else ""


def _draw(results: Mapping[str, Any], path: Path, chance: float) -> None:
    """Points for the means, with lines from the lowest to the highest, and a line for chance."""
    figure = Figure(figsize=(10, 4.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.axhline(chance, color="black", linewidth=0.8, linestyle="--", label="chance")
    names = max((list(found["top1"]) for found in results.values()), key=len)
    width = 0.8 / len(results)
    for number, (row, found) in enumerate(results.items()):
        values = {names.index(name): 100 * np.array(top1) for name, top1 in found["top1"].items()}
        means = np.array([value.mean() for value in values.values()])
        lowest, highest = (np.array([end(value) for value in values.values()]) for end in (np.min, np.max))
        places = np.array(list(values)) + (number - (len(results) - 1) / 2) * width
        spread = np.maximum([means - lowest, highest - means], 0)  # a mean of equal numbers can differ from them
        axes.errorbar(places, means, spread, fmt="os^"[number // 10 % 3], markersize=4, linewidth=1, label=row)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("top-1, %")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(fontsize=8, ncols=3, loc="outside lower center")
    save_figure(figure, path)
