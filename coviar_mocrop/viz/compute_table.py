"""The compute table: what every published network of this field costs, counted on the networks themselves.

Published figures: CoViAR with MoCrop, and MoCrop's own table (Huang et al., arXiv 2509.18473); MoCLIP-Lite (Huang
et al., arXiv 2509.17084); TSM-ResNet-50 without and with MotionSqueeze (Kwon et al., ECCV 2020). A GFLOP is 10^9
multiply-adds, see :mod:`coviar_mocrop.flops`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from coviar_mocrop.errors import ConfigError
from coviar_mocrop.flops import StreamCost, count_flops, fused_cost
from coviar_mocrop.networks.config import ModelConfig
from coviar_mocrop.networks.stream_net import Representation, StreamNet, create_stream
from coviar_mocrop.viz.clip_compute import PUBLISHED_GFLOPS, clip_stream_cost, clip_stream_rows
from coviar_mocrop.viz.results import SETTINGS

PROTOCOLS = {"CoViAR": (25, 10), "MoCrop": (8, 1)}
"""Segments and crops per clip in testing."""


@dataclass(frozen=True)
class Network:
    """A row of the table.

    Attributes:
        key: tag in TensorBoard and key in the JSON file.
        title: as people call it.
        stream: representation that it takes.
        backbone: torchvision's name.
        published: GFLOPs per frame as printed in the paper, by setting; empty where none are.
    """

    key: str
    title: str
    stream: Representation
    backbone: str
    published: Mapping[str, float]


def _published(*figures: float) -> dict[str, float]:
    return dict(zip(SETTINGS, figures, strict=True))


NETWORKS = (
    Network("iframe_resnet152", "CoViAR I-frame, ResNet-152", "iframe", "resnet152", _published(11.6, 8.5, 11.6)),
    Network("resnet50", "ResNet-50", "iframe", "resnet50", _published(4.11, 3.02, 4.11)),
    Network("mobilenet_v3_large", "MobileNet-V3-Large", "iframe", "mobilenet_v3_large", _published(0.22, 0.17, 0.22)),
    Network("efficientnet_b1", "EfficientNet-B1", "iframe", "efficientnet_b1", _published(0.59, 0.43, 0.59)),
    Network("swin_b", "Swin-B", "iframe", "swin_b", _published(15.5, 12.6, 15.5)),
    Network("mv_resnet18", "CoViAR motion, ResNet-18", "mv", "resnet18", {}),
    Network("residual_resnet18", "CoViAR residual, ResNet-18", "residual", "resnet18", {}),
)
COVIAR = ("iframe_resnet152", "mv_resnet18", "residual_resnet18")
"""The three streams that are fused."""


def compute_table(*, classes: int = 101, full_size: int = 224, reduced_size: int = 192) -> dict[str, Any]:
    """Count every row.

    Args:
        classes: outputs of the networks.
        full_size: input side of baseline and attention, pixels.
        reduced_size: input side of efficiency, pixels.

    Returns:
        ``settings``: by setting, ``size`` (pixels), ``networks`` (by key: ``gflops_per_frame``, ``published`` or
        None) and ``coviar`` (by protocol, then stream and ``fused``: ``gflops_per_frame``, ``gflops_per_clip``);
        ``clips``: per clip, what other papers print: ``title``, ``gflops_per_clip``, ``published`` or None;
        ``clip_stream``: see :func:`~coviar_mocrop.viz.clip_compute.clip_stream_cost`.

    Raises:
        ConfigError: a number is below 1, or a size too small for the networks.
    """
    for name, value, least in (
        ("classes", classes, 1),
        ("full_size", full_size, 32),
        ("reduced_size", reduced_size, 32),
    ):
        if value < least:
            raise ConfigError(f"{name} is {value}; give {least} or more")
    sizes = dict(zip(SETTINGS, (full_size, reduced_size, full_size), strict=True))
    counts = {
        (network.key, size): _count(_build(network, classes, "meta"), size)
        for network in NETWORKS
        for size in {full_size, reduced_size}
    }
    settings = {}
    for setting, size in sizes.items():
        settings[setting] = {
            "size": size,
            "networks": {
                network.key: {
                    "gflops_per_frame": counts[network.key, size] / 1e9,
                    "published": network.published.get(setting),
                }
                for network in NETWORKS
            },
            "coviar": {
                protocol: _three_streams({key: counts[key, size] for key in COVIAR}, segments * crops)
                for protocol, (segments, crops) in PROTOCOLS.items()
            },
        }
    clip_stream = clip_stream_cost(classes)
    clips = _other_clips(classes, reduced_size, clip_stream)
    return {"classes": classes, "settings": settings, "clips": clips, "clip_stream": clip_stream}


def latencies(
    *, classes: int = 101, full_size: int = 224, reduced_size: int = 192, repeats: int = 15, threads: int = 2
) -> dict[str, dict[str, float]]:
    """How long one frame takes on this machine, at both sizes, by key of :data:`NETWORKS`.

    The two sizes take turns, so that a busy machine slows both alike.

    Args:
        classes: outputs of the networks.
        full_size: pixels.
        reduced_size: pixels.
        repeats: forward passes of each size, after two that do not count.
        threads: of PyTorch.

    Returns:
        ``full_ms`` and ``reduced_ms`` (medians), ``saving_flops`` and ``saving_time`` (shares; the latter the median
        over pairs of passes), and
        ``share_in_time``: how much of the FLOPs saving becomes time.

    Raises:
        ConfigError: ``repeats`` or ``threads`` is below 1.
    """
    for name, value in (("repeats", repeats), ("threads", threads)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; give 1 or more")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return {network.key: _latency(network, classes, full_size, reduced_size, repeats) for network in NETWORKS}
    finally:
        torch.set_num_threads(before)


def compute_markdown(table: Mapping[str, Any], measured: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """The table as Markdown: GFLOPs per frame, CoViAR per clip, other papers' clips and, if given, latencies."""
    settings = table["settings"]
    heads = [f"{setting} ({settings[setting]['size']})" for setting in SETTINGS]
    lines = _header(["GFLOPs per frame", *heads, "published", "saved"])
    for network in NETWORKS:
        rows = [settings[setting]["networks"][network.key] for setting in SETTINGS]
        base, reduced = rows[0]["gflops_per_frame"], rows[1]["gflops_per_frame"]
        printed = " / ".join(f"{row['published']:g}" for row in rows) if network.published else "-"
        figures = [f"{row['gflops_per_frame']:.3f}" for row in rows]
        lines.append(_row([network.title, *figures, printed, f"{1 - reduced / base:.1%}"]))
    lines += ["", *_header(["CoViAR, three streams fused", *heads])]
    per_frame = [next(iter(settings[s]["coviar"].values()))["fused"]["gflops_per_frame"] for s in SETTINGS]
    lines.append(_row(["GFLOPs per frame (one segment of each stream)", *(f"{value:.2f}" for value in per_frame)]))
    for protocol, (segments, crops) in PROTOCOLS.items():
        clips = [settings[s]["coviar"][protocol]["fused"]["gflops_per_clip"] for s in SETTINGS]
        title = f"GFLOPs per clip, {protocol}'s {segments} segments x {crops} crop{'s' * (crops > 1)}"
        lines.append(_row([title, *(f"{value:.1f}" for value in clips)]))
    lines += ["", *_header(["GFLOPs per clip, other papers", "counted", "published"])]
    for clip in table["clips"]:
        published = "-" if clip["published"] is None else f"{clip['published']:g}"
        lines.append(_row([clip["title"], f"{clip['gflops_per_clip']:.1f}", published]))
    first, *rest = clip_stream_rows(table["clip_stream"])
    lines += ["", *_header(first), *map(_row, rest)]
    if measured:
        sizes = [settings[setting]["size"] for setting in SETTINGS[:2]]
        heads = [f"ms at {size}" for size in sizes]
        lines += ["", *_header(["median ms per frame", *heads, "FLOPs saved", "time saved", "of it becomes time"])]
        for network in NETWORKS:
            row = measured[network.key]
            shares = [f"{row[name]:.0%}" for name in ("saving_flops", "saving_time", "share_in_time")]
            lines.append(_row([network.title, f"{row['full_ms']:.1f}", f"{row['reduced_ms']:.1f}", *shares]))
    return "\n".join(lines)


def log_compute(
    folder: str | os.PathLike[str],
    table: Mapping[str, Any],
    measured: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Write one TensorBoard run per setting, replacing older ones; the tags are the same in each.

    Scalars: ``gflops_per_frame/<key>``, ``gflops_per_clip_<protocol>/<stream or fused>`` and, where measured,
    ``ms_per_frame/<key>``. The text ``compute_table`` stands in the run ``overview``.
    """
    for setting, content in table["settings"].items():
        with _fresh_run(Path(folder) / setting) as board:
            for key, row in content["networks"].items():
                board.add_scalar(f"gflops_per_frame/{key}", row["gflops_per_frame"], 0)
                if measured:
                    which = "reduced_ms" if setting == "efficiency" else "full_ms"
                    board.add_scalar(f"ms_per_frame/{key}", measured[key][which], 0)
            for protocol, streams in content["coviar"].items():
                for stream, cost in streams.items():
                    board.add_scalar(f"gflops_per_clip_{protocol}/{stream}", cost["gflops_per_clip"], 0)
    with _fresh_run(Path(folder) / "overview") as board:
        board.add_text("compute_table", compute_markdown(table, measured))


def _fresh_run(run: Path) -> SummaryWriter:
    shutil.rmtree(run, ignore_errors=True)
    return SummaryWriter(str(run))


def _build(network: Network, classes: int, device: str) -> StreamNet:
    with torch.device(device):
        return create_stream(network.stream, classes, ModelConfig(backbone=network.backbone)).eval()


def _count(model: StreamNet, size: int) -> int:
    return count_flops(model, (1, 1, model.in_channels, size, size))


def _three_streams(counts: Mapping[str, int], frames: int) -> dict[str, dict[str, float]]:
    costs = {key.partition("_")[0]: StreamCost(count, frames) for key, count in counts.items()}
    rows = {name: (cost.gflops_per_frame, cost.gflops_per_clip) for name, cost in costs.items()}
    rows["fused"] = fused_cost(list(rows.values()))
    return {name: {"gflops_per_frame": frame, "gflops_per_clip": clip} for name, (frame, clip) in rows.items()}


def _other_clips(classes: int, reduced_size: int, clip_stream: Mapping[str, Any]) -> list[dict[str, Any]]:
    plain, squeezed, cropped = (
        _count_over_time(classes, size, squeeze) for size, squeeze in ((224, False), (224, True), (reduced_size, True))
    )
    return [
        {
            "title": f"MoCLIP-Lite, 32 motion segments, {title}",
            "gflops_per_clip": parts["totals"][32],
            "published": PUBLISHED_GFLOPS,
        }
        for title, parts in clip_stream["conventions"].items()
    ] + [
        {
            "title": "TSM-ResNet-50, 8 frames (shifting costs nothing)",
            "gflops_per_clip": plain / 1e9,
            "published": 33,
        },
        {
            "title": "MotionSqueeze in it (the window's products counted, however they are computed)",
            "gflops_per_clip": squeezed / 1e9,
            "published": 34,
        },
        {
            "title": f"the same in the MoCrop box at {reduced_size}, {1 - cropped / squeezed:.1%} saved",
            "gflops_per_clip": cropped / 1e9,
            "published": None,
        },
    ]


def _count_over_time(classes: int, size: int, motion_squeeze: bool, frames: int = 8) -> int:
    """Multiply-adds of a clip through TSM-ResNet-50."""
    settings = ModelConfig(backbone="resnet50", temporal="shift", motion_squeeze=motion_squeeze)
    with torch.device("meta"):
        model = create_stream("iframe", classes, settings)
    return count_flops(model, (1, frames, model.in_channels, size, size))


def _latency(network: Network, classes: int, full_size: int, reduced_size: int, repeats: int) -> dict[str, float]:
    model = _build(network, classes, "cpu").to(memory_format=torch.channels_last)
    sizes = (full_size, reduced_size)
    inputs = [torch.rand(1, 1, model.in_channels, size, size) for size in sizes]
    times = np.empty((repeats + 2, 2))
    with torch.inference_mode():
        for row in times:
            for which, frame in enumerate(inputs):
                start = time.perf_counter()
                model(frame)
                row[which] = 1e3 * (time.perf_counter() - start)
    full, reduced = np.median(times[2:], axis=0).tolist()
    ratio = float(np.median(times[2:, 1] / times[2:, 0]))  # pair by pair: other load comes and goes
    flops = [_count(model, size) for size in sizes]
    saving_flops, saving_time = 1 - flops[1] / flops[0], 1 - ratio
    return {
        "full_ms": full,
        "reduced_ms": reduced,
        "saving_flops": saving_flops,
        "saving_time": saving_time,
        "share_in_time": saving_time / saving_flops if saving_flops else 0.0,
    }


def _header(cells: Sequence[str]) -> list[str]:
    return [_row(cells), "|---|" + "---:|" * (len(cells) - 1)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
