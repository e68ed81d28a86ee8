"""Preparing data sets: divisions, lists, the canonical format, the official splits, the tool."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml
from demo import BACKBONE
from tool import coviar, run_tool, tool

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.bitstream.transcode import encode
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.lists import read_videos
from coviar_mocrop.datasets.canonical import Canonical
from coviar_mocrop.datasets.folder import find_groups, index_folder, prepare_folder, read_groups
from coviar_mocrop.datasets.handling import Handling
from coviar_mocrop.datasets.lists import Clip, Form, groups_beside, read_classes, read_form, read_list
from coviar_mocrop.datasets.official import UCF101_COUNTS, prepare_hmdb51, prepare_ucf101
from coviar_mocrop.datasets.preparing import Prepared
from coviar_mocrop.datasets.splits import SIDES, Side
from coviar_mocrop.datasets.summary import next_commands, other_splits
from coviar_mocrop.datasets.transcoding import transcode_files
from coviar_mocrop.errors import CoviarMocropError, DataError, ListError

PROJECT = Path(__file__).resolve().parent.parent
TOOL = PROJECT / "tools" / "prepare_data.py"
UCF101_CLASSES = PROJECT / "data_lists" / "ucf101" / "classes.txt"
HMDB51_CLASSES = PROJECT / "data_lists" / "hmdb51" / "classes.txt"
SKIP = Handling(on_error="skip", progress=False, overwrite=True)
RAISE = Handling(progress=False, overwrite=True)
UNCHECKED = Handling(check=False, progress=False, overwrite=True)


def moving(frames: int = 5, seed: int = 0) -> list[np.ndarray]:
    """A textured square that moves over a textured ground."""
    generator = np.random.default_rng(seed)
    ground = generator.integers(0, 255, (48, 64, 3), dtype=np.uint8)
    square = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
    pictures = []
    for number in range(frames):
        picture = ground.copy()
        picture[16:32, 8 + 4 * number : 24 + 4 * number] = square
        pictures.append(picture)
    return pictures


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    encode(moving(), path)
    return path


def copy(source: Path, target: Path, note: str) -> None:
    """Copy an MP4 file and add a box that no reader looks at, so that files of different notes differ."""
    target.parent.mkdir(parents=True, exist_ok=True)
    box = struct.pack(">I4s", 8 + len(note.encode()), b"free") + note.encode()
    target.write_bytes(source.read_bytes() + box)


@pytest.fixture
def tree(tmp_path: Path, clip_file: Path) -> Callable[..., Path]:
    """Makes a folder per class: ``tree({"run": 3, "jump": ["a.mp4", "deep/b.avi"]})``. No two files are the same."""

    def make(classes: Mapping[str, int | list[str]], root: Path = tmp_path / "videos") -> Path:
        for folder, members in classes.items():
            names = [f"{n:02}.mp4" for n in range(members)] if isinstance(members, int) else members
            for name in names:
                copy(clip_file, root / folder / name, f"{folder}/{name}")
        return root

    return make


def read_back(prepared: Prepared, split: int = 1) -> dict[Side, list[str]]:
    """The paths in the lists of a split, which are as training reads them; what they name is there."""
    classes = read_classes(prepared.lists / "classes.txt")
    assert classes == prepared.classes
    paths: dict[Side, list[str]] = {}
    for side in SIDES:
        file = prepared.lists / f"{side}_split{split}.txt"
        clips = list(prepared.splits[split - 1].get(side, ()))
        assert file.exists() == bool(clips)
        if clips:
            assert list(read_list(file, classes).clips) == clips
            assert all((prepared.root / clip.path).is_file() for clip in clips)
            paths[side] = [clip.path for clip in clips]
    return paths


def write_groups(path: Path, group_of: Mapping[str, str]) -> Path:
    with open(path, "w", newline="") as text:
        rows = csv.writer(text)
        rows.writerow(["path", "camera"])
        rows.writerows(group_of.items())
    return path


# -- folder ----------------------------------------------------------------------------------------------


def test_folder_writes_lists_that_read_back(
    tree: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tree({"jumping jack": ["first try.mp4", "deep er/b.mp4", "c.MP4", "d.mp4"], "Run": 4, "notes": []})
    (root / "notes").mkdir()
    (root / "notes" / "readme.txt").write_text("no video")
    (root / "Run" / ".hidden.mp4").write_text("a temporary file")
    prepared = prepare_folder(root, tmp_path / "lists", test_share=0.25, val_share=0, handling=RAISE)
    paths = read_back(prepared)
    assert prepared.classes == ("jumping_jack", "Run")
    assert prepared.root == root
    assert {side: len(clips) for side, clips in paths.items()} == {"train": 6, "test": 2}
    assert [clip.class_name for clip in prepared.splits[0]["test"]] == ["jumping_jack", "Run"]
    assert {path for path in paths["train"] + paths["test"] if not path.startswith("Run")} == {
        "jumping jack/first try.mp4",
        "jumping jack/deep er/b.mp4",
        "jumping jack/c.MP4",
        "jumping jack/d.mp4",
    }
    again = prepare_folder(root, tmp_path / "again", test_share=0.25, val_share=0, handling=RAISE)
    assert read_back(again) == paths
    assert f"{root}: no video in notes; not used as a class" in caplog.text


def test_validation_is_held_out_of_the_training_side(tree: Callable[..., Path], tmp_path: Path) -> None:
    root = tree({"a": 20, "b": 10})
    whole = read_back(prepare_folder(root, tmp_path / "whole", val_share=0, handling=UNCHECKED))
    for share, counts in ((None, [2, 1]), (0.5, [7, 4])):
        paths = read_back(prepare_folder(root, tmp_path / "lists", val_share=share, handling=UNCHECKED))
        assert paths["test"] == whole["test"]
        assert sorted(paths["train"] + paths["val"]) == whole["train"]
        held_out = [sum(path.startswith(name) for path in paths["val"]) for name in "ab"]
        assert held_out == pytest.approx(counts, abs=1)
        assert all(held_out)
    with pytest.raises(DataError, match=r"validation share 1.0: give a number from 0 \(none\) to below 1"):
        prepare_folder(root, tmp_path / "lists", val_share=1.0, handling=UNCHECKED)


def test_too_few_clips_for_validation(
    tree: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = read_back(prepare_folder(tree({"a": 12, "b": 2}), tmp_path / "lists", handling=UNCHECKED))
    assert sum(path.startswith("b/") for path in paths["train"]) == 1
    assert all(path.startswith("a/") for path in paths["val"])
    assert caplog.text.count("no validation clip of b") == 1
    caplog.clear()
    prepared = prepare_folder(tree({"a": 2, "b": 2}, tmp_path / "few"), tmp_path / "lists", handling=UNCHECKED)
    assert read_back(prepared).keys() == {"train", "test"}
    assert caplog.text.count("no validation clip of a, b") == 1


def test_folders_that_are_divided_already(tree: Callable[..., Path], tmp_path: Path) -> None:
    def prepare(root: Path, **options: Any) -> dict[Side, list[str]]:
        return read_back(prepare_folder(root, tmp_path / "lists", handling=UNCHECKED, **options))

    def fails(root: Path, message: str, **options: Any) -> None:
        with pytest.raises(DataError, match=message):
            prepare(root, **options)

    for name in ("val", "valid", "Validation"):
        given = {
            "train/a b": 3,
            "train/c": 3,
            f"{name}/a b": 2,
            f"{name}/c": 1,
            "test/c": 1,
            "test/a b": ["deep/x.mp4"],
        }
        root = tree(given, tmp_path / name)
        assert prepare(root) == {
            "train": [f"train/{folder}/{n:02}.mp4" for folder in ("a b", "c") for n in range(3)],
            "val": [f"{name}/a b/00.mp4", f"{name}/a b/01.mp4", f"{name}/c/00.mp4"],
            "test": ["test/a b/deep/x.mp4", "test/c/00.mp4"],
        }
    assert read_classes(tmp_path / "lists" / "classes.txt") == ("a_b", "c")
    fails(root, "is divided into train, val, test already; leave out --folds", folds=3)
    fails(root, "leave out --test-share", test_share=0.3)
    fails(root, "leave out --val-share", val_share=0.2)
    # validation clips are held out where there are none
    root = tree({"train/a": 6, "train/b": 6, "test/a": 2, "test/b": 2}, tmp_path / "two")
    group_of = {path: path for path in (clip.path for clip in index_folder(root)[1])}
    groups = write_groups(tmp_path / "groups.csv", group_of)
    paths = prepare(root)
    assert prepare(root, groups=groups, group_column="camera") == paths
    assert {side: len(clips) for side, clips in paths.items()} == {"train": 10, "val": 2, "test": 4}
    assert prepare(root, val_share=0).keys() == {"train", "test"}
    fails(root, "leave out --test-share", test_share=0.3)
    across = {**group_of, "test/a/00.mp4": "train/a/01.mp4"}
    options = {"groups": write_groups(tmp_path / "groups.csv", across), "group_column": "camera"}
    fails(root, "test/a/00.mp4 and train/a/01.mp4 are of one group, train/a/01.mp4, but in two lists", **options)
    # there need be no test clips
    assert prepare(tree({"train/a": 2, "train/b": 2, "val/a": 1}, tmp_path / "no_test")).keys() == {"train", "val"}
    # classes that happen to be named so
    assert len(prepare(tree({"train": 4, "test": 4}, tmp_path / "names"))["train"]) > 2
    twice = tree({"train/a": 2, "train/b": 2, "val/a": 1, "valid/b": 1}, tmp_path / "twice")
    fails(twice, "divided into train and val and valid, two of which mean the same list")
    fails(tree({"train/a": 2, "test/b": 2, "test": 1}, tmp_path / "loose"), "test/00.mp4 is in no class folder")
    fails(tree({"train/a": 2, "test/b": 2, "extra": 1}, tmp_path / "more"), "but extra is not a side")


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (["train", "tests"], "train, tests look like the sides of a division; rename tests to test "),
        (["Training", "testing"], "Training, testing look like .*; rename Training to train, testing to test "),
        (["train", "test", "validate"], "test, train, validate look like .*; rename validate to val "),
    ],
)
def test_folders_named_nearly_like_sides_are_no_classes(
    tree: Callable[..., Path], tmp_path: Path, folders: list[str], says: str
) -> None:
    root = tree({f"{side}/{name}": 2 for side in folders for name in "ab"})
    with pytest.raises(DataError, match=says):
        prepare_folder(root, tmp_path / "lists", handling=UNCHECKED)
    assert not (tmp_path / "lists").exists()
    flat = tree(dict.fromkeys(folders, 3), tmp_path / "flat")  # no class folders in them: they are classes
    assert len(prepare_folder(flat, tmp_path / "flat_lists", handling=UNCHECKED).classes) == len(folders)


def test_a_file_is_on_one_side(tree: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tree({"train/a": 3, "train/b": 3, "test/a": 3, "test/b": 3})
    (root / "train" / "b" / "copy.mp4").write_bytes((root / "train" / "a" / "00.mp4").read_bytes())
    prepare_folder(root, tmp_path / "lists", val_share=0, handling=UNCHECKED)
    assert "holds 1 copy of another file, such as train/b/copy.mp4 of train/a/00.mp4" in caplog.text
    same_size = bytearray((root / "train" / "a" / "01.mp4").read_bytes())
    same_size[-1] ^= 1
    (root / "test" / "a" / "01.mp4").write_bytes(same_size)
    prepare_folder(root, tmp_path / "lists", val_share=0, handling=UNCHECKED)
    (root / "test" / "b" / "copy.mp4").write_bytes((root / "train" / "b" / "00.mp4").read_bytes())
    for handling in (RAISE, SKIP):
        with pytest.raises(DataError) as caught:
            prepare_folder(root, tmp_path / "lists", val_share=0, handling=handling)
        assert str(caught.value) == (
            f"{root}: test/b/copy.mp4 (test) and train/b/00.mp4 (training) hold the same bytes; remove one of the two"
        )
    (root / "test" / "b" / "other.mp4").write_bytes((root / "train" / "b" / "01.mp4").read_bytes())
    with pytest.raises(DataError, match="the same bytes, and 1 more such pairs; remove"):
        prepare_folder(root, tmp_path / "lists", val_share=0, handling=UNCHECKED)


def test_other_lists_are_not_replaced(tree: Callable[..., Path], tmp_path: Path) -> None:
    root, lists = tree({"a": 8, "b": 8}), tmp_path / "lists"
    careful = Handling(check=False, progress=False)

    def texts() -> dict[str, str]:
        return {path.name: path.read_text() for path in lists.iterdir()}

    prepare_folder(root, lists, handling=careful)
    before = texts()
    prepare_folder(root, lists, handling=careful)  # the same lists
    canonical = Canonical(tmp_path / "canonical")
    changes: list[dict[str, Any]] = [{"seed": 1}, {"val_share": 0}, {"canonical": canonical, "test_share": 0.5}]
    for options in changes:
        with pytest.raises(DataError, match=f"^{lists}: already holds other lists .*; give --overwrite"):
            prepare_folder(root, lists, handling=careful, **options)
    assert not canonical.folder.exists()  # refused before the work
    assert texts() == before
    prepare_folder(root, lists, seed=1, val_share=0, handling=UNCHECKED)
    assert texts().keys() == before.keys() - {"val_split1.txt"}
    assert texts()["test_split1.txt"] != before["test_split1.txt"]


def test_a_single_clip_cannot_be_on_both_sides(
    tree: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare_folder(tree({"a": 1, "b": 3, "c": 1}), tmp_path / "lists", handling=UNCHECKED)
    assert "only one clip of a, c: it can be used for training or testing, not both" in caplog.text
    caplog.clear()
    prepare_folder(tree({"a": 2, "b": 2}, tmp_path / "enough"), tmp_path / "lists", handling=UNCHECKED)
    assert "only one" not in caplog.text


def test_folds_test_each_clip_once_and_old_splits_go(tree: Callable[..., Path], tmp_path: Path) -> None:
    root = tree({"a": 6, "b": 5})
    prepared = prepare_folder(root, tmp_path / "lists", folds=3, handling=UNCHECKED)
    everything = {clip.path for clip in index_folder(root)[1]}
    tested: list[str] = []
    for split in (1, 2, 3):
        paths = read_back(prepared, split)
        assert sorted(paths["train"] + paths["val"] + paths["test"]) == sorted(everything)
        assert {path[0] for path in paths["train"]} == {path[0] for path in paths["test"]} == {"a", "b"}
        tested += paths["test"]
    assert sorted(tested) == sorted(everything)
    prepare_folder(root, tmp_path / "lists", folds=2, handling=UNCHECKED)
    assert sorted(path.name for path in (tmp_path / "lists").iterdir()) == [
        "classes.txt",
        *(f"{side}_split{split}.txt" for side in ("test", "train", "val") for split in (1, 2)),
    ]


def test_groups_stay_whole(tree: Callable[..., Path], tmp_path: Path) -> None:
    root = tree({"a": 9, "b": 9})
    group_of = {f"{name}/{n:02}.mp4": f"camera {n // 2}" for name in "ab" for n in range(9)}
    file = write_groups(tmp_path / "groups.csv", group_of)
    for folds in (None, 3):
        prepared = prepare_folder(
            root, tmp_path / "lists", groups=file, group_column="camera", folds=folds, handling=UNCHECKED
        )
        for split in range(1, len(prepared.splits) + 1):
            groups = [{group_of[path] for path in paths} for paths in read_back(prepared, split).values()]
            assert len(groups) == 3
            assert len(set().union(*groups)) == sum(map(len, groups)) == 5


def test_groups_in_the_source_are_used_unless_others_are_given(
    tree: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree({"a": 6, "b": 6})
    group_of = {clip.path: Path(clip.path).stem[-1] for clip in index_folder(root)[1]}
    monkeypatch.chdir(tmp_path)

    def groups(*options: str) -> tuple[dict[str, str], str]:
        words = ("prepare", "folder", root, "--name", "mine", "--group-column", "camera", "--no-check", "--overwrite")
        said = coviar(*words, *options)
        return groups_beside(tmp_path / "data_lists/mine"), said

    assert groups()[0] == {}
    write_groups(root / "groups.csv", group_of)
    found, said = groups()
    assert found == group_of
    assert said.startswith(
        f"groups: {root / 'groups.csv'}, so clips of one camera stay in one list (--groups none turns this off)"
    )
    found, said = groups("--groups", "none")
    assert found == {} and "in one list" not in said
    write_groups(root / "other.csv", dict.fromkeys(group_of, "one") | {"a/00.mp4": "two"})
    found, said = groups("--groups", "other.csv", "--test-share", "0")  # which is not in the working folder
    assert set(found.values()) == {"one", "two"} and "in one list" not in said
    write_groups(tmp_path / "other.csv", group_of)  # now it is
    assert groups("--groups", "other.csv")[0] == group_of
    assert str(find_groups(root, "missing.csv")) == "missing.csv"


def test_groups_stand_beside_the_lists(tree: Callable[..., Path], tmp_path: Path) -> None:
    root, lists = tree({"a": 8, "b": 8}), tmp_path / "lists"
    group_of = {f"{name}/{n:02}.mp4": f"camera\t{n // 2}" for name in "ab" for n in range(8)}
    file = write_groups(tmp_path / "groups.csv", group_of)
    careful = Handling(check=False, progress=False)
    options: dict[str, Any] = {"groups": file, "group_column": "camera", "handling": careful}
    prepare_folder(root, lists, **options)
    assert groups_beside(lists) == {path: group.replace("\t", " ") for path, group in group_of.items()}
    videos = read_videos(
        DataConfig(root=str(root), classes=str(lists / "classes.txt"), train_list=str(lists / "train_split1.txt")),
        "train",
    )
    assert videos.group_of == groups_beside(lists)
    prepare_folder(root, lists, **options)  # the same
    for path, group in group_of.items():  # other names of the same groups
        group_of[path] = group.replace("camera", "lens")
    write_groups(file, group_of)
    with pytest.raises(DataError, match=r"already holds other lists \(groups\.txt"):
        prepare_folder(root, lists, **options)
    before = (lists / "groups.txt").read_bytes()
    with pytest.raises(DataError, match=r"already holds other lists \(.*; give --overwrite"):
        prepare_folder(root, lists, handling=careful)  # without groups
    assert (lists / "groups.txt").read_bytes() == before
    prepare_folder(root, lists, handling=UNCHECKED)
    assert not (lists / "groups.txt").exists() and groups_beside(lists) == {}


def test_groups_of_transcoded_clips_go_by_their_new_paths(tree: Callable[..., Path], tmp_path: Path) -> None:
    root = tree({"a": ["1.avi", "2.avi"], "b": ["1.avi", "2.avi"]})
    file = write_groups(tmp_path / "groups.csv", {f"{name}/{n}.avi": f"{name}{n}" for name in "ab" for n in (1, 2)})
    canonical = Canonical(tmp_path / "canonical", size=None)
    options: dict[str, Any] = {"group_column": "camera", "test_share": 0, "val_share": 0, "handling": UNCHECKED}
    prepare_folder(root, tmp_path / "lists", groups=file, canonical=canonical, **options)
    assert groups_beside(tmp_path / "lists") == {f"{name}/{n}.mp4": f"{name}{n}" for name in "ab" for n in (1, 2)}


@pytest.mark.parametrize("line", ["a/1.mp4 camera", "a/1.mp4\t", "\tcamera"])
def test_a_line_without_a_group_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "groups.txt").write_text(f"# clips\na/0.mp4\tone\n{line}\n")
    with pytest.raises(ListError, match=r"groups\.txt, line 3: expected 'path<tab>group', found") as caught:
        groups_beside(tmp_path)
    assert "\n" not in str(caught.value)


def test_groups_of_videos_that_are_not_there_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "groups.csv").write_text("path,camera\na.mp4,1\nb.mp4,1\nc.mp4,2\n")
    assert read_groups(tmp_path / "groups.csv", "camera", ["a.mp4", "b.mp4"]) == {"a.mp4": "1", "b.mp4": "1"}
    assert "names c.mp4, not found in the data folder" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,camera\na.mp4,1\n", "has no row for b.mp4"),
        ("file,camera\na.mp4,1\n", "has no column 'path'"),
        ("path;camera\na.mp4;1\n", "separate columns by commas"),
        ("path,camera\na.mp4,1\nb.mp4,\n", "line 3: path or camera is empty"),
        ("path,camera\na.mp4,1\na.mp4,2\n", "already of group 1"),
    ],
)
def test_groups_file_mistakes(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "groups.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_groups(file, "camera", ["a.mp4", "b.mp4"])
    assert str(file) in str(caught.value)


def test_groups_file_of_a_spreadsheet(tmp_path: Path) -> None:
    file = tmp_path / "groups.csv"
    file.write_bytes("\ufeffpath,camera\r\n.\\x\\a.mp4,ä\r\n".encode())
    assert read_groups(file, "camera", ["x/a.mp4"]) == {"x/a.mp4": "ä"}
    with pytest.raises(DataError, match="no such file"):
        read_groups(tmp_path / "none.csv", "camera", [])


def test_folder_mistakes(tree: Callable[..., Path], tmp_path: Path) -> None:
    def fails(root: Path, message: str, **options: object) -> None:
        with pytest.raises(DataError, match=message):
            prepare_folder(root, tmp_path / "lists", handling=UNCHECKED, **options)  # type: ignore[arg-type]

    fails(tree({"a b": 1, "a_b": 1}, tmp_path / "clash"), "both give the class a_b")
    fails(tree({"alone": 2}, tmp_path / "single"), "one class only")
    fails(tree({"a": 2, "#b": 2}, tmp_path / "comment"), "cannot be written to a list")
    fails(tmp_path / "none", "no such folder")
    fine = tree({"a": 2, "b": 2}, tmp_path / "fine")
    fails(fine / "a", "no folder in it holds a video")
    (tree({"a": 2, "b": 1}, tmp_path / "broken") / "b" / "00.mp4").write_text("no video")
    with pytest.raises(DataError, match="only videos of one class, a, can be used; add others"):
        prepare_folder(tmp_path / "broken", tmp_path / "lists", handling=SKIP)
    fails(fine, "4 clips in 4 groups cannot be divided into 5", folds=5)
    fails(fine, "test share 1.5", test_share=1.5)
    fails(fine, "1 folds", folds=1)
    fails(fine, "1000000000 folds: give 2 to 1000", folds=10**9)
    os.symlink(tmp_path / "single" / "alone", fine / "elsewhere")
    fails(fine, "leaves the data root")
    linked = Handling(check=False, progress=False, follow_links=True)
    assert len(prepare_folder(fine, tmp_path / "lists", handling=linked).classes) == 3


# -- videos that cannot be used, and the canonical format ----------------------------------------------------


def write_mjpeg(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for picture in moving(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def failed_in(folder: Path) -> dict[str, str]:
    with open(folder / "failed.csv", newline="") as text:
        return {row["video"]: row["why"] for row in csv.DictReader(text)}


@pytest.fixture
def spoilt(tree: Callable[..., Path], clip_file: Path) -> Path:
    root = tree({"good": 3, "bad": 2})
    write_mjpeg(root / "bad" / "no_vectors.avi")
    encode(moving(), root / "bad" / "all_key.mp4", gop=1)
    encode(moving(1), root / "bad" / "single.mp4")
    (root / "bad" / "text.mp4").write_text("not a video\n" * 50)
    (root / "bad" / "empty.mp4").write_bytes(b"")
    (root / "bad" / "cut.mp4").write_bytes(clip_file.read_bytes()[:200])
    return root


def test_check_names_what_cannot_be_used(spoilt: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepared = prepare_folder(spoilt, tmp_path / "lists", handling=SKIP)
    expected = {
        "bad/all_key.mp4": "none of its 5 frames has motion vectors",
        "bad/cut.mp4": "is not a readable video",
        "bad/empty.mp4": "is empty",
        "bad/no_vectors.avi": "--transcode",
        "bad/single.mp4": "is a single frame",
        "bad/text.mp4": "is not a readable video",
    }
    assert list(prepared.left_out) == list(expected)
    for path, part in expected.items():
        assert str(spoilt / path) in prepared.left_out[path]
        assert part in prepared.left_out[path]
        assert prepared.left_out[path] in caplog.text
    assert failed_in(tmp_path / "lists") == prepared.left_out
    assert sum(map(len, read_back(prepared).values())) == 5
    with pytest.raises(DataError, match=r"6 of 11 videos cannot be used.*--on-error skip") as caught:
        prepare_folder(spoilt, tmp_path / "lists", handling=RAISE)
    assert "\n" not in str(caught.value)
    caplog.clear()
    with pytest.raises(DataError) as caught:
        prepare_folder(spoilt, tmp_path / "lists", handling=RAISE)
    assert [caplog.text.count(reason) for reason in prepared.left_out.values()] == [1] * 6  # each is named once
    assert f"6 of 11 videos cannot be used, see above and {tmp_path / 'lists/failed.csv'}" in str(caught.value)
    unchecked = prepare_folder(spoilt, tmp_path / "lists", handling=UNCHECKED)
    assert not unchecked.left_out
    assert not (tmp_path / "lists/failed.csv").exists()


def test_transcode_mends_reports_and_resumes(spoilt: Path, tmp_path: Path) -> None:
    canonical = Canonical(tmp_path / "canonical", size=(32, 32))

    def prepare() -> Prepared:
        return prepare_folder(spoilt, tmp_path / "lists", canonical=canonical, handling=SKIP)

    prepared = prepare()
    assert list(prepared.left_out) == ["bad/cut.mp4", "bad/empty.mp4", "bad/single.mp4", "bad/text.mp4"]
    paths = read_back(prepared)
    assert prepared.root == canonical.folder
    assert set().union(*paths.values()) >= {"bad/no_vectors.mp4", "bad/all_key.mp4"}
    with open_video(canonical.folder / "bad" / "no_vectors.mp4") as video:
        assert (video.info.codec, video.info.width, video.info.has_b_frames) == ("h264", 32, False)

    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in canonical.folder.rglob("*.mp4")}

    before = times()
    assert read_back(prepare()) == paths
    assert times() == before
    source, other = spoilt / "good" / "00.mp4", spoilt / "good" / "01.mp4"
    later = before["00.mp4"] + 10**9
    os.utime(source, ns=(later, later))
    prepare()
    assert {name for name, time in times().items() if time != before[name]} == {"00.mp4"}
    before, content, earlier = times(), other.read_bytes(), later - 10**12
    os.utime(source, ns=(earlier, earlier))  # as in a data set that was copied
    prepare()
    assert times() == before
    source.write_bytes(content + bytes(1))  # a file that is moved here or unpacked may bring an older time with it
    os.utime(source, ns=(earlier, earlier))
    prepare()
    assert {name for name, time in times().items() if time != before[name]} == {"00.mp4"}
    before = times()
    (canonical.folder / "parts.json").unlink()  # a folder of an older version
    prepare()
    assert times() == before


def test_form_of_a_transcoded_folder(tree: Callable[..., Path], tmp_path: Path) -> None:
    assert read_form(tmp_path) is None
    canonical = Canonical(tmp_path / "out", codec="mpeg4", size=(32, 32))
    prepare_folder(tree({"a": 2, "b": 2}), tmp_path / "lists", canonical=canonical, handling=UNCHECKED)
    assert read_form(tmp_path / "out") == Form("mpeg4", (32, 32), 12)
    for text in (
        "",
        "[]",
        "[" * 100_000,
        '{"codec": "vp9", "size": null, "gop": 12}',
        '{"codec": "h264", "size": [1], "gop": 12}',
    ):
        (tmp_path / "out" / "transcode.json").write_text(text)
        assert read_form(tmp_path / "out") is None


def test_single_files_to_the_canonical_form(spoilt: Path, clip_file: Path, tmp_path: Path) -> None:
    bad, out = spoilt / "bad", tmp_path / "out"
    tool("prepare_data", "transcode", bad / "no_vectors.avi", out / "one.mp4", "--size", "32x32")
    with open_video(out / "one.mp4") as video:
        assert (video.info.codec, video.info.width, video.info.num_frames) == ("h264", 32, 3)
    # a folder and a file: all that can be is done, the rest is named, the exit code tells
    done = run_tool("prepare_data", "transcode", spoilt, clip_file, out / "many", "--codec", "mpeg4", check=False)
    assert done.returncode == 1
    assert sorted(path.relative_to(out / "many").as_posix() for path in (out / "many").rglob("*.mp4")) == [
        *("bad/00.mp4", "bad/01.mp4", "bad/all_key.mp4", "bad/no_vectors.mp4", "bad/single.mp4", "clip.mp4"),
        *("good/00.mp4", "good/01.mp4", "good/02.mp4"),
    ]
    assert done.stdout.count(" -> ") == 9
    assert done.stderr.count("skipped ") == 3
    assert list(failed_in(out / "many")) == [str(bad / name) for name in ("cut.mp4", "empty.mp4", "text.mp4")]
    assert not (out / "failed.csv").exists()

    def refused(*given: str | Path) -> str:
        return tool("prepare_data", "transcode", *given, ok=False)

    assert "is one of the videos to transcode and would be replaced" in refused(clip_file, clip_file.parent)
    mine = out / "mine.mp4"  # `*.mp4`, in a folder of two
    shutil.copy(clip_file, mine)
    before = mine.read_bytes()
    assert f"{mine}: exists already; choose another target" in refused(bad / "00.mp4", mine)
    assert "is one of the videos to transcode" in refused(mine, out / "many", out, "--overwrite")
    assert mine.read_bytes() == before
    (out / "same").mkdir()
    (out / "same/mine.mp4").hardlink_to(mine)  # one file by two names, such as a.MP4 and a.mp4 on some systems
    assert "is one of the videos to transcode" in refused(mine, out / "same", "--overwrite")
    assert mine.read_bytes() == before
    assert "many/bad/00.mp4: exists already, as do 8 others" in refused(spoilt, clip_file, out / "many")
    kept, missing = out / "many/bad/00.mp4", out / "many/good/01.mp4"  # as after an interruption
    state, content = kept.stat().st_mtime_ns, missing.read_bytes()
    missing.unlink()
    again = run_tool(
        *("prepare_data", "transcode", spoilt, clip_file, out / "many"), "--resume", "--codec", "mpeg4", check=False
    )
    assert (again.returncode, again.stdout, again.stderr.count("skipped ")) == (1, done.stdout, 3)
    assert (kept.stat().st_mtime_ns, missing.read_bytes()) == (state, content)
    tool("prepare_data", "transcode", bad / "00.mp4", mine, "--resume")
    assert mine.read_bytes() == before
    tool("prepare_data", "transcode", bad / "00.mp4", mine, "--overwrite")
    assert mine.read_bytes() != before
    assert "names one video for several" in refused(bad / "00.mp4", bad / "01.mp4", out / "two.mp4")
    assert "would both become" in refused(bad / "00.mp4", spoilt / "good" / "00.mp4", out / "same")
    assert "is not a supported video format" in refused(clip_file, out / "one.wmv")
    assert "is not a readable video" in refused(bad / "text.mp4", out / "text.mp4")
    none = run_tool("prepare_data", "transcode", bad / "text.mp4", bad / "empty.mp4", out / "none", check=False)
    assert [none.stderr.count(words) for words in ("text.mp4: ", "empty.mp4: ", "none of 2 could")] == [1, 1, 1]
    assert "see above" in none.stderr
    (tmp_path / "nothing").mkdir()
    assert "holds no video" in refused(tmp_path / "nothing", clip_file, out / "x")


def test_the_format_of_transcoded_files_is_recorded(spoilt: Path, clip_file: Path, tmp_path: Path) -> None:
    """Checkpoints remember it, if it is that of all videos in the folder."""
    good, out = spoilt / "good", tmp_path / "out"
    transcode_files([good], out, codec="mpeg4", size=(32, 32))
    assert read_form(out) == Form("mpeg4", (32, 32), 12)
    transcode_files([clip_file], out, codec="mpeg4", size=(32, 32))
    before = (out / "transcode.json").read_bytes()
    with pytest.raises(DataError, match=r"the videos there were made as mpeg4 at 32x32.*, not as h264 at 32x32"):
        transcode_files([clip_file], out, size=(32, 32), overwrite=True)
    assert (out / "transcode.json").read_bytes() == before
    with pytest.raises(DataError, match="the videos there were made as"):
        transcode_files([clip_file], out / "one.mp4", size=(32, 32))
    transcode_files([good], tmp_path / "kept", size=None)
    assert read_form(tmp_path / "kept") == Form("h264", None, 12)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(clip_file, other / "from_elsewhere.mp4")
    transcode_files([good], other)
    assert read_form(other) is None
    transcode_files([clip_file], tmp_path / "single.mp4")
    assert read_form(tmp_path) is None


def test_transcode_refuses_folders_of_other_things(tree: Callable[..., Path], tmp_path: Path) -> None:
    root = tree({"a": 2, "b": 2})

    def prepare(canonical: Canonical, source: Path = root) -> Prepared:
        return prepare_folder(source, tmp_path / "lists", canonical=canonical, handling=RAISE)

    target = tmp_path / "canonical"
    prepare(Canonical(target, size=None))
    with pytest.raises(DataError, match=r"'codec': 'h264'.*not as.*'mpeg4'"):
        prepare(Canonical(target, codec="mpeg4", size=None))
    with pytest.raises(DataError, match="lies inside the source"):
        prepare(Canonical(root / "canonical"))
    with pytest.raises(DataError, match="already holds other files"):
        prepare(Canonical(tmp_path / "videos" / ".."))
    with pytest.raises(DataError, match=r"x.avi and a/x.mp4 would both become a/x.mp4"):
        prepare(Canonical(target), tree({"a": ["x.avi", "x.mp4"], "b": 2}, tmp_path / "twins"))


# -- official data sets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "count"), [(UCF101_CLASSES, 101), (HMDB51_CLASSES, 51)])
def test_tracked_classes(file: Path, count: int) -> None:
    names = read_classes(file)
    assert len(names) == count
    assert list(names) == sorted(names, key=str.lower)


def test_ucf101_labels_and_spelling() -> None:
    names = read_classes(UCF101_CLASSES)
    assert names[34:37] == ("Hammering", "HammerThrow", "HandstandPushups")
    assert (names[0], names[-1]) == ("ApplyEyeMakeup", "YoYo")


def test_ucf101_rule(tree: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    groups = (1, 7, 8, 14, 15, 21, 22, 25)
    root = tree(
        {
            "HandstandPushups": [f"v_HandStandPushups_g{group:02}_c01.avi" for group in groups],
            "YoYo": [f"v_YoYo_g{group:02}_c02.avi" for group in groups],
        }
    )
    prepared = prepare_ucf101(root, tmp_path / "lists", UCF101_CLASSES, allow_incomplete=True, handling=RAISE)
    for split, held_out in ((1, (1, 7)), (2, (8, 14)), (3, (15, 21))):
        paths = read_back(prepared, split)
        assert paths["test"] == [
            *(f"HandstandPushups/v_HandStandPushups_g{group:02}_c01.avi" for group in held_out),
            *(f"YoYo/v_YoYo_g{group:02}_c02.avi" for group in held_out),
        ]
        assert {clip[1:] for clip in prepared.splits[split - 1]["test"]} == {("HandstandPushups", 36), ("YoYo", 100)}
        assert {side: len(clips) for side, clips in paths.items()} == {"train": 12, "test": 4}
    groups_of_lists = groups_beside(tmp_path / "lists")
    assert len(groups_of_lists) == 16
    assert groups_of_lists["YoYo/v_YoYo_g07_c02.avi"] == "YoYo/7"
    assert "no videos of 99 classes" in caplog.text
    assert "split 1 expected 9537/3783, found 12/4" in caplog.text


def test_ucf101_holds_out_whole_groups(
    tree: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {
        name: [f"v_{name}_g{group:02}_c{clip:02}.avi" for group in range(1, 26) for clip in range(1, 1 + group % 3 + 1)]
        for name in ("Archery", "YoYo")
    }
    root = tree(files)

    def prepare(**options: Any) -> Prepared:
        return prepare_ucf101(
            root, tmp_path / "lists", UCF101_CLASSES, allow_incomplete=True, handling=UNCHECKED, **options
        )

    whole = [read_back(prepare(), split) for split in (1, 2, 3)]
    assert all(paths.keys() == {"train", "test"} for paths in whole)
    prepared = prepare(val_share=0.2)
    for split, official in enumerate(whole, 1):
        paths = read_back(prepared, split)
        assert paths["test"] == official["test"]
        assert sorted(paths["train"] + paths["val"]) == official["train"]
        groups = [{path.rpartition("_c")[0] for path in paths[side]} for side in ("train", "val")]
        assert not groups[0] & groups[1]
        for name in files:
            held_out = sum(path.startswith(name) for path in paths["val"])
            assert held_out == pytest.approx(0.1 * len(official["train"]), abs=2)
    # the lists stay the official ones, even if they share a file
    (root / whole[0]["test"][0]).write_bytes((root / whole[0]["train"][0]).read_bytes())
    prepare()
    assert "(training) hold the same bytes" in caplog.text or "(test) hold the same bytes" in caplog.text


def test_ucf101_mistakes(tree: Callable[..., Path], tmp_path: Path) -> None:
    def fails(root: Path, message: str, classes: Path = UCF101_CLASSES, incomplete: bool = False) -> None:
        with pytest.raises(DataError, match=message):
            prepare_ucf101(root, tmp_path / "lists", classes, allow_incomplete=incomplete, handling=UNCHECKED)

    one = tmp_path / "classes.txt"
    one.write_text("YoYo\nRun\n")
    fails(tree({"YoYo": ["v_YoYo_g01_c01.avi"]}, tmp_path / "a"), "no videos of 100 classes: ApplyEyeMakeup, ")
    fails(tree({"Jumping": 1}, tmp_path / "b"), "Jumping not among the 101 classes", incomplete=True)
    fails(tree({"YoYo": ["v_Yoyo_g26_c01.avi"]}, tmp_path / "c"), "is not a clip of UCF101", incomplete=True)
    fails(tree({"YoYo": ["v_Run_g01_c01.avi"]}, tmp_path / "d"), "is not a clip of UCF101", incomplete=True)
    twice = ["v_YoYo_g01_c01.avi", "v_YoYo_g01_c01.mp4"]
    fails(tree({"YoYo": twice}, tmp_path / "e"), "are the same clip", incomplete=True)
    complete = tree({"YoYo": ["v_YoYo_g01_c01.avi"], "Run": ["v_Run_g09_c01.avi"]}, tmp_path / "f")
    expected = "; ".join(f"split {k} expected {a}/{b}, found .*" for k, (a, b) in enumerate(UCF101_COUNTS, 1))
    fails(complete, expected, classes=one)


def hmdb51_splits(folder: Path, lines: Mapping[str, list[str]]) -> Path:
    folder.mkdir()
    for name, sides in lines.items():
        for split in (1, 2, 3):
            text = "".join(f"{side.split()[0]} {side.split()[split]} \n" for side in sides)
            (folder / f"{name}_test_split{split}.txt").write_text(text)
    return folder


def test_hmdb51_splits(tree: Callable[..., Path], tmp_path: Path) -> None:
    root = tree({"ride_bike": ["#1_a.avi", "b&c.avi", "d.avi", "e.avi"], "wave": ["x.avi", "y.avi"]})
    splits = hmdb51_splits(
        tmp_path / "splits",
        {
            "ride_bike": ["#1_a.avi 1 2 1", "b&c.avi 2 1 2", "d.avi 0 1 1", "e.avi 0 0 0"],
            "wave": ["x.avi 1 1 2", "y.avi 2 2 1"],
        },
    )

    def prepare(**options: object) -> Prepared:
        return prepare_hmdb51(root, splits, tmp_path / "lists", HMDB51_CLASSES, handling=RAISE, **options)  # type: ignore[arg-type]

    canonical = Canonical(tmp_path / "canonical", codec="mpeg4", size=(32, 32))
    for options, suffix in (({}, "avi"), ({"canonical": canonical}, "mp4")):
        prepared = prepare(allow_incomplete=True, **options)
        sides = [tuple(read_back(prepared, split).values()) for split in (1, 2, 3)]
        a, b, d = (f"ride_bike/{name}.{suffix}" for name in ("#1_a", "b&c", "d"))
        x, y = (f"wave/{name}.{suffix}" for name in "xy")
        assert sides == [([a, x], [b, y]), ([b, d, x], [a, y]), ([a, d, y], [b, x])]
    assert not (canonical.folder / "ride_bike" / "e.mp4").exists()  # unused in all splits
    with pytest.raises(DataError, match="no videos of 49 classes"):
        prepare()
    (splits / "wave_test_split2.txt").write_text("x.avi 3\n")
    with pytest.raises(DataError, match=r"wave_test_split2.txt, line 1: expected 'file 0\|1\|2'"):
        prepare(allow_incomplete=True)
    (splits / "wave_test_split2.txt").unlink()
    with pytest.raises(DataError, match=r"wave_test_split2.txt: no such file"):
        prepare(allow_incomplete=True)


def test_hmdb51_holds_out_whole_source_videos(tree: Callable[..., Path], tmp_path: Path) -> None:
    """A file is named <source video>_<class>_<attributes>_<number>; one source video can have clips of two classes."""
    names = {
        "shoot_ball": [f"Ball_{n % 9}_shoot_ball_f_cm_np1_ba_med_{n}.avi" for n in range(24)],
        "wave": [f"Ball_{n % 9}_wave_u_nm_np1_fr_goo_{n}.avi" for n in range(24)],
    }
    sides = [1] * 18 + [2] * 4 + [0] * 2
    lines = {
        name: [f"{file} {k} {k} {k}" for file, k in zip(files, sides, strict=True)] for name, files in names.items()
    }
    splits = hmdb51_splits(tmp_path / "splits", lines)

    def prepare(**options: Any) -> dict[Side, list[str]]:
        options |= {"allow_incomplete": True, "handling": UNCHECKED}
        return read_back(prepare_hmdb51(tree(names), splits, tmp_path / "lists", HMDB51_CLASSES, **options))

    whole, paths = prepare(), prepare(val_share=0.2)
    assert whole.keys() == {"train", "test"}
    assert paths["test"] == whole["test"]
    assert sorted(paths["train"] + paths["val"]) == whole["train"]
    videos = [{path.split("/")[1][:6] for path in paths[side]} for side in ("train", "val")]
    assert len(videos[0]) + len(videos[1]) == len(videos[0] | videos[1]) == 9
    assert {path.split("/")[0] for path in paths["val"]} == set(names)
    none = hmdb51_splits(tmp_path / "none", {name: [f"{file} 0 0 0" for file in names[name]] for name in names})
    with pytest.raises(DataError, match="the official splits use none of its videos"):
        prepare_hmdb51(tree(names), none, tmp_path / "lists", HMDB51_CLASSES, allow_incomplete=True)


def test_hmdb51_names_what_does_not_fit(tree: Callable[..., Path], tmp_path: Path) -> None:
    root = tree({"wave": ["x.avi", "y.avi"]})
    classes = tmp_path / "classes.txt"
    classes.write_text("wave\n")

    def fails(splits: Path, message: str) -> None:
        with pytest.raises(DataError, match=message):
            prepare_hmdb51(root, splits, tmp_path / "lists", classes, handling=UNCHECKED)

    fails(hmdb51_splits(tmp_path / "a", {"wave": ["x.avi 1 1 1"]}), "do not name wave/y.avi")
    three = {"wave": ["x.avi 1 1 1", "y.avi 2 2 2", "z.avi 1 1 1"]}
    fails(hmdb51_splits(tmp_path / "b", three), "videos that are not there: wave/z")
    two = {"wave": ["x.avi 1 1 1", "y.avi 2 2 2"]}
    fails(hmdb51_splits(tmp_path / "c", two), "split 1 expected 3570/1530, found 1/1; split 2")
    fails(tmp_path / "none", "no such folder")


# -- the tool --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [None, "demo", "folder", "ucf101", "hmdb51", "transcode"])
def test_help(kind: str | None) -> None:
    assert "examples:" in tool("prepare_data", *([kind] if kind else []), "--help")


def commands(said: str) -> list[list[str]]:
    """The words of the commands that prepare_data prints at its end."""
    lines = said.split("next:\n")[1].replace("\\\n", "").splitlines()
    return [shlex.split(line) for line in lines]


def test_tool_prepares_a_folder(tree: Callable[..., Path], tmp_path: Path) -> None:
    root = tree({"a": 8, "b": 8}, tmp_path / "my videos")
    lists = tmp_path / "lists" / "mine"
    options = ["--name", "mine", "--lists", tmp_path / "lists", "--transcode", tmp_path / "the form", "--size", "keep"]
    said = tool("prepare_data", "folder", root, *options, "--test-share", "0.25")
    assert [line.split() for line in said.splitlines()[1:6]] == [
        ["split", "1", "train", "val", "test"],
        ["a", "5", "1", "2"],
        ["b", "5", "1", "2"],
        ["all", "10", "2", "4"],
        ["next:"],
    ]
    train, fuse, predict = commands(said)
    assert train == [
        *("coviar", "train", "--config", "folder", "--set"),
        *(f"data.root={tmp_path / 'the form'}", f"data.classes={lists / 'classes.txt'}"),
        *(f"data.{side}_list={lists}/{side}_split1.txt" for side in SIDES),
    ]
    fused = ["--output", "runs/mine/fused"]
    assert fuse == ["coviar", "fuse", "--checkpoints", "runs/mine", *fused]
    clip = (lists / "test_split1.txt").read_text().split()[0]
    assert predict == ["coviar", "predict", f"{tmp_path / 'the form'}/{clip}", "--checkpoints", "runs/mine"]
    tool("prepare_data", "folder", root, *options, "--folds", "2", "--overwrite")
    assert (lists / "test_split2.txt").exists()
    said = tool("prepare_data", "folder", root, *options, "--folds", "2", "--val-share", "0", "--overwrite")
    assert not (lists / "val_split2.txt").exists()
    assert "a class has       4..4       4..4" in said
    assert "data.val_list=null" in commands(said)[0]
    refused = tool("prepare_data", "folder", root, *options, ok=False)
    assert refused.startswith(f"error: {lists}: already holds other lists (test_split1.txt and ")
    for wrong in (
        ["--size", "340"],
        ["--size", "100000x100"],
        ["--name", "../x"],
        ["--workers", "0"],
        ["--folds", "2", "--test-share", "0.2"],
    ):
        assert run_tool("prepare_data", "folder", root, *options, *wrong, check=False).returncode == 2


@pytest.mark.parametrize("kind", ["demo", "ucf101", "hmdb51"])
def test_a_data_set_of_its_own_configuration_needs_no_settings(tmp_path: Path, kind: str) -> None:
    clip = Clip("a/b.mp4", "a", 0)
    values = yaml.safe_load((PROJECT / f"configs/{kind}.yaml").read_text())["data"]
    split: dict[Side, list[Clip]] = {side: [clip] for side in SIDES if values.get(f"{side}_list")}
    train = next_commands(kind, Prepared(Path("data", kind), Path("data_lists", kind), ("a",), (split,), {}))[0]
    assert train == f"coviar train --config {kind}"


def test_settings_of_a_data_set_are_those_of_its_first_split(tmp_path: Path) -> None:
    clip = Clip("a/b.mp4", "a", 0)
    split: dict[Side, list[Clip]] = {"train": [clip], "val": [], "test": [clip]}
    prepared = Prepared(Path("data/ucf101"), Path("data_lists/ucf101"), ("a",), (split,) * 3, {})
    train, fuse, _ = next_commands("ucf101", prepared)
    assert train == "coviar train --config ucf101"
    assert fuse == "coviar fuse --checkpoints runs/ucf101 --output runs/ucf101/fused"
    lists = "data.train_list=data_lists/ucf101/train_split2.txt data.test_list=data_lists/ucf101/test_split2.txt"
    assert other_splits(prepared) == f"split 2 to 3: as split 1, with --set {lists} and an --output of its own"
    folds = Prepared(Path("data/mine"), Path("data_lists/mine"), ("a",), (split,) * 2, {})
    assert "--output runs/mine/split1" in next_commands("mine", folds)[0]
    assert other_splits(folds).startswith("split 2: as split 1")
    assert other_splits(replace(folds, splits=(split,))) == ""
    uneven = other_splits(replace(folds, splits=({**split, "val": [clip]}, split, {**split, "val": [clip]})))
    assert [line.partition(":")[0] for line in uneven.splitlines()] == ["split 2", "split 3"]
    assert ["data.val_list=null" in line for line in uneven.splitlines()] == [True, False]
    assert "data.val_list=data_lists/mine/val_split3.txt" in uneven


def test_the_demo_by_another_name_has_runs_of_that_name() -> None:
    split: dict[Side, list[Clip]] = {side: [Clip("a/b.mp4", "a", 0)] for side in ("train", "test")}
    prepared = Prepared(Path("data/tiny"), Path("data_lists/tiny"), ("a",), (split,), {})
    train, fuse, predict = next_commands("demo", prepared, seed=3)
    assert "--output runs/tiny_seed3" in train
    assert "--checkpoints runs/tiny_seed3 " in fuse and predict.endswith("--checkpoints runs/tiny_seed3")


@pytest.mark.usefixtures("no_figures")
def test_the_commands_printed_next_work(
    tree: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder of links, in a folder that is not the project's, with names that a shell and YAML would change."""
    monkeypatch.chdir(tmp_path)
    real = tree({"a": 8, "b": 8}, tmp_path / "real")
    root = Path("2024 #1: videos")
    for seed, path in enumerate(sorted(real.rglob("*.mp4"))):
        encode(moving(seed=seed), path)
        link = root / path.relative_to(real)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    said = tool(
        "prepare_data", "folder", root, "--name", "on", "--lists", "l", "--follow-links", "--test-share", "0.25"
    )
    small = ["input.full_size=32", "input.reduced_size=32", "input.segments=1", "input.test_segments=1"]
    small += [f"model.backbone={BACKBONE}", "model.weights=null"]
    small += ["train.epochs=1", "train.batch_size=4", "train.precision=fp32"]
    more = {
        "train": ["--streams", "mv", "iframe", "--set", "data.workers=0", *small],
        "fuse": [],
        "predict": ["--json"],
    }
    done = {}
    for (program, *words), (name, extra) in zip(commands(said), more.items(), strict=True):
        assert (program, words[0]) == ("coviar", name)
        done[name] = coviar(*words, *extra)
    assert (tmp_path / "runs/on/fused/results.json").exists()
    assert set(json.loads(done["predict"])["streams"]) == {"mv", "iframe"}


@pytest.mark.usefixtures("no_figures")
def test_without_a_test_list_the_commands_work_too(
    tree: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tree({"a": 4, "b": 4}, tmp_path / "videos")
    for seed, path in enumerate(sorted(root.rglob("*.mp4"))):
        encode(moving(seed=seed), path)
    options = ["folder", root, "--name", "mine", "--lists", "l", "--test-share", "0"]
    said = tool("prepare_data", *options, "--val-share", "0")
    assert sorted(path.name for path in Path("l/mine").iterdir()) == ["classes.txt", "train_split1.txt"]
    assert "data.test_list=null" in said and "data.val_list=null" in said
    assert [words[1] for words in commands(said)] == ["train", "predict"]
    small = ["input.full_size=32", "input.test_segments=1", f"model.backbone={BACKBONE}", "model.weights=null"]
    small += ["model.freeze=true", "data.workers=0", "train.precision=fp32"]
    (_, *train), (_, *predict) = commands(said)
    coviar(*train, "--set", *small, "--streams", "mv", "iframe")
    (line,) = coviar(*predict, "--json").splitlines()
    assert json.loads(line)["class"] in ("a", "b")
    assert "give a number from 0 (no test list)" in tool("prepare_data", *options[:-1], "1", ok=False)


def test_tool_makes_the_demo(tmp_path: Path) -> None:
    folders = ["--output", tmp_path / "videos", "--lists", tmp_path / "lists"]

    def make(*options: object, ok: bool = True) -> str:
        return tool("prepare_data", "demo", *folders, "--train-clips", "2", "--test-clips", "1", *options, ok=ok)

    out = make()
    assert f"demo: 8 classes, lists in {tmp_path / 'lists'}, videos in {tmp_path / 'videos'}" in out
    assert ["all", "2", "1"] in [line.split() for line in out.splitlines()]
    assert not (tmp_path / "lists/val_split1.txt").exists()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*_???.mp4")}
    lists = {path: path.read_text() for path in (tmp_path / "lists").iterdir()}
    assert make() == out  # the lists are the same
    out = make("--val-clips", "3")
    assert ["all", "2", "3", "1"] in [line.split() for line in out.splitlines()]
    assert {path: path.read_bytes() for path in before} == before
    assert {path: path.read_text() for path in lists} == lists
    names = [line.split()[0] for line in (tmp_path / "lists/val_split1.txt").read_text().splitlines()]
    clips = [(tmp_path / "videos" / name).read_bytes() for name in names]
    assert len({*clips, *before.values()}) == 6
    assert "already holds other lists (val_split1.txt)" in make(ok=False)
    assert "another demo (seed 0)" in make("--val-clips", "3", "--seed", "1", ok=False)
    for wrong in (["--train-clips", "0"], ["--train-clips", "1" + 12 * "0"], ["--seed", "-1"], ["--workers", "9999"]):
        assert "give a whole number from " in run_tool("prepare_data", "demo", *folders, *wrong, check=False).stderr


def test_tool_ends_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), "folder", str(tmp_path / "none"), "--name", "x", "--lists", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: {tmp_path / 'none'}: no such folder; give the one that holds a folder of videos per class"
    ]


def test_errors_are_of_the_package() -> None:
    assert issubclass(DataError, CoviarMocropError)
