"""Kinetics and Something-Something: annotation files, and whatever videos are on the disk."""

from __future__ import annotations

import json
import shlex
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from clips import decode, record, sliding, texture, wandering
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tool import coviar

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.bitstream.transcode import encode
from coviar_mocrop.datasets.annotated import COVERAGE, Entry, class_name_of, is_id, once
from coviar_mocrop.datasets.canonical import Canonical
from coviar_mocrop.datasets.handling import Handling
from coviar_mocrop.datasets.kinetics import kinetics_name, prepare_kinetics, read_kinetics
from coviar_mocrop.datasets.lists import Clip, read_classes, read_list
from coviar_mocrop.datasets.preparing import Prepared
from coviar_mocrop.datasets.something import prepare_something, read_something
from coviar_mocrop.datasets.splits import SIDES, Side
from coviar_mocrop.datasets.summary import next_commands
from coviar_mocrop.datasets.videos import folders_named, videos_named
from coviar_mocrop.errors import DataError

PROJECT = Path(__file__).parent.parent
HANDLING = Handling(check=False, progress=False, overwrite=True)
CHECKED = Handling(progress=False, overwrite=True)
HEADER = "label,youtube_id,time_start,time_end,split"


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    encode(wandering(5, 64, 48, 5), path)
    return path


@pytest.fixture
def place(tmp_path: Path, clip_file: Path) -> Callable[..., Path]:
    """Puts videos, no two the same, to paths below a folder."""

    def make(*paths: str, root: Path = tmp_path / "videos") -> Path:
        root.mkdir(exist_ok=True)
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            note = path.encode()
            box = struct.pack(">I4s", 8 + len(note), b"free") + note
            (root / path).write_bytes(clip_file.read_bytes() + box)
        return root

    return make


def csv_file(folder: Path, name: str, rows: Iterable[str], header: str = HEADER) -> Path:
    file = folder / name
    file.write_text("\n".join([header, *rows]) + "\n")
    return file


def read_back(prepared: Prepared) -> dict[Side, list[tuple[str, str]]]:
    """Path and class of the clips in the lists, which are as training reads them; what they name is there."""
    classes = read_classes(prepared.lists / "classes.txt")
    assert classes == prepared.classes
    found: dict[Side, list[tuple[str, str]]] = {}
    for side in SIDES:
        file = prepared.lists / f"{side}_split1.txt"
        if file.exists():
            clips = read_list(file, classes).clips
            assert all((prepared.root / clip.path).is_file() for clip in clips)
            found[side] = [(clip.path, clip.class_name) for clip in clips]
    return found


def coverage_of(prepared: Prepared) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((prepared.lists / COVERAGE).read_text())
    return value


# -- Kinetics: annotation files ----------------------------------------------------------------------------

ROWS = [
    '"passing American football (in game)",abcDEF-_123,5,15,train',
    "zumba,-starts_low1,0,10,train",
    "zumba,bbbbbbbbbbb,3,13,train",
    "tying knot (not on a tie),ccccccccccc,7,17,validate",
]


def test_kinetics_annotations(tmp_path: Path) -> None:
    train = csv_file(tmp_path, "train.csv", ROWS[:3])
    validate = csv_file(tmp_path, "validate.csv", ROWS[3:])
    test = csv_file(tmp_path, "test.csv", ["ddddddddddd,1,11,test"] * 2, "youtube_id,time_start,time_end,split")
    read = read_kinetics([train, validate, test])
    assert read.classes == ("passing_American_football_(in_game)", "tying_knot_(not_on_a_tie)", "zumba")
    assert read.entries[0] == Entry(
        "abcDEF-_123_000005_000015", "passing_American_football_(in_game)", "train", "abcDEF-_123", 5, 15
    )
    assert [entry.split for entry in read.entries] == ["train", "train", "train", "val"]
    # more columns, in another order, times with a fraction, a mark in front, Windows' line ends
    other = tmp_path / "other.csv"
    lines = ["split,is_cc,label,time_start,time_end,youtube_id", "train,0,zumba,3.0,13.0,bbbbbbbbbbb", ""]
    other.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    assert read_kinetics([other]).entries == (read.entries[2],)


def test_kinetics_annotations_as_json(tmp_path: Path) -> None:
    def value(split: str, label: str, start: float, end: float) -> dict[str, Any]:
        return {"annotations": {"label": label, "segment": [start, end]}, "duration": end - start, "subset": split}

    file = tmp_path / "train.json"
    values = {
        "abcDEF-_123": value("train", "passing American football (in game)", 5.0, 15.0),
        "-starts_low1": value("training", "zumba", 0.0, 10.0),
        "bbbbbbbbbbb": value("train", "zumba", 3.0, 13.0),
        "ccccccccccc": value("validate", "tying knot (not on a tie)", 7.0, 17.0),
        "ddddddddddd": {"duration": 10.0, "subset": "test"},
    }
    file.write_text(json.dumps(values))
    read = read_kinetics([file])
    assert read.entries == read_kinetics([csv_file(tmp_path, "all.csv", ROWS)]).entries


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "label,id,time_start,time_end,split\nzumba,a,0,1,train",
            r"has no column 'youtube_id'; its first line names lab",
        ),
        (f"{HEADER}\nzumba,aaa,0", r"line 2: has 3 of 5 columns"),
        (f"{HEADER}\nzumba,aaa,zero,10,train", r"line 2: the time 'zero' is not a number of seconds"),
        (f"{HEADER}\nzumba,aaa,nan,10,train", r"line 2: the time 'nan' is not a number"),
        (f"{HEADER}\nzumba,aaa,0,inf,train", r"line 2: the time 'inf' is not a number"),
        (f"{HEADER}\nzumba,aaa,-1,10,train", r"line 2: the time '-1' is not a number"),
        (f"{HEADER}\nzumba,aaa,20,10,train", r"line 2: the clip ends at 10 s, before it starts at 20 s"),
        (f"{HEADER}\nzumba,aaa,10,10,train", r"line 2: the clip ends at 10 s"),
        (f"{HEADER}\nzumba,aaa,0,10,holdup", r"line 2: the split 'holdup' is none of train, validate, test"),
        (f"{HEADER}\n../zumba,aaa,0,10,train", r"line 2: the label '../zumba' cannot be a class name"),
        (f"{HEADER}\n ,aaa,0,10,train", r"line 2: the label ' ' cannot be a class name"),
        (f"{HEADER}\nzumba,aaa,0,10,test", r"no training or validation clip; give both files"),
        (HEADER, r"no training or validation clip"),
        ("", r"is empty; download it again"),
        (f'{HEADER}\nzumba,"{"a" * 200_000}",0,10,train', r"cannot be read as CSV"),
    ],
)
def test_kinetics_annotation_mistakes(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "train.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        read_kinetics([file])
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "expected a JSON object"),
        ('{"a": 1}', "'a': expected subset, and annotations with label and segment"),
        ('{"a": {"annotations": {}}}', "expected subset"),
        ('{"a": {"subset": "train", "annotations": {"label": "b", "segment": [1]}}}', "expected subset"),
        (
            '{"a": {"subset": "train", "annotations": {"label": "b", "segment": [1, "x"]}}}',
            "the time 'x' is not a number",
        ),
        ('{"a": {"subset": "train", "annotations": {"segment": [1, 2]}}}', "the label None cannot be a class name"),
        ('{"a": {"subset": ["train"]}}', r"the split \['train'\] is none of"),
    ],
)
def test_kinetics_json_mistakes(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "train.json"
    file.write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        read_kinetics([file])
    assert "\n" not in str(caught.value)


def test_annotation_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for file, says in ((tmp_path / "none.csv", "no such file"), (tmp_path, "cannot be read"), ("binary.csv", "text")):
        with pytest.raises(DataError, match=says):
            read_kinetics([tmp_path / file])


def test_the_number_of_classes_names_the_data_set(tmp_path: Path) -> None:
    for count in (400, 600, 700):
        rows = [f"class {n},{n:011},0,10,train" for n in range(count)]
        assert kinetics_name(read_kinetics([csv_file(tmp_path, "train.csv", rows)])) == f"kinetics{count}"
    with pytest.raises(DataError, match=r"name 3 classes, Kinetics has 400, 600, 700; .* or --name for a part"):
        kinetics_name(read_kinetics([csv_file(tmp_path, "train.csv", ROWS)]))


@given(st.text(max_size=40))
def test_what_counts_as_an_id_and_as_a_class_stays_below_its_folder(text: str) -> None:
    if is_id(text):
        assert Path("root", text).name == text and set(text) & {"/", "\\", ".", "\0"} == set()
    try:
        name = class_name_of(text, "here")
    except DataError:
        return
    assert Path("root", name).parts == ("root", name)
    assert len(name.split()) == 1 and not name.startswith((".", "#"))


entries = st.lists(
    st.builds(Entry, st.sampled_from("abcd"), st.sampled_from("xy"), st.sampled_from(["train", "val"]), st.just("v"))
)


@given(entries)
def test_every_clip_is_used_once(given_entries: list[Entry]) -> None:
    kept, twice = once(given_entries)
    names = [entry.name for entry in given_entries]
    assert sorted(entry.name for entry in kept) == sorted(set(names))
    assert set(twice) == {name for name in names if names.count(name) > 1}
    for entry in kept:
        same = [other for other in given_entries if other.name == entry.name]
        assert entry == next((other for other in same if other.split == "val"), same[0])


# -- Kinetics: files ---------------------------------------------------------------------------------------


def test_kinetics_in_all_layouts(place: Callable[..., Path], tmp_path: Path) -> None:
    rows = [
        "playing cards,flatflatfla,5,15,train",
        "playing cards,classspaces,5,15,train",
        "zumba,classunders,5,15,train",
        "zumba,otherSuffix,5,15,train",
        "zumba,isnot_there,5,15,train",
        "zumba,persplitval,5,15,val",
        "playing cards,gone_by_now,5,15,val",
    ]
    root = place(
        "flatflatfla_000005_000015.mp4",
        "train/playing cards/classspaces_000005_000015.mp4",
        "train/playing_cards/classunders_000005_000015.mp4",
        "otherSuffix_000005_000015.MKV",
        "val_256/zumba/persplitval_000005_000015.mp4",
        "isnot_there_000005_000016.mp4",  # another part of that video
        "test/whatever/notlabelled_000005_000015.mp4",
        ".hidden/isnot_there_000005_000015.mp4",
        "gone_by_now_000005_000015.mp4.part",
    )
    read = read_kinetics([csv_file(tmp_path, "all.csv", rows)])
    prepared, coverage = prepare_kinetics(root, read, tmp_path / "lists", handling=CHECKED)
    assert read_back(prepared) == {
        "train": [
            ("flatflatfla_000005_000015.mp4", "playing_cards"),
            ("train/playing cards/classspaces_000005_000015.mp4", "playing_cards"),
            ("otherSuffix_000005_000015.MKV", "zumba"),
            ("train/playing_cards/classunders_000005_000015.mp4", "zumba"),
        ],
        "test": [("val_256/zumba/persplitval_000005_000015.mp4", "zumba")],
    }
    assert coverage.annotated == {"train": 5, "val": 2}
    assert coverage_of(prepared)["splits"] == {
        "train": {"annotated": 5, "found": 4, "share": 0.8, "used": 4, "missing": ["isnot_there_000005_000015"]},
        "val": {"annotated": 2, "found": 1, "share": 0.5, "used": 1, "missing": ["gone_by_now_000005_000015"]},
    }
    assert [line.split() for line in coverage.table().splitlines()[1:]] == [
        ["training", "5", "4", "(80.0%)", "4"],
        ["validation", "2", "1", "(50.0%)", "1"],
    ]
    # the same, transcoded: the layout is one
    canonical = Canonical(tmp_path / "canonical", codec="mpeg4", size=(32, 32))
    prepared, _ = prepare_kinetics(root, read, tmp_path / "lists", canonical=canonical, handling=CHECKED)
    assert read_back(prepared) == {
        "train": [
            (f"train/{name}/{video}_000005_000015.mp4", name)
            for name, video in (
                ("playing_cards", "classspaces"),
                ("playing_cards", "flatflatfla"),
                ("zumba", "classunders"),
                ("zumba", "otherSuffix"),
            )
        ],
        "test": [("val/zumba/persplitval_000005_000015.mp4", "zumba")],
    }


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds that are easily told apart: each second is another picture, slid over."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    return record([p for second in range(8) for p in sliding(25, 64, 48, (1, 0), seed=second)], path, gop=40)


def test_kinetics_cuts_whole_videos(long_video: Path, tmp_path: Path) -> None:
    rows = ["zumba,wholevideo1,2,4,train", "surfing,wholevideo1,5,6,val", "surfing,itistooshor,30,40,train"]
    root = tmp_path / "videos"
    root.mkdir()
    for name in ("wholevideo1", "itistooshor"):
        (root / f"{name}.mp4").write_bytes(long_video.read_bytes())
    read = read_kinetics([csv_file(tmp_path, "all.csv", rows)])
    canonical = Canonical(tmp_path / "canonical", size=None)
    handling = Handling(on_error="skip", progress=False)
    prepared, coverage = prepare_kinetics(root, read, tmp_path / "lists", canonical=canonical, handling=handling)
    assert read_back(prepared) == {
        "train": [("train/zumba/wholevideo1_000002_000004.mp4", "zumba")],
        "test": [("val/surfing/wholevideo1_000005_000006.mp4", "surfing")],
    }
    assert (coverage.found, coverage.used) == ({"train": 2, "val": 1}, {"train": 1, "val": 1})
    (reason,) = prepared.left_out.values()
    assert "itistooshor.mp4: lasts 8.0 s, so it does not hold the part from 30 s to 40 s" in reason
    whole = decode(long_video)
    for path, start, frames in (
        ("train/zumba/wholevideo1_000002_000004.mp4", 50, 50),
        ("val/surfing/wholevideo1_000005_000006.mp4", 125, 25),
    ):
        part = decode(canonical.folder / path)
        assert len(part) == frames
        apart = [np.abs(part[0].astype(int) - picture).mean() for picture in whole]
        assert int(np.argmin(apart)) == start
    assert coverage_of(prepared)["in_both_splits"] == ["wholevideo1"]
    with pytest.raises(
        DataError, match=r"3 videos, such as .*, are named by their id alone.*--transcode DIR, or --trim"
    ):
        prepare_kinetics(root, read, tmp_path / "lists", handling=HANDLING)


def test_a_clip_of_another_part_is_made_anew(long_video: Path, tmp_path: Path) -> None:
    root, canonical = tmp_path / "videos", Canonical(tmp_path / "canonical", size=None)
    root.mkdir()
    (root / "wholevideo1.mp4").write_bytes(long_video.read_bytes())
    made = canonical.folder / "train/zumba/wholevideo1_000001_000001.mp4"

    def prepared(start: float, end: float, trimmed: bool = False) -> int:
        rows = [f"zumba,wholevideo1,{start},{end},train"]
        handling = Handling(on_error="skip", progress=False, overwrite=True)
        read = read_kinetics([csv_file(tmp_path, "all.csv", rows)])
        prepare_kinetics(root, read, tmp_path / "lists", trimmed=trimmed, canonical=canonical, handling=handling)
        return len(decode(made))

    assert [prepared(1.2, 1.8), prepared(1.2, 1.6), prepared(1.2, 1.6)] == [15, 10, 10]
    assert prepared(1.2, 1.6, trimmed=True) == len(decode(long_video))
    assert prepared(1.2, 1.6) == 10


def test_kinetics_clips_that_were_cut_already(place: Callable[..., Path], tmp_path: Path) -> None:
    rows = ["zumba,wascutbefor,200,210,train", "surfing,severalofit,0,10,train", "zumba,severalofit,50,60,val"]
    root = place("wascutbefor.mp4", "severalofit.mp4")
    read = read_kinetics([csv_file(tmp_path, "all.csv", rows)])
    prepared, _ = prepare_kinetics(root, read, tmp_path / "lists", trimmed=True, handling=CHECKED)
    assert read_back(prepared) == {"train": [("wascutbefor.mp4", "zumba")]}
    assert coverage_of(prepared)["splits"]["val"]["missing"] == ["severalofit_000050_000060"]
    place("severalofit_000050_000060.mp4")
    prepared, _ = prepare_kinetics(root, read, tmp_path / "lists", trimmed=True, handling=CHECKED)
    assert read_back(prepared)["test"] == [("severalofit_000050_000060.mp4", "zumba")]


def test_kinetics_reports_what_stands_twice(
    place: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        "zumba,twolabelsxx,0,10,train",
        "surfing,twolabelsxx,0,10,train",
        "zumba,twosplitsxx,0,10,train",
        "surfing,twosplitsxx,0,10,val",
        "zumba,bothsplitsx,0,10,train",
        "zumba,bothsplitsx,50,60,val",
        "zumba,samebytesxx,0,10,train",
        "#NAME?,#NAME?,0,10,train",
        "zumba,../../escape,0,10,train",
        "zumba,C:\\escape,0,10,train",
    ]
    names = ("twolabelsxx", "twosplitsxx", "bothsplitsx", "samebytesxx")
    root = place(*(f"{name}_000000_000010.mp4" for name in names), "bothsplitsx_000050_000060.mp4", "a/b/x.mp4")
    same = (root / "samebytesxx_000000_000010.mp4").read_bytes()
    (root / "bothsplitsx_000050_000060.mp4").write_bytes(same)
    place("escape_000000_000010.mp4", "escape.mp4", root=tmp_path)  # where the ids would lead to
    rows.pop(7)  # its label is none either
    read = read_kinetics([csv_file(tmp_path, "all.csv", [*rows, "zumba,#NAME?,0,10,train"])])
    prepared, _ = prepare_kinetics(root, read, tmp_path / "lists", handling=CHECKED)
    assert read_back(prepared) == {
        "train": [(f"{name}_000000_000010.mp4", "zumba") for name in ("bothsplitsx", "samebytesxx", "twolabelsxx")],
        "test": [
            ("twosplitsxx_000000_000010.mp4", "surfing"),
            ("bothsplitsx_000050_000060.mp4", "zumba"),
        ],
    }
    found = coverage_of(prepared)
    assert found["named_twice"] == ["twolabelsxx_000000_000010", "twosplitsxx_000000_000010"]
    assert found["in_both_splits"] == ["bothsplitsx"]
    assert found["refused"] == ["../../escape", "C:\\escape", "#NAME?"]
    for part in (
        "3 rows with an invalid id, not used: ../../escape, ",
        "2 clips in several rows, used once",
        "1 videos with clips in both official splits, kept as published: bothsplitsx",
        "hold the same bytes",
        "holds 1 copy of another file",
    ):
        assert part in caplog.text


def test_nothing_is_read_or_written_outside(place: Callable[..., Path], tmp_path: Path) -> None:
    root = place("inside_folder_000000_000010.mp4")
    outside = place("elsewhere_1_000000_000010.mp4", root=tmp_path / "outside")
    (root / "elsewhere_1_000000_000010.mp4").symlink_to(outside / "elsewhere_1_000000_000010.mp4")
    rows = ["zumba,inside_folder,0,10,train", "zumba,elsewhere_1,0,10,val", "zumba,../outside/x,0,10,train"]
    read = read_kinetics([csv_file(tmp_path, "all.csv", rows)])
    with pytest.raises(DataError, match="leaves the data root"):
        prepare_kinetics(root, read, tmp_path / "lists", handling=HANDLING)
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "canonical")}
    canonical = Canonical(tmp_path / "canonical", size=(32, 32))
    prepared, _ = prepare_kinetics(root, read, tmp_path / "lists", canonical=canonical, handling=HANDLING)
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(canonical.folder) or path.parent == tmp_path / "lists" for path in written)
    assert len(read_back(prepared)["train"]) == 1


def test_kinetics_holds_out_whole_videos(place: Callable[..., Path], tmp_path: Path) -> None:
    rows = [f"class {n % 2},video{n // 2:03}xxx,{50 * (n % 2)},{50 * (n % 2) + 10},train" for n in range(80)]
    rows += [f"class {n % 2},valid{n:03}xxx,0,10,val" for n in range(4)]
    read = read_kinetics([csv_file(tmp_path, "all.csv", rows)])
    root = place(*(f"{entry.name}.mp4" for entry in read.entries))
    whole = read_back(prepare_kinetics(root, read, tmp_path / "lists", handling=HANDLING)[0])
    held = read_back(prepare_kinetics(root, read, tmp_path / "lists", val_share=0.2, handling=HANDLING)[0])
    assert whole.keys() == {"train", "test"} and held["test"] == whole["test"]
    assert sorted(held["train"] + held["val"]) == sorted(whole["train"])
    assert len(held["val"]) == 16
    videos = [{path[:11] for path, _ in held[side]} for side in ("train", "val")]
    assert not videos[0] & videos[1]
    with pytest.raises(DataError, match=r"validation share 1\.5"):
        prepare_kinetics(root, read, tmp_path / "lists", val_share=1.5, handling=HANDLING)


def test_kinetics_without_any_video(place: Callable[..., Path], tmp_path: Path) -> None:
    read = read_kinetics([csv_file(tmp_path, "all.csv", ROWS)])
    with pytest.raises(DataError, match=r"holds none of the 4 annotated videos, such as abcDEF-_123_000005_000015; do"):
        prepare_kinetics(place("other.mp4"), read, tmp_path / "lists", handling=HANDLING)
    with pytest.raises(DataError, match="no such folder"):
        prepare_kinetics(tmp_path / "none", read, tmp_path / "lists", handling=HANDLING)
    assert not (tmp_path / "lists").exists()


def test_one_split_alone_makes_its_list(place: Callable[..., Path], tmp_path: Path) -> None:
    read = read_kinetics([csv_file(tmp_path, "all.csv", ROWS)])
    for name, side in (("ccccccccccc_000007_000017.mp4", "test"), ("bbbbbbbbbbb_000003_000013.mp4", "train")):
        root = place(name, root=tmp_path / side)
        prepared, _ = prepare_kinetics(root, read, tmp_path / f"lists_{side}", handling=HANDLING)
        assert read_back(prepared).keys() == {side}
        assert len(prepared.classes) == 3  # labels do not depend on what is there
        assert next_commands("kinetics400", prepared)


def test_of_several_files_the_first_path_is_taken(place: Callable[..., Path], tmp_path: Path) -> None:
    root = place("train/a/x_1.mp4", "replacement/x_1.mp4", "train/x_1.webm", "b/1/0.txt", "b/2/0.txt", "a/2/0.txt")
    assert videos_named(root, {"x_1", "y"}) == {"x_1": "replacement/x_1.mp4"}
    assert folders_named(root, {"1", "2", "9"}) == {"1": "b/1", "2": "a/2"}
    (root / "train" / "loop").symlink_to(root)
    assert videos_named(root, {"x_1"}) == {"x_1": "replacement/x_1.mp4"}


# -- Something-Something -----------------------------------------------------------------------------------

LABELS = {
    "Putting something, something and something on the table": "1",
    "Moving something from left to right": "0",
    "Trying to bend something unbendable so nothing happens": "2",
}
TEMPLATES = (
    "Moving [something] from left to right",
    "Putting [something], [something] and [something] on the table",
    "Trying to bend [something unbendable] so nothing happens",
)


def v2_files(folder: Path, train: Mapping[str, int], validation: Mapping[str, int], prefix: str = "") -> Path:
    """Annotation files of videos: the number of the template by id."""
    folder.mkdir(exist_ok=True)
    for name, of in (("train", train), ("validation", validation)):
        rows = [
            {"id": video, "label": "putting it", "template": TEMPLATES[n], "placeholders": ["it"]}
            for video, n in of.items()
        ]
        (folder / f"{prefix}{name}.json").write_text(json.dumps(rows))
    (folder / f"{prefix}labels.json").write_text(json.dumps(LABELS))
    return folder


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_something_v2(tmp_path: Path, caplog: pytest.LogCaptureFixture, prefix: str) -> None:
    folder = v2_files(tmp_path / "labels", {"10": 0, "7": 2, "99": 1}, {"3": 1, "4": 0}, prefix)
    root = tmp_path / "20bn-something-something-v2"
    root.mkdir()
    for seed, name in enumerate(("10", "7", "3", "5000")):
        record(wandering(5, 64, 48, 5, seed=seed), root / f"{name}.webm", codec="libvpx-vp9")
    read = read_something(folder, "v2")
    assert read.classes == (
        "Moving_something_from_left_to_right",
        "Putting_something,_something_and_something_on_the_table",
        "Trying_to_bend_something_unbendable_so_nothing_happens",
    )
    assert "names 3 classes, published are 174; 3 clips in train, published are 168913; 2 clips in valid" in caplog.text
    with pytest.raises(DataError, match=r"\d+.webm: is VP9 video, which has no motion vectors; give --transcode DIR"):
        prepare_something(root, read, tmp_path / "lists", "v2", handling=HANDLING)
    canonical = Canonical(tmp_path / "canonical", size=None)
    prepared, coverage = prepare_something(root, read, tmp_path / "lists", "v2", canonical=canonical, handling=CHECKED)
    assert read_back(prepared) == {
        "train": [
            (f"train/{read.classes[0]}/10.mp4", read.classes[0]),
            (f"train/{read.classes[2]}/7.mp4", read.classes[2]),
        ],
        "test": [(f"val/{read.classes[1]}/3.mp4", read.classes[1])],
    }
    assert coverage.missing == {"train": ["99"], "val": ["4"]}
    # videos that have motion vectors already can be used as they are
    prepared, _ = prepare_something(canonical.folder, read, tmp_path / "again", "v2", handling=CHECKED)
    assert prepared.root == canonical.folder and len(read_back(prepared)["train"]) == 2


def test_something_v1(tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "something-something-v1-labels.csv").write_text("Unfolding something\nHolding something\n")
    rows = {"train": ["100218;Holding something", "24413;Unfolding something"], "validation": ["5;Holding something"]}
    for name, lines in rows.items():
        (folder / f"something-something-v1-{name}.csv").write_text("\n".join(lines) + "\n")
    root = tmp_path / "20bn-something-something-v1"
    for seed, name in enumerate(("100218", "5", "6")):
        (root / name).mkdir(parents=True)
        for number, picture in enumerate(wandering(14, 64, 48, 5, seed=seed), 1):
            Image.fromarray(picture).save(root / name / f"{number:05}.jpg")
    read = read_something(folder, "v1")
    assert read.classes == ("Holding_something", "Unfolding_something")
    with pytest.raises(DataError, match="100218: is a folder of pictures; give --transcode DIR"):
        prepare_something(root, read, tmp_path / "lists", "v1", handling=HANDLING)
    canonical = Canonical(tmp_path / "canonical", size=None)

    def prepare() -> Prepared:
        return prepare_something(root, read, tmp_path / "lists", "v1", canonical=canonical, handling=CHECKED)[0]

    prepared = prepare()
    name = read.classes[0]
    assert read_back(prepared) == {"train": [(f"train/{name}/100218.mp4", name)], "test": [(f"val/{name}/5.mp4", name)]}
    clip = canonical.folder / "train" / name / "100218.mp4"
    with open_video(clip) as video:
        assert (video.info.num_frames, video.info.frame_rate, video.info.codec) == (14, 12, "h264")
    made = clip.stat().st_mtime_ns
    prepare()
    assert clip.stat().st_mtime_ns == made
    (root / "5" / "00003.jpg").unlink()  # which makes the folder a newer one
    Image.fromarray(texture(24, 32)).save(root / "5" / "00003.jpg")
    with pytest.raises(
        DataError, match=r"1 of 2 videos cannot be used \(.*00003.jpg: is 32x24, the first picture 64x48"
    ):
        prepare()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("train.json", "[]", "train.json: expected a JSON list with entries"),
        ("train.json", "{}", "train.json: expected a JSON list"),
        ("train.json", "", "train.json: is empty"),
        ("train.json", "[1]", "train.json, entry 1: expected an object with id and template"),
        ("train.json", '[{"id": "1"}]', "entry 1: expected an object with id and template"),
        ("train.json", '[{"id": "1", "template": ["x"]}]', "entry 1: expected an object with id and template"),
        (
            "train.json",
            '[{"id": "1", "template": "Eating [something]"}]',
            "label 'Eating something' is not in labels.js",
        ),
        ("labels.json", "[]", "labels.json: expected a JSON object"),
        ("labels.json", '{"a": "1", "b": "2"}', "expected each label with its number, 0 to 1"),
        ("labels.json", '{"a": "0", "b": "x"}', "expected each label with its number"),
        ("labels.json", '{"a": "0", "b": null}', "expected each label with its number"),
        ("labels.json", '{"a b": "0", "a  b": "1"}', "two labels differ in their spaces alone"),
        ("labels.json", '{"../a": "0"}', "the label '../a' cannot be a class name"),
        ("validation.json", None, "validation.json: no such file; unpack the annotation files of version 2 there"),
    ],
)
def test_something_v2_mistakes(tmp_path: Path, name: str, text: str | None, says: str) -> None:
    folder = v2_files(tmp_path / "labels", {"10": 0}, {"3": 1})
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        read_something(folder, "v2")
    assert "\n" not in str(caught.value)


def test_something_v1_mistakes(tmp_path: Path) -> None:
    for name, text in (("labels", "Holding something\n"), ("train", "1;Holding something\n"), ("validation", "2,x\n")):
        (tmp_path / f"{name}.csv").write_text(text)
    with pytest.raises(DataError, match=r"validation.csv, line 1: expected 'id;label', found '2,x'"):
        read_something(tmp_path, "v1")
    (tmp_path / "validation.csv").write_text("../1;Holding something\n1;Holding something\n")
    read = read_something(tmp_path, "v1")
    assert (read.refused, read.named_twice) == (("../1",), ("1",))
    assert [entry.split for entry in read.entries] == ["val"]
    with pytest.raises(DataError, match="no such folder"):
        read_something(tmp_path / "none", "v1")


# -- the commands ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["kinetics", "ssv1", "ssv2"])
def test_help_says_what_is_tested_on(kind: str) -> None:
    said = " ".join(coviar("prepare", kind, "--help").split())
    assert "The official validation split becomes the test list, because papers report on it." in said
    assert "examples:" in said


def test_the_command_for_kinetics(place: Callable[..., Path], tmp_path: Path) -> None:
    rows = [f"class {n % 3},video{n:03}xxx,0,10,{'val' if n > 20 else 'train'}" for n in range(30)]
    files = [
        csv_file(tmp_path, f"{split}.csv", [row for row in rows if row.endswith(split)]) for split in ("train", "val")
    ]
    root = place(*(f"class {n % 3}/video{n:03}xxx_000000_000010.mp4" for n in range(28)))
    options = [root, "--annotations", *files, "--lists", tmp_path / "lists", "--transcode", tmp_path / "canonical"]
    refused = coviar("prepare", "kinetics", *options, ok=False)
    assert "name 3 classes, Kinetics has 400, 600, 700" in refused
    said = coviar("prepare", "kinetics", *options, "--name", "tiny", "--size", "keep", "--val-share", "0.2")
    assert [line.split() for line in said.splitlines()[:4]] == [
        ["official", "split", "annotated", "on", "the", "disk", "used"],
        ["training", "21", "21", "(100.0%)", "21"],
        ["validation", "9", "7", "(77.8%)", "7"],
        ["what", "is", "missing:", f"{tmp_path}/lists/tiny/coverage.json"],
    ]
    train = shlex.split(said.split("next:\n")[1].replace("\\\n", "").splitlines()[0])
    assert train[:4] == ["coviar", "train", "--config", "folder"]
    assert sorted(path.name for path in (tmp_path / "lists" / "tiny").iterdir()) == [
        *("classes.txt", "coverage.json", "test_split1.txt", "train_split1.txt", "val_split1.txt"),
    ]


def test_the_command_for_something_something(tmp_path: Path) -> None:
    folder = v2_files(tmp_path / "labels", {"10": 0, "7": 2, "99": 1}, {"3": 1})
    for seed, name in enumerate(("10", "7", "3")):
        (tmp_path / "videos").mkdir(exist_ok=True)
        record(wandering(5, 64, 48, 5, seed=seed), tmp_path / "videos" / f"{name}.webm", codec="libvpx-vp9")
    options = [tmp_path / "videos", "--annotations", folder, "--lists", tmp_path / "lists"]
    assert "which has no motion vectors; give --transcode DIR" in coviar("prepare", "ssv2", *options, ok=False)
    said = coviar("prepare", "ssv2", *options, "--transcode", tmp_path / "canonical", "--size", "keep")
    assert "ssv2: 3 classes, lists in " in said and "coviar train --config ssv2" in said


@pytest.mark.parametrize("name", ["kinetics400", "kinetics600", "kinetics700", "ssv1", "ssv2"])
def test_the_recipe_reads_what_the_command_writes(name: str) -> None:
    clip = Clip("train/a/b.mp4", "a", 0)
    split: dict[Side, list[Clip]] = {"train": [clip], "test": [clip]}
    prepared = Prepared(Path("data", name), Path("data_lists", name), ("a",), (split,), {})
    train = next_commands(name, prepared)[0]
    settings = yaml.safe_load((PROJECT / f"configs/{name}.yaml").read_text())
    assert train == f"coviar train --config {name}"
    assert settings["output"] == f"runs/{name}"
