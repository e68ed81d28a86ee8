"""Reading speed on one core: clips, motion and training items beside bare decoding of the same packets.

Bare decoding is FFmpeg through PyAV in one thread, with motion vectors exported, and nothing else: the packets needed
lie in memory, and the pictures stay where the decoder puts them. All take turns in one run, so that a busy machine
slows all of them. Times are medians.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from benchmarks.boxes import encode_with_b_frames
from benchmarks.mocrop import Scene, render
from coviar_mocrop.bitstream import Video, open_video, transcode
from coviar_mocrop.bitstream.transcode import encode
from coviar_mocrop.bitstream.video import Backend
from coviar_mocrop.clips.reader import ReadViews, View, load_clip, read_views
from coviar_mocrop.clips.sampling import middle_frames, motion_frames, random_frames
from coviar_mocrop.clips.windows import Window, training_window
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.viz.tables import markdown_table

Kind = Literal["iframe", "mv", "residual"]
STREAMS: tuple[Kind, ...] = ("iframe", "mv", "residual")
SEGMENTS = (3, 25)
"""CoViAR's training and testing."""

_BOX = CropBox(0.1, 0.1, 0.9, 0.9)
_SIZE = 224
_SCALES = (1.0, 0.875, 0.75)
_DRAWS = 8
"""Training items that a pass reads, because where random frames lie decides what they cost."""


@dataclass(frozen=True)
class Row:
    """What one pass takes.

    Attributes:
        what: what is read.
        milliseconds: wall time of a pass, median.
        fastest: the least of them.
        ratio: to bare decoding of the packets needed; None where there is nothing to compare with.
    """

    what: str
    milliseconds: float
    fastest: float
    ratio: float | None


@dataclass(frozen=True)
class Job:
    """A function to time: what it reads, the bare decoding it is compared with, how many items it reads at a time."""

    function: Callable[[], object]
    against: str | None = None
    items: int = 1


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options of ``benchmark.py reading``."""
    command.add_argument(
        "clips", nargs="*", metavar="CLIP", help="videos (default: two synthetic ones, MPEG-4 and H.264 with B-frames)"
    )
    command.add_argument(
        "--transcode", choices=["mpeg4", "h264"], help="read a copy in canonical format (340x256, GOP 12)"
    )
    command.add_argument("--only", default="", metavar="TEXT", help="only the rows whose names begin with TEXT")
    command.add_argument("--threads", type=int, default=1, help="processor cores that may be used (default: 1)")
    command.add_argument("--repeats", type=int, default=11, help="passes of each; the median counts (%(default)s)")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure, print a table for each clip.

    Raises:
        ConfigError: a number is below 1.
        VideoError: a clip cannot be read.
    """
    if given.repeats < 1 or given.threads < 1:
        raise ConfigError(f"--repeats is {given.repeats} and --threads {given.threads}; give 1 or more")
    found = {}
    with tempfile.TemporaryDirectory() as folder, _cores(given.threads):
        for path in _clips(given.clips, given.transcode, Path(folder)):
            with open_video(path) as video:
                info = video.info
            title = f"{path.name}: {info.codec}, {info.width}x{info.height}, {info.num_frames} frames"
            title += ", B-frames" if info.has_b_frames else ""
            rows = measure(path, given.repeats, Path(folder), given.only)
            print(f"{title}\n\n{table(rows)}\n", flush=True)
            found[title] = [asdict(row) for row in rows]
    return {"processor": platform.machine(), "python": platform.python_version(), "clips": found}


def measure(path: Path, repeats: int, folder: Path, only: str = "") -> list[Row]:
    """Time everything that can be read from the file, in turns.

    Args:
        path: a video.
        repeats: number of passes.
        folder: where an index of the video is kept.
        only: how the names of what is read begin.

    Raises:
        ConfigError: nothing that is read begins so.
        VideoError: the file cannot be read.
    """
    with open_video(path) as video:
        jobs = _jobs(path, video, folder)
        chosen = {name for name in jobs if name.startswith(only)}
        if not chosen:
            raise ConfigError(f"--only {only!r}: no row begins so; the rows are: {'; '.join(jobs)}")
        compared = {jobs[name].against for name in chosen}
        jobs = {name: job for name, job in jobs.items() if name in chosen or name in compared}
        passes: dict[str, list[float]] = {name: [] for name in jobs}
        for turn in range(repeats + 1):
            for name, job in jobs.items():
                start = time.perf_counter()
                job.function()
                if turn:  # the first one warms up
                    passes[name].append(1000 * (time.perf_counter() - start) / job.items)
    medians = {name: statistics.median(times) for name, times in passes.items()}
    return [
        Row(name, medians[name], min(passes[name]), medians[name] / medians[job.against] if job.against else None)
        for name, job in jobs.items()
    ]


def table(rows: Iterable[Row]) -> str:
    """Format rows as a Markdown table."""
    cells = [
        (row.what, f"{row.milliseconds:.1f}", f"{row.fastest:.1f}", "" if row.ratio is None else f"{row.ratio:.2f}")
        for row in rows
    ]
    return markdown_table([("what", "ms (median)", "ms (fastest)", "relative to bare decoding"), *cells])


def _jobs(path: Path, video: Video, folder: Path) -> dict[str, Job]:
    """What to time, by name; an index is kept in ``folder``."""
    whole = "bare decoding of the whole clip"
    jobs = {
        "opening": Job(lambda: open_video(path).close()),
        "opening with a kept index": Job(lambda: open_video(path, index_cache=folder).close()),
        whole: Job(BareDecoding(path, [range(video.info.num_frames)])),
    }
    if mvextractor := _mvextractor(path):
        jobs["mvextractor, pictures and vectors of the whole clip"] = Job(mvextractor, whole)
    backends: tuple[Backend, ...] = ("pyav", "mvextractor") if mvextractor else ("pyav",)
    for backend in backends:
        jobs[f"vectors of the whole clip, {backend}"] = Job(partial(_vectors, path, backend), whole)
    for segments in SEGMENTS:
        frames = _test_frames(video, segments)
        bare = f"bare decoding for three streams, {segments} segments"
        load = f"load_clip, {segments} segments"
        jobs[bare] = Job(BareDecoding(path, [itertools.chain(*frames.values())]))
        for crop, box in (("middle square", None), ("box", _BOX)):
            jobs[f"{load}, {crop}"] = Job(partial(load_clip, path, STREAMS, segments, _SIZE, box), bare)
        jobs[f"{load}, box, one stream after the other"] = Job(partial(_load_one_by_one, path, segments), bare)
    bare = "bare decoding for 25 frames of motion"
    jobs[bare] = Job(BareDecoding(path, [frames["mv"]]))
    jobs["25 frames of motion"] = Job(partial(video.get_motion_at, frames["mv"]), bare)
    bare = "bare decoding for a training item"
    draws = [_random_frames(video, draw) for draw in range(_DRAWS)]
    jobs[bare] = Job(BareDecoding(path, [itertools.chain(*frames.values()) for frames in draws]), items=_DRAWS)
    jobs["training item"] = Job(partial(_training_items, path, STREAMS), bare, _DRAWS)
    jobs["training item, one stream after the other"] = Job(
        lambda: [_training_items(path, [stream]) for stream in STREAMS], bare, _DRAWS
    )
    return jobs


def _vectors(path: Path, backend: Backend) -> object:
    with open_video(path, backend) as video:
        return video.get_motion_vectors_at()


def _load_one_by_one(path: Path, segments: int) -> list[object]:
    return [load_clip(path, [stream], segments, _SIZE, _BOX) for stream in STREAMS]


def _training_items(path: Path, streams: Sequence[Kind]) -> list[ReadViews]:
    """Read items with random frames and windows, as training does, the file opened for each."""
    items = []
    for draw in range(_DRAWS):
        generator = np.random.default_rng(draw)

        def windows(frame_size: tuple[int, int], box: CropBox | None) -> list[Window]:
            return [training_window(frame_size, box, _SCALES, True, generator)]  # noqa: B023

        with open_video(path) as video:
            frames = _random_frames(video, draw)
            views: dict[str, View] = {stream: View(stream, frames[stream], windows, _SIZE) for stream in streams}
            items.append(read_views(video, views, _BOX))
    return items


def _test_frames(video: Video, segments: int) -> dict[Kind, list[int]]:
    """The frames that the streams need in testing: I-frames by their own numbers."""
    count = video.info.num_frames
    moving = motion_frames(video.gops, middle_frames(count, segments, "mv"))
    intra = [video.gop_at(frame).start for frame in middle_frames(count, segments, "iframe")]
    return {"iframe": intra, "mv": moving, "residual": moving}


def _random_frames(video: Video, seed: int) -> dict[Kind, list[int]]:
    """The frames that the streams need of a training item; see :func:`_test_frames`."""
    generator = np.random.default_rng(seed)
    drawn = {kind: random_frames(video.info.num_frames, SEGMENTS[0], kind, generator) for kind in STREAMS}
    intra = [video.gop_at(frame).start for frame in drawn["iframe"]]
    return {"iframe": intra, **{kind: motion_frames(video.gops, drawn[kind]) for kind in STREAMS[1:]}}


class BareDecoding:
    """Decode what is needed for certain frames, with motion vectors exported; the packets are in memory."""

    def __init__(self, path: Path, passes: Iterable[Iterable[int]]) -> None:
        """Read the packets.

        Args:
            path: a video. Packets of a raw stream, which have no times, count as in display order.
            passes: the frames wanted, by pass.
        """
        with av.open(str(path)) as container:
            stream = container.streams.best("video")
            assert isinstance(stream, VideoStream)
            self._packets = [packet for packet in container.demux(stream) if packet.size]
            self._codec = stream.codec_context.name
            self._extradata = stream.codec_context.extradata
        times = [number if packet.pts is None else packet.pts for number, packet in enumerate(self._packets)]
        displayed = {time: number for number, time in enumerate(sorted(times))}
        self._numbers = [displayed[time] for time in times]  # of the frames, by packet
        self._keys = sorted((self._numbers[i], i) for i, packet in enumerate(self._packets) if packet.is_keyframe)
        self._spans = [span for frames in passes for span in self._spans_of(frames)]

    def _spans_of(self, frames: Iterable[int]) -> list[list[Packet]]:
        """Of each GOP, the packets from its key frame to the last one needed."""
        lasts: dict[tuple[int, int], int] = {}
        for number in sorted(frames):
            lasts[self._keys[bisect_right(self._keys, (number, len(self._packets))) - 1]] = number
        spans = []
        for (key, start), last in lasts.items():
            end = max(i for i, number in enumerate(self._numbers) if key <= number <= last)
            spans.append(self._packets[start : end + 1])
        return spans

    def __call__(self) -> int:
        """Decode; returns the number of frames."""
        decoder = av.CodecContext.create(self._codec, "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.extradata = self._extradata
        decoder.options = {"flags2": "+export_mvs"}
        decoder.thread_type, decoder.thread_count = "SLICE", 1
        count = 0
        for packets in self._spans:
            for packet in (*packets, None):
                count += len(decoder.decode(packet))
            decoder.flush_buffers()
        return count


def _mvextractor(path: Path) -> Callable[[], object] | None:
    """A pass of mvextractor over the whole clip; None where it is not installed."""
    try:
        videocap = import_module("mvextractor.videocap")
    except (ImportError, OSError):
        return None

    def read_all() -> None:
        capture = videocap.VideoCap()
        capture.open(str(path))
        while capture.read()[0]:
            pass
        capture.release()

    return read_all


def _clips(
    given: Sequence[str], codec: Literal["mpeg4", "h264"] | None, folder: Path, frames: int = 280
) -> Iterator[Path]:
    """The clips given, as they are or in canonical format; or two made here, with a moving camera and two objects."""
    for clip in given:
        path = Path(clip)
        if codec:
            path = folder / f"{path.stem}_{codec}.mp4"
            transcode(clip, path, codec=codec)
        yield path
    if not given:
        scene = Scene("shake", "small", ((40, 48),) * 2, "mpeg4", 4)
        pictures, _ = render(scene, 0, width=340, height=256, frames=frames)
        encode(pictures, folder / "canonical.mp4", codec="mpeg4")
        yield folder / "canonical.mp4"
        encode_with_b_frames(pictures, folder / "b_frames.mp4", 25, "fast")
        yield folder / "b_frames.mp4"


@contextmanager
def _cores(count: int) -> Iterator[None]:
    """Run on at most that many of the cores this process may use, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-count:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
