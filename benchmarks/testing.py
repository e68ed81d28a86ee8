"""What the defaults of testing (precision, memory layout, reading processes) are worth against a plain loop."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coviar_mocrop.errors import ConfigError
from coviar_mocrop.fusion import measure
from coviar_mocrop.inference.testing import score_checkpoint

PLAIN = ("train.precision=fp32", "train.channels_last=false", "data.workers=0", "train.frames_at_once=null")
"""A loop as one writes it first: read a batch, compute it in fp32, read the next."""


@dataclass(frozen=True)
class Way:
    """One way of testing: median seconds of a pass over the list, and what it gave."""

    name: str
    seconds: float
    top1: float
    compute: str
    ms_read: float
    ms_network: float
    repeatable: bool


@dataclass(frozen=True)
class TestingSpeed:
    """Both ways, on the same clips in the same run."""

    __test__ = False

    clips: int
    plain: Way
    ours: Way

    @property
    def ratio(self) -> float:
        """How many times as fast ours is."""
        return self.plain.seconds / self.ours.seconds

    def table(self) -> str:
        """Markdown."""
        rows = [
            f"| {way.name} | {way.compute} | {1e3 * way.seconds / self.clips:.1f} | {way.ms_read:.1f} | "
            f"{way.ms_network:.1f} | {way.top1:.1%} |"
            for way in (self.plain, self.ours)
        ]
        head = (
            "| testing | computed in | ms per clip | reading, ms | network, ms | top-1 |\n|---|---|---:|---:|---:|---:|"
        )
        return "\n".join([head, *rows, "", f"{self.ratio:.2f} times as fast, {self.clips} clips"])

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"clips": self.clips, "ratio": self.ratio, "plain": vars(self.plain), "ours": vars(self.ours)}


def compare_testing(
    checkpoint: str | os.PathLike[str], overrides: Sequence[str] = (), repeats: int = 3
) -> TestingSpeed:
    """Test a stream both ways in turn, ``repeats`` times.

    Boxes are found before the clock starts; reading processes are started within the time.

    Raises:
        ConfigError: ``repeats`` is below 1.
        CoviarMocropError: the checkpoint or its test list cannot be used.
    """
    if repeats < 1:
        raise ConfigError(f"--repeats is {repeats}; it must be at least 1")
    ways = {"plain loop": [*overrides, *PLAIN], "defaults": list(overrides)}
    for options in ways.values():
        score_checkpoint(checkpoint, options)  # boxes, caches of the system, the first call of every kernel
    passes: dict[str, list[Any]] = {name: [] for name in ways}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, options in ways.items():
            start = time.perf_counter()
            passes[name].append(score_checkpoint(checkpoint, options))
            times[name].append(time.perf_counter() - start)
    found = []
    for name in ways:
        scores = passes[name]
        found.append(
            Way(
                name,
                statistics.median(times[name]),
                measure(scores[0]).top1,
                scores[0].settings["compute"],
                statistics.median(s.settings["ms_read"] for s in scores),
                statistics.median(s.settings["ms_network"] for s in scores),
                all((s.scores == scores[0].scores).all() for s in scores),
            )
        )
    return TestingSpeed(len(passes["defaults"][0].names), *found)
