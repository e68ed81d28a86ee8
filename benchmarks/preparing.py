"""How fast clips are prepared by processes of this machine, and by a Ray cluster of two nodes that loses a worker.

Synthetic clips are transcoded, checked, and their boxes estimated, by both with the same number of processors. A worker
of the cluster is killed (kill -9) when a quarter of the clips is transcoded. All files, lists and boxes must be equal.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coviar_mocrop.clips.boxes import extract_boxes
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.canonical import Canonical
from coviar_mocrop.datasets.demo import make_demo
from coviar_mocrop.datasets.folder import prepare_folder
from coviar_mocrop.datasets.handling import Handling
from coviar_mocrop.errors import ConfigError, DataError
from coviar_mocrop.viz.tables import markdown_table

STEPS = ("transcoding", "checking", "boxes")
_NODES = 2


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options of ``benchmark.py preparing``."""
    add = command.add_argument
    add("--clips", type=int, default=2000, metavar="N", help="number of clips (%(default)s)")
    add("--cores", type=int, default=2, metavar="N", help="processors to use, a multiple of 2 (%(default)s)")
    add("--repeats", type=int, default=1, metavar="N", help="runs of each, in turn; the median counts (%(default)s)")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure, print a table."""
    if given.clips < 8 or given.repeats < 1 or given.cores < _NODES or given.cores % _NODES:
        raise ConfigError("--clips must be at least 8, --repeats 1, and --cores a multiple of 2")
    logging.getLogger("coviar_mocrop").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), given.clips, given.cores, given.repeats)
    rows = [(who, *map(_spread, speeds.values())) for who, speeds in found["clips per second"].items()]
    print(markdown_table([(f"clips per second, {given.cores} cores", *STEPS), *rows], "rrr"))
    print(f"\n{given.clips} clips, workers killed: {found['killed']}; all {found['files']} files and boxes are equal")
    return found


def _spread(speeds: list[float]) -> str:
    median = f"{statistics.median(speeds):.1f}"
    return median if len(speeds) == 1 else f"{median} ({min(speeds):.1f} to {max(speeds):.1f})"


def measure(folder: Path, clips: int, cores: int, repeats: int) -> dict[str, Any]:
    """Prepare ``clips`` clips in both ways.

    Returns:
        ``clips per second``, by who worked and by step, a number for each repeat; ``killed``, the workers; ``files``,
        how many were compared.

    Raises:
        DataError: a file or a box differs, or no worker was killed.
    """
    source = folder / "source"
    make_demo(source, folder / "demo", train_clips=clips // 2, test_clips=clips - clips // 2, workers=cores)
    speeds: dict[str, dict[str, list[float]]] = {}
    results: list[dict[str, str]] = []
    killed: list[int] = []
    for number in range(repeats):
        with _cluster(cores) as (address, workers):
            for who, ray in (("processes", None), ("Ray, a worker killed", address)):
                place = folder / f"{who[:3]}{number}"
                if ray:
                    threading.Thread(target=_kill_one, args=(place, clips // 4, workers, killed), daemon=True).start()
                seconds, result = _prepare(source, place, cores, ray)
                for step, value in seconds.items():
                    speeds.setdefault(who, {}).setdefault(step, []).append(clips / value)
                results.append(result)
                if result != results[0]:
                    differing = [name for name, digest in result.items() if results[0].get(name) != digest]
                    raise DataError(f"{place}: differs from the first run: {differing[:5]}")
        if len(killed) != number + 1:
            raise DataError("no worker of the cluster was found working, so none was killed")
    return {"clips per second": speeds, "killed": len(killed), "files": len(results[0]) - 1}


def _prepare(source: Path, place: Path, cores: int, ray: str | None) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds by step, and digests of the files below ``place`` and of the boxes."""
    seconds = {}
    for step, check in (("transcoding", False), ("checking", True)):
        start = time.perf_counter()
        prepared = prepare_folder(
            source,
            place / "lists",
            canonical=Canonical(place / "clips"),
            handling=Handling(check=check, workers=cores, ray=ray),
        )
        seconds[step] = time.perf_counter() - start
    data = {f"{side}_list": str(prepared.lists / f"{side}_split1.txt") for side in prepared.splits[0]}
    classes = str(prepared.lists / "classes.txt")
    data |= {"root": str(prepared.root), "classes": classes, "cache": str(place.with_suffix(".cache"))}
    config = Config.model_validate({"stream": "mv", "output": str(place), "data": {**data, "workers": cores}})
    start = time.perf_counter()
    boxes = extract_boxes(config, ray=ray)
    seconds["boxes"] = time.perf_counter() - start
    files = sorted(path for path in place.rglob("[!.]*") if path.is_file())  # a killed worker leaves a hidden one
    digests = {path.relative_to(place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return seconds, {**digests, "boxes": repr(sorted(boxes.boxes.items()))}


@contextmanager
def _cluster(cores: int) -> Iterator[tuple[str, Callable[[], list[int]]]]:
    """A Ray cluster of two nodes: its address, and a function that gives the processes of it that work."""
    try:
        from ray.cluster_utils import Cluster
    except ImportError:
        raise ConfigError("this needs the package ray; pip install 'coviar_mocrop[ray]'") from None
    node: dict[str, Any] = {"num_cpus": cores // _NODES, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(_NODES - 1):
            cluster.add_node(**node)
        raylets = {one.process.pid for place in cluster.list_all_nodes() for one in place.all_processes["raylet"]}

        def workers() -> list[int]:
            children = [
                child
                for raylet in raylets
                for task in Path(f"/proc/{raylet}/task").iterdir()
                for child in (task / "children").read_text().split()
            ]
            return [int(child) for child in children if _is_working(child)]

        yield cluster.address, workers
    finally:
        cluster.shutdown()


def _is_working(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"ray::_do")
    except OSError:  # it has ended
        return False


def _kill_one(place: Path, after: int, workers: Callable[[], list[int]], killed: list[int]) -> None:
    """Kill a process that works once so many clips are there."""
    while sum(1 for _ in place.rglob("[!.]*.mp4")) < after:
        time.sleep(0.1)
    while not (found := workers()):
        time.sleep(0.01)
    os.kill(found[0], signal.SIGKILL)
    killed.append(found[0])
