"""How soon training starts on a very long list, and whether its reading processes grow.

The list holds very many names (hard links) of one small clip, whose boxes are known. What counts is the seconds until
the first step is done, and the private memory of the reading processes over many batches.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from coviar_mocrop.clips.boxes import box_of_file
from coviar_mocrop.clips.cache import open_box_cache
from coviar_mocrop.clips.store import FileStore, State
from coviar_mocrop.config import Config
from coviar_mocrop.errors import ConfigError, DataError
from coviar_mocrop.runtime import ALONE
from coviar_mocrop.training.setup import prepare
from coviar_mocrop.training.trainer import train_step
from coviar_mocrop.viz.tables import markdown_table


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options of ``benchmark.py scale``."""
    command.add_argument("clip", metavar="FILE", help="a small video; the links are made beside it")
    command.add_argument("--entries", type=int, default=100_000, help="names in the list (%(default)s)")
    command.add_argument("--batches", type=int, default=10_000, help="batches of two clips to read (%(default)s)")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure, print a table."""
    found = measure_scale(given.clip, given.entries, given.batches)
    ready, first = found["seconds_ready"], found["seconds_first_step"]
    print(f"{given.entries} entries: ready in {ready:.2f} s, first step {first:.2f} s later\n")
    rows = [(count, f"{megabytes:.1f}") for count, megabytes in found["megabytes"].items()]
    print(markdown_table([("batches read", "private memory of a reader, MB"), *rows], "r"))
    return found


def measure_scale(clip: str | os.PathLike[str], entries: int = 100_000, batches: int = 10_000) -> dict[str, Any]:
    """Train on a list of ``entries`` names of one clip, their boxes known, and read ``batches`` batches.

    Returns:
        ``seconds_ready``: from the settings to lists and boxes read, network and loader made; ``seconds_first_step``:
        from there to the first step done, readers started; ``megabytes``: memory that a reader shares with nobody
        (the largest of them), by the number of batches read.

    Raises:
        ConfigError: a number is below 1, or this system does not tell the memory of processes.
        VideoError: the clip cannot be read.
    """
    if entries < 1 or batches < 1:
        raise ConfigError("--entries and --batches must be at least 1")
    if not Path("/proc/self/smaps_rollup").exists():
        raise ConfigError("this needs Linux, which tells the memory of a process in /proc")
    with tempfile.TemporaryDirectory(dir=Path(clip).resolve().parent) as name:
        config = _long_list(Path(clip), Path(name), entries)
        torch.set_num_threads(1)
        start = time.perf_counter()
        training = prepare({"mv": config}, ALONE)
        ready = time.perf_counter()
        batch = next(iter(training.loader))
        _require_sound(batch.errors)
        train_step(training.trainers[0], [batch.streams["mv"]], batch.size, ALONE)
        stepped = time.perf_counter()
        megabytes: dict[int, float] = {}
        count = 0
        with tqdm(total=batches, unit="batch", leave=False) as bar:
            while count < batches:
                training.sampler.epoch += 1
                for batch in training.loader:
                    _require_sound(batch.errors)
                    count += 1
                    bar.update()
                    if count % max(batches // 10, 1) == 0:
                        megabytes[count] = _private_megabytes()
                    if count == batches:
                        break
    return {"seconds_ready": ready - start, "seconds_first_step": stepped - ready, "megabytes": megabytes}


def _require_sound(errors: dict[int, Any]) -> None:
    for error in errors.values():
        raise DataError(str(error))


def _long_list(clip: Path, folder: Path, entries: int) -> Config:
    """``entries`` names of one clip in folders of a thousand, their list, and a cache with their boxes."""
    names, copy = [], clip
    for number in range(entries):
        place = folder / f"{number // 1000:05d}"
        name = place / f"{number:07d}{clip.suffix}"
        if number % 1000 == 0:  # a copy for each folder, because a file system allows only so many links to a file
            place.mkdir()
            shutil.copy2(clip, name)
            copy = name
        else:
            os.link(copy, name)
        names.append(f"{place.name}/{name.name}")
    (folder / "list.txt").write_text("".join(f"{name} c{i % 2} {i % 2}\n" for i, name in enumerate(names)))
    (folder / "classes.txt").write_text("c0\nc1\n")
    config = Config.model_validate(
        {
            "stream": "mv",
            "setting": "attention",
            "output": str(folder / "run"),
            "data": {
                "root": str(folder),
                "train_list": str(folder / "list.txt"),
                "classes": str(folder / "classes.txt"),
                "cache": str(folder / "cache"),
                "workers": 2,
            },
            "input": {"full_size": 32, "segments": 1},
            "train": {"batch_size": 2, "device": "cpu", "precision": "fp32"},
        }
    )
    facts = clip.stat()
    entry = (State(facts.st_size, facts.st_mtime_ns), np.array(box_of_file(clip, config.mocrop)))
    open_box_cache(config.data, config.mocrop, FileStore(config.data)).put(dict.fromkeys(names, entry))
    return config


def _private_megabytes() -> float:
    """Of the child process that has most."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return max(_private(child) for child in children) / 1024


def _private(process: str) -> int:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
