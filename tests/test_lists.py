"""Lists of clips and of classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from coviar_mocrop.datasets.lists import Clip, format_classes, format_list, read_classes, read_list
from coviar_mocrop.errors import ListError

CLASSES = ("jump", "run")


def test_lists_come_back_as_written(tmp_path: Path) -> None:
    clips = [Clip("a folder/b c.mp4", "jump", 0), Clip("d.mp4", "run", 1)]
    (tmp_path / "l.txt").write_text(format_list(clips))
    (tmp_path / "classes.txt").write_text(format_classes(CLASSES))
    assert read_classes(tmp_path / "classes.txt") == CLASSES
    assert read_list(tmp_path / "l.txt", CLASSES).clips == tuple(clips)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a.mp4 jump", "path class label"),
        ("a.mp4 jump x", "path class label"),
        ("a.mp4 jump --3", "path class label"),
        ("a.mp4 jump ²", "path class label"),
        (f"a.mp4 jump {'9' * 5000}", "path class label"),
        ("a.mp4 jump 2", "not one of 0..1"),
        ("a.mp4 jump -1", "not one of 0..1"),
        ("a.mp4 jump 1", "is class 'run'"),
        ("ok.mp4 run 1", "ok.mp4 is already in line 3; list each video once"),
        ("ok.mp4 jump 0", "ok.mp4 is already in line 3"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "l.txt").write_text(f"# a comment\n\nok.mp4 run 1\n{line}\n")
    with pytest.raises(ListError, match=f"l.txt, line 4: .*{says}"):
        read_list(tmp_path / "l.txt", CLASSES)


def test_missing_empty_and_binary_lists(tmp_path: Path) -> None:
    with pytest.raises(ListError, match="no such list"):
        read_list(tmp_path / "none.txt", CLASSES)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ListError, match="holds no clip"):
        read_list(tmp_path / "empty.txt", CLASSES)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ListError, match="is not text"):
        read_list(tmp_path / "binary.txt", CLASSES)
    with pytest.raises(ListError, match="is a folder; give a list"):
        read_list(tmp_path, CLASSES)
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    with pytest.raises(ListError, match="line 1: 'a' appears twice"):
        read_classes(tmp_path / "twice.txt")
