"""What a large data set costs, computed from measured speeds and sizes: core hours, storage, money, cores per GPU."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from benchmarks.compute_table import NETWORKS
from coviar_mocrop.flops import count_flops
from coviar_mocrop.viz.tables import markdown_table

SETS = {"Kinetics-700": (650_000, 10.0), "100 million clips": (100_000_000, 10.0)}
"""Clips, and the seconds of each."""
PEAK = 989.4e12
"""Operations per second that NVIDIA's data sheet names for an H100 SXM in bfloat16, without sparsity."""
UTILISATION = 0.3
"""Assumed share of the peak. Of convolutions of this size it is seldom more."""
SEGMENTS = 3
"""Frames of a clip in training."""
CHOICES = {
    "ResNet-152, two ResNet-18, 224 pixels (CoViAR)": (("iframe_resnet152", "mv_resnet18", "residual_resnet18"), 224),
    "three ResNet-18, 192 pixels": (("residual_resnet18", "mv_resnet18", "residual_resnet18"), 192),
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the prices."""
    add = command.add_argument
    add("--core-hour", type=float, default=0.04, metavar="DOLLARS", help="price of a core for an hour (%(default)s)")
    add("--terabyte-month", type=float, default=23.0, metavar="DOLLARS", help="price of storage (%(default)s)")
    add("--million-reads", type=float, default=0.4, metavar="DOLLARS", help="price of requests (%(default)s)")


def costs(found: Mapping[str, Any], prices: argparse.Namespace) -> dict[str, dict[str, float]]:
    """By data set: hours of one core for each step, terabytes, dollars.

    Args:
        found: clips per second of ``transcoding``, ``boxes`` and ``packing``, ``seconds_per_clip``, ``kB_in_shard``.
        prices: what :func:`add_arguments` added.
    """
    table = {}
    for name, (clips, seconds) in SETS.items():
        longer = seconds / found["seconds_per_clip"]  # all steps read each frame once
        hours = {step: clips * longer / found[step] / 3600 for step in ("transcoding", "boxes", "packing")}
        terabytes = clips * longer * found["kB_in_shard"] / 1e9
        table[name] = {
            **{f"core hours, {step}": value for step, value in hours.items()},
            "terabytes": terabytes,
            "dollars for the core hours": sum(hours.values()) * prices.core_hour,
            "dollars a month for storage": terabytes * prices.terabyte_month,
            "dollars for the requests of an epoch": clips / 1e6 * prices.million_reads,
        }
    return table


def cores_for_a_gpu(milliseconds: float) -> dict[str, dict[str, float]]:
    """By choice of networks: billions of operations of a training clip, clips per second of an H100, cores to feed it.

    Args:
        milliseconds: of one core, to read a clip for three streams.
    """
    table = {}
    by_key = {network.key: network for network in NETWORKS}
    for name, (keys, size) in CHOICES.items():
        multiply_adds = 0
        for key in keys:
            network = by_key[key].build(400)
            multiply_adds += count_flops(network, (1, 1, network.in_channels, size, size))
        operations = 2 * 3 * SEGMENTS * multiply_adds  # two an addition; backward costs twice what forward does
        clips = UTILISATION * PEAK / operations
        table[name] = {"gigaoperations": operations / 1e9, "clips": clips, "cores": clips * milliseconds / 1e3}
    return table


def print_tables(found: Mapping[str, Any], prices: argparse.Namespace) -> dict[str, Any]:
    """Print both tables; they are computed, not measured."""
    table = costs(found, prices)
    names = list(next(iter(table.values())))
    rows = [(name, *(f"{_rounded(table[data][name]):,}" for data in table)) for name in names]
    print("\ncomputed from these figures:\n")
    print(markdown_table([("", *table), *rows], "r" * len(table)))
    cores = cores_for_a_gpu(found["reading"]["shards"]["ms"])
    print(f"\ncomputed for an H100 at {UTILISATION:.0%} of {PEAK / 1e12:.0f} TFLOPS:\n")
    head = ("training three streams", "10^9 operations per clip", "clips per second", "cores that read them")
    body = [(name, *(f"{_rounded(value):,}" for value in row.values())) for name, row in cores.items()]
    print(markdown_table([head, *body], "rrr"))
    return {"costs": table, "gpu": cores}


def _rounded(value: float) -> float:
    """To two figures."""
    text = float(f"{value:.2g}")
    return int(text) if text >= 10 else text
