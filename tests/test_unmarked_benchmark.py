"""Measures that need no marks: known answers, and nothing to win for constant boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import record, sliding, texture

from benchmarks import boxes as bench
from benchmarks.changes import LAG, SHAPE, camera_step, changes
from coviar_mocrop.errors import DataError
from coviar_mocrop.mocrop import FULL_FRAME, CropBox

pytestmark = pytest.mark.slow

LEFT, RIGHT = CropBox(0.0, 0.0, 0.5, 1.0), CropBox(0.5, 0.0, 1.0, 1.0)


def patch_at(places: list[int], *, top: int = 8, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A 40 x 40 patch on a still picture of 128 x 192, its left edge at these columns."""
    wall, patch = texture(128, 192, seed), texture(40, 40, seed + 50)
    pictures = np.stack([wall] * len(places))
    for picture, left in zip(pictures, places, strict=True):
        picture[top : top + 40, left : left + 40] = patch
    return pictures


def test_changes_are_where_something_moves() -> None:
    found = changes(patch_at([16 + 2 * number for number in range(12)]))
    assert found.shape == (12 - LAG, *SHAPE)
    swept = np.zeros(SHAPE, bool)
    swept[: 7 + 1, 2 : 13 + 1] = True  # of 18 x 32 cells: rows to 49 of 128, columns 15 to 79 of 192, blur included
    assert found.mean(axis=0)[swept].sum() > 10
    assert not found[:, ~swept].any()
    assert not changes(np.stack([texture(64, 64)] * 6)).any()


@pytest.mark.parametrize("step", [(4, 0), (-2, 4), (0, -6)])
def test_camera_is_no_change(step: tuple[int, int]) -> None:
    pictures = np.stack(sliding(8, 192, 128, step, seed=1))
    across, down = (LAG * pixels // 2 for pixels in step)
    grey = pictures[:, ::2, ::2].mean(axis=3, dtype=np.float32)
    assert camera_step(grey[0], grey[LAG]) == (down, across)
    assert changes(pictures).mean() < 0.01
    fixed = np.abs(np.diff(pictures.astype(int), axis=0)).mean()
    assert fixed > 10  # a camera that is not taken out would be all change


def test_held_is_a_share_of_what_the_best_rectangle_holds() -> None:
    density = np.zeros(SHAPE)
    density[:4, :4] = 1.0
    assert bench.held(CropBox(0, 0, 0.5, 0.5), density, 0.4) == pytest.approx(1.0)
    assert bench.held(CropBox(2 / 32, 0, 1, 1), density, 0.4) == pytest.approx(0.5)
    assert bench.held(CropBox(0, 1 / 18 / 2, 1, 1), density, 0.4) == pytest.approx(7 / 8)  # half a row of four
    assert bench.held(RIGHT, density, 0.4) == 0
    even = np.ones(SHAPE)
    assert bench.held(bench.centre_box(0.4), even, 0.4) == pytest.approx(0.4 / 0.44, rel=0.01)
    assert bench.held(FULL_FRAME, even, 0.4) == bench.held(bench.centre_box(0.4), even, 0.4)


def test_agreement_is_above_that_of_other_clips() -> None:
    sources = ["a", "b", "c"]
    top = CropBox(0.0, 0.0, 0.5, 0.5)
    assert bench.agreement([LEFT] * 3, [LEFT] * 3, sources).tolist() == [0, 0, 0]
    assert bench.agreement([LEFT, RIGHT], [LEFT, RIGHT], sources[:2]).tolist() == [1, 1]
    assert bench.agreement([LEFT, RIGHT], [RIGHT, LEFT], sources[:2]).tolist() == [-1, -1]
    # the first is like half of the third; the second, of its own source, does not count
    assert bench.agreement([LEFT, LEFT, RIGHT], [LEFT, LEFT, top], ["a", "a", "b"]).tolist() == [0.5, 0.5, 0]
    assert bench.mirrored(CropBox(0.25, 0.1, 0.5, 0.2)) == CropBox(0.5, 0.1, 0.75, 0.2)


def rows_of(method: str, held_next: float, covered: float) -> list[dict[str, Any]]:
    return [
        {
            "path": f"{source}{number}.mp4",
            "source": source,
            "method": method,
            "area": 0.4,
            "next": {"H.264": held_next},
            "coverage": {"H.264": covered} if number == 0 else {},
        }
        for source in "abcdefg"
        for number in range(2)
    ]


def test_settings_are_chosen_without_marks() -> None:
    rows = rows_of(bench.DEFAULT, 0.7, 0.9) + rows_of("weight=area", 0.8, 0.5)
    chosen = bench.choose(rows, 0.4, divisions=3)
    assert chosen == {"chosen": 0.5, "spread": 0.0, "default": pytest.approx(0.9), "own": 0.0}
    kept = bench.choose(rows_of(bench.DEFAULT, 0.7, 0.9) + rows_of("weight=area", 0.6, 0.5), 0.4)
    assert (kept["chosen"], kept["own"]) == (pytest.approx(0.9), 1.0)
    # a setting that is good on one source alone is not chosen for that source
    rows = rows_of(bench.DEFAULT, 0.7, 0.9) + rows_of("weight=area", 0.6, 0.5)
    for row in rows[14:16]:
        row["next"] = {"H.264": 2.0}
        row["coverage"] = {"H.264": 0.0} if row["coverage"] else {}
    assert bench.choose(rows, 0.4, folds=7)["chosen"] > 0.5  # 0.0 for source a if it chose for itself
    assert bench.by_source(rows[:4], [1, 3, 5, 6]) == {"a": 2.0, "b": 5.5}


def test_clips_of_our_own(tmp_path: Path) -> None:
    sources = {}
    for name, start in (("a", 2), ("b", 120), ("c", 60)):
        places = [start + abs(number % 16 - 8) * 3 for number in range(36)]
        record(list(patch_at(places, top=4 if name == "c" else 80, seed=ord(name))), tmp_path / f"{name}.mp4")
        sources[f"{name}.mp4"] = name
    record(sliding(36, 192, 128, (0, 0)), tmp_path / "still.mp4")
    sources["still.mp4"] = "still"
    videos = sorted(tmp_path.glob("*.mp4"))
    marks = {"a.mp4": CropBox(0.0, 0.6, 0.35, 0.95)}
    rows = bench.run_unmarked(tmp_path, videos, sources, marks, (0.4,), (bench.DEFAULT, "weight=area"))
    assert {row["path"] for row in rows} == {"a.mp4", "b.mp4", "c.mp4"}  # nothing changes in the other
    of_method = {name: [row for row in rows if row["method"] == name] for name in (bench.CENTRE, bench.DEFAULT)}
    for row in of_method[bench.DEFAULT]:
        assert min(row["next"].values()) > 0.95
        assert min(row["held"].values()) > 0.95
    assert min(of_method[bench.DEFAULT][0]["coverage"].values()) > 0.95
    assert not of_method[bench.DEFAULT][1]["coverage"]
    assert np.mean([list(row["next"].values()) for row in of_method[bench.CENTRE]]) < 0.6
    head, _, centre, default, _ = bench.unmarked_table(rows, 0.4).splitlines()
    assert head.startswith("| box of 0.4 | held next, as it is | held next, H.264 | held next, MPEG-4 | against the ")
    agreements = [[float(cell) for cell in line.split(" | ")[6:9]] for line in (centre, default)]
    assert agreements[0] == [0, 0, 0]
    assert min(agreements[1]) > 0.3
    with pytest.raises(DataError, match="of one source"):
        bench.run_unmarked(tmp_path, videos, dict.fromkeys(sources, "a"), {}, (0.4,))
