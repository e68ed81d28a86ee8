"""GFLOPs of the published networks of this field, counted on the networks themselves.

Published figures: CoViAR with MoCrop, and MoCrop's own table (Huang et al., arXiv 2509.18473); MoCLIP-Lite (Huang
et al., arXiv 2509.17084); TSM-ResNet-50 without and with MotionSqueeze (Kwon et al., ECCV 2020). A GFLOP is 10^9
multiply-adds, see :mod:`coviar_mocrop.flops`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from coviar_mocrop.errors import ConfigError
from coviar_mocrop.flops import StreamCost, count_flops
from coviar_mocrop.networks.config import CLIPConfig, ModelConfig
from coviar_mocrop.networks.fusion_head import CLIPFusionHead, MotionEncoder
from coviar_mocrop.networks.stream_net import StreamNet, create_network
from coviar_mocrop.viz.results import SETTINGS
from coviar_mocrop.viz.tables import markdown_table
from coviar_mocrop.viz.tensorboard import new_run

PROTOCOLS = {"CoViAR": (25, 10), "MoCrop": (8, 1)}
"""Segments and crops per clip in testing."""
CLIP_GFLOPS, CLIP_MILLIONS = 16.9, 0.97
"""MoCLIP-Lite as published: GFLOPs per clip with 32 motion segments, and millions of trained weights."""
CLIP_SEGMENTS = (8, 16, 25, 32)
_CLIP_FEATURE = 512
CONVENTIONS = {"batch norm as two multiply-adds (fvcore's)": 2, "batch norm as one multiply-add": 1}
"""Multiply-adds of a batch norm per element. The paper does not say how it counts. One is what the hardware computes,
and the published total agrees with it."""


class Network(NamedTuple):
    """A row of the table.

    Attributes:
        key: tag in TensorBoard and key in the JSON file.
        title: name in the printed table.
        backbone: torchvision's name.
        published: GFLOPs per frame as printed in the paper, in the order of the settings; empty where none are.
        in_channels: channels of a frame.
        input_norm: whether the network starts with a BatchNorm over its input.
    """

    key: str
    title: str
    backbone: str
    published: tuple[float, ...] = ()
    in_channels: int = 3
    input_norm: bool = False

    def build(self, classes: int, device: str = "meta") -> StreamNet:
        """Build the network with random weights, or with shapes alone on the device ``meta``."""
        with torch.device(device):
            config = ModelConfig(backbone=self.backbone)
            return create_network(self.in_channels, classes, config, input_norm=self.input_norm).eval()


NETWORKS = (
    Network("iframe_resnet152", "CoViAR I-frame, ResNet-152", "resnet152", (11.6, 8.5, 11.6)),
    Network("resnet50", "ResNet-50", "resnet50", (4.11, 3.02, 4.11)),
    Network("mobilenet_v3_large", "MobileNet-V3-Large", "mobilenet_v3_large", (0.22, 0.17, 0.22)),
    Network("efficientnet_b1", "EfficientNet-B1", "efficientnet_b1", (0.59, 0.43, 0.59)),
    Network("swin_b", "Swin-B", "swin_b", (15.5, 12.6, 15.5)),
    Network("mv_resnet18", "CoViAR motion, ResNet-18", "resnet18", in_channels=2, input_norm=True),
    Network("residual_resnet18", "CoViAR residual, ResNet-18", "resnet18", input_norm=True),
)
COVIAR = {"iframe": "iframe_resnet152", "mv": "mv_resnet18", "residual": "residual_resnet18"}
"""The network of each of the three streams that are fused."""


def compute_table(*, classes: int = 101, full_size: int = 224, reduced_size: int = 192) -> dict[str, Any]:
    """Count the multiply-adds of every row of the table.

    Args:
        classes: outputs of the networks.
        full_size: input size in pixels of baseline and attention.
        reduced_size: input size in pixels of efficiency.

    Returns:
        ``settings``: by setting, ``size`` (pixels), ``networks`` (by key: ``gflops_per_frame``, ``published`` or
        None) and ``coviar`` (by protocol, then stream and ``fused``: ``gflops_per_frame``, ``gflops_per_clip``);
        ``clips``: whole clips of other papers: ``title``, ``gflops_per_clip``, ``published`` or None;
        ``clip_stream``: see :func:`clip_stream_cost`.

    Raises:
        ConfigError: a number is below 1, or a size is too small for the networks.
    """
    _require(1, classes=classes)
    _require(32, full_size=full_size, reduced_size=reduced_size)
    networks = {network.key: network.build(classes) for network in NETWORKS}
    counted = {size: {key: _count(net, size) for key, net in networks.items()} for size in {full_size, reduced_size}}
    settings = {}
    for place, (setting, size) in enumerate(zip(SETTINGS, (full_size, reduced_size, full_size), strict=True)):
        counts = counted[size]
        settings[setting] = {
            "size": size,
            "networks": {
                network.key: {
                    "gflops_per_frame": counts[network.key] / 1e9,
                    "published": network.published[place] if network.published else None,
                }
                for network in NETWORKS
            },
            "coviar": {
                protocol: _fused({name: StreamCost(counts[key], segments * crops) for name, key in COVIAR.items()})
                for protocol, (segments, crops) in PROTOCOLS.items()
            },
        }
    clip_stream = clip_stream_cost(classes)
    clips = _other_clips(classes, reduced_size, clip_stream)
    return {"classes": classes, "settings": settings, "clips": clips, "clip_stream": clip_stream}


def clip_stream_cost(classes: int = 101, size: int = 224) -> dict[str, Any]:
    """Count MoCLIP-Lite: CLIP ViT-B/32 on one frame, EfficientNet-B0 on motion segments, the head.

    Args:
        classes: outputs.
        size: input size of the motion network in pixels.

    Returns:
        ``trainable``: number of weights of the head; ``conventions``, by title (see :data:`CONVENTIONS`): ``clip``,
        ``segment``, ``head`` (GFLOPs) and ``totals`` (GFLOPs per clip, by number of segments).
    """
    with torch.device("meta"):
        # torchvision's ViT-B/32 lacks one layer norm of CLIP's image encoder (0.2 MFLOPs). Its outputs are 512 here.
        encoder = create_network(3, _CLIP_FEATURE, ModelConfig(backbone="vit_b_32"))
        motion = MotionEncoder(create_network(2, classes, ModelConfig(backbone="efficientnet_b0"), input_norm=True))
        head = CLIPFusionHead(CLIPConfig(), classes, _CLIP_FEATURE, motion)
    conventions = {}
    for title, norm in CONVENTIONS.items():
        clip = count_flops(encoder, (1, 1, 3, 224, 224), norm_cost=norm)
        segment = count_flops(motion, (1, 1, 1, 2, size, size), norm_cost=norm)
        joined = count_flops(head, (1, _CLIP_FEATURE + motion.dim))
        totals = {count: StreamCost(segment, count, clip + joined).gflops_per_clip for count in CLIP_SEGMENTS}
        conventions[title] = {"clip": clip / 1e9, "segment": segment / 1e9, "head": joined / 1e9, "totals": totals}
    trainable = sum(parameter.numel() for parameter in head.parameters() if parameter.requires_grad)
    return {"trainable": trainable, "conventions": conventions}


def latencies(
    *, classes: int = 101, full_size: int = 224, reduced_size: int = 192, repeats: int = 15, threads: int = 2
) -> dict[str, dict[str, float]]:
    """Measure the latency of one frame at both sizes on this machine, by key of :data:`NETWORKS`.

    Passes of the two sizes alternate, so that other load on the machine slows both alike.

    Args:
        classes: outputs of the networks.
        full_size: pixels.
        reduced_size: pixels.
        repeats: timed forward passes of each size, after two that are not timed.
        threads: threads of PyTorch.

    Returns:
        ``full_ms`` and ``reduced_ms`` (medians); ``saving_flops`` and ``saving_time`` (shares, the latter the median
        over pairs of passes); and ``share_in_time``, the share of the saved FLOPs that is saved in time.

    Raises:
        ConfigError: ``repeats`` or ``threads`` is below 1.
    """
    _require(1, repeats=repeats, threads=threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        networks = tqdm(NETWORKS, desc="latency", unit="network", leave=False)
        return {network.key: _latency(network, classes, (full_size, reduced_size), repeats) for network in networks}
    finally:
        torch.set_num_threads(before)


def compute_markdown(table: Mapping[str, Any], measured: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """Format as Markdown: GFLOPs per frame, CoViAR per clip, other papers' clips, the CLIP stream and latencies."""
    settings = table["settings"].values()
    heads = [f"{name} ({setting['size']})" for name, setting in table["settings"].items()]
    frames = [["GFLOPs per frame", *heads, "published", "saved"]]
    for network in NETWORKS:
        counts = [setting["networks"][network.key]["gflops_per_frame"] for setting in settings]
        published = " / ".join(f"{figure:g}" for figure in network.published) or "-"
        frames.append([network.title, *_decimals(3, counts), published, f"{1 - counts[1] / counts[0]:.1%}"])
    fused = {protocol: [setting["coviar"][protocol]["fused"] for setting in settings] for protocol in PROTOCOLS}
    per_frame = _decimals(2, [cost["gflops_per_frame"] for cost in fused["CoViAR"]])
    coviar = [
        ["CoViAR, three streams fused", *heads],
        ["GFLOPs per frame (one segment of each stream)", *per_frame],
    ]
    for protocol, (segments, crops) in PROTOCOLS.items():
        title = f"GFLOPs per clip, {protocol}'s {segments} segments x {crops} crop{'s' * (crops > 1)}"
        coviar.append([title, *_decimals(1, [cost["gflops_per_clip"] for cost in fused[protocol]])])
    clips = [["GFLOPs per clip, other papers", "counted", "published"]]
    for clip in table["clips"]:
        published = "-" if clip["published"] is None else f"{clip['published']:g}"
        clips.append([clip["title"], f"{clip['gflops_per_clip']:.1f}", published])
    tables = [frames, coviar, clips, _clip_stream_rows(table["clip_stream"])]
    if measured:
        sizes = [f"ms at {setting['size']}" for setting in settings][:2]
        rows = [["median ms per frame", *sizes, "FLOPs saved", "time saved", "time saved / FLOPs saved"]]
        for network in NETWORKS:
            row = measured[network.key]
            shares = [f"{row[name]:.0%}" for name in ("saving_flops", "saving_time", "share_in_time")]
            rows.append([network.title, *_decimals(1, [row["full_ms"], row["reduced_ms"]]), *shares])
        tables.append(rows)
    return "\n\n".join(map(markdown_table, tables))


def log_compute(
    folder: str | os.PathLike[str],
    table: Mapping[str, Any],
    measured: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Write one TensorBoard run per setting, replacing older ones, with the same tags in each.

    Scalars: ``gflops_per_frame/<key>``, ``gflops_per_clip_<protocol>/<stream or fused>`` and, where measured,
    ``ms_per_frame/<key>``. The run ``overview`` holds the text ``compute_table``.
    """
    for setting, content in table["settings"].items():
        with new_run(folder, setting) as writer:
            for key, row in content["networks"].items():
                writer.add_scalar(f"gflops_per_frame/{key}", row["gflops_per_frame"], 0)
                if measured:
                    which = "reduced_ms" if setting == "efficiency" else "full_ms"
                    writer.add_scalar(f"ms_per_frame/{key}", measured[key][which], 0)
            for protocol, streams in content["coviar"].items():
                for stream, cost in streams.items():
                    writer.add_scalar(f"gflops_per_clip_{protocol}/{stream}", cost["gflops_per_clip"], 0)
    with new_run(folder, "overview") as writer:
        writer.add_text("compute_table", compute_markdown(table, measured))


def _count(network: StreamNet, size: int, frames: int = 1) -> int:
    return count_flops(network, (1, frames, network.in_channels, size, size))


def _fused(costs: Mapping[str, StreamCost]) -> dict[str, dict[str, float]]:
    """GFLOPs by stream, and ``fused``: late fusion runs all streams, so their costs add up."""
    names = ("gflops_per_frame", "gflops_per_clip")
    rows = {stream: {name: getattr(cost, name) for name in names} for stream, cost in costs.items()}
    return {**rows, "fused": {name: sum(row[name] for row in rows.values()) for name in names}}


def _other_clips(classes: int, reduced_size: int, clip_stream: Mapping[str, Any]) -> list[dict[str, Any]]:
    counts = []
    for size, squeeze in ((224, False), (224, True), (reduced_size, True)):
        with torch.device("meta"):
            config = ModelConfig(backbone="resnet50", temporal="shift", motion_squeeze=squeeze)
            counts.append(_count(create_network(3, classes, config), size, frames=8) / 1e9)
    plain, squeezed, cropped = counts
    rows: list[tuple[str, float, float | None]] = [
        (f"MoCLIP-Lite, 32 motion segments, {title}", parts["totals"][32], CLIP_GFLOPS)
        for title, parts in clip_stream["conventions"].items()
    ]
    rows += [
        ("TSM-ResNet-50, 8 frames (shifting costs nothing)", plain, 33),
        ("MotionSqueeze in it (the window's products counted, however they are computed)", squeezed, 34),
        (f"the same in the MoCrop box at {reduced_size}, {1 - cropped / squeezed:.1%} saved", cropped, None),
    ]
    return [{"title": title, "gflops_per_clip": gflops, "published": printed} for title, gflops, printed in rows]


def _clip_stream_rows(cost: Mapping[str, Any]) -> list[list[str]]:
    heads = [f"{count} segments" for count in CLIP_SEGMENTS]
    rows = [["CLIP stream (MoCLIP-Lite), GFLOPs", "CLIP, once", "head, once", "per segment", *heads, "published"]]
    for title, parts in cost["conventions"].items():
        totals = _decimals(2, [parts["totals"][count] for count in CLIP_SEGMENTS])
        figures = [f"{parts['clip']:.3f}", f"{parts['head']:.4f}", f"{parts['segment']:.4f}"]
        rows.append([title, *figures, *totals, f"{CLIP_GFLOPS} (32)"])
    trainable = f"{cost['trainable']} ({CLIP_MILLIONS} M published)"
    return [*rows, ["trainable weights: the head's", "-", trainable, *["-"] * (len(CLIP_SEGMENTS) + 2)]]


def _latency(network: Network, classes: int, sizes: tuple[int, int], repeats: int) -> dict[str, float]:
    model = network.build(classes, "cpu").to(memory_format=torch.channels_last)
    frames = [torch.rand(1, 1, model.in_channels, size, size) for size in sizes]
    with torch.inference_mode():
        passes = np.array([[_milliseconds(model, frame) for frame in frames] for _ in range(repeats + 2)])[2:]
    full, reduced = np.median(passes, axis=0).tolist()
    saving_flops = 1 - _count(model, sizes[1]) / _count(model, sizes[0])
    saving_time = 1 - float(np.median(passes[:, 1] / passes[:, 0]))  # pair by pair: other load comes and goes
    return {
        "full_ms": full,
        "reduced_ms": reduced,
        "saving_flops": saving_flops,
        "saving_time": saving_time,
        "share_in_time": saving_time / saving_flops if saving_flops else 0.0,
    }


def _milliseconds(model: StreamNet, frame: Tensor) -> float:
    start = time.perf_counter()
    model(frame)
    return 1e3 * (time.perf_counter() - start)


def _require(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise ConfigError(f"{name} is {number}; give {least} or more")


def _decimals(count: int, figures: Sequence[float]) -> list[str]:
    return [f"{figure:.{count}f}" for figure in figures]
