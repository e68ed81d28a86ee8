"""Watching long videos and cameras: CPU, cameras per core, latency, memory.

On a synthetic camera picture of 720p: a still scene with sensor noise, in which something moves for one second of every
eight, so that one window in four is not idle. Three ResNet-18s with random weights, efficiency, 8 segments.

The reading rows are CPU time of one thread per frame, beside bare decoding by PyAV of the same frames. "Cameras per
core" is how many times faster than real time all of it runs on one core, beside OpenCV reading every frame and the same
networks on every window. Latency is measured on a pipe that delivers in real time, memory on a file and a pipe of the
given length.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream as AvVideoStream
from numpy.typing import NDArray
from tqdm import tqdm

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.bitstream.stream import VideoStream
from coviar_mocrop.checkpoint import save_checkpoint
from coviar_mocrop.clips.reader import read_streams
from coviar_mocrop.clips.sampling import middle_frames
from coviar_mocrop.clips.time_windows import TimeWindow, WindowCutter
from coviar_mocrop.commands.dataset_options import whole_number
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.videos import videos_by_folder
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.inference.export import export_run
from coviar_mocrop.inference.predictor import Predictor
from coviar_mocrop.inference.source_reader import StreamOptions
from coviar_mocrop.inference.torch_backend import TorchBackend
from coviar_mocrop.inference.watching import watch
from coviar_mocrop.mocrop.density import GATE, motion_level
from coviar_mocrop.streams.base import create_stream
from coviar_mocrop.viz.tables import markdown_table

RATE, PERIOD, LENGTH = 25, 8, 32
"""Frames per second; seconds from one motion to the next; seconds of the picture that is repeated."""
NOISE = 2.5
"""Standard deviation of the sensor noise, grey levels."""
DAMAGED = 1e-3
"""Share of the packets that are damaged in a day, wherever they lie in their GOP."""
GATES = (0.002, 0.005, 0.01, 0.02, 0.05)
STREAMS = ("iframe", "mv", "residual")
PARTS = ("reading", "cameras", "latency", "gate", "memory", "day")
"""What is measured. The last three need an option of their own."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options of ``benchmark.py watch``."""
    add = command.add_argument
    add(
        "--repeats",
        type=whole_number(1, 1000),
        default=5,
        metavar="N",
        help="passes of each way; the median counts (%(default)s)",
    )
    add(
        "--minutes",
        type=float,
        nargs="*",
        default=[],
        metavar="M",
        help="also measure the memory for videos of M minutes",
    )
    add(
        "--day",
        type=whole_number(0, 1_000_000_000),
        default=0,
        metavar="FRAMES",
        help="also send FRAMES small frames, some damaged, through a pipe",
    )
    add(
        "--footage",
        type=Path,
        metavar="DIR",
        help="also measure what the gate misses, on clips in a folder for each class",
    )
    add("--size", default="1280x720", metavar="WxH", help="size of the camera picture (%(default)s)")
    add("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}: these alone")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure, print tables."""
    width, _, height = given.size.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ConfigError(f"--size {given.size}: expected WIDTHxHEIGHT, such as 1280x720")
    options = {"gate": given.footage, "memory": given.minutes, "day": given.day}
    parts = given.only or [part for part in PARTS if options.get(part, True)]
    for part, option in zip(("gate", "memory", "day"), ("--footage", "--minutes", "--day"), strict=True):
        if part in parts and not options[part]:
            raise ConfigError(f"--only {part} needs {option}")
    classes = videos_by_folder(given.footage) if given.footage else {}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        clip = make_camera(Path(folder, "camera.ts"), int(width), int(height))
        checkpoints = make_checkpoints(Path(folder))
        if "reading" in parts:
            found["reading"] = measure_reading(clip, checkpoints, given.repeats)
            print(_reading_table(found["reading"]), end="\n\n")
        if "cameras" in parts:
            found["cameras"] = measure_cameras(clip, checkpoints, given.repeats)
            print(_camera_table(found["cameras"]), end="\n\n")
        if "latency" in parts:
            found["latency"] = measure_latency(clip, checkpoints)
            print(
                "latency of {windows} windows, s: median {median:.3f}, longest {longest:.3f}\n".format(
                    **found["latency"]
                )
            )
        if "gate" in parts:
            found["gate"] = measure_gate(given.footage, classes, Path(folder))
            print(_gate_table(found["gate"]), end="\n\n")
        if "memory" in parts:
            found["memory"] = measure_memory(clip, checkpoints, given.minutes)
            print(_memory_table(found["memory"]), end="\n\n")
        if "day" in parts:
            found["day"] = measure_day(Path(folder), given.day)
            print("\n".join(f"{name}: {value}" for name, value in found["day"].items()))
    return found


# -- what is watched -------------------------------------------------------------------------------------


def make_camera(path: Path, width: int, height: int, seconds: int = LENGTH, noise: float = NOISE) -> Path:
    """A still scene with noise; a textured square crosses it in the first second of every ``PERIOD``."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
    scene = np.kron(coarse, np.ones((16, 16, 1), np.uint8))[:height, :width]
    side = height // 4
    square = np.kron(generator.integers(0, 256, (side // 8, side // 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    grain = [generator.normal(0, noise, (height, width, 1)) for _ in range(7)]
    with av.open(str(path), "w") as container:
        stream = _h264(container, width, height)
        for number in range(seconds * RATE):
            picture = scene.copy()
            step = number % (PERIOD * RATE)
            if step < RATE - 1:  # it is gone within the second, too
                left = width // 4 + width // 128 * step  # as fast as somebody who runs
                picture[side : side + len(square), left : left + square.shape[1]] = square
            noisy = np.clip(picture + grain[number % len(grain)], 0, 255).astype(np.uint8)
            container.mux(stream.encode(VideoFrame.from_ndarray(noisy, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _h264(container: OutputContainer, width: int, height: int) -> AvVideoStream:
    """As cameras encode: no B-frames, a key frame every two seconds."""
    options = {"preset": "veryfast", "crf": "25", "x264-params": "scenecut=0:cpu-independent=1"}
    stream = container.add_stream("libx264", rate=RATE, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.gop_size, stream.codec_context.max_b_frames = 2 * RATE, 0
    stream.codec_context.thread_count = 1
    return stream


def make_checkpoints(folder: Path, size: int = 224) -> list[Path]:
    """Three ResNet-18s with random weights, as training would leave them."""
    paths = []
    for name in STREAMS:
        config = Config.model_validate(
            {
                "stream": name,
                "setting": "efficiency",
                "data": {"root": str(folder), "classes": str(folder / "classes.txt")},
                "input": {"full_size": size, "reduced_size": min(size, 192), "test_segments": 8},
                "model": {"backbone": "resnet18", "weights": None},
                "train": {"device": "cpu"},
            }
        )
        stream = create_stream(config, ("rest", "motion"), weights=False)
        path = folder / name / "best.pt"
        path.parent.mkdir()
        content = {"model": stream.network.state_dict(), "config": config.model_dump(mode="json")}
        save_checkpoint(path, {**content, "classes": list(stream.classes)})
        paths.append(path)
    return paths


def packets(clip: Path, loops: int | None) -> Iterator[bytes]:
    """MPEG-TS, piece by piece, of ``clip`` repeated so often (None: without end), in one running time."""
    with av.open(str(clip)) as source:
        stream = source.streams.video[0]
        kept = [
            (bytes(packet), packet.pts, packet.dts, packet.is_keyframe)
            for packet in source.demux(stream)
            if packet.size
        ]
        template, base = stream, stream.time_base
        out = _Pieces()
        with av.open(out, "w", format="mpegts") as container:
            copy = container.add_stream_from_template(template)
            length = round(LENGTH / base)
            loop = 0
            while loops is None or loop < loops:
                for data, pts, dts, key in kept:
                    packet = av.Packet(data)
                    packet.stream, packet.time_base = copy, base
                    packet.pts, packet.dts, packet.is_keyframe = pts + loop * length, dts + loop * length, key
                    container.mux(packet)
                    yield out.take()
                loop += 1
        yield out.take()


class _Pieces:
    """A file that gives away what is written to it."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._written.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._written)
        self._written.clear()
        return data


# -- reading ---------------------------------------------------------------------------------------------


def measure_reading(clip: Path, checkpoints: list[Path], repeats: int) -> dict[str, float]:
    """CPU milliseconds a frame, by what is done; the ways take turns, the medians count."""
    predictor = Predictor(checkpoints)
    streams, box = list(predictor.streams.values()), predictor.backend.config.mocrop

    def gated(window: TimeWindow) -> bool:
        return motion_level(window.raw_vectors(), window.frames[0].size) >= GATE

    def show(window: TimeWindow) -> None:  # what three streams look at, and the I-frames before it
        shown = middle_frames(window.info.num_frames, 8, "iframe")
        if window.start % 4 == 0:
            window.get({"iframe": shown, "frame": shown})

    def read(window: TimeWindow) -> None:
        if gated(window):
            read_streams(window, streams, box)

    ways: dict[str, Callable[[], int]] = {
        "bare decoding": lambda: _bare(clip, vectors=False),
        "bare decoding with vectors": lambda: _bare(clip, vectors=True),
        "frames with vectors, in windows": lambda: _windows(clip, lambda window: None),
        "the same, and the pixels that one window in four needs, as RGB": lambda: _windows(clip, show),
        "frames with vectors, in windows, and the gate": lambda: _windows(clip, gated),
        "the same, and the inputs of three networks for the windows that move": lambda: _windows(clip, read),
    }
    spent = _in_turn(ways, repeats)
    return {name: 1e3 * seconds / (LENGTH * RATE) for name, seconds in spent.items()}


def _bare(clip: Path, *, vectors: bool) -> int:
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        if vectors:
            stream.codec_context.options = {"flags2": "+export_mvs"}
        return sum(1 for _ in container.decode(stream))


def _windows(clip: Path, look: Callable[[TimeWindow], object]) -> int:
    stream = VideoStream(clip)
    cutter, count = WindowCutter(stream, 2.0, 1.0), 0
    for window in chain.from_iterable(chain(map(cutter.add, stream), [cutter.finish()])):
        look(window)
        count += 1
    stream.close()
    return count


def _in_turn(ways: dict[str, Callable[[], int]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each way."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for turn in tqdm(range(-1, repeats), desc="CPU time", unit="turn", leave=False):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if turn >= 0:  # the first turn compiles and fills caches
                spent[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in spent.items()}


# -- cameras a core --------------------------------------------------------------------------------------


def measure_cameras(clip: Path, checkpoints: list[Path], repeats: int) -> dict[str, Any]:
    """CPU seconds for a second of video, and how many cameras that is a core."""
    torch.set_num_threads(1)
    predictor = Predictor(checkpoints)
    plain = ("train.precision=fp32", "train.channels_last=false", "train.frames_at_once=null")
    with tempfile.TemporaryDirectory() as folder:
        export_run(checkpoints, folder, ["onnx"], ["train.threads=1"])
        exported = Predictor(onnx=folder)
    ways: dict[str, Callable[[], int]] = {
        "coviar watch": lambda: sum(1 for _ in watch(predictor, [clip])),
        "coviar watch, ONNX Runtime in fp32": lambda: sum(1 for _ in watch(exported, [clip])),
        "coviar watch, no gate": lambda: sum(1 for _ in watch(predictor, [clip], gate=0.0)),
    }
    for name, settings in (("a straightforward loop", plain), ("in our precision", ())):
        networks = TorchBackend(checkpoints, settings)
        ways[f"OpenCV and every window, {name}"] = lambda networks=networks: _with_opencv(clip, networks)  # type: ignore[misc]
    spent = {name: seconds / LENGTH for name, seconds in _in_turn(ways, repeats).items()}
    windows = [prediction.idle for prediction in watch(predictor, [clip])]
    compute = str(TorchBackend(checkpoints).runtime)
    return {"moving": 1 - sum(windows) / len(windows), "seconds": spent, "compute": compute}


def _with_opencv(clip: Path, networks: TorchBackend) -> int:
    """Every frame as BGR; once a second, eight frames of the last two seconds go through the three networks."""
    import cv2

    source = cv2.VideoCapture(str(clip))
    cv2.setNumThreads(1)
    kept: list[Any] = []
    count = number = 0
    while True:
        there, picture = source.read()
        if not there:
            break
        kept = [*kept[-(2 * RATE - 1) :], picture]
        number += 1
        if number < 2 * RATE or number % RATE:
            continue
        height, width = picture.shape[:2]
        left = (width - height) // 2
        crops = [kept[round((i + 0.5) * (2 * RATE - 1) / 8)][:, left : left + height] for i in range(8)]
        small = np.stack([cv2.resize(crop, (192, 192), interpolation=cv2.INTER_AREA) for crop in crops])
        frames = torch.from_numpy(small).permute(0, 3, 1, 2)[None, None].float() / 255
        for name, stream in networks.streams.items():
            with torch.inference_mode(), networks.runtime.autocast():
                stream.network(frames[:, :, :, :2] if name == "mv" else frames)
        count += 1
    return count


# -- the gate --------------------------------------------------------------------------------------------


def measure_gate(footage: Path, classes: Mapping[str, Sequence[str]], folder: Path) -> dict[str, list[float]]:
    """The level of motion in clips by class, and in pictures of every tenth clip that stand still but for noise."""
    found: dict[str, list[float]] = {}
    for name, paths in classes.items():
        videos = [footage / path for path in paths]
        found[name] = [max(_levels(path)) for path in tqdm(videos, desc=name, unit="clip", leave=False)]
        still = found.setdefault("nothing moves, only noise", [])
        for path in tqdm(videos[::10], desc="still pictures", unit="clip", leave=False):
            with open_video(path) as video:
                still.append(max(_levels(_still(video.get_frames_at([0])[0], folder / "still.mp4"))))
    return found


def _levels(path: Path) -> list[float]:
    levels: list[float] = []
    _windows(path, lambda window: levels.append(motion_level(window.raw_vectors(), window.frames[0].size)))
    return levels


def _still(picture: NDArray[np.uint8], path: Path, seconds: int = 2) -> Path:
    """The picture for some seconds, with sensor noise, as a camera encodes it."""
    picture = picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2]
    generator = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = _h264(container, picture.shape[1], picture.shape[0])
        for _ in range(seconds * RATE):
            noisy = np.clip(picture + generator.normal(0, NOISE, picture.shape), 0, 255).astype(np.uint8)
            container.mux(stream.encode(VideoFrame.from_ndarray(noisy, format="rgb24")))
        container.mux(stream.encode(None))
    return path


# -- latency and memory ----------------------------------------------------------------------------------


def measure_latency(clip: Path, checkpoints: list[Path], seconds: int = 30) -> dict[str, float]:
    """Seconds from the last frame of a window to its prediction, on a pipe that delivers ``RATE`` frames a second."""
    torch.set_num_threads(os.cpu_count() or 1)
    predictor = Predictor(checkpoints)
    list(watch(predictor, [clip]))  # compiling
    with tempfile.TemporaryDirectory() as folder:
        pipe = Path(folder, "camera")
        os.mkfifo(pipe)

        def deliver() -> None:
            with open(pipe, "wb", buffering=0) as out:
                start = time.monotonic()
                for number, data in enumerate(packets(clip, None)):
                    if number > seconds * RATE:
                        return
                    time.sleep(max(start + number / RATE - time.monotonic(), 0))
                    out.write(data)

        threading.Thread(target=deliver, daemon=True).start()
        options = StreamOptions(live=True, reconnect=False)
        late = [prediction.latency for prediction in watch(predictor, [pipe], options=options, gate=0.0)]
    return {"windows": len(late), "median": statistics.median(late), "longest": max(late)}


def measure_memory(clip: Path, checkpoints: list[Path], lengths: Sequence[float]) -> list[dict[str, Any]]:
    """Resident megabytes of ``coviar watch`` on files and on pipes, early on and the peak.

    ONNX Runtime computes the networks; for the first length PyTorch does, too. A video is whole repeats of the picture.
    """
    found = []
    tool = str(Path(__file__).parent.parent / "tools/watch.py")
    with tempfile.TemporaryDirectory() as folder:
        export_run(checkpoints, Path(folder, "exported"), ["onnx"])
        networks = {
            "ONNX Runtime": ["--onnx", str(Path(folder, "exported"))],
            "PyTorch": ["--checkpoints", *map(str, checkpoints)],
        }
        for minutes, kind, backend in product(lengths, ("file", "pipe"), networks):
            if backend == "PyTorch" and minutes != lengths[0]:
                continue
            loops = max(round(60 * minutes / LENGTH), 1)
            source = Path(folder, f"long_{kind}.ts")
            if kind == "file":
                with open(source, "wb") as out:
                    out.writelines(packets(clip, loops))
            start = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, tool, str(source) if kind == "file" else "-", "--json", *networks[backend]],
                stdin=subprocess.DEVNULL if kind == "file" else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            if kind == "pipe":
                threading.Thread(target=_feed, args=(process.stdin, packets(clip, loops)), daemon=True).start()
            assert process.stdout is not None
            resident = [_resident(process.pid) for _ in process.stdout]
            process.wait()
            facts = {"source": kind, "networks": backend, "seconds of video": loops * LENGTH}
            facts |= {"windows": len(resident)}
            facts |= {
                "MB after a tenth of the video": round(resident[max(len(resident) // 10, 1) - 1]),
                "MB peak": round(max(resident)),
            }
            found.append({**facts, "seconds it took": round(time.monotonic() - start)})
            print(_memory_table(found[-1:]), file=sys.stderr, flush=True)  # each takes long
            source.unlink(missing_ok=True)
    return found


def _feed(out: Any, pieces: Iterator[bytes]) -> None:
    try:
        for data in pieces:
            out.write(data)
        out.close()
    except BrokenPipeError:
        pass


def measure_day(folder: Path, frames: int) -> dict[str, Any]:
    """Many small frames, with damage in them, through a pipe and the live path."""
    clip = make_camera(folder / "small.ts", 160, 128, noise=NOISE / 5)  # more would move the blocks of small pictures
    small = folder / "small"
    small.mkdir()
    export_run(make_checkpoints(small, 32), small, ["onnx"])
    predictor = Predictor(onnx=small)
    loops = -(-frames // (LENGTH * RATE))
    pipe = folder / "day"
    os.mkfifo(pipe)

    def deliver() -> None:
        with open(pipe, "wb") as out:
            out.writelines(damaged(packets(clip, loops)))

    threading.Thread(target=deliver, daemon=True).start()
    counts = dict.fromkeys(("windows", "frames", "idle", "with damage", "with missing frames"), 0)
    resident: list[float] = []
    last = 0.0
    start = time.monotonic()
    for prediction in watch(predictor, [pipe], on_notice=lambda notice: None):
        counts["windows"] += 1
        counts["idle"] += prediction.idle
        counts["with damage"] += prediction.damaged_frames > 0
        counts["with missing frames"] += prediction.missing_frames > 0
        last = prediction.end
        if counts["windows"] % 1000 == 0:
            resident.append(_resident(os.getpid()))
    counts["frames"] = loops * LENGTH * RATE
    return {
        **counts,
        "hours of video": round(last / 3600, 3),
        "seconds": round(time.monotonic() - start, 1),
        "resident MB, every 1000 windows": [round(value) for value in resident[:: max(len(resident) // 10, 1)]],
    }


def damaged(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Packets, of which a share ``DAMAGED`` has 2% of its bytes changed, but none in the first second."""
    generator = np.random.default_rng(0)
    for number, data in enumerate(pieces):
        if generator.random() >= DAMAGED or number <= RATE or not data:
            yield data
            continue
        broken = bytearray(data)
        for at in generator.integers(0, len(broken), max(len(broken) // 50, 1)):
            broken[at] ^= 0xFF
        yield bytes(broken)


def _resident(process: int) -> float:
    """Megabytes; 0.0 where the process has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)


# -- tables ----------------------------------------------------------------------------------------------


def _reading_table(found: dict[str, float]) -> str:
    bare = found["bare decoding"]
    rows = [[name, f"{value:.2f}", f"{value / bare:.2f}"] for name, value in found.items()]
    return markdown_table([["CPU time of one thread", "ms per frame", "relative to bare decoding"], *rows])


def _camera_table(found: dict[str, Any]) -> str:
    seconds: dict[str, float] = found["seconds"]
    ours = seconds["coviar watch"]
    rows = [[name, f"{1e3 * value:.0f}", f"{1 / value:.1f}", f"{value / ours:.1f}"] for name, value in seconds.items()]
    head = ["one core", "CPU ms per second of video", "cameras per core", "CPU relative to the first row"]
    return f"{found['moving']:.0%} of the windows move; {found['compute']}\n\n" + markdown_table([head, *rows])


def _gate_table(found: dict[str, list[float]]) -> str:
    rows = [
        [name, len(levels), *(f"{sum(level < gate for level in levels) / len(levels):.0%}" for gate in GATES)]
        for name, levels in found.items()
    ]
    return markdown_table([["clips without any window above", "clips", *(f"{gate:g}" for gate in GATES)], *rows])


def _memory_table(found: Sequence[dict[str, Any]]) -> str:
    return markdown_table([list(found[0]), *(list(row.values()) for row in found)])
