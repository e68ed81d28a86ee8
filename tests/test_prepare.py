"""Preparing data sets: divisions, lists, the canonical form, the official splits, the tool."""

from __future__ import annotations

import csv
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.bitstream.transcode import encode
from coviar_mocrop.datasets.convert import Canonical, Handling, Prepared, form_of_folder
from coviar_mocrop.datasets.folder import divide, index_folder, prepare_folder, read_groups
from coviar_mocrop.datasets.lists import Clip, read_classes, read_list
from coviar_mocrop.datasets.official import UCF101_COUNTS, prepare_hmdb51, prepare_ucf101
from coviar_mocrop.errors import CoviarMocropError, DataError

PROJECT = Path(__file__).resolve().parent.parent
TOOL = PROJECT / "tools" / "prepare_data.py"
UCF101_CLASSES = PROJECT / "data_lists" / "ucf101" / "classes.txt"
HMDB51_CLASSES = PROJECT / "data_lists" / "hmdb51" / "classes.txt"
SKIP = Handling(on_error="skip", progress=False)
RAISE = Handling(progress=False)
UNCHECKED = Handling(check=False, progress=False)


def moving(frames: int = 5) -> list[np.ndarray]:
    """A textured square that moves over a textured ground."""
    generator = np.random.default_rng(0)
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


@pytest.fixture
def tree(tmp_path: Path, clip_file: Path) -> Callable[..., Path]:
    """Makes a folder per class: ``tree(run=3, jump=["a.mp4", "deep/b.avi"])``."""

    def make(classes: Mapping[str, int | list[str]], root: Path = tmp_path / "videos") -> Path:
        for folder, members in classes.items():
            names = [f"{n:02}.mp4" for n in range(members)] if isinstance(members, int) else members
            for name in names:
                path = root / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(clip_file, path)
        return root

    return make


def read_back(prepared: Prepared, split: int = 1) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
    """The lists as training reads them; what they name is there."""
    classes = read_classes(prepared.lists / "classes.txt")
    assert classes == prepared.classes
    sides = tuple(read_list(prepared.lists / f"{side}_split{split}.txt", classes).clips for side in ("train", "test"))
    for clips, same in zip(sides, prepared.splits[split - 1], strict=True):
        assert sorted(clips) == sorted(same)
        assert all((prepared.root / clip.path).is_file() for clip in clips)
    return sides[0], sides[1]


def write_groups(path: Path, group_of: Mapping[str, str]) -> Path:
    with open(path, "w", newline="") as text:
        rows = csv.writer(text)
        rows.writerow(["path", "camera"])
        rows.writerows(group_of.items())
    return path


# -- dividing --------------------------------------------------------------------------------------------

GROUPS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.dictionaries(st.sampled_from("xyz"), st.integers(1, 6), min_size=1, max_size=2),
    min_size=2,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(GROUPS, st.sampled_from([(0.3, 0.7), (0.5, 0.5), (0.25, 0.25, 0.25, 0.25)]), st.integers(0, 5))
def test_divide_gives_each_group_one_part_whatever_the_order(
    sizes: dict[str, dict[str, int]], shares: tuple[float, ...], seed: int
) -> None:
    part_of = divide(sizes, shares, seed)
    assert part_of.keys() == sizes.keys()
    assert set(part_of.values()) <= set(range(len(shares)))
    assert divide(dict(reversed(sizes.items())), shares, seed) == part_of


@settings(max_examples=60, deadline=None)
@example(2, 2, 0.125, 0)
@given(st.integers(2, 30), st.integers(1, 6), st.floats(0.1, 0.9), st.integers(0, 9))
def test_single_clips_come_as_near_to_the_share_as_can_be(clips: int, classes: int, share: float, seed: int) -> None:
    sizes = {f"{name}/{n}": {f"c{name}": 1} for name in range(classes) for n in range(clips)}
    part_of = divide(sizes, [share, 1 - share], seed)
    for name in range(classes):
        held_out = sum(part_of[f"{name}/{n}"] == 0 for n in range(clips))
        assert abs(held_out - share * clips) <= 1
        assert 0 < held_out < clips


def test_groups_of_both_classes_come_near_to_share_and_balance() -> None:
    generator = np.random.default_rng(3)
    sizes = {f"g{n}": {"a": int(generator.integers(1, 9)), "b": int(generator.integers(1, 9))} for n in range(30)}
    part_of = divide(sizes, [0.3, 0.7], 0)
    for name in "ab":
        held_out = sum(sizes[group][name] for group, part in part_of.items() if part == 0)
        assert held_out == pytest.approx(0.3 * sum(counts[name] for counts in sizes.values()), abs=2)


def test_seeds_differ() -> None:
    sizes = {f"a/{n}": {"a": 1} for n in range(20)}
    assert len({tuple(sorted(divide(sizes, [0.5, 0.5], seed).items())) for seed in range(4)}) == 4


# -- folder ----------------------------------------------------------------------------------------------


def test_folder_writes_lists_that_read_back(tree: Callable[..., Path], tmp_path: Path) -> None:
    root = tree({"jumping jack": ["first try.mp4", "deep er/b.mp4", "c.MP4", "d.mp4"], "Run": 4, "notes": []})
    (root / "notes").mkdir()
    (root / "notes" / "readme.txt").write_text("no video")
    (root / "Run" / ".hidden.mp4").write_text("a temporary file")
    prepared = prepare_folder(root, tmp_path / "lists", test_share=0.25, handling=RAISE)
    train, test = read_back(prepared)
    assert prepared.classes == ("jumping_jack", "Run")
    assert prepared.root == root
    assert len(train) == 6
    assert [clip.class_name for clip in test] == ["jumping_jack", "Run"]
    assert {clip.path for clip in train + test if clip.label == 0} == {
        "jumping jack/first try.mp4",
        "jumping jack/deep er/b.mp4",
        "jumping jack/c.MP4",
        "jumping jack/d.mp4",
    }
    again = prepare_folder(root, tmp_path / "again", test_share=0.25, handling=RAISE)
    assert read_back(again) == (train, test)


def test_a_single_clip_cannot_be_on_both_sides(
    tree: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare_folder(tree({"a": 1, "b": 3, "c": 1}), tmp_path / "lists", handling=UNCHECKED)
    assert "only one clip in a and 1 more: it can be learned from or tested on, not both" in caplog.text
    caplog.clear()
    prepare_folder(tree({"a": 2, "b": 2}, tmp_path / "enough"), tmp_path / "lists", handling=UNCHECKED)
    assert "only one" not in caplog.text


def test_folds_test_each_clip_once_and_old_splits_go(tree: Callable[..., Path], tmp_path: Path) -> None:
    root = tree({"a": 6, "b": 5})
    prepared = prepare_folder(root, tmp_path / "lists", folds=3, handling=UNCHECKED)
    everything = {clip.path for clip in index_folder(root)[1]}
    tested: list[str] = []
    for split in (1, 2, 3):
        train, test = read_back(prepared, split)
        assert {clip.path for clip in train} == everything - {clip.path for clip in test}
        assert {clip.class_name for clip in test} == {"a", "b"}
        tested += [clip.path for clip in test]
    assert sorted(tested) == sorted(everything)
    prepare_folder(root, tmp_path / "lists", folds=2, handling=UNCHECKED)
    assert sorted(path.name for path in (tmp_path / "lists").iterdir()) == [
        "classes.txt",
        *(f"{side}_split{split}.txt" for side in ("test", "train") for split in (1, 2)),
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
            train, test = read_back(prepared, split)
            assert train and test
            assert not {group_of[clip.path] for clip in train} & {group_of[clip.path] for clip in test}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,camera\na.mp4,1\n", "has no row for b.mp4"),
        ("path,camera\na.mp4,1\nb.mp4,1\nc.mp4,2\n", "names c.mp4, not found"),
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
    fails(tree({"a": 2}, tmp_path / "single"), "one class only")
    fails(tree({"a": 2, "#b": 2}, tmp_path / "comment"), "cannot stand in a list")
    fails(tmp_path / "none", "no such folder")
    fine = tree({"a": 2, "b": 2}, tmp_path / "fine")
    fails(fine / "a", "no folder in it holds a video")
    fails(fine, "4 clips in 4 groups cannot be divided into 5", folds=5)
    fails(fine, "test share 1.5", test_share=1.5)
    fails(fine, "1 folds", folds=1)
    os.symlink(tmp_path / "single" / "a", fine / "elsewhere")
    fails(fine, "leaves the data root")
    linked = Handling(check=False, progress=False, follow_links=True)
    assert len(prepare_folder(fine, tmp_path / "lists", handling=linked).classes) == 3


# -- videos that cannot be used, and the canonical form ----------------------------------------------------


def write_mjpeg(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for picture in moving(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


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
    train, test = read_back(prepared)
    assert len(train + test) == 5
    with pytest.raises(DataError, match=r"6 of 11 videos cannot be used.*--on-error skip") as caught:
        prepare_folder(spoilt, tmp_path / "lists", handling=RAISE)
    assert "\n" not in str(caught.value)
    caplog.clear()
    with pytest.raises(DataError) as caught:
        prepare_folder(spoilt, tmp_path / "lists", handling=RAISE)
    everything = caplog.text + str(caught.value)
    assert [everything.count(reason) for reason in prepared.left_out.values()] == [1] * 6  # each is named once
    unchecked = prepare_folder(spoilt, tmp_path / "lists", handling=UNCHECKED)
    assert not unchecked.left_out


def test_transcode_mends_reports_and_resumes(spoilt: Path, tmp_path: Path) -> None:
    canonical = Canonical(tmp_path / "canonical", size=(32, 32))

    def prepare() -> Prepared:
        return prepare_folder(spoilt, tmp_path / "lists", canonical=canonical, handling=SKIP)

    prepared = prepare()
    assert list(prepared.left_out) == ["bad/cut.mp4", "bad/empty.mp4", "bad/single.mp4", "bad/text.mp4"]
    train, test = read_back(prepared)
    assert prepared.root == canonical.folder
    assert {clip.path for clip in train + test} >= {"bad/no_vectors.mp4", "bad/all_key.mp4"}
    with open_video(canonical.folder / "bad" / "no_vectors.mp4") as video:
        assert (video.info.codec, video.info.width, video.info.has_b_frames) == ("h264", 32, False)

    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in canonical.folder.rglob("*.mp4")}

    before = times()
    assert read_back(prepare()) == (train, test)
    assert times() == before
    source = spoilt / "good" / "00.mp4"
    later = before["00.mp4"] + 10**9
    os.utime(source, ns=(later, later))
    prepare()
    assert {name for name, time in times().items() if time != before[name]} == {"00.mp4"}


def test_form_of_a_transcoded_folder(tree: Callable[..., Path], tmp_path: Path) -> None:
    assert form_of_folder(tmp_path) is None
    canonical = Canonical(tmp_path / "out", codec="mpeg4", size=(32, 32))
    prepare_folder(tree({"a": 2, "b": 2}), tmp_path / "lists", canonical=canonical, handling=UNCHECKED)
    assert form_of_folder(tmp_path / "out") == canonical
    for text in ("", "[]", '{"codec": "vp9", "size": null}', '{"codec": "h264", "size": [1]}'):
        (tmp_path / "out" / "transcode.json").write_text(text)
        assert form_of_folder(tmp_path / "out") is None


def test_single_files_to_the_canonical_form(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoilt: Path,
    clip_file: Path,
    tmp_path: Path,
) -> None:
    bad, out = spoilt / "bad", tmp_path / "out"
    assert call(tool, monkeypatch, "transcode", bad / "no_vectors.avi", out / "one.mp4", "--size", "32x32") == 0
    with open_video(out / "one.mp4") as video:
        assert (video.info.codec, video.info.width, video.info.num_frames) == ("h264", 32, 3)
    # a folder and a file: all that can be is done, the rest is named, the exit code tells
    capsys.readouterr()
    assert call(tool, monkeypatch, "transcode", spoilt, clip_file, out / "many", "--codec", "mpeg4") == 1
    told = capsys.readouterr()
    assert sorted(path.relative_to(out / "many").as_posix() for path in (out / "many").rglob("*.mp4")) == [
        *("bad/00.mp4", "bad/01.mp4", "bad/all_key.mp4", "bad/no_vectors.mp4", "bad/single.mp4", "clip.mp4"),
        *("good/00.mp4", "good/01.mp4", "good/02.mp4"),
    ]
    assert told.out.count(" -> ") == 9
    assert told.err.count("skipped ") == 3

    def refused(*given: str | Path) -> str:
        assert call(tool, monkeypatch, "transcode", *given) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        return errors[0]

    assert "would replace the video" in refused(clip_file, clip_file.parent)
    assert "names one video for several" in refused(bad / "00.mp4", bad / "01.mp4", out / "two.mp4")
    assert "would both become" in refused(bad / "00.mp4", spoilt / "good" / "00.mp4", out / "same")
    assert "no kind of video that can be written" in refused(clip_file, out / "one.wmv")
    assert "is not a readable video" in refused(bad / "text.mp4", out / "text.mp4")
    (tmp_path / "nothing").mkdir()
    assert "holds no video" in refused(tmp_path / "nothing", clip_file, out / "x")


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
        train, test = read_back(prepared, split)
        assert [clip.path for clip in test] == [
            *(f"HandstandPushups/v_HandStandPushups_g{group:02}_c01.avi" for group in held_out),
            *(f"YoYo/v_YoYo_g{group:02}_c02.avi" for group in held_out),
        ]
        assert {clip[1:] for clip in test} == {("HandstandPushups", 36), ("YoYo", 100)}
        assert len(train) == 12
    assert "no videos of 99 classes" in caplog.text
    assert "split 1 expected 9537/3783, found 12/4" in caplog.text


def test_ucf101_mistakes(tree: Callable[..., Path], tmp_path: Path) -> None:
    def fails(root: Path, message: str, classes: Path = UCF101_CLASSES, incomplete: bool = False) -> None:
        with pytest.raises(DataError, match=message):
            prepare_ucf101(root, tmp_path / "lists", classes, allow_incomplete=incomplete, handling=UNCHECKED)

    one = tmp_path / "classes.txt"
    one.write_text("YoYo\nRun\n")
    fails(tree({"YoYo": ["v_YoYo_g01_c01.avi"]}, tmp_path / "a"), "no videos of 100 classes: ApplyEyeMakeup, ")
    fails(tree({"Jumping": 1}, tmp_path / "b"), "Jumping not among the 101 classes", incomplete=True)
    fails(tree({"YoYo": ["v_Yoyo_g26_c01.avi"]}, tmp_path / "c"), "is no clip of UCF101", incomplete=True)
    fails(tree({"YoYo": ["v_Run_g01_c01.avi"]}, tmp_path / "d"), "is no clip of UCF101", incomplete=True)
    twice = ["v_YoYo_g01_c01.avi", "v_YoYo_g01_c01.mp4"]
    fails(tree({"YoYo": twice}, tmp_path / "e"), "one clip twice", incomplete=True)
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
        sides = [tuple([clip.path for clip in side] for side in read_back(prepared, split)) for split in (1, 2, 3)]
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


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_data", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *map(str, arguments)])
    try:
        tool.run(tool.main)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize("kind", [None, "demo", "folder", "ucf101", "hmdb51", "transcode"])
def test_help(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str | None
) -> None:
    assert call(tool, monkeypatch, *([kind] if kind else []), "--help") == 0
    assert "examples:" in capsys.readouterr().out


def test_tool_prepares_a_folder(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tree: Callable[..., Path],
    tmp_path: Path,
) -> None:
    root = tree({"a": 4, "b": 4}, tmp_path / "my videos")
    lists = tmp_path / "lists" / "mine"
    options = ["--name", "mine", "--lists", tmp_path / "lists", "--transcode", tmp_path / "the form", "--size", "keep"]
    assert call(tool, monkeypatch, "folder", root, *options, "--test-share", "0.25") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:6]] == [
        ["split", "1", "train", "test"],
        ["a", "3", "1"],
        ["b", "3", "1"],
        ["all", "6", "2"],
        ["next:"],
    ]
    train, fuse = (shlex.split(line) for line in "\n".join(lines[6:]).replace("\\\n", "").splitlines())
    assert train == [
        *("python", "tools/train_stream.py", "--config", "configs/folder.yaml", "--set"),
        *(f"data.root={tmp_path / 'the form'}", f"data.train_list={lists / 'train_split1.txt'}"),
        *(f"data.test_list={lists / 'test_split1.txt'}", f"data.classes={lists / 'classes.txt'}"),
        *("--output", "runs/mine"),
    ]
    assert fuse == ["python", "tools/fuse.py", "--checkpoints", "runs/mine", "--output", "runs/mine/fused"]
    assert call(tool, monkeypatch, "folder", root, *options, "--folds", "2") == 0
    assert (lists / "test_split2.txt").exists()
    assert "a class has       2..2      2..2" in capsys.readouterr().out
    for wrong in (["--size", "340"], ["--name", "../x"], ["--workers", "0"], ["--folds", "2", "--test-share", "0.2"]):
        assert call(tool, monkeypatch, "folder", root, *options, *wrong) == 2


@pytest.mark.parametrize("kind", ["demo", "ucf101", "hmdb51"])
def test_the_command_printed_next_has_a_configuration_of_its_own(
    tool: ModuleType, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    tool.report(kind, Prepared(Path("data"), Path("lists"), ("a",), (([], []),), {}))
    assert f"--config configs/{kind}.yaml" in capsys.readouterr().out
    assert (PROJECT / f"configs/{kind}.yaml").is_file()


def test_tool_makes_the_demo(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folders = ["--output", tmp_path / "videos", "--lists", tmp_path / "lists"]
    assert call(tool, monkeypatch, "demo", *folders, "--train-clips", "2", "--test-clips", "1") == 0
    out = capsys.readouterr().out
    assert f"demo: 8 classes, lists in {tmp_path / 'lists'}, videos in {tmp_path / 'videos'}" in out
    assert ["all", "2", "1"] in [line.split() for line in out.splitlines()]


def test_tool_ends_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), "folder", str(tmp_path / "none"), "--name", "x", "--lists", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: {tmp_path / 'none'}: no such folder; give the one that holds a folder of videos per class"
    ]


def test_errors_are_of_the_package() -> None:
    assert issubclass(DataError, CoviarMocropError)
