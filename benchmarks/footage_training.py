"""Real clips with a motion network whose weights are all trained, beside frozen I-frame and residual networks.

Every fold is what the commands do on a split: some of its groups are kept for validation, the streams are trained,
fusion weights are learned on the clips that no stream learned from, and the clips outside the fold are scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.config import load_configs
from coviar_mocrop.datasets.lists import Clip, VideoList, format_classes, format_groups, format_list
from coviar_mocrop.datasets.splits import hold_out
from coviar_mocrop.files import write_text
from coviar_mocrop.fusion import common_clips
from coviar_mocrop.fusion_weights import tune_weights
from coviar_mocrop.inference.testing import load_streams, score_streams
from coviar_mocrop.inference.validation import validation_scores
from coviar_mocrop.runtime import ALONE
from coviar_mocrop.scores import Scores
from coviar_mocrop.training.fitting import train_streams

VAL_SHARE = 0.15
"""That of tools/prepare_data.py."""
TRAINED: dict[str, dict[str, object]] = {
    "box of 0.4, motion from scratch (ResNet-18, 56 pixels)": {
        "model.freeze": False,
        "model.backbone": "resnet18",
        "model.weights": "null",
        "input.full_size": 56,
        "train.epochs": 15,
        "train.rate_factors.stem": 1,
        "train.rate_factors.rest": 1,
    },
    "box of 0.4, motion fine-tuned (EfficientNet-Lite0, 64 pixels)": {
        "model.freeze": False,
        "input.full_size": 64,
        "train.epochs": 15,
    },
}
"""Settings of the motion stream on top of the recipe's."""


def train_fold(
    config: Path,
    shared: Sequence[str],
    row: str,
    videos: VideoList,
    outside: NDArray[np.bool_],
    seed: int,
    folder: Path,
) -> tuple[dict[str, Scores], dict[str, float], float]:
    """Train on the clips that are not ``outside``, score those that are; what is finished in ``folder`` is kept.

    Returns:
        The scores by stream, the learned weights, and the GFLOPs of a clip.
    """
    lists = _write_lists(folder / "lists", videos, outside, seed)
    overrides = [f"seed={seed}", *shared, *(f"streams.mv.{key}={value}" for key, value in TRAINED[row].items())]
    overrides += [f"data.{side}_list={path}" for side, path in lists.items()]
    configs = load_configs(config, overrides=overrides, output=str(folder))
    files = list(train_streams(configs, resume=True).values())
    streams = load_streams(files)
    held_out = common_clips(validation_scores(streams, files, ALONE))
    gflops = sum(stream.cost().gflops_per_clip for stream in streams.values())
    return score_streams(list(streams.values())), tune_weights(held_out).weights, gflops


def _write_lists(folder: Path, videos: VideoList, outside: NDArray[np.bool_], seed: int) -> Mapping[str, Path]:
    clips = list(videos.clips)
    group_of = {clip.path: videos.group_of.get(clip.path, clip.path) for clip in clips}
    sides = {clip.path: ["test" if out else "train"] for clip, out in zip(clips, outside.tolist(), strict=True)}
    sides = hold_out(clips, sides, group_of, VAL_SHARE, seed)  # type: ignore[arg-type,assignment]
    parts: dict[str, list[Clip]] = {"train": [], "val": [], "test": []}
    for clip in clips:
        parts[sides[clip.path][0]].append(clip)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "classes.txt", format_classes(videos.classes))
    write_text(folder / "groups.txt", format_groups(group_of))
    files = {side: folder / f"{side}.txt" for side in parts}
    for side, file in files.items():
        write_text(file, format_list(parts[side]))
    return files
