"""Time to read long annotation files, find their videos, and cut a part out of a long video.

The annotations have the layout of Kinetics-700. They name invented clips of ten seconds each, of which 95% exist as
empty files in a folder per class. These are neither checked nor transcoded. The long video is synthetic too.
"""

from __future__ import annotations

import argparse
import random
import string
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from coviar_mocrop.bitstream import transcode
from coviar_mocrop.bitstream.transcode import CANONICAL_SIZE, encode
from coviar_mocrop.datasets.handling import Handling
from coviar_mocrop.datasets.kinetics import prepare_kinetics, read_kinetics
from coviar_mocrop.datasets.videos import videos_named
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.viz.tables import markdown_table

_CLASSES = 700
_SHARE = 0.95
_VALIDATION = 13
"""One row in so many is for validation."""
_PART = 10.0
_RATE = 25


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options of ``benchmark.py annotations``."""
    command.add_argument("--rows", type=int, default=650_000, help="annotated clips (%(default)s)")
    command.add_argument("--minutes", type=int, default=6, help="length of the video that is cut (%(default)s)")
    command.add_argument("--repeats", type=int, default=3, help="cuts, of which the fastest counts (%(default)s)")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure, print two tables."""
    if min(given.rows, given.minutes, given.repeats) < 1:
        raise ConfigError("--rows, --minutes and --repeats must be at least 1")
    with tempfile.TemporaryDirectory() as name:
        found = measure_annotations(Path(name), given.rows)
        cut = measure_cutting(Path(name), given.minutes, given.repeats)
    print(f"{given.rows} annotated clips, {found['files']} files\n")
    steps = [(step, f"{seconds:.1f}") for step, seconds in found["seconds"].items()]
    print(markdown_table([("step", "seconds of processor time"), *steps], "lr"))
    print(f"\na video of {given.minutes} minutes, {CANONICAL_SIZE[0]}x{CANONICAL_SIZE[1]}\n")
    parts = [(what, f"{seconds:.2f}") for what, seconds in cut.items()]
    print(markdown_table([("transcoded", "seconds of processor time"), *parts], "lr"))
    return {**found, "cutting": cut}


def measure_annotations(folder: Path, rows: int) -> dict[str, Any]:
    """Processor time of each step with ``rows`` annotated clips: ``files`` and, by step, ``seconds``."""
    tables, files = _make(folder, rows)
    seconds: dict[str, float] = {}
    start = time.process_time()

    def done(step: str) -> None:
        nonlocal start
        seconds[step] = time.process_time() - start
        start = time.process_time()

    annotations = read_kinetics(tables)
    done("annotation files read")
    wanted = {name for entry in annotations.entries for name in (entry.name, entry.video)}
    assert len(videos_named(folder / "videos", wanted)) == files
    done("videos found")
    handling = Handling(check=False, progress=False, overwrite=True)
    for val_share in (0.0, 0.05):
        prepare_kinetics(folder / "videos", annotations, folder / "lists", val_share=val_share, handling=handling)
        done(f"all of the preparation but reading, validation share {val_share:g}")
    return {"files": files, "seconds": seconds}


def measure_cutting(folder: Path, minutes: int, repeats: int) -> dict[str, float]:
    """Seconds of processor time to transcode ten seconds of a long video, and all of it."""
    video, target = folder / "long.mp4", folder / "part.mp4"
    encode(tqdm(_pictures(minutes * 60 * _RATE), "making the video", leave=False), video, gop=250)
    start = minutes * 60 - 1.5 * _PART  # not at a key frame
    result = {}
    for what, part in ((f"{_PART:g} s near the end", (start, start + _PART)), ("all of it", (None, None))):
        taken = []
        for _ in range(repeats if part[0] is not None else 1):
            before = time.process_time()
            transcode(video, target, codec="mpeg4", start=part[0], end=part[1])
            taken.append(time.process_time() - before)
        result[what] = min(taken)
    return result


def _make(folder: Path, rows: int) -> tuple[list[Path], int]:
    """The annotation files, and how many videos there are."""
    draw = random.Random(0)
    letters = string.ascii_letters + string.digits + "-_"
    lines: dict[str, list[str]] = {"train": [], "validate": []}
    files = 0
    for number in tqdm(range(rows), "making files", leave=False):
        split = "validate" if number % _VALIDATION == 0 else "train"
        video, start = "".join(draw.choices(letters, k=11)), draw.randrange(900)
        class_name = f"class number {number // _VALIDATION % _CLASSES}"
        lines[split].append(f"{class_name},{video},{start},{start + 10},{split}\n")
        if draw.random() < _SHARE:
            place = folder / "videos" / split / class_name
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{video}_{start:06d}_{start + 10:06d}.mp4").touch()
            files += 1
    for split, text in lines.items():
        header = "label,youtube_id,time_start,time_end,split\n"
        (folder / f"{split}.csv").write_text(header + "".join(text), encoding="utf-8")
    return [folder / f"{split}.csv" for split in lines], files


def _pictures(count: int) -> Iterator[NDArray[np.uint8]]:
    """Smooth noise that slides by."""
    width, height = CANONICAL_SIZE
    noise = np.random.default_rng(0).integers(0, 255, (height // 8, 2 * width // 8, 3), dtype=np.uint8)
    wall = noise.repeat(8, 0).repeat(8, 1)
    for number in range(count):
        yield np.ascontiguousarray(np.roll(wall, 3 * number, 1)[:, :width])
