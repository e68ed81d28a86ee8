"""How long training takes to start on a very long list, and whether its reading processes grow.

The list holds very many names of one small clip, whose boxes are known: hard links, or members of shards. Measured are
the seconds until the first step is done, and the private memory of the reading processes over many batches.
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
from coviar_mocrop.clips.packing import pack_shards
from coviar_mocrop.clips.shard_index import unpack_index
from coviar_mocrop.clips.store import FileStore, State
from coviar_mocrop.config import Config
from coviar_mocrop.errors import ConfigError, DataError
from coviar_mocrop.runtime import ALONE
from coviar_mocrop.training.setup import prepare
from coviar_mocrop.training.trainer import train_step
from coviar_mocrop.viz.tables import markdown_table


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options of ``benchmark.py scale``."""
    command.add_argument(
        "clip", metavar="FILE", help="a small video; the files to read are made in a temporary folder beside it"
    )
    command.add_argument("--shards", action="store_true", help="read from shards of 1000 clips, in place of files")
    command.add_argument("--entries", type=int, default=100_000, help="names in the list (%(default)s)")
    command.add_argument("--batches", type=int, default=10_000, help="batches of two clips to read (%(default)s)")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure, print a table."""
    found = measure_scale(given.clip, given.entries, given.batches, shards=given.shards)
    ready, first = found["seconds_ready"], found["seconds_first_step"]
    kind = "members of shards" if given.shards else "files"
    print(f"{given.entries} {kind}: ready in {ready:.2f} s, first step {first:.2f} s later\n")
    rows = [(count, f"{megabytes:.1f}") for count, megabytes in found["megabytes"].items()]
    print(markdown_table([("batches read", "private memory of a reader, MB"), *rows], "r"))
    return found


def measure_scale(
    clip: str | os.PathLike[str], entries: int = 100_000, batches: int = 10_000, *, shards: bool = False
) -> dict[str, Any]:
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
        make = _long_shards if shards else _long_list
        config = make(Path(clip), Path(name), entries)
        torch.set_num_threads(1)
        others = _children()
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
                        megabytes[count] = max(map(_private, _children() - others)) / 1024
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
    config = _config(folder, names)
    facts = clip.stat()
    entry = (State(facts.st_size, facts.st_mtime_ns), np.array(box_of_file(clip, config.mocrop)))
    open_box_cache(config.data, config.mocrop, FileStore(config.data)).put(dict.fromkeys(names, entry))
    return config


def _long_shards(clip: Path, folder: Path, entries: int) -> Config:
    """A shard of that clip for every thousand names; in its index, all of them lead to the one."""
    shutil.copy2(clip, folder / clip.name)
    packed = pack_shards(_config(folder, [clip.name]), folder / "one", progress=False).shards[0]
    index = unpack_index(packed.with_suffix(".npz").read_bytes(), str(packed))
    names = [f"{number // 1000:05d}/{number:07d}{clip.suffix}" for number in range(entries)]
    (folder / "shards").mkdir()
    for number, start in enumerate(range(0, entries, 1000)):
        part = np.array([name.encode() for name in names[start : start + 1000]])
        path = folder / f"shards/train-{number:06d}"
        path.with_suffix(".npz").write_bytes(index._replace(names=part, rows=index.rows.repeat(len(part))).pack())
        shutil.copy(packed, path.with_suffix(".tar"))
    last = (entries - 1) // 1000
    return _config(folder, names, shards=str(folder / f"shards/train-{{000000..{last:06d}}}.tar"))


def _config(folder: Path, names: list[str], shards: str | None = None) -> Config:
    (folder / "list.txt").write_text("".join(f"{name} c{i % 2} {i % 2}\n" for i, name in enumerate(names)))
    (folder / "classes.txt").write_text("c0\nc1\n")
    return Config.model_validate(
        {
            "stream": "mv",
            "setting": "attention",
            "output": str(folder / "run"),
            "data": {
                "root": str(folder),
                "shards": shards,
                "train_list": str(folder / "list.txt"),
                "classes": str(folder / "classes.txt"),
                "cache": str(folder / "cache"),
                "workers": 2,
            },
            "input": {"full_size": 32, "segments": 1},
            "train": {"batch_size": 2, "device": "cpu", "precision": "fp32"},
        }
    )


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def _private(process: str) -> int:
    """Memory that a process shares with nobody, kilobytes."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
