"""Boxes on clips that nobody marked: do they hold what changes, and does the same clip give the same box?

None of the three measures is fitted to anything, and a constant box wins none:

- held next: the share of the second half's pixel changes inside the box of the first half's vectors, and the other way
  round, by that of the best rectangle of the area.
- held: the same for the changes and the box of the whole clip.
- agreement: IoU of two boxes of the same clip (two halves, two encodings, mirrored and not), less the mean IoU with
  boxes of clips of other sources.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.changes import LAG, Grid, changes
from coviar_mocrop.bitstream import open_video
from coviar_mocrop.bitstream.transcode import encode, transcode
from coviar_mocrop.errors import DataError
from coviar_mocrop.mocrop import FULL_FRAME, CropBox, MoCropSettings, best_rectangle, density_of
from coviar_mocrop.mocrop.estimate import box_of_density
from coviar_mocrop.viz.tables import markdown_table

CENTRE, DEFAULT = "centre", "preset=default"
VARIANTS = (
    "preset=paper_v1",
    "preset=paper_v2",
    DEFAULT,
    "weight=speed",
    "weight=area",
    "weight=count",
    "half_speed=0.006",
    "half_speed=0.025",
    "coherence=0",
    "camera=none",
    "camera=translation",
    "rows=9 columns=16",
    "spread_blocks=false",
    "drop_tickers=false",
    "smoothing=0",
    "smoothing=6",
    "saturation=null",
    "saturation=0.5",
    "centre_prior=0",
    "centre_prior=1.5",
)
"""Settings that are compared, as items of a command line; the default's with one thing changed."""
HALVED = ("as it is", "H.264", "MPEG-4")
"""Encodings of which the halves are measured, too."""
PAIRS = {
    "halves": tuple((f"{name}, first", f"{name}, second") for name in HALVED),
    "encodings": (("as it is", "H.264"), ("H.264", "MPEG-4"), ("H.264", "B-frames"), ("H.264", "low rate")),
    "mirrored": (("H.264", "mirrored"),),
}


class _Encoded(NamedTuple):
    """Vectors of each frame, and the frame's height and width."""

    vectors: list[NDArray[np.void]]
    size: tuple[int, int]


def coverage(box: CropBox, regions: Iterable[CropBox]) -> float:
    """Share of the regions' area, taken together, that lies inside the box."""
    inside_box = total = 0.0
    for region in regions:
        shared_w = min(box.x1, region.x1) - max(box.x0, region.x0)
        shared_h = min(box.y1, region.y1) - max(box.y0, region.y0)
        inside_box += max(shared_w, 0.0) * max(shared_h, 0.0)
        total += region.area
    return inside_box / total


def centre_box(area: float) -> CropBox:
    """A box of that area in the middle, as wide for its height as the frame."""
    side = area**0.5
    return CropBox((1 - side) / 2, (1 - side) / 2, (1 + side) / 2, (1 + side) / 2)


def held(box: CropBox, density: Grid, area: float) -> float:
    """Share of a density, [rows, columns] and not all zero, in a box, by that in the best rectangle of the area.

    A box of the full frame, found where nothing moves, counts as the centre crop: it would hold all.
    """
    if box == FULL_FRAME:
        box = centre_box(area)
    rows, columns = density.shape
    down = np.diff(np.clip(np.arange(rows + 1), box.y0 * rows, box.y1 * rows))
    across = np.diff(np.clip(np.arange(columns + 1), box.x0 * columns, box.x1 * columns))
    top, left, height, width = best_rectangle(density, area)
    return float(down @ density @ across / density[top : top + height, left : left + width].sum())


def agreement(first: Sequence[CropBox], second: Sequence[CropBox], sources: Sequence[str]) -> Grid:
    """IoU of two boxes of each clip, less the mean IoU of the first with the second of clips of other sources.

    Constant boxes get 0, and so do boxes that know nothing of their clip.

    Args:
        first: a box for each clip.
        second: another one.
        sources: of the clips; at least two.

    Returns:
        float64 [clips].
    """
    overlaps = np.array([[one.iou(other) for other in second] for one in first])
    other_source = np.array(sources)[:, None] != np.array(sources)
    above: Grid = np.diag(overlaps) - (overlaps * other_source).sum(axis=1) / other_source.sum(axis=1)
    return above


def run_unmarked(
    root: Path,
    videos: Sequence[Path],
    sources: Mapping[str, str],
    marks: Mapping[str, CropBox],
    areas: Sequence[float] = (0.75, 0.4),
    variants: Sequence[str] = VARIANTS,
) -> list[dict[str, Any]]:
    """Measure videos, marked or not.

    Args:
        root: their folder.
        videos: with motion vectors. Those in which no pixel changes in one half are left out.
        sources: source of each, by its path below ``root``; at least two.
        marks: regions of the action, by path, of as many as there are.
        areas: shares of the frame.
        variants: see ``VARIANTS``.

    Returns:
        A row per clip, method and area: ``path``, ``source``, ``method``, ``area``, ``boxes`` (by encoding and half),
        and, by encoding, ``next``, ``held`` and ``coverage`` (of the marked region; empty without).

    Raises:
        DataError: fewer than two sources.
        VideoError: a video cannot be read.
    """
    names = [path.relative_to(root).as_posix() for path in videos]
    if len({sources[name] for name in names}) < 2:
        raise DataError(f"{root}: these clips are of one source; boxes are compared with those of other sources")
    return [
        {"path": name, "source": sources[name], **row}
        for name, path in zip(tqdm(names, "unmarked clips"), videos, strict=True)
        for row in _measure(path, marks.get(name), areas, variants)
    ]


def by_source(rows: Sequence[dict[str, Any]], values: Sequence[float] | Grid) -> dict[str, float]:
    """Mean value of the rows of each source: sources count alike, however many clips were cut from them."""
    of_source: dict[str, list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        of_source.setdefault(row["source"], []).append(float(value))
    return {source: float(np.mean(found)) for source, found in of_source.items()}


def choose(rows: Sequence[dict[str, Any]], area: float, *, divisions: int = 20, folds: int = 5) -> dict[str, float]:
    """Cross-validation over sources: settings chosen by ``held next``, judged on marked clips of other sources.

    Args:
        rows: of :func:`run_unmarked`, marked clips among them.
        area: share of the frame.
        divisions: of the sources into folds, by seeds 0, 1, ...
        folds: of a division.

    Returns:
        ``chosen``: mean coverage of the marked clips by the settings chosen without their sources; ``spread``: its
        standard deviation over divisions; ``default``: the default's coverage; ``own``: how often it is chosen.
    """
    of_method: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["area"] == area:
            of_method.setdefault(row["method"], []).append(row)
    scores = {name: by_source(those, [_mean(row["next"]) for row in those]) for name, those in of_method.items()}
    marked = {name: [row for row in those if row["coverage"]] for name, those in of_method.items()}
    sources = sorted(scores[DEFAULT])
    means, picked = [], []
    for seed in range(divisions):
        parts = np.array_split(np.random.default_rng(seed).permutation(sources), folds)
        found = []
        for part in parts:
            left = [source for source in sources if source not in part]
            best = max(scores, key=lambda name: np.mean([scores[name][source] for source in left]))
            found += [_mean(row["coverage"]) for row in marked[best] if row["source"] in part]
            picked.append(best)
        means.append(np.mean(found))
    return {
        "chosen": float(np.mean(means)),
        "spread": float(np.std(means)),
        "default": float(np.mean([_mean(row["coverage"]) for row in marked[DEFAULT]])),
        "own": picked.count(DEFAULT) / len(picked),
    }


def chosen_line(chosen: Mapping[str, float]) -> str:
    """What :func:`choose` found, as a sentence."""
    return (
        f"Marked regions, settings chosen by `held next` on other sources: {chosen['chosen']:.3f} (standard deviation "
        f"{chosen['spread']:.3f} over divisions); the default, which was chosen in {chosen['own']:.0%} of the folds: "
        f"{chosen['default']:.3f}"
    )


def unmarked_table(rows: Sequence[dict[str, Any]], area: float) -> str:
    """A row per method, means over sources; the gain in ``held next`` over the default has its standard error."""
    chosen = [row for row in rows if row["area"] == area]
    usual = _next_by_source(chosen, DEFAULT)
    head = [f"box of {area:g}", *(f"held next, {name}" for name in HALVED), "against the default", "held"]
    head += [f"agreement, {name}" for name in PAIRS]
    if any(row["coverage"] for row in chosen):
        head.append("marked regions")
    cells: list[list[str]] = [head]
    for method in dict.fromkeys(row["method"] for row in chosen):
        those = [row for row in chosen if row["method"] == method]
        gains = [value - usual[source] for source, value in _next_by_source(chosen, method).items()]
        error = np.std(gains, ddof=1) / len(gains) ** 0.5
        line = [method.removeprefix("preset=")]
        line += [f"{_over_sources(those, [row['next'][name] for row in those]):.3f}" for name in HALVED]
        line.append("-" if method == DEFAULT else f"{np.mean(gains):+.4f} ± {error:.4f}")
        line.append(f"{_over_sources(those, [_mean(row['held']) for row in those]):.3f}")
        line += [f"{np.mean([_agree(those, *pair) for pair in pairs]):.3f}" for pairs in PAIRS.values()]
        if "marked regions" in head:
            line.append(f"{np.mean([_mean(row['coverage']) for row in those if row['coverage']]):.3f}")
        cells.append(line)
    return markdown_table(cells)


def _measure(
    path: Path, marked: CropBox | None, areas: Sequence[float], variants: Sequence[str]
) -> list[dict[str, Any]]:
    """A row per method and area of one clip; none where no pixel changes in one half."""
    parts, pictures, cut = _encodings(path)
    if len(pictures) <= cut + LAG:
        return []  # too short to change in the second half
    changed = changes(pictures)
    # change number t is between frames t and t + LAG: those of the first half end in it
    whole, first, second = (part.mean(axis=0) for part in (changed, changed[: max(cut - LAG, 1)], changed[cut:]))
    if not (first.any() and second.any()):
        return []
    rows = []
    for method in (CENTRE, *variants):
        settings = None if method == CENTRE else MoCropSettings.from_items(method.split())
        densities = settings and {name: density_of(*part, settings) for name, part in parts.items()}
        for area in areas:
            boxes = dict.fromkeys(parts, centre_box(area))
            if settings and densities:
                sized = settings.model_copy(update={"area_ratio": area})
                boxes = {name: box_of_density(density, sized) for name, density in densities.items()}
                boxes["mirrored"] = mirrored(boxes["mirrored"])
            row: dict[str, Any] = {"method": method, "area": area, "boxes": boxes}
            row["next"] = {
                name: (held(boxes[f"{name}, first"], second, area) + held(boxes[f"{name}, second"], first, area)) / 2
                for name in HALVED
            }
            row["held"] = {name: held(boxes[name], whole, area) for name in HALVED}
            row["coverage"] = {name: coverage(boxes[name], [marked]) for name in HALVED} if marked else {}
            rows.append(row)
    return rows


def mirrored(box: CropBox) -> CropBox:
    """The box, left and right exchanged."""
    return CropBox(1 - box.x1, box.y0, 1 - box.x0, box.y1)


def _encodings(path: Path) -> tuple[dict[str, _Encoded], NDArray[np.uint8], int]:
    """A clip and its halves in several encodings, its pictures, and the frame that the second half starts at."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "clip.mp4"
        transcode(path, target, quality=10)  # all encodings have the same size, rate and pictures
        with open_video(target) as video:
            rate, pictures = video.info.frame_rate or 25.0, video.get_frames_at(range(video.info.num_frames))
        found = {"as it is": _read(path)[0]}
        encode(pictures, target, frame_rate=rate)
        found["H.264"], starts = _read(target)
        encode(pictures, target, codec="mpeg4", frame_rate=rate)
        found["MPEG-4"] = _read(target)[0]
        encode(pictures, target, quality=34, frame_rate=rate)
        found["low rate"] = _read(target)[0]
        encode_with_b_frames(pictures, target, rate)
        found["B-frames"] = _read(target)[0]
        encode([np.ascontiguousarray(picture[:, ::-1]) for picture in pictures], target, frame_rate=rate)
        found["mirrored"] = _read(target)[0]
    cut = starts[(len(starts) + 1) // 2] if len(starts) > 1 else len(pictures) // 2
    for name in HALVED:
        vectors, size = found[name]
        found[f"{name}, first"], found[f"{name}, second"] = (
            _Encoded(vectors[:cut], size),
            _Encoded(vectors[cut:], size),
        )
    return found, pictures, cut


def _read(path: Path) -> tuple[_Encoded, list[int]]:
    """All vectors, and where GOPs start."""
    with open_video(path) as video:
        vectors, size = video.get_motion_vectors_at(), (video.info.height, video.info.width)
        return _Encoded(vectors, size), [gop.start for gop in video.gops]


def encode_with_b_frames(pictures: NDArray[np.uint8], path: Path, rate: float, preset: str = "medium") -> None:
    """Encode as x264 does by itself: long GOPs, B-frames, several references."""
    options = {"preset": preset, "x264-params": "cpu-independent=1"}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=round(rate), options=options)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # the number of threads changes the bytes
        for picture in pictures:
            container.mux(stream.encode(VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _agree(rows: Sequence[dict[str, Any]], one: str, other: str) -> float:
    first, second = ([row["boxes"][name] for row in rows] for name in (one, other))
    return _over_sources(rows, agreement(first, second, [row["source"] for row in rows]))


def _next_by_source(rows: Sequence[dict[str, Any]], method: str) -> dict[str, float]:
    those = [row for row in rows if row["method"] == method]
    return by_source(those, [_mean(row["next"]) for row in those])


def _over_sources(rows: Sequence[dict[str, Any]], values: Sequence[float] | Grid) -> float:
    return float(np.mean(list(by_source(rows, values).values())))


def _mean(values: Mapping[str, float]) -> float:
    return float(np.mean(list(values.values())))
