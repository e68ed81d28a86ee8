#!/usr/bin/env python
"""Read thousands of damaged copies of real videos: usable data or one clear error, never a crash, hang or leak."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.cli import parser, run
from coviar_mocrop.errors import CoviarMocropError, VideoError

EXAMPLES = """\
  python benchmarks/fuzz_bitstream.py clip.mp4 clip.avi --mutations 2000
  python benchmarks/fuzz_bitstream.py clip.mp4 --mutations 1 --first 137 --keep broken.mp4
"""

DAMAGES = ("bytes", "stretch", "loss", "cut")


class Task(NamedTuple):
    """Damaged copy ``number`` of ``file``."""

    file: str
    number: int


class Outcome(NamedTuple):
    """What reading gave: ``data``, ``error`` (a good one), or ``bad`` with the reason; resident memory after it."""

    kind: str
    text: str
    megabytes: float


@dataclass
class Worker:
    """A process that reads, what it is reading, and since when."""

    process: multiprocessing.process.BaseProcess
    connection: Connection
    task: Task | None = None
    since: float = 0.0
    memory: list[float] = field(default_factory=list)


def main() -> None:
    """Parse, run, report; exit code 1 if anything was found."""
    arguments = parser(
        "Damage videos (bytes changed, a stretch overwritten, a stretch lost, the end cut off) and read the copies:\n"
        "everything that open_video offers, twice, each copy within a time limit, in processes of their own.",
        EXAMPLES,
    )
    arguments.add_argument("files", nargs="+", metavar="FILE", help="sound videos; copies are made of each in turn")
    arguments.add_argument("--mutations", type=int, default=2000, help="copies in all (default: 2000)")
    arguments.add_argument("--first", type=int, default=0, help="number of the first copy; decides what is damaged")
    arguments.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    arguments.add_argument("--seconds", type=float, default=10.0, help="time limit of a copy (default: 10)")
    arguments.add_argument("--keep", metavar="FILE", help="also write the first copy here")
    given = arguments.parse_args()
    for file in given.files:
        if not Path(file).is_file():
            raise VideoError(f"{file}: no such file")
    numbers = range(given.first, given.first + given.mutations)
    tasks = [Task(given.files[number % len(given.files)], number) for number in numbers]
    if given.keep and tasks:
        Path(given.keep).write_bytes(damaged(*tasks[0]))
    start = time.perf_counter()
    kinds, found, slowest, memory = fuzz(tasks, given.workers, given.seconds)
    print(f"{len(tasks)} copies of {len(given.files)} files in {time.perf_counter() - start:.0f} s: ", end="")
    print(", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing done")
    if slowest:
        print(
            "slowest: "
            + ", ".join(f"{seconds:.2f} s ({Path(task.file).name} {task.number})" for seconds, task in slowest)
        )
    for name, values in memory.items():
        if not values:
            continue
        tenth = max(len(values) // 10, 1)
        early, late = statistics.median(values[tenth : 2 * tenth] or values), statistics.median(values[-tenth:])
        print(f"{name}: resident memory {early:.0f} MB after a tenth, {late:.0f} MB at the end, {len(values)} copies")
    for task, text in found:
        print(f"BAD {task.file} {task.number}: {text}")
    if found:
        raise SystemExit(1)


def fuzz(
    tasks: Sequence[Task], workers: int, seconds: float
) -> tuple[Counter[str], list[tuple[Task, str]], list[tuple[float, Task]], dict[str, list[float]]]:
    """Do all tasks.

    Returns:
        How many ended how; what was bad; the slowest three; resident megabytes over time, by process.
    """
    context = multiprocessing.get_context("spawn")
    kinds: Counter[str] = Counter()
    found: list[tuple[Task, str]] = []
    times: list[tuple[float, Task]] = []
    memory: dict[str, list[float]] = {}
    waiting = list(reversed(tasks))
    pool: list[Worker] = []
    with tempfile.TemporaryDirectory() as folder:

        def start() -> Worker:
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, os.path.join(folder, f"{len(memory)}")), daemon=True)
            process.start()
            theirs.close()
            worker = Worker(process, ours)
            memory[f"process {len(memory) + 1}"] = worker.memory
            return worker

        def give(worker: Worker) -> None:
            worker.task = waiting.pop() if waiting else None
            worker.since = time.perf_counter()
            if worker.task is not None:
                worker.connection.send(worker.task)

        pool = [start() for _ in range(min(workers, len(tasks)))]
        for worker in pool:
            give(worker)
        while any(worker.task for worker in pool):
            ready = wait([worker.connection for worker in pool if worker.task], timeout=0.2)
            for place, worker in enumerate(pool):
                if worker.task is None:
                    continue
                taken = time.perf_counter() - worker.since
                problem = ""
                if taken > seconds:
                    problem = f"no end within {seconds:.0f} s"
                elif worker.connection in ready:
                    try:
                        outcome: Outcome = worker.connection.recv()
                    except EOFError:
                        worker.process.join()
                        problem = f"crash, exit code {worker.process.exitcode}"
                    else:
                        kinds[outcome.kind] += 1
                        worker.memory.append(outcome.megabytes)
                        if outcome.kind == "bad":
                            found.append((worker.task, outcome.text))
                else:
                    continue
                times = sorted([*times, (taken, worker.task)], reverse=True)[:3]
                if problem:
                    kinds["bad"] += 1
                    found.append((worker.task, problem))
                    worker.process.kill()
                    worker.process.join()
                    pool[place] = worker = start()
                give(worker)
        for worker in pool:
            worker.process.kill()
            worker.process.join()
    return kinds, found, times, memory


def serve(connection: Connection, scratch: str) -> None:
    """Answer tasks until the process is ended."""
    while True:
        task: Task = connection.recv()
        path = Path(f"{scratch}{Path(task.file).suffix}")
        path.write_bytes(damaged(*task))
        try:
            first, second = contents(path), contents(path)
            kind, text = first if first == second else ("bad", f"not the same again: {first} and {second}")
        except BaseException as error:  # all that is not the documented error is what is looked for
            kind, text = "bad", "".join(traceback.format_exception_only(error)).strip()
        connection.send(Outcome(kind, text, resident_megabytes()))


def damaged(file: str, number: int) -> bytes:
    """The bytes of ``file`` with damage that ``number`` decides."""
    data = Path(file).read_bytes()
    rng = np.random.default_rng(number)
    damage = DAMAGES[int(rng.integers(len(DAMAGES)))]
    copy = np.frombuffer(data, np.uint8).copy()
    start = int(rng.integers(len(data)))
    length = int(rng.integers(1, max(len(data) // 8, 2)))
    if damage == "bytes":
        # headers are small, but most of what can go wrong is there: every second copy has its start or end damaged
        near = [len(data), min(2000, len(data))][int(rng.integers(2))]
        places = rng.integers(0, near, int(rng.integers(1, 20)))
        places = len(data) - 1 - places if rng.integers(2) else places
        copy[places] = rng.integers(0, 256, len(places))
    elif damage == "stretch":
        part = copy[start : start + length]
        part[:] = rng.integers(0, 256, len(part))
    elif damage == "loss":
        copy = np.delete(copy, np.s_[start : start + length])
    else:
        copy = copy[:start]
    return copy.tobytes()


def contents(path: Path) -> tuple[str, str]:
    """``data`` and a hash over what can be read, which is checked to be usable; or ``error`` and its message."""
    found = hashlib.sha256()
    try:
        with open_video(path) as video:
            count = len(video.gops)
            gops = [video.gops[number] for number in sorted({0, count // 3, 2 * count // 3, count - 1})]
            last = [gop.start + gop.length - 1 for gop in gops]
            arrays = video.get({"iframe": last, "mv": last, "residual": last})
            pictures = video.get_frames_at(last)
            vectors = video.get_motion_vectors_at()
            assert sum(gop.length for gop in video.gops) == video.info.num_frames == len(vectors) > 0
            height, width = video.info.height, video.info.width
    except CoviarMocropError as error:
        message = str(error)
        assert message.startswith(f"{path}: "), message
        assert "\n" not in message, message
        return "error", message
    rows, columns = np.indices((height, width))
    for first, motion, residual, picture in zip(*arrays.values(), pictures, strict=True):
        warped = first[rows - motion[..., 1], columns - motion[..., 0]]
        assert (warped + residual == picture).all(), "warped I-frame and residual do not give the frame"
    for array in (*arrays.values(), *vectors):
        found.update(array.tobytes())
    return "data", found.hexdigest()


def resident_megabytes() -> float:
    """Memory of this process now; where the system does not tell, the most it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    run(main)
