"""Reading speed: this package beside mvextractor, OpenCV, torchcodec and decord, on one file in one run.

The unit is one full ``read()`` pass of mvextractor, pixels and vectors. Contestants take turns, so that a busy
machine slows all of them; what is printed are medians.
"""

from __future__ import annotations

import cProfile
import os
import platform
import pstats
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from coviar_mocrop.bitstream import Kind, Video, open_video
from coviar_mocrop.clips.sampling import middle_frames, places
from coviar_mocrop.errors import CoviarMocropError, NoMotionVectorsError

KINDS: Mapping[Kind, str] = {"iframe": "I-frame", "mv": "accumulated motion", "residual": "accumulated residual"}
SEGMENTS = (3, 25)
"""CoViAR's training and testing."""

_PARTS = {
    "decoding": ("pyav_reader.py", ("_decode",)),
    "copying vectors": ("pyav_reader.py", ("_vectors_of",)),
    "conversion to RGB": ("pyav_reader.py", ("__call__",)),
    "accumulation": ("accumulate.py", ("step",)),
    "motion and residual from it": ("accumulate.py", ("motion", "residual")),
}


@dataclass(frozen=True)
class Row:
    """What one contestant needs for one pass over a file, opening included.

    Attributes:
        name: what is read with what.
        milliseconds: wall time, median over the repeats.
        fastest: milliseconds, the least of them.
        cpu_milliseconds: of all threads together, median.
        ratio: to mvextractor's full pass; None where that is not there.
    """

    name: str
    milliseconds: float
    fastest: float
    cpu_milliseconds: float
    ratio: float | None


@dataclass(frozen=True)
class Comparison:
    """The rows of one file, and why those that are missing are."""

    file: str
    stream: str
    rows: list[Row]
    left_out: dict[str, str]


_UNIT = "mvextractor, full read() pass"


def compare(path: str | os.PathLike[str], *, repeats: int = 7, one_core: bool = True) -> Comparison:
    """Time every contestant that is installed and can read the file.

    Args:
        path: a video.
        repeats: passes of each contestant, after one that warms up.
        one_core: all run on one processor core (where the system can do that), because mvextractor and OpenCV
            always decode with several threads, and a data loading worker has one core to itself at best.

    Raises:
        CoviarMocropError: ``repeats`` is below 1, or the file cannot be opened.
    """
    if repeats < 1:
        raise CoviarMocropError(f"--repeats {repeats}: give 1 or more")
    file = os.fspath(path)
    with open_video(file) as video:
        info = video.info
    contestants, left_out = _contestants(file, info.num_frames)
    with _cores(1 if one_core else None):
        wall, cpu = _time(contestants, repeats, left_out)
    measured = [name for name in contestants if name not in left_out]
    unit = statistics.median(wall[_UNIT]) if _UNIT in measured else None
    rows = []
    for name in measured:
        median = statistics.median(wall[name])
        ratio = median / unit if unit else None
        rows.append(Row(name, median, min(wall[name]), statistics.median(cpu[name]), ratio))
    stream = f"{info.codec}, {info.width}x{info.height}, {info.num_frames} frames"
    return Comparison(Path(file).name, stream + (", B-frames" if info.has_b_frames else ""), rows, left_out)


@contextmanager
def _cores(count: int | None) -> Iterator[None]:
    """Run on that many of the cores this process may use; None: on all of them."""
    if count is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-count:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _time(
    contestants: Mapping[str, Callable[[], object]], repeats: int, left_out: dict[str, str]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall and CPU milliseconds of every pass, by contestant; those that fail go to ``left_out``."""
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, run in contestants.items():
            if name in left_out:
                continue
            before, start = time.process_time(), time.perf_counter()
            try:
                run()
            except Exception as error:  # whatever other people's readers raise
                left_out[name] = _first_line(error)
                continue
            if turn:  # the first one warms up
                wall[name].append(1000 * (time.perf_counter() - start))
                cpu[name].append(1000 * (time.process_time() - before))
    return wall, cpu


def profile(path: str | os.PathLike[str], *, repeats: int = 7) -> dict[str, dict[str, float]]:
    """Where the time of a pass goes, in milliseconds by part, for each kind with 25 segments; opening is not in it.

    Raises:
        CoviarMocropError: the file cannot be read.
    """
    found: dict[str, dict[str, float]] = {}
    with open_video(path) as video:
        for kind, title in KINDS.items():
            wanted = _middle(video, kind, 25)
            try:
                video.read(kind, wanted)
            except NoMotionVectorsError:
                continue
            profiler = cProfile.Profile()
            profiler.enable()
            for _ in range(repeats):
                video.read(kind, wanted)
            profiler.disable()
            stats = pstats.Stats(profiler)
            # pstats' own types know nothing of these
            calls: dict[tuple[str, int, str], Any] = stats.stats  # type: ignore[attr-defined]
            parts = dict.fromkeys(_PARTS, 0.0)
            for (file, _, function), (_, _, _, cumulative, _) in calls.items():
                for part, (module, functions) in _PARTS.items():
                    if function in functions and Path(file).name == module:
                        parts[part] += 1000 * cumulative / repeats
            whole = 1000 * float(stats.total_tt) / repeats  # type: ignore[attr-defined]
            found[f"{title}, 25 segments"] = {**parts, "all else": whole - sum(parts.values()), "whole": whole}
    return found


def markdown(comparison: Comparison) -> str:
    """The comparison as a Markdown table."""
    lines = [
        f"{comparison.file}: {comparison.stream}",
        "",
        "| what | ms (median) | ms (fastest) | CPU ms | of mvextractor's pass |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in comparison.rows:
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        lines.append(
            f"| {row.name} | {row.milliseconds:.1f} | {row.fastest:.1f} | {row.cpu_milliseconds:.1f} | {ratio} |"
        )
    lines += ["", *(f"left out: {name}: {reason}" for name, reason in comparison.left_out.items())]
    return "\n".join(lines).rstrip()


def profile_markdown(parts: Mapping[str, Mapping[str, float]]) -> str:
    """The profile as a Markdown table, milliseconds."""
    columns = [*_PARTS, "all else", "whole"]
    lines = [f"| ms | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(f'{row[column]:.1f}' for column in columns)} |" for name, row in parts.items()]
    return "\n".join(lines)


def report(comparisons: Sequence[Comparison], profiles: Mapping[str, Any]) -> dict[str, Any]:
    """What the JSON file holds: machine, files with their rows, profiles by file."""
    return {
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "unit": _UNIT,
        "files": [asdict(comparison) for comparison in comparisons],
        "profiles": dict(profiles),
    }


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _middle(video: Video, kind: Kind, segments: int) -> list[tuple[int, int]]:
    return places(video.gops, middle_frames(video.info.num_frames, segments, kind), kind)


def _contestants(path: str, num_frames: int) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """What to run by name, and why others are left out."""
    runs: dict[str, Callable[[], object]] = {}
    left_out: dict[str, str] = {}
    sources: tuple[tuple[str, Callable[[str, int], dict[str, Callable[[], object]]]], ...] = (
        ("mvextractor", _mvextractor),
        ("ours", _ours),
        ("OpenCV", _opencv),
        ("torchcodec", _torchcodec),
        ("decord", _decord),
    )
    for name, source in sources:
        try:
            runs.update(source(path, num_frames))
        except (ImportError, OSError, RuntimeError) as error:  # not installed, or its libraries are not
            left_out[name] = _first_line(error)
    return runs, left_out


def _ours(path: str, num_frames: int) -> dict[str, Callable[[], object]]:
    def opened() -> object:
        with open_video(path) as video:
            return video.info

    def one(kind: Kind, segments: int) -> Callable[[], object]:
        def run() -> object:
            with open_video(path) as video:
                return video.read(kind, _middle(video, kind, segments))

        return run

    def all_three() -> object:
        with open_video(path) as video:
            return video.read_many({kind: _middle(video, kind, 8) for kind in KINDS})

    def vectors() -> object:
        with open_video(path) as video:
            return video.vectors()

    runs: dict[str, Callable[[], object]] = {"ours, opening and index": opened}
    for kind, title in KINDS.items():
        runs.update({f"ours, {title}, {segments} segments": one(kind, segments) for segments in SEGMENTS})
    return {**runs, "ours, all three at once, 8 segments": all_three, "ours, vectors of the whole clip": vectors}


def _mvextractor(path: str, num_frames: int) -> dict[str, Callable[[], object]]:
    videocap = import_module("mvextractor.videocap")

    def whole(pixels: bool) -> Callable[[], object]:
        def run() -> object:
            capture = videocap.VideoCap()
            if not capture.open(path):
                raise RuntimeError("cannot open the file")
            try:
                capture.set_decode_frames(pixels)
                count = 0
                while capture.read()[0]:
                    count += 1
            finally:
                capture.release()
            if not count:
                raise RuntimeError("gives no frame")
            return count

        return run

    return {_UNIT: whole(True), "mvextractor, vectors only": whole(False)}


def _opencv(path: str, num_frames: int) -> dict[str, Callable[[], object]]:
    cv2 = import_module("cv2")

    def seeking(segments: int) -> Callable[[], object]:
        def run() -> object:
            capture = cv2.VideoCapture(path)
            pictures = []
            for frame in middle_frames(num_frames, segments, "iframe"):
                capture.set(cv2.CAP_PROP_POS_FRAMES, frame)
                success, picture = capture.read()
                if not success:
                    raise RuntimeError(f"gives no frame {frame}")
                pictures.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
            capture.release()
            return pictures

        return run

    return {f"OpenCV, seeking to {segments} frames": seeking(segments) for segments in SEGMENTS}


def _torchcodec(path: str, num_frames: int) -> dict[str, Callable[[], object]]:
    decoders = import_module("torchcodec.decoders")
    import_module("torch").set_num_threads(1)  # as many as ours has

    def some(segments: int) -> Callable[[], object]:
        def run() -> object:
            decoder = decoders.VideoDecoder(path, num_ffmpeg_threads=1, dimension_order="NHWC")
            return decoder.get_frames_at(middle_frames(num_frames, segments, "iframe")).data

        return run

    return {f"torchcodec, {segments} frames": some(segments) for segments in SEGMENTS}


def _decord(path: str, num_frames: int) -> dict[str, Callable[[], object]]:
    decord = import_module("decord")

    def some(segments: int) -> Callable[[], object]:
        def run() -> object:
            reader = decord.VideoReader(path, num_threads=1)
            return reader.get_batch(middle_frames(num_frames, segments, "iframe")).asnumpy()

        return run

    return {f"decord, {segments} frames": some(segments) for segments in SEGMENTS}
