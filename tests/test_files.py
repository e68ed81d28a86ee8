"""Files written completely or not at all; list entries that leave the data root are refused."""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coviar_mocrop.datasets.lists import DataRoot
from coviar_mocrop.errors import CoviarMocropError, DataError
from coviar_mocrop.files import atomic_write, require_writable, write_text


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files and links, some of which lead out of it."""
    top = tmp_path_factory.mktemp("files")
    for name in ("root/a/b", "elsewhere/a"):
        (top / name).mkdir(parents=True)
    for name in ("root/f", "root/a/f", "root/a/b/f", "elsewhere/f", "elsewhere/a/f", "rootf"):
        (top / name).write_text(name)
    root = top / "root"
    (root / "out").symlink_to(top / "elsewhere")
    (root / "a/out").symlink_to(top / "elsewhere/f")
    (root / "a/in").symlink_to("b")
    (root / "in").symlink_to("a/f")
    (root / "gone").symlink_to("nothing")
    (root / "round").symlink_to("round")
    return root


PARTS = st.lists(st.sampled_from(["a", "b", "f", "in", "out", "gone", "..", ".", "", "none"]), max_size=5)


@example(entries=["b/../out"])
@example(entries=["b/../f"])
@given(entries=st.lists(PARTS.map("/".join), min_size=1, max_size=4))
def test_entries_are_refused_exactly_where_they_lead_out(root: Path, entries: list[str]) -> None:
    """The plain rule, link by link, is what the looking up at once must keep; one object for all entries."""
    below = DataRoot(root)
    for entry in entries:
        real = Path(os.path.realpath(root / entry))
        if entry.startswith("/") or not real.is_relative_to(root.resolve()):
            with pytest.raises(DataError, match="leaves the data root") as caught:
                below.find(entry)
            assert str(caught.value).startswith(f"{entry}: ")
            continue
        path, facts = below.find(entry)
        assert os.path.realpath(path) == str(real)
        if real.is_file() and not entry.endswith(("/", ".")):
            assert facts is not None
            assert (facts.st_size, facts.st_mtime_ns) == (real.stat().st_size, real.stat().st_mtime_ns)
        assert DataRoot(root).find(entry)[0] == path


def test_links_are_followed_where_that_is_allowed(root: Path) -> None:
    below = DataRoot(root, follow_links=True)
    for entry, text in {
        "out/f": "elsewhere/f",
        "a/out": "elsewhere/f",
        "out/a/f": "elsewhere/a/f",
        "f": "root/f",
    }.items():
        path, facts = below.find(entry)
        assert Path(path).read_text() == text
        assert facts is not None
        assert facts.st_size == len(text)
    for entry in ("../elsewhere/f", "/f", str(root / "f"), "out/../f", "..", "out/.."):
        with pytest.raises(DataError, match="leaves the data root"):
            below.find(entry)
    for entry in ("gone", "round", "none/none", "a\0b", "a\0/b"):
        assert below.find(entry)[1] is None
    assert DataRoot(root).find("a\0b")[1] is None
    with pytest.raises(DataError, match="leaves the data root"):
        DataRoot(root).find("a\0/b")


def test_a_hundred_entries_look_at_their_folder_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    plain: Callable[[str], str] = os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: (looked.append(os.fspath(path)), plain(path))[1])
    below = DataRoot(root)
    for number in range(100):
        below.find(f"a/b/{number}")
    assert len(looked) == 2


def test_files_are_written_completely_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text(path, "first")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text("half of the sec")
        raise ZeroDivisionError
    assert [file.read_text() for file in path.parent.iterdir()] == ["first"]


@pytest.mark.parametrize("name", ["n" * 251 + ".mp4", "\u00fc" * 120 + "a.mp4", "\u4e16" * 83 + ".mp4"])
def test_the_longest_names_can_be_written(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "first")
    with atomic_write(tmp_path / name) as temporary:
        assert temporary.suffix == ".mp4"
        temporary.name.encode("utf-8")  # no part of a character
        temporary.write_text("second")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "second")]
    with pytest.raises(CoviarMocropError, match="name too long"), atomic_write(tmp_path / f"{name}{name}"):
        pytest.fail("work began")


def test_writing_in_threads_does_not_change_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions are those of a plain file, and the umask, which all threads share, is never set."""
    plain = tmp_path / "plain"
    plain.touch()
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was set"))
    threads = [threading.Thread(target=write_text, args=(tmp_path / f"{number}.txt", "x")) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {stat.S_IMODE(plain.stat().st_mode)}
    assert len(list(tmp_path.iterdir())) == 5


def test_outputs_that_cannot_be_written_are_refused_before_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for path in ("new", "file", "a/b/new"):
        require_writable(tmp_path / path)
    for path in ("", "new", "a/b"):
        require_writable(tmp_path / path, folder=True)
    require_writable("file_of_this_folder")
    for path, says in (("", "is a folder; give the name"), ("file/new", "Not a directory"), ("x" * 300, "too long")):
        with pytest.raises(CoviarMocropError, match=rf"{re.escape(str(tmp_path / path))}: .*{says}"):
            require_writable(tmp_path / path)
    with pytest.raises(CoviarMocropError, match="Not a directory"):
        require_writable(tmp_path / "file", folder=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(CoviarMocropError, match=r"cannot be written \(Permission denied\)"):
        require_writable(tmp_path / "file")
