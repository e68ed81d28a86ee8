"""The loader benchmark and the fuzzer: what they report is there, and what fails is named."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from clips import record, wandering

from benchmarks import loader

TOOLS = Path(__file__).parent.parent / "tools"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames, 98x66, GOP 12."""
    path = tmp_path_factory.mktemp("benchmark") / "clip.mp4"
    return record(wandering(30, 98, 66, 7, noise=4), path, codec="mpeg4")


def tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a tool."""
    command = [sys.executable, str(TOOLS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_rows_of_the_loader_benchmark(clip: Path) -> None:
    found = loader.compare(clip, repeats=1)
    assert (found.file, found.stream) == ("clip.mp4", "mpeg4, 98x66, 30 frames")
    rows = {row.name: row for row in found.rows}
    ours = [name for name in rows if name.startswith("ours")]
    assert len(ours) == 2 + 3 * 2 + 1
    assert all(row.milliseconds >= row.fastest > 0 for row in found.rows)
    if "mvextractor" not in found.left_out:
        unit = rows["mvextractor, full read() pass"]
        assert unit.ratio == 1
        assert all(row.ratio == row.milliseconds / unit.milliseconds for row in found.rows)
    table = loader.markdown(found).splitlines()
    assert len([line for line in table if line.startswith("| ")]) == len(rows) + 1


def test_readers_that_are_not_there_or_fail_are_named(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named '{name}'\nand more")

    monkeypatch.setattr(loader, "import_module", missing)
    found = loader.compare(clip, repeats=1)
    assert sorted(found.left_out) == ["OpenCV", "decord", "mvextractor", "torchcodec"]
    assert all(row.name.startswith("ours") and row.ratio is None for row in found.rows)
    assert "left out: decord: No module named 'decord'" in loader.markdown(found).splitlines()

    def failing() -> None:
        raise RuntimeError("no such codec")

    monkeypatch.setattr(loader, "_ours", lambda path, num_frames: {"ours, failing": failing})
    assert loader.compare(clip, repeats=1).left_out["ours, failing"] == "no such codec"


def test_profile_parts_add_up(clip: Path) -> None:
    parts = loader.profile(clip, repeats=1)
    assert len(parts) == 3
    for name, row in parts.items():
        assert row["decoding"] > 0
        assert (row["accumulation"] > 0) == (not name.startswith("I-frame"))
        assert (row["conversion to RGB"] > 0) == (not name.startswith("accumulated motion"))
        assert sum(row.values()) == pytest.approx(2 * row["whole"])
        assert min(row.values()) >= 0


def benchmark(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """Run tools/benchmark.py in this process, which has loaded all that it loads."""
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
    runpy.run_path(str(TOOLS / "benchmark.py"), run_name="__main__")


def test_benchmark_tool(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    how = ["--repeats", 1, "--transcode", "h264", "--profile", "--output", tmp_path / "out.json"]
    benchmark(monkeypatch, "loader", clip, *how)
    assert "clip_h264.mp4: h264, 340x256, 30 frames" in capsys.readouterr().out
    written = json.loads((tmp_path / "out.json").read_text())
    assert {row["name"] for row in written["files"][0]["rows"]} >= {"ours, opening and index"}
    assert list(written["profiles"]) == ["clip_h264.mp4"]


@pytest.mark.parametrize(
    ("how", "named"), [(["none.mp4"], "none.mp4: no such file"), (["clip.mp4", "--repeats", 0], "--repeats 0")]
)
def test_benchmark_tool_names_what_is_wrong(
    clip: Path, how: list[object], named: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(clip.parent)
    with pytest.raises(SystemExit) as end:
        benchmark(monkeypatch, "loader", *how)
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert named in errors


def test_fuzzer(clip: Path, tmp_path: Path) -> None:
    kept = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for path in kept:
        done = tool("fuzz_bitstream.py", clip, "--mutations", 6, "--workers", 1, "--first", 3, "--keep", path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "6 copies of 1 files" in done.stdout
        assert "resident memory" in done.stdout
    assert kept[0].read_bytes() == kept[1].read_bytes() != clip.read_bytes()


def test_fuzzer_reports_what_takes_too_long(clip: Path) -> None:
    done = tool("fuzz_bitstream.py", clip, "--mutations", 2, "--workers", 1, "--seconds", 0)
    assert done.returncode == 1
    assert done.stdout.count("no end within 0 s") == 2
    assert f"BAD {clip} 1: " in done.stdout
