"""A list as long as those of the largest data sets: how soon training starts, and whether its readers grow."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from coviar_mocrop.clips.boxes import box_of_file, open_box_cache
from coviar_mocrop.clips.cache import State
from coviar_mocrop.clips.loading import read_batches
from coviar_mocrop.config import Config
from coviar_mocrop.distributed import ALONE
from coviar_mocrop.errors import ConfigError, DataError
from coviar_mocrop.training.job import prepare
from coviar_mocrop.training.state import Progress
from coviar_mocrop.training.step import agree, readings, train_step


@dataclass(frozen=True)
class Scale:
    """What was found.

    Attributes:
        entries: clips in the list.
        seconds_ready: from the settings to lists and boxes read, network and loader made.
        seconds_first_step: from there to the first step done, readers started.
        batches: how many were read then.
        megabytes: memory that the readers share with nobody (the largest of them), after so many batches.
    """

    entries: int
    seconds_ready: float
    seconds_first_step: float
    batches: int
    megabytes: dict[int, float]

    def table(self) -> str:
        """Markdown."""
        head = "| batches read | private memory of a reader, MB |\n|---:|---:|"
        rows = [f"| {count} | {megabytes:.1f} |" for count, megabytes in self.megabytes.items()]
        start = (
            f"{self.entries} entries: ready in {self.seconds_ready:.2f} s, first step {self.seconds_first_step:.2f} s "
            "later"
        )
        return "\n".join([start, "", head, *rows])

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure_scale(clip: str | os.PathLike[str], entries: int = 100_000, batches: int = 10_000) -> Scale:
    """Train on a list of ``entries`` names of one clip, their boxes known, and read ``batches`` batches.

    Raises:
        ConfigError: a number is below 1, or this system does not tell the memory of processes.
        VideoError: the clip cannot be read.
    """
    if entries < 1 or batches < 1:
        raise ConfigError("--entries and --batches must be at least 1")
    if not Path("/proc/self/smaps_rollup").exists():
        raise ConfigError("this needs Linux, which tells the memory of a process in /proc")
    with tempfile.TemporaryDirectory(dir=Path(clip).resolve().parent) as name:
        config = _many(Path(clip), Path(name), entries)
        torch.set_num_threads(1)
        start = time.perf_counter()
        job = prepare(config, ALONE)
        ready = time.perf_counter()
        reading = next(readings(job))
        if reading.error is not None:
            raise reading.error
        train_step(job, Progress(), agree(job, reading, stop=False, save=False))
        stepped = time.perf_counter()
        megabytes: dict[int, float] = {}
        count = 0
        bar = tqdm(total=batches, unit="batch", leave=False)
        while count < batches:
            job.batches.epoch += 1
            for batch in read_batches(job.loader):
                if batch.errors:
                    raise DataError(str(next(iter(batch.errors.values()))))
                count += 1
                bar.update()
                if count % max(batches // 10, 1) == 0:
                    megabytes[count] = _private_megabytes()
                if count == batches:
                    break
        bar.close()
    return Scale(entries, ready - start, stepped - ready, count, megabytes)


def _many(clip: Path, folder: Path, entries: int) -> Config:
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
    open_box_cache(config.data, config.mocrop).put(dict.fromkeys(names, entry))
    return config


def _private_megabytes() -> float:
    """Of the child process that has most."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return max(_private(child) for child in children) / 1024


def _private(process: str) -> int:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
