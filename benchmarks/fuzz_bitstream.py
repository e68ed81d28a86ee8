#!/usr/bin/env python
"""Read thousands of damaged copies of videos: usable data or one clear error, never a crash, a hang or a leak."""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from tqdm import tqdm

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.bitstream.types import no_vectors
from coviar_mocrop.cli import parser, run
from coviar_mocrop.commands.dataset_options import whole_number
from coviar_mocrop.errors import CoviarMocropError, NoMotionVectorsError, VideoError
from coviar_mocrop.files import write_json
from coviar_mocrop.viz.tables import markdown_table

EXAMPLES = """\
  python benchmarks/fuzz_bitstream.py --copies 2000
  python benchmarks/fuzz_bitstream.py videos/*.mp4 --encoded --copies 20000 --output fuzz
  python benchmarks/fuzz_bitstream.py --output fuzz --copies 1 --first 137 --keep broken.mp4
"""

MAX_FRAME_PIXELS = 1 << 21
"""Larger frames are refused, so that a copy that claims them costs no time."""

SMALL = (98, 66)
CODECS: dict[str, tuple[str, tuple[int, int], int]] = {
    "h264.mp4": ("libx264", SMALL, 0),
    "h264_b.mp4": ("libx264", SMALL, 2),
    "h264.h264": ("libx264", SMALL, 0),
    "h264_b.mkv": ("libx264", SMALL, 2),
    "h264_b.ts": ("libx264", SMALL, 2),
    "h264.flv": ("libx264", SMALL, 0),
    "mpeg4.mp4": ("mpeg4", SMALL, 0),
    "mpeg4.m4v": ("mpeg4", SMALL, 0),
    "mpeg4_b.avi": ("mpeg4", SMALL, 2),
    "mpeg2_b.mpg": ("mpeg2video", SMALL, 2),
    "mpeg2.ts": ("mpeg2video", SMALL, 0),
    "mpeg1.mpg": ("mpeg1video", SMALL, 0),
    "h263.avi": ("h263", (176, 144), 0),
    "wmv2.asf": ("wmv2", SMALL, 0),
    "hevc.mp4": ("libx265", SMALL, 0),
    "vp9.webm": ("libvpx-vp9", SMALL, 0),
}
"""Encoder, width and height, and number of B-frames of the clips that are encoded here."""

INTERESTING = (0, 1, 0x7F, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Values at which sizes, counts and offsets go wrong."""


class Task(NamedTuple):
    """Damaged copy ``number`` of ``file``."""

    file: str
    number: int


class Outcome(NamedTuple):
    """What reading a copy gave.

    Attributes:
        kind: ``data``, ``error`` (a good one), or ``bad``.
        text: hash of the data, the message, or what is bad.
        changed: whether the data differ from those of the sound file.
        noticed: whether frames were counted as damaged.
        megabytes: peak of the process's resident memory while it read.
    """

    kind: str
    text: str
    changed: bool = False
    noticed: bool = False
    megabytes: float = 0.0


@dataclass
class Worker:
    """A process that reads, what it is reading, and since when."""

    process: multiprocessing.process.BaseProcess
    connection: Connection
    task: Task | None = None
    since: float = 0.0


def main() -> None:
    """Parse, run, report; exit code 1 if anything bad was found."""
    arguments = parser(
        "Damage videos in many ways (" + ", ".join(DAMAGES) + ") and read the copies:\n"
        "everything that open_video offers, twice, each copy within a limit of time and memory, in processes of their\n"
        "own. The number of a copy decides how it is damaged. With --output, a run that was stopped goes on.",
        EXAMPLES,
    )
    arguments.add_argument("files", nargs="*", metavar="FILE", help="intact videos (default: clips encoded here)")
    arguments.add_argument("--encoded", action="store_true", help="also use the clips encoded here")
    arguments.add_argument("--frames", type=int, default=24, help="cut the files to this length (default: %(default)s)")
    arguments.add_argument("--copies", type=int, default=2000, help="copies in all (default: %(default)s)")
    arguments.add_argument("--first", type=int, default=0, help="number of the first copy")
    arguments.add_argument("--workers", type=whole_number(1, 1000), default=1, help="processes (default: %(default)s)")
    arguments.add_argument("--seconds", type=float, default=60.0, help="time limit of a copy (default: %(default)s)")
    arguments.add_argument(
        "--megabytes", type=float, default=1000.0, help="memory limit of a process (default: %(default)s)"
    )
    arguments.add_argument(
        "--output", type=Path, metavar="FOLDER", help="keep the sources, each outcome and summary.json here"
    )
    arguments.add_argument("--keep", metavar="FILE", type=Path, help="also write the first copy here")
    given = arguments.parse_args()
    if given.output is not None:
        fuzz(given, given.output)
        return
    with tempfile.TemporaryDirectory() as folder:
        fuzz(given, Path(folder))


def fuzz(given: argparse.Namespace, folder: Path) -> None:
    """Do what is left to do, and print a summary."""
    sources = prepare(given, folder / "sources")
    tasks = [Task(str(sources[n % len(sources)]), n) for n in range(given.first, given.first + given.copies)]
    if given.keep and tasks:
        given.keep.write_bytes(damaged(*tasks[0]))
    log = folder / "outcomes.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    done = {line["copy"]: line for line in lines}
    left = [task for task in tasks if task.number not in done]
    with (
        log.open("a") as file,
        tqdm(total=len(tasks), initial=len(tasks) - len(left), unit="copy", mininterval=1) as bar,
    ):
        for task, outcome, seconds in read_all(left, given.workers, given.seconds, given.megabytes):
            line = {"copy": task.number, "source": Path(task.file).name, "damage": damage_of(task)}
            done[task.number] = line | outcome._asdict() | {"seconds": round(seconds, 3)}
            file.write(json.dumps(done[task.number]) + "\n")
            file.flush()
            bar.update()
    outcomes = [done[number] for number in sorted(done)]  # of earlier runs, too
    summary = summarize(outcomes, {source.name: _codec(source) for source in sources})
    write_json(folder / "summary.json", summary)
    print(
        f"{summary['copies']} copies of {summary['sources']} files: "
        + ", ".join(f"{count} {kind}" for kind, count in summary["outcomes"].items())
        + f"; slowest {summary['slowest_seconds']:.1f} s, peak of resident memory {summary['peak_megabytes']:.0f} MB"
    )
    print(f"damage that changed data: noticed in {summary['noticed']} of {summary['changed']} copies")
    rows = [
        [codec, f"{100 * noticed / changed:.0f}%"] for codec, (noticed, changed) in summary["noticed_by_codec"].items()
    ]
    print(markdown_table([["codec", "noticed"], *rows]))
    for line in summary["bad"]:
        print(f"BAD {line['source']} {line['copy']} ({line['damage']}): {line['text']}")
    if summary["bad"]:
        raise SystemExit(1)


def _codec(source: Path) -> str:
    with open_video(source) as video:
        return video.info.codec


def summarize(lines: Sequence[dict[str, Any]], codecs: Mapping[str, str]) -> dict[str, Any]:
    """What the outcomes come to, in a form for JSON.

    Args:
        lines: one for each copy.
        codecs: by name of the source.
    """

    def count(key: str) -> dict[str, dict[str, int]]:
        groups = sorted({line[key] for line in lines})
        return {group: dict(sorted(Counter(o["kind"] for o in lines if o[key] == group).items())) for group in groups}

    changed = [line for line in lines if line["changed"]]
    noticed: dict[str, list[bool]] = {}
    for line in changed:
        noticed.setdefault(codecs[line["source"]], []).append(line["noticed"])
    return {
        "copies": len(lines),
        "sources": len(codecs),
        "outcomes": dict(sorted(Counter(line["kind"] for line in lines).items())),
        "by_damage": count("damage"),
        "by_source": count("source"),
        "changed": len(changed),
        "noticed": sum(line["noticed"] for line in changed),
        "noticed_by_codec": {codec: [sum(found), len(found)] for codec, found in sorted(noticed.items())},
        "slowest_seconds": max((line["seconds"] for line in lines), default=0.0),
        "peak_megabytes": max((line["megabytes"] for line in lines), default=0.0),
        "bad": [line for line in lines if line["kind"] == "bad"],
    }


# -- sound videos ------------------------------------------------------------------------------------


def prepare(given: argparse.Namespace, folder: Path) -> list[Path]:
    """The sound videos: what an earlier run left, or the files cut to their first frames, and encoded clips."""
    for file in given.files:
        if not Path(file).is_file():
            raise VideoError(f"{file}: no such file")
    if not folder.is_dir():
        unfinished = folder.with_name(f"{folder.name}.part")
        unfinished.mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(given.files):
            cut(Path(file), unfinished / f"{number:03}_{Path(file).name}", given.frames)
        if given.encoded or not given.files:
            for name, (codec, size, b_frames) in CODECS.items():
                encode(unfinished / name, codec, size, b_frames, given.frames)
        unfinished.rename(folder)
    return sorted(folder.iterdir())


def cut(source: Path, target: Path, frames: int) -> None:
    """Copy the first packets of the best video stream; a file that cannot be copied so is taken as it is."""
    try:
        with av.open(str(source)) as container, av.open(str(target), "w") as copy:
            stream = container.streams.best("video")
            assert stream is not None
            written = copy.add_stream_from_template(stream)
            for packet in islice((packet for packet in container.demux(stream) if packet.size), frames):
                packet.stream = written
                copy.mux(packet)
    except (av.error.FFmpegError, ValueError):
        target.write_bytes(source.read_bytes())


def encode(path: Path, codec: str, size: tuple[int, int], b_frames: int, frames: int) -> None:
    """A patch that wanders over noise."""
    options = {
        "libx264": {"x264-params": f"scenecut=0:b-adapt=0:threads=1:bframes={b_frames}"},
        "libx265": {"x265-params": "log-level=none:pools=none:frame-threads=1"},
        "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    }
    raw = {".h264": "h264", ".m4v": "m4v"}.get(path.suffix)
    width, height = size
    rng = np.random.default_rng(0)
    wall, patch = (rng.integers(0, 256, (8, 8, 3)).repeat(h, 0).repeat(w, 1) for h, w in ((20, 24), (4, 5)))
    with av.open(str(path), "w", format=raw) as container:
        stream: Any = container.add_stream(codec, rate=25, options=options.get(codec, {}))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 8, b_frames
        stream.codec_context.thread_count = 1
        for number in range(frames):
            picture = wall[:height, :width] + rng.integers(-4, 5, (height, width, 3))
            picture[10 + number % 7 :, 2 * number % 40 :][: patch.shape[0], : patch.shape[1]] = patch
            frame = VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


# -- damage ------------------------------------------------------------------------------------------

Bytes = NDArray[np.uint8]


def flip_bits(data: Bytes, rng: np.random.Generator) -> Bytes:
    """Some bits anywhere."""
    places = rng.integers(0, len(data), int(rng.integers(1, 20)))
    data[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
    return data


def change_ends(data: Bytes, rng: np.random.Generator) -> Bytes:
    """Some bytes near the start or the end, where headers are small but much can go wrong."""
    places = rng.integers(0, min(2000, len(data)), int(rng.integers(1, 12)))
    places = len(data) - 1 - places if rng.integers(2) else places
    data[places] = rng.integers(0, 256, len(places))
    return data


def change_fields(data: Bytes, rng: np.random.Generator) -> Bytes:
    """Some numbers of 1, 2 or 4 bytes near the start or the end, replaced by those at which arithmetic goes wrong."""
    for _ in range(int(rng.integers(1, 5))):
        size = int(rng.choice([1, 2, 4]))
        at = int(rng.integers(0, max(min(2000, len(data)) - size, 1)))
        at = len(data) - size - at if rng.integers(2) else at
        value = int(rng.choice(INTERESTING)) & (256**size - 1)
        order = "big" if rng.integers(2) else "little"
        data[at : at + size] = np.frombuffer(value.to_bytes(size, order), np.uint8)[: len(data) - at]
    return data


def overwrite(data: Bytes, rng: np.random.Generator) -> Bytes:
    """Chance in place of a stretch."""
    part = data[_stretch(data, rng)]
    part[:] = rng.integers(0, 256, len(part))
    return data


def erase(data: Bytes, rng: np.random.Generator) -> Bytes:
    """Zeros in place of a stretch."""
    data[_stretch(data, rng)] = 0
    return data


def swap(data: Bytes, rng: np.random.Generator) -> Bytes:
    """Two stretches change places."""
    first = _stretch(data, rng)
    start = int(rng.integers(len(data)))
    length = min(first.stop - first.start, len(data) - start)
    head, tail = data[first.start : first.start + length].copy(), data[start : start + length].copy()
    data[first.start : first.start + len(tail)] = tail[: len(data) - first.start]
    data[start : start + len(head)] = head
    return data


def lose(data: Bytes, rng: np.random.Generator) -> Bytes:
    """A stretch is missing."""
    return np.delete(data, _stretch(data, rng))


def cut_off(data: Bytes, rng: np.random.Generator) -> Bytes:
    """The end is missing."""
    return data[: int(rng.integers(len(data)))]


DAMAGES: dict[str, Callable[[Bytes, np.random.Generator], Bytes]] = {
    "flipped bits": flip_bits,
    "changed ends": change_ends,
    "changed fields": change_fields,
    "overwritten": overwrite,
    "erased": erase,
    "swapped": swap,
    "lost": lose,
    "cut off": cut_off,
}


def _stretch(data: Bytes, rng: np.random.Generator) -> slice:
    start = int(rng.integers(len(data)))
    return slice(start, min(start + int(rng.integers(1, max(len(data) // 8, 2))), len(data)))


def damage_of(task: Task) -> str:
    """The kind of damage, which the number decides."""
    return list(DAMAGES)[int(np.random.default_rng(task.number).integers(len(DAMAGES)))]


def damaged(file: str, number: int) -> bytes:
    """The bytes of ``file`` with damage that ``number`` decides."""
    data = np.frombuffer(Path(file).read_bytes(), np.uint8).copy()
    return DAMAGES[damage_of(Task(file, number))](data, np.random.default_rng([number, 1])).tobytes()


# -- reading -----------------------------------------------------------------------------------------


def read_all(
    tasks: Sequence[Task], workers: int, seconds: float, megabytes: float
) -> Iterator[tuple[Task, Outcome, float]]:
    """Do all tasks, as each is done; with the seconds it took."""
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(tasks))
    started = 0
    with tempfile.TemporaryDirectory() as folder:

        def start() -> Worker:
            nonlocal started
            started += 1
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, os.path.join(folder, f"{started}")), daemon=True)
            process.start()
            theirs.close()
            ours.recv()  # what it imports is not part of the first copy's time
            return Worker(process, ours)

        def give(worker: Worker) -> None:
            worker.task = waiting.pop() if waiting else None
            worker.since = time.perf_counter()
            if worker.task is not None:
                worker.connection.send(worker.task)

        pool = [start() for _ in range(min(workers, len(tasks)))]
        try:
            for worker in pool:
                give(worker)
            while any(worker.task for worker in pool):
                ready = wait([worker.connection for worker in pool if worker.task], timeout=0.2)
                for place, worker in enumerate(pool):
                    if worker.task is None:
                        continue
                    taken = time.perf_counter() - worker.since
                    if taken > seconds:
                        outcome = Outcome("bad", f"no end within {seconds:.0f} s")
                    elif worker.connection not in ready:
                        continue
                    else:
                        outcome = receive(worker)
                        if outcome.megabytes > megabytes:
                            text = f"{outcome.megabytes:.0f} MB of memory ({outcome.kind}: {outcome.text})"
                            outcome = outcome._replace(kind="bad", text=text)
                    yield worker.task, outcome, taken
                    if outcome.kind == "bad":
                        worker.process.kill()
                        worker.process.join()
                        pool[place] = worker = start()
                    give(worker)
        finally:
            for worker in pool:
                worker.process.kill()
                worker.process.join()


def receive(worker: Worker) -> Outcome:
    """What a worker answers; if it died, that."""
    try:
        outcome: Outcome = worker.connection.recv()
    except EOFError:
        worker.process.join()
        return Outcome("bad", f"crash, exit code {worker.process.exitcode}")
    return outcome


def serve(connection: Connection, scratch: str) -> None:
    """Answer tasks until the process is ended."""
    connection.send("ready")
    while True:
        task: Task = connection.recv()
        path = Path(f"{scratch}{Path(task.file).suffix}")
        path.write_bytes(damaged(*task))
        reset_peak_memory()
        outcome = Outcome("bad", "")
        try:
            first, second = contents(path), contents(path)
            if first == second:
                changed = first.kind == "data" and first.text != sound(task.file)
                outcome = first._replace(changed=changed)
            else:
                outcome = Outcome("bad", f"not the same again: {first} and {second}")
        except BaseException as error:  # all that is not the documented error is what is looked for
            outcome = Outcome("bad", "".join(traceback.format_exception_only(error)).strip())
        connection.send(outcome._replace(megabytes=peak_memory()))


@cache
def sound(file: str) -> str:
    """The hash over what the sound file gives."""
    return contents(Path(file)).text


def contents(path: Path) -> Outcome:
    """A hash over what can be read, which is checked to be usable; or the error."""
    found = hashlib.sha256()
    try:
        with open_video(path, max_frame_pixels=MAX_FRAME_PIXELS) as video:
            count = len(video.gops)
            gops = [video.gops[number] for number in sorted({0, count // 3, 2 * count // 3, count - 1})]
            last = [gop.start + gop.length - 1 for gop in gops]
            arrays: list[NDArray[Any]] = [*video.get({"frame": last, "iframe": last}).values()]
            try:
                vectors = video.get_motion_vectors_at()
                arrays += video.get({"mv": last, "residual": last}).values()
            except NoMotionVectorsError:
                vectors = [no_vectors()] * video.info.num_frames
            assert sum(gop.length for gop in video.gops) == video.info.num_frames == len(vectors) > 0
            height, width, noticed = video.info.height, video.info.width, video.damaged_frames > 0
    except CoviarMocropError as error:
        message = str(error)
        assert message.startswith(f"{path}: "), message
        assert "\n" not in message, message
        return Outcome("error", message)
    rows, columns = np.indices((height, width))
    for picture, first, motion, residual in zip(*arrays, strict=True) if len(arrays) == 4 else ():
        warped = first[rows - motion[..., 1], columns - motion[..., 0]]
        assert (warped + residual == picture).all(), "warped I-frame and residual do not give the frame"
    for array in (*arrays, *vectors):
        found.update(array.tobytes())
    return Outcome("data", found.hexdigest(), noticed=noticed)


def reset_peak_memory() -> None:
    """Begin to measure; where the system cannot, the peak of the whole life of the process is taken."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """Peak of resident memory, MB; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


if __name__ == "__main__":
    run(main)
