"""The bench itself: its ground truth is right, and MoCrop meets its targets on a few of its clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clips import record, wandering
from tool import tool

from benchmarks import mocrop as bench
from benchmarks.boxes import centre_box, coverage
from coviar_mocrop.bitstream.transcode import encode
from coviar_mocrop.clips.boxes import box_of_file
from coviar_mocrop.errors import ConfigError, DataError
from coviar_mocrop.mocrop import CropBox, MoCropSettings, estimate_box

pytestmark = pytest.mark.slow


def test_all_kinds_of_scenes() -> None:
    kinds = bench.scenes()
    assert len(set(kinds)) == 64
    assert {scene.camera for scene in kinds} == {"static", "pan", "shake", "zoom"}


@pytest.mark.parametrize("objects", [1, 2])
def test_swept_regions_hold_all_that_changes(objects: int) -> None:
    scene = bench.Scene("static", "small", ((40, 48),) * objects, "h264", 20)
    pictures, swept = bench.render(scene, seed=5)
    changed = (pictures != pictures[0]).any(axis=(0, 3))
    inside = np.zeros_like(changed)
    for region in swept:
        top, left, bottom, right = region.to_pixels(*changed.shape)
        assert changed[top:bottom, left:right].any(axis=0).mean() > 0.9
        inside[top:bottom, left:right] = True
    assert len(swept) == objects
    assert not changed[~inside].any()


@pytest.mark.parametrize("camera", bench.CAMERAS)
def test_default_finds_the_object_whatever_the_camera_does(camera: bench.CameraMove, tmp_path: Path) -> None:
    for number, codec in enumerate(("h264", "mpeg4")):
        scene = bench.Scene(camera, "small", ((40, 48),), codec, 20 if codec == "h264" else 6)  # type: ignore[arg-type]
        pictures, swept = bench.render(scene, seed=20 + number)
        encode(pictures, tmp_path / "clip.mp4", codec=scene.codec, quality=scene.quality)
        vectors, size = bench.read_vectors(tmp_path / "clip.mp4")
        for area in (0.75, 0.4):
            box = estimate_box(vectors, size, MoCropSettings(area_ratio=area))
            assert coverage(box, swept) >= 0.95
        sparse = box_of_file(tmp_path / "clip.mp4", MoCropSettings(area_ratio=0.4, sparse=True))
        assert coverage(sparse, swept) >= 0.9


def test_adaptive_box_holds_two_objects(tmp_path: Path) -> None:
    scene = bench.Scene("pan", "small", ((40, 48),) * 2, "h264", 20)
    pictures, swept = bench.render(scene, seed=1)
    encode(pictures, tmp_path / "clip.mp4")
    vectors, size = bench.read_vectors(tmp_path / "clip.mp4")
    box = estimate_box(vectors, size, MoCropSettings(size="adaptive"))
    assert min(coverage(box, [region]) for region in swept) >= 0.85


def test_coverage_and_reference_boxes() -> None:
    left, right = CropBox(0.0, 0.0, 0.25, 0.5), CropBox(0.75, 0.5, 1.0, 1.0)
    assert coverage(CropBox(0.0, 0.0, 0.5, 1.0), [left, right]) == 0.5
    assert centre_box(0.25) == CropBox(0.25, 0.25, 0.75, 0.75)
    best = bench.best_box([left], 0.25)
    assert coverage(best, [left]) == pytest.approx(1.0)
    assert best.area == pytest.approx(0.25, rel=0.11)


def test_marks_must_parse(tmp_path: Path) -> None:
    path = tmp_path / "action_boxes.csv"
    for text in ("", "path,x0,y0,x1,y1\n", "path,x0\na.mp4,0.1\n", "path,x0,y0,x1,y1\na.mp4,0.5,0,0.4,1\n"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"action_boxes\.csv"):
            bench.read_marks(path)
    path.write_text("path,x0,y0,x1,y1\na.mp4,0.1,0.2,0.4,1\n")
    assert bench.read_marks(path) == {"a.mp4": CropBox(0.1, 0.2, 0.4, 1.0)}


def test_real_and_sparse_on_clips_of_our_own(tmp_path: Path) -> None:
    record(wandering(40, 128, 96, 4, seed=1), tmp_path / "a.mp4")
    (tmp_path / "action_boxes.csv").write_text("path,x0,y0,x1,y1\na.mp4,0.1,0.1,0.9,0.9\n")
    rows = bench.run_real(tmp_path, (0.75, 0.4))
    assert {row["method"] for row in rows} == {*bench.METHODS, "adaptive"}
    assert "| default |" in bench.real_table(rows)
    videos = bench.spread_videos(tmp_path, 3)
    assert [path.name for path in videos] == ["a.mp4"]
    sparse = bench.run_sparse(videos, plans=((1, 12), (2, 10)))
    whole = [row for row in sparse if row["part"] == "every 1, first 12"]
    assert [row["iou"] for row in whole] == [1.0, 1.0]
    assert whole[0]["vectors"] == 1.0
    part = next(row for row in sparse if row["part"] == "every 2, first 10")
    assert 0.1 < part["vectors"] < 0.6
    assert "every 2, first 10" in bench.parts_table(sparse, "plan")
    prefix = bench.run_prefix(videos, shares=(0.5, 1.0))
    assert [row["iou"] for row in prefix if row["part"] == "1"] == [1.0, 1.0]
    (box,), (reading,) = bench.box_time(videos, repeats=2)
    assert box > 0 and reading > 0
    with pytest.raises(ConfigError, match="number of clips is 0"):
        bench.spread_videos(tmp_path, 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no video"):
        bench.spread_videos(tmp_path / "empty", 1)


def test_tool_refuses_to_measure_clips_that_it_is_not_given() -> None:
    for option in ("--sparse-clips", "--unmarked-clips"):
        refused = tool("benchmark", "mocrop", option, 2, ok=False)
        assert refused.startswith(f"error: {option} takes its clips from --real")


def test_tool_names_mistakes_before_it_measures(tmp_path: Path) -> None:
    assert "no such file; give a folder" in tool("benchmark", "mocrop", "--real", tmp_path / "none", ok=False)
    (tmp_path / "action_boxes.csv").write_text("path,x0,y0,x1,y1\ngone.mp4,0.1,0.1,0.9,0.9\n")
    assert "names gone.mp4, which is not there" in tool("benchmark", "mocrop", "--real", tmp_path, ok=False)
