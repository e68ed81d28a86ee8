"""The reading benchmark and the fuzzer: what they report is there, and what fails is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from clips import record, wandering
from tool import tool

from benchmarks import fuzz_bitstream, reading
from coviar_mocrop.bitstream import open_video
from coviar_mocrop.errors import ConfigError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames, 98x66, GOP 12."""
    path = tmp_path_factory.mktemp("benchmark") / "clip.mp4"
    return record(wandering(30, 98, 66, 7, noise=4), path, codec="mpeg4")


def test_rows_of_the_reading_benchmark(clip: Path, tmp_path: Path) -> None:
    rows = {row.what: row for row in reading.measure(clip, 1, tmp_path)}
    assert len(list(tmp_path.iterdir())) == 1  # the index
    assert all(row.milliseconds >= row.fastest > 0 for row in rows.values())
    for segments in (3, 25):
        bare = rows[f"bare decoding for three streams, {segments} segments"]
        for how in ("middle square", "box", "box, one stream after the other"):
            row = rows[f"load_clip, {segments} segments, {how}"]
            assert row.ratio == row.milliseconds / bare.milliseconds
    motion, bare = rows["25 frames of motion"], rows["bare decoding for 25 frames of motion"]
    assert (bare.ratio, motion.ratio) == (None, motion.milliseconds / bare.milliseconds)
    assert rows["vectors of the whole clip, pyav"].ratio
    assert rows["training item"].ratio and rows["training item, one stream after the other"].ratio
    assert len(reading.table(rows.values()).splitlines()) == len(rows) + 2


def test_some_rows_and_what_they_are_compared_with(clip: Path, tmp_path: Path) -> None:
    def names(only: str) -> list[str]:
        return [row.what for row in reading.measure(clip, 1, tmp_path, only)]

    assert names("opening") == ["opening", "opening with a kept index"]
    assert names("25 frames") == ["bare decoding for 25 frames of motion", "25 frames of motion"]
    with pytest.raises(ConfigError, match="--only 'opened': no row begins so; the rows are: opening; "):
        names("opened")


def test_mvextractor_need_not_be_there(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(reading, "import_module", missing)
    assert not [row for row in reading.measure(clip, 1, tmp_path) if "mvextractor" in row.what]


@pytest.mark.parametrize("b_frames", [0, 2])
def test_bare_decoding_takes_the_packets_needed(b_frames: int, tmp_path: Path) -> None:
    path = record(wandering(30, 98, 66, 7), tmp_path / "clip.mp4", b_frames=b_frames)
    assert reading.BareDecoding(path, [range(30)])() == 30
    assert reading.BareDecoding(path, [[0]])() == 1
    assert reading.BareDecoding(path, [[12], [24]])() == 2
    if not b_frames:
        assert reading.BareDecoding(path, [[5, 3, 13]])() == 6 + 2


def test_clips_made_here_and_copies(clip: Path, tmp_path: Path) -> None:
    made = list(reading._clips([], None, tmp_path, frames=14))
    assert [path.name for path in made] == ["canonical.mp4", "b_frames.mp4"]
    videos = [reading.open_video(path) for path in made]
    assert [(v.info.codec, v.info.num_frames, v.info.has_b_frames) for v in videos] == [
        ("mpeg4", 14, False),
        ("h264", 14, True),
    ]
    (copy,) = reading._clips([str(clip)], "h264", tmp_path)
    assert reading.open_video(copy).info.width == 340


def test_benchmark_tool(clip: Path, tmp_path: Path) -> None:
    printed = tool("benchmark", "reading", clip, "--repeats", 1, "--json", tmp_path / "out.json")
    title = "clip.mp4: mpeg4, 98x66, 30 frames"
    assert title in printed
    written = json.loads((tmp_path / "out.json").read_text())
    assert "opening" in {row["what"] for row in written["clips"][title]}


def test_the_tool_finds_the_benchmarks_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools/benchmark.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    for name in ("reading", "mocrop", "testing", "scale", "squeeze"):
        assert f"\n  {name} " in done.stdout


def test_benchmark_tool_names_what_is_wrong(clip: Path) -> None:
    assert "none.mp4: no such file" in tool("benchmark", "reading", "none.mp4", ok=False)
    assert "--repeats is 0" in tool("benchmark", "reading", clip, "--repeats", 0, ok=False)


def fuzz(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run the fuzzer of videos: its exit code and what it prints."""
    code = 0
    with patch.object(sys, "argv", ["fuzz_bitstream.py", *map(str, arguments)]):
        try:
            fuzz_bitstream.main()
        except SystemExit as end:
            code = int(end.code or 0)
    return code, capsys.readouterr().out


def test_fuzzer(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "fuzz"
    code, printed = fuzz(capsys, clip, "--copies", 4, "--first", 3, "--output", folder, "--keep", tmp_path / "a.mp4")
    assert code == 0
    assert printed.startswith("4 copies of 1 files: ")
    outcomes = (folder / "outcomes.jsonl").read_text()
    assert [json.loads(line)["copy"] for line in outcomes.splitlines()] == [3, 4, 5, 6]
    (source,) = (folder / "sources").iterdir()
    assert (tmp_path / "a.mp4").read_bytes() == fuzz_bitstream.damaged(str(source), 3) != source.read_bytes()
    code, printed = fuzz(capsys, "--copies", 6, "--first", 3, "--output", folder)  # goes on
    assert code == 0
    again = (folder / "outcomes.jsonl").read_text()
    assert again.startswith(outcomes)
    assert [json.loads(line)["copy"] for line in again.splitlines()] == [3, 4, 5, 6, 7, 8]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["copies"] == sum(summary["outcomes"].values()) == 6
    assert summary["outcomes"].keys() <= {"data", "error"}
    assert summary["bad"] == []
    by_codec = summary["noticed_by_codec"].values()
    assert [sum(column) for column in zip(*by_codec, strict=True)] == [summary["noticed"], summary["changed"]]
    assert summary["peak_megabytes"] > 10


def test_fuzzer_reports_what_takes_too_long_or_too_much(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = fuzz(capsys, clip, "--copies", 2, "--seconds", 0)
    assert code == 1
    assert printed.count("no end within 0 s") == 2
    assert "BAD 000_clip" in printed
    code, printed = fuzz(capsys, clip, "--copies", 1, "--megabytes", 1)
    assert code == 1
    assert "MB of memory" in printed


@pytest.mark.parametrize("name", fuzz_bitstream.DAMAGES)
def test_every_damage_changes_a_file(name: str) -> None:
    data = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8)
    changed = 0
    for seed in range(10):
        first, second = (fuzz_bitstream.DAMAGES[name](data.copy(), np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        changed += first.tobytes() != data.tobytes()
    assert changed > 8


@pytest.mark.parametrize("name", ["h264_b.ts", "mpeg4_b.avi", "mpeg2_b.mpg", "vp9.webm"])
def test_clips_that_the_fuzzer_encodes(tmp_path: Path, name: str) -> None:
    codec, size, b_frames = fuzz_bitstream.CODECS[name]
    fuzz_bitstream.encode(tmp_path / name, codec, size, b_frames, 12)
    outcome = fuzz_bitstream.contents(tmp_path / name)
    assert (outcome.kind, outcome.noticed) == ("data", False)
    fuzz_bitstream.cut(tmp_path / name, tmp_path / f"cut_{name}", 9)
    with open_video(tmp_path / f"cut_{name}") as video:
        assert video.info.num_frames <= 9
