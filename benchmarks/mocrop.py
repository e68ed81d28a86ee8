"""Coverage of what moves by the crop box: on synthetic clips, and on real clips with marked regions.

The 64 synthetic clips have moving objects whose places are known. With --sparse-clips it is also measured how far a box
from a few frames of a clip agrees with the box from all of them, with --unmarked-clips how well other settings would do
on clips that nobody marked (benchmarks/boxes.py).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.boxes import centre_box, choose, chosen_line, coverage, run_unmarked, unmarked_table
from coviar_mocrop.bitstream import Video, open_video
from coviar_mocrop.bitstream.transcode import Codec, encode, transcode
from coviar_mocrop.datasets.folder import read_groups
from coviar_mocrop.datasets.lists import DataRoot
from coviar_mocrop.datasets.videos import videos_below
from coviar_mocrop.errors import ConfigError, DataError
from coviar_mocrop.mocrop import FULL_FRAME, CropBox, MoCropSettings, best_rectangle, estimate_box, frames_to_read
from coviar_mocrop.viz.pictures import require_picture, save_figure
from coviar_mocrop.viz.tables import markdown_table

CameraMove = Literal["static", "pan", "shake", "zoom"]
CAMERAS: tuple[CameraMove, ...] = ("static", "pan", "shake", "zoom")
EQUAL = "centre, as large as default"
"""The centre crop with the area of the clip's default box, which may differ from the area asked for by a tenth."""
METHODS = ("full", "centre", EQUAL, "paper_v1", "paper_v2", "default", "best")
SYNTHETIC_AREAS = (0.75, 0.4)
REAL_AREAS = (0.75, 0.4, 0.25)
SPARSE_PLANS = ((1, 2), (1, 3), (1, 4), (1, 6), (2, 4), (2, 6), (2, 8), (2, 10), (2, 12), (3, 6), (3, 12))
_SHAPE = (18, 32)
"""Grid on which the best rectangle of an area is searched."""


@dataclass(frozen=True)
class Scene:
    """A kind of synthetic clip.

    Attributes:
        camera: pan is 2 pixels a frame sideways, shake a fresh offset of up to 3 pixels each way every frame, zoom
            a hundredth closer every frame.
        objects: sizes (height, width), pixels, of what moves.
        codec: of the file.
        quality: rate factor (H.264) or quantiser (MPEG-4).
        label: of the table: ``small`` or ``large``.
    """

    camera: CameraMove
    label: str
    objects: tuple[tuple[int, int], ...]
    codec: Codec
    quality: int


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options of ``benchmark.py mocrop``."""
    command.add_argument(
        "--real", type=Path, metavar="DIR", help="folder of real clips with action_boxes.csv (path,x0,y0,x1,y1)"
    )
    command.add_argument(
        "--sparse-clips", type=int, default=0, metavar="N", help="measure sparse reading on N clips of --real"
    )
    command.add_argument(
        "--unmarked-clips",
        type=int,
        default=0,
        metavar="N",
        help="compare settings on N clips of --real, marked or not",
    )
    command.add_argument(
        "--group-column",
        default="source_video",
        metavar="NAME",
        help="column of groups.csv in --real, if any (%(default)s)",
    )
    command.add_argument("--seed", type=int, default=0, help="random seed of the synthetic clips (%(default)s)")
    command.add_argument("--figure", type=Path, metavar="FILE", help="also draw the mean coverage as bars")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure, print tables, draw."""
    for name, count in (("--sparse-clips", given.sparse_clips), ("--unmarked-clips", given.unmarked_clips)):
        if count and not given.real:
            raise DataError(f"{name} takes its clips from --real; give a folder")
    if given.figure:  # mistakes first: the rest takes minutes
        require_picture(given.figure)
    if given.real:
        check_marks(given.real)
    videos = spread_videos(given.real, given.sparse_clips) if given.sparse_clips else []
    unmarked = spread_videos(given.real, given.unmarked_clips) if given.unmarked_clips else []
    sources = read_sources(given.real, given.group_column) if unmarked else {}
    found: dict[str, Any] = {"synthetic": run_synthetic(seed=given.seed)}
    print(synthetic_table(found["synthetic"]))
    if given.real:
        found["real"] = run_real(given.real)
        print(f"\n{real_table(found['real'])}")
    if videos:
        found["sparse"], found["prefix"] = run_sparse(videos), run_prefix(videos)
        found["box_ms"], found["reading_ms"] = box_time(videos)
        print(f"\n{parts_table(found['sparse'], 'GOPs and frames of them that are read')}")
        print(f"\n{parts_table(found['prefix'], 'first part of the clip')}")
        share = np.median(np.divide(found["box_ms"], found["reading_ms"]))
        alone = f"{np.median(found['box_ms']):.1f} ms, {share:.1%} of reading all vectors"
        print(f"\nThe box alone: {alone} (medians over {len(videos)} clips)")
    if unmarked:
        rows = run_unmarked(given.real, unmarked, sources, read_marks(given.real / "action_boxes.csv"), SYNTHETIC_AREAS)
        found["unmarked"], found["chosen"] = rows, {}
        for area in SYNTHETIC_AREAS:
            print(f"\n{unmarked_table(rows, area)}")
            if any(row["coverage"] for row in rows):
                found["chosen"][f"{area:g}"] = chosen = choose(rows, area)
                print(f"\n{chosen_line(chosen)}")
    if given.figure:
        save_figure(coverage_figure(found["synthetic"], found.get("real", [])), given.figure)
        print(f"\nwrote {given.figure}")
    return found


def scenes() -> list[Scene]:
    """Camera x size x number x codec x bit rate: 64."""
    sizes = (("small", (40, 48)), ("large", (90, 100)))
    files: tuple[tuple[Codec, int], ...] = (("h264", 20), ("h264", 34), ("mpeg4", 3), ("mpeg4", 14))
    return [
        Scene(camera, label, (size,) * count, codec, quality)
        for camera, (label, size), count, (codec, quality) in itertools.product(CAMERAS, sizes, (1, 2), files)
    ]


def render(
    scene: Scene, seed: int, *, width: int = 320, height: int = 240, frames: int = 36
) -> tuple[NDArray[np.uint8], list[CropBox]]:
    """A clip, and what each object sweeps.

    Args:
        scene: what to draw.
        seed: of textures, places and directions.
        width: pixels.
        height: pixels.
        frames: how many.

    Returns:
        uint8 [frames, height, width, 3], and the bounding box of each object's places.
    """
    generator = np.random.default_rng(seed)
    margin = 8 + 2 * frames
    wall = _texture(height + 2 * margin, width + 2 * margin, generator)
    pictures = np.empty((frames, height, width, 3), np.uint8)
    direction = generator.choice([-1, 1])
    for number in range(frames):
        x, y, zoom = 0.0, 0.0, 1.0
        if scene.camera == "pan":
            x = 2.0 * direction * (number - frames / 2)
        elif scene.camera == "shake":
            x, y = generator.integers(-3, 4, 2).tolist()
        elif scene.camera == "zoom":
            zoom = 1.01 ** (-number)
        pictures[number] = _view(wall, margin, height, width, x, y, zoom)
    swept = []
    for place, (object_h, object_w) in enumerate(scene.objects):
        texture = _texture(object_h, object_w, generator)
        room = width // len(scene.objects)  # each object has its own part of the frame, from left to right
        reach_x = min(48, room - object_w - 4)
        left = place * room + int(generator.integers(0, room - object_w - reach_x + 1))
        top = int(generator.integers(0, height - object_h - 24 + 1))
        flip, angle = generator.choice([-1, 1]), 2 * np.pi * generator.uniform()
        spots = []
        for number, picture in enumerate(pictures):
            phase = 2 * np.pi * number / 24
            x = left + round(reach_x / 2 * (1 + np.sin(flip * phase + angle)))
            y = top + round(12 * (1 + np.cos(phase)))
            picture[y : y + object_h, x : x + object_w] = texture
            spots.append((x, y))
        xs, ys = zip(*spots, strict=True)
        swept.append(
            CropBox(min(xs) / width, min(ys) / height, (max(xs) + object_w) / width, (max(ys) + object_h) / height)
        )
    return pictures, swept


def run_synthetic(areas: Sequence[float] = SYNTHETIC_AREAS, *, seed: int = 0) -> list[dict[str, Any]]:
    """Measure all scenes.

    Args:
        areas: shares of the frame.
        seed: of all clips.

    Returns:
        A row per scene, method and area, and one for the adaptive box: ``camera``, ``label``, ``objects``, ``codec``,
        ``quality``, ``method``, ``area``, ``box_area``, ``coverage`` (of all swept regions together) and ``iou`` (with
        the best rectangle of that area).
    """

    def measure(job: tuple[int, Scene]) -> list[dict[str, Any]]:
        number, scene = job
        pictures, swept = render(scene, seed * 1000 + number)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            encode(pictures, path, codec=scene.codec, quality=scene.quality)
            rows = _measure(path, swept, areas)
        return [{**asdict(scene), "objects": len(scene.objects), **row} for row in rows]

    kinds = scenes()
    with ThreadPoolExecutor(2) as pool:
        return [row for part in tqdm(pool.map(measure, enumerate(kinds)), "clips", len(kinds)) for row in part]


def run_real(root: Path, areas: Sequence[float] = REAL_AREAS) -> list[dict[str, Any]]:
    """Measure real clips.

    Args:
        root: folder of the clips and of ``action_boxes.csv`` (``path,x0,y0,x1,y1``, fractions of the frame).
        areas: shares of the frame.

    Returns:
        A row per clip, method and area; columns as :func:`run_synthetic`'s, and ``path``.

    Raises:
        DataError: the file is missing or does not parse.
        VideoError: a clip cannot be read.
    """
    marks = read_marks(root / "action_boxes.csv")
    return [
        {"path": name, **row}
        for name, marked in tqdm(marks.items(), "marked clips")
        for row in _measure(Path(DataRoot(root).find(name)[0]), [marked], areas)
    ]


def check_marks(root: Path) -> None:
    """See that the marks can be read and their clips are there.

    Raises:
        DataError: they cannot, or are not.
    """
    for name in read_marks(root / "action_boxes.csv"):
        if DataRoot(root).find(name)[1] is None:
            raise DataError(f"{root / 'action_boxes.csv'}: names {name}, which is not there; add it or remove the line")


def read_marks(path: Path) -> dict[str, CropBox]:
    """The regions of an ``action_boxes.csv``, by clip.

    Raises:
        DataError: the file is missing or does not parse.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            marks = {
                row["path"]: CropBox(*(float(row[side]) for side in ("x0", "y0", "x1", "y1")))
                for row in csv.DictReader(file)
            }
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; give a folder that holds it and its clips") from error
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as path,x0,y0,x1,y1 lines ({error})") from error
    if not marks or not all(0 <= m.x0 < m.x1 <= 1 and 0 <= m.y0 < m.y1 <= 1 for m in marks.values()):
        raise DataError(f"{path}: needs at least one region, each with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1")
    return marks


def spread_videos(root: Path, count: int) -> list[Path]:
    """``count`` of the videos below a folder, spread over their sorted names.

    Raises:
        ConfigError: ``count`` is below 1.
        DataError: there are none.
    """
    if count < 1:
        raise ConfigError(f"the number of clips is {count}; give 1 or more")
    videos = videos_below(root)
    if not videos:
        raise DataError(f"{root}: holds no video")
    return [videos[int(at)] for at in np.unique(np.linspace(0, len(videos) - 1, count).round())]


def read_sources(root: Path, column: str) -> dict[str, str]:
    """The source of each video below a folder, by ``groups.csv`` in it; without one, each is its own.

    Raises:
        DataError: ``groups.csv`` does not parse, or does not name exactly these files.
    """
    names = [path.relative_to(root).as_posix() for path in videos_below(root)]
    groups = root / "groups.csv"
    return read_groups(groups, column, names) if groups.exists() else dict(zip(names, names, strict=True))


def run_sparse(
    videos: Sequence[Path],
    areas: Sequence[float] = SYNTHETIC_AREAS,
    *,
    plans: Sequence[tuple[int, int]] = SPARSE_PLANS,
) -> list[dict[str, Any]]:
    """Compare the box from some frames of some GOPs with the box from all, on canonical transcodes.

    Args:
        videos: any; each is transcoded to GOP 12, 340 x 256, H.264.
        areas: shares of the frame.
        plans: (every how many-th GOP is read, how many frames of it).

    Returns:
        Rows with ``path``, ``part`` (the plan as text), ``area``, ``iou``, ``vectors`` (share of all) and ``time``
        (share of the time that reading all vectors takes, the file being open; best of three each).

    Raises:
        VideoError: a video cannot be read.
    """
    parts = {}
    for every, frames in plans:
        settings = MoCropSettings(sparse=True, sparse_gops=every, sparse_frames=frames)
        parts[f"every {every}, first {frames}"] = partial(_planned, settings)
    with tempfile.TemporaryDirectory() as folder:
        targets = [Path(folder) / f"{number}.mp4" for number in range(len(videos))]
        with ThreadPoolExecutor(2) as pool:
            list(tqdm(pool.map(transcode, videos, targets), "transcoding", len(videos)))
        pairs = list(zip(videos, targets, strict=True))
        return [
            {"path": source.name, **row}
            for source, path in tqdm(pairs, "reading")
            for row in _compare_parts(path, parts, areas)
        ]


def run_prefix(
    videos: Sequence[Path],
    areas: Sequence[float] = SYNTHETIC_AREAS,
    *,
    shares: Sequence[float] = (0.25, 0.4, 0.5, 0.75),
) -> list[dict[str, Any]]:
    """Compare the box from the first part of a video with the box from all, on the videos as they are.

    Args:
        videos: any with motion vectors.
        areas: shares of the frame.
        shares: of the frames, from the start.

    Returns:
        Rows as :func:`run_sparse`'s; ``part`` is the share as text.

    Raises:
        VideoError: a video cannot be read.
    """
    parts = {f"{share:g}": partial(_prefix, share) for share in shares}
    return [
        {"path": path.name, **row} for path in tqdm(videos, "prefixes") for row in _compare_parts(path, parts, areas)
    ]


def box_time(videos: Sequence[Path], repeats: int = 20) -> tuple[list[float], list[float]]:
    """Milliseconds that the box takes once the vectors are read (median), and that reading takes (best), by video."""
    settings, found, reading = MoCropSettings(), list[float](), list[float]()
    for path in tqdm(videos, "box"):
        with open_video(path) as video:
            size = video.info.height, video.info.width
            vectors, spent = _timed_read(video, None)
        reading.append(1e3 * spent)
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            estimate_box(vectors, size, settings)
            times.append(1e3 * (time.perf_counter() - start))
        found.append(float(np.median(times)))
    return found, reading


def best_box(regions: Sequence[CropBox], area: float) -> CropBox:
    """The box of an area that holds most of the regions; of equal ones, the one that lies most evenly round them."""
    rows, columns = _SHAPE
    x, y = np.arange(columns + 1) / columns, np.arange(rows + 1) / rows
    grid = np.zeros(_SHAPE)
    for region in regions:
        inside_x = np.diff(np.clip(x, region.x0, region.x1))
        inside_y = np.diff(np.clip(y, region.y0, region.y1))
        grid += inside_y[:, None] * inside_x
    row, column, height, width = best_rectangle(grid, area, tie="central")
    return CropBox(column / columns, row / rows, (column + width) / columns, (row + height) / rows)


def real_table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean coverage and mean area of the boxes on real clips: a row per method, a column per area asked for."""
    areas = _areas(rows)
    cells = [(method, *(_held_in(rows, method, area) for area in areas)) for method in METHODS]
    held, used = (_mean(rows, what, method="adaptive") for what in ("coverage", "box_area"))
    table = markdown_table([("mean coverage (mean area)", *(f"area {area:g}" for area in areas)), *cells])
    return f"{table}\n\nAdaptive: coverage {held} with {used} of the frame on average."


def synthetic_table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean coverage (and IoU with the best rectangle) by camera and number of objects; mean areas of the boxes."""
    fixed = []
    for objects, area, camera in itertools.product((1, 2), _areas(rows), CAMERAS):
        chosen = _select(rows, objects=objects, area=area, camera=camera)
        means = [_mean(chosen, "coverage", method=method) for method in METHODS]
        fixed.append((camera, objects, f"{area:g}", *means, _mean(chosen, "iou", method="default")))
    adaptive = []
    for objects, camera in itertools.product((1, 2), CAMERAS):
        chosen = _select(rows, objects=objects, camera=camera, method="adaptive")
        least = min(row["coverage"] for row in chosen)
        adaptive.append((camera, objects, _mean(chosen, "coverage"), f"{least:.3f}", _mean(chosen, "box_area")))
    heads = (
        ("camera", "objects", "area", *METHODS, "default's IoU with best"),
        ("adaptive: camera", "objects", "coverage", "least coverage", "box area"),
    )
    areas = _areas(rows)
    sizes = [("mean area of the boxes", *(f"area {area:g}" for area in areas))]
    sizes += [(method, *(_mean(rows, "box_area", method=method, area=area) for area in areas)) for method in METHODS]
    tables = ([heads[0], *fixed], sizes, [heads[1], *adaptive])
    return "\n\n".join(markdown_table(table) for table in tables)


def parts_table(rows: Sequence[dict[str, Any]], title: str) -> str:
    """Median time and IoU by the part that was read."""
    areas = _areas(rows)
    cells = []
    for part in dict.fromkeys(row["part"] for row in rows):
        chosen = _select(rows, part=part)
        ious = [np.median([row["iou"] for row in _select(chosen, area=area)]) for area in areas]
        spent = np.median([row["time"] for row in chosen])
        cells.append((part, f"{spent:.2f}", *(f"{iou:.3f}" for iou in ious)))
    return markdown_table([(title, "time", *(f"median IoU at {area:g}" for area in areas)), *cells])


def coverage_figure(synthetic: Sequence[dict[str, Any]], real: Sequence[dict[str, Any]] = ()) -> Figure:
    """Mean coverage as bars: a group per camera (and one for real clips), a colour per method, a panel per area."""
    areas = _areas(synthetic)
    figure = Figure(figsize=(5.6 * len(areas), 3.8), dpi=110, layout="constrained")
    methods = [method for method in METHODS if method not in ("full", EQUAL, "best")]
    colours = ("#b0b0b0", "#e0a458", "#c2571a", "#1b7f5c")
    for axis, area in zip(np.atleast_1d(figure.subplots(1, len(areas), sharey=True)), areas, strict=True):
        groups: list[tuple[str, list[dict[str, Any]]]] = [
            (camera, _select(synthetic, objects=1, camera=camera, area=area)) for camera in CAMERAS
        ]
        chosen = _select(real, area=area)
        groups += [("real clips", chosen)] if chosen else []
        for number, (method, colour) in enumerate(zip(methods, colours, strict=True)):
            heights = [float(_mean(rows, "coverage", method=method)) for _, rows in groups]
            axis.bar(np.arange(len(groups)) + 0.2 * (number - 1.5), heights, 0.18, color=colour, label=method)
        axis.set_xticks(range(len(groups)), [name for name, _ in groups])
        axis.set_ylim(0, 1.02)
        axis.set_title(f"area {area:g}", fontsize=10)
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    figure.axes[0].set_ylabel("coverage of what moves")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(methods), fontsize=9, frameon=False)
    return figure


def read_vectors(path: Path) -> tuple[list[NDArray[np.void]], tuple[int, int]]:
    """All motion vectors of a video, and its frame size (height, width)."""
    with open_video(path) as video:
        return video.get_motion_vectors_at(), (video.info.height, video.info.width)


def _measure(path: Path, regions: Sequence[CropBox], areas: Sequence[float]) -> list[dict[str, Any]]:
    """A row per method and area, and one for the adaptive box."""
    vectors, size = read_vectors(path)

    def row(method: str, box: CropBox, area: float | None = None, best: CropBox | None = None) -> dict[str, Any]:
        iou = best and box.iou(best)
        return {"method": method, "area": area, "coverage": coverage(box, regions), "box_area": box.area, "iou": iou}

    rows = [row("adaptive", estimate_box(vectors, size, MoCropSettings(size="adaptive")))]
    for area in areas:
        best = best_box(regions, area)
        boxes = {"full": FULL_FRAME, "centre": centre_box(area), "best": best}
        for preset in ("paper_v1", "paper_v2", "default"):
            boxes[preset] = estimate_box(vectors, size, MoCropSettings(preset=preset, area_ratio=area))
        boxes[EQUAL] = centre_box(boxes["default"].area)
        rows += [row(method, boxes[method], area, best) for method in METHODS]
    return rows


def _compare_parts(
    path: Path, parts: Mapping[str, Callable[[Video], list[int] | None]], areas: Sequence[float]
) -> list[dict[str, Any]]:
    """Compare the boxes from parts of a video, frames by name of the part, with the box from all of it."""
    rows = []
    with open_video(path) as video:
        size = (video.info.height, video.info.width)
        whole, spent = _timed_read(video, None)
        total = max(sum(map(len, whole)), 1)
        for part, frames_of in parts.items():
            vectors, partly = _timed_read(video, frames_of(video))
            for area in areas:
                settings = MoCropSettings(area_ratio=area)
                iou = estimate_box(vectors, size, settings).iou(estimate_box(whole, size, settings))
                share = sum(map(len, vectors)) / total
                rows.append({"part": part, "area": area, "iou": iou, "vectors": share, "time": partly / spent})
    return rows


def _planned(settings: MoCropSettings, video: Video) -> list[int] | None:
    return frames_to_read(video.gops, settings)


def _prefix(share: float, video: Video) -> list[int]:
    return list(range(max(round(share * video.info.num_frames), 2)))


def _timed_read(video: Video, frames: list[int] | None) -> tuple[list[NDArray[np.void]], float]:
    """Vectors, and the seconds it takes to read them: the best of three."""
    best, vectors = np.inf, []
    for _ in range(3):
        start = time.perf_counter()
        vectors = video.get_motion_vectors_at(frames)
        best = min(best, time.perf_counter() - start)
    return vectors, best


def _texture(height: int, width: int, generator: np.random.Generator, grain: int = 6) -> NDArray[np.float32]:
    """Smooth noise, float32 [height, width, 3]: something for motion search to hold on to."""
    noise = generator.uniform(20, 235, (height // grain + 2, width // grain + 2, 3)).astype(np.float32)
    return _bilinear(noise, np.arange(height) / grain, np.arange(width) / grain)


def _view(
    wall: NDArray[np.float32], margin: int, height: int, width: int, x: float, y: float, zoom: float
) -> NDArray[np.uint8]:
    rows = (np.arange(height) - height / 2) * zoom + height / 2 + margin + y
    columns = (np.arange(width) - width / 2) * zoom + width / 2 + margin + x
    return _bilinear(wall, rows, columns).round().astype(np.uint8)


def _bilinear(
    picture: NDArray[np.float32], rows: NDArray[np.floating[Any]], columns: NDArray[np.floating[Any]]
) -> NDArray[np.float32]:
    top, left = rows.astype(int), columns.astype(int)
    down = (rows - top)[:, None, None].astype(np.float32)
    across = (columns - left)[None, :, None].astype(np.float32)
    mixed = picture[top] * (1 - down) + picture[top + 1] * down
    result: NDArray[np.float32] = mixed[:, left] * (1 - across) + mixed[:, left + 1] * across
    return result


def _areas(rows: Iterable[dict[str, Any]]) -> list[float]:
    return sorted({row["area"] for row in rows if row["area"]}, reverse=True)


def _select(rows: Iterable[dict[str, Any]], **values: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row.get(key) == value for key, value in values.items())]


def _held_in(rows: Sequence[dict[str, Any]], method: str, area: float) -> str:
    chosen = _select(rows, method=method, area=area)
    return f"{_mean(chosen, 'coverage')} ({_mean(chosen, 'box_area')})"


def _mean(rows: Iterable[dict[str, Any]], what: str, **values: Any) -> str:
    return f"{np.mean([row[what] for row in _select(rows, **values)]):.3f}"
