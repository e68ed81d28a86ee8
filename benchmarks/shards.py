"""How fast clips are prepared and packed into shards, and read from them, beside the same clips as files.

The videos of a folder are brought to the canonical format, packed, and read as training reads them: all three streams,
three segments, boxes known. Each batch is read from files, from a shard on the same disk, and from one behind a web
server on this machine, in turn, so that all see the same load. The median over the passes counts.
What a large data set costs is computed from these figures.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import costs
from coviar_mocrop.bitstream.transcode import Codec
from coviar_mocrop.clips.boxes import extract_boxes
from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.clips.lists import read_videos
from coviar_mocrop.clips.loading import open_clips
from coviar_mocrop.clips.packing import pack_shards
from coviar_mocrop.commands.dataset_options import whole_number
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.canonical import Canonical
from coviar_mocrop.datasets.folder import prepare_folder
from coviar_mocrop.datasets.handling import Handling
from coviar_mocrop.datasets.lists import read_classes, read_list
from coviar_mocrop.errors import DataError
from coviar_mocrop.streams.base import create_stream
from coviar_mocrop.viz.tables import markdown_table

STREAMS = ("iframe", "mv", "residual")
BATCH = 8


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options of ``benchmark.py shards``."""
    add = command.add_argument
    add("videos", type=Path, metavar="DIR", help="a folder for each class")
    costs.add_arguments(command)
    add("--codec", choices=("mpeg4", "h264"), default="mpeg4", help="codec of the canonical format (%(default)s)")
    repeats = whole_number(1, 1000)
    add(
        "--repeats", type=repeats, default=5, metavar="N", help="passes over all clips; the median counts (%(default)s)"
    )


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure, print two tables."""
    logging.getLogger("coviar_mocrop").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        found = measure(given.videos, Path(name), given.codec, given.repeats)
    steps = [(step, f"{found[step]:.1f}") for step in ("transcoding", "boxes", "packing")]
    print(markdown_table([(f"one process, {given.codec}", "clips per second"), *steps], "r"))
    sizes = [f"{found[name]:.0f} kB" for name in ("kB_per_clip", "kB_canonical", "kB_in_shard")]
    print(f"\n{found['clips']} clips of {found['seconds_per_clip']:.1f} s, each {sizes[0]} as it comes, ", end="")
    print(f"{sizes[1]} in the canonical format, {sizes[2]} of a shard\n")
    rows = [(place, f"{times['ms']:.2f}", f"{times['of files']:.2f}") for place, times in found["reading"].items()]
    print(markdown_table([("read from", "ms per clip", "relative to files"), *rows], "rr"))
    return {**found, **costs.print_tables(found, given)}


def measure(videos: Path, folder: Path, codec: Codec, repeats: int) -> dict[str, Any]:
    """Clips per second of each step of preparation on one process, sizes, and milliseconds a clip of reading."""
    found: dict[str, Any] = {}
    start = time.perf_counter()
    prepared = prepare_folder(
        videos,
        folder / "lists",
        canonical=Canonical(folder / "clips", codec),
        test_share=0,
        val_share=0,
        handling=Handling(workers=1, check=False, on_error="skip"),
    )
    clips = read_list(prepared.lists / "train_split1.txt", prepared.classes).clips
    if not clips:
        raise DataError(f"{videos}: holds no video that can be used")
    found["clips"], found["transcoding"] = len(clips), len(clips) / (time.perf_counter() - start)
    config = _config(prepared.root, prepared.lists, folder / "cache")
    start = time.perf_counter()
    extract_boxes(config)
    found["boxes"] = len(clips) / (time.perf_counter() - start)
    start = time.perf_counter()
    packed = pack_shards(config, folder / "shards")
    found["packing"] = len(clips) / (time.perf_counter() - start)
    sizes = [path.stat().st_size for path in prepared.root.rglob("*.mp4")]
    raw = [path.stat().st_size for path in videos.rglob("*") if path.is_file() and path.suffix != ".csv"]
    found["kB_per_clip"], found["kB_canonical"] = sum(raw) / len(raw) / 1e3, sum(sizes) / len(sizes) / 1e3
    found["kB_in_shard"] = sum(path.stat().st_size for path in packed.shards) / packed.clips / 1e3
    with serving(folder) as address:
        stores = {
            "files": _clips(config),
            "shards": _clips(config, str(folder / "shards")),
            "shards over HTTP": _clips(config, f"{address}/shards"),
        }
        found["seconds_per_clip"] = _seconds(stores["files"])
        found["reading"] = _read(stores, repeats)
    return found


def _read(stores: dict[str, ClipDataset], repeats: int) -> dict[str, dict[str, float]]:
    count = len(stores["files"])
    batches = [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]
    spent = {place: np.zeros((repeats, len(batches))) for place in stores}
    generator = np.random.default_rng(0)
    for number in tqdm(range(-1, repeats), "reading", unit="pass"):  # the first warms up
        for batch, indices in enumerate(batches):
            for place in sorted(stores, key=lambda _: generator.random()):  # none always comes first
                start = time.perf_counter()
                samples = stores[place].__getitems__([(max(number, 0), index, None) for index in indices])
                spent[place][max(number, 0), batch] = time.perf_counter() - start
                for error in (error for sample in samples for error in sample.errors.values()):
                    raise DataError(str(error))
    times = {place: np.median(rows, axis=0).sum() / count for place, rows in spent.items()}
    return {place: {"ms": 1e3 * float(t), "of files": float(t / times["files"])} for place, t in times.items()}


def _seconds(clips: ClipDataset) -> float:
    lengths = []
    for index in range(len(clips)):
        video, _ = clips.open(index)
        with video:
            lengths.append(video.info.num_frames / video.info.frame_rate)
    return statistics.fmean(lengths)


def _config(root: Path, lists: Path, cache: Path) -> Config:
    data = {"root": str(root), "train_list": str(lists / "train_split1.txt"), "classes": str(lists / "classes.txt")}
    return Config.model_validate(
        {
            "stream": "mv",
            "setting": "efficiency",
            "data": {**data, "cache": str(cache), "workers": 1},
            "model": {"backbone": "resnet18", "weights": None},
            "train": {"device": "cpu"},
        }
    )


def _clips(config: Config, shards: str | None = None) -> ClipDataset:
    data = config.data.model_copy(update={"shards": shards})
    streams = []
    for name in STREAMS:
        own = config.model_copy(update={"stream": name, "data": data})
        streams.append(create_stream(own, read_classes(data.classes), weights=False))
    clips, _ = open_clips(streams, read_videos(data, "train"), training=True)
    return clips


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A web server of a folder, in a process of its own, which sends parts of files; its address."""
    context = multiprocessing.get_context("spawn")
    told, tell = context.Pipe(duplex=False)
    server = context.Process(target=_serve, args=(folder, tell), daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{told.recv()}"
    finally:
        server.kill()
        server.join()


def _serve(folder: Path, tell: Connection) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Ranges, directory=str(folder)))
    tell.send(server.server_port)
    server.serve_forever()


class _Ranges(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send a file, or the part of it that is asked for."""
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or size - 1), size - 1)
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(end + 1 - start)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
