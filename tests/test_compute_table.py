"""The compute table: every published figure, at the precision it was printed with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tool import run_tool

from benchmarks.compute_table import (
    NETWORKS,
    clip_stream_cost,
    compute_markdown,
    compute_table,
    latencies,
    log_compute,
)
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.viz.results import SETTINGS

pytestmark = pytest.mark.slow

SMALL = {"classes": 5, "full_size": 64, "reduced_size": 48}


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    return compute_table(**SMALL)


def test_every_published_figure_is_met() -> None:
    table = compute_table()
    for network in NETWORKS:
        for setting, published in zip(SETTINGS, network.published, strict=bool(network.published)):
            counted = table["settings"][setting]["networks"][network.key]["gflops_per_frame"]
            decimals = 1 if published > 5 else 2
            assert counted == pytest.approx(published, abs=0.5 * 10**-decimals + 1e-3), (network.title, setting)
    clips = [clip["gflops_per_clip"] for clip in table["clips"]]
    assert clips == pytest.approx([17.07, 16.85, 33, 34, 24.5], rel=0.02)  # the last one is not published
    assert [clip["published"] for clip in table["clips"]] == [16.9, 16.9, 33, 34, None]
    assert 1 - clips[4] / clips[3] == pytest.approx(0.265, abs=0.001)
    assert "| CoViAR I-frame, ResNet-152 | 11.557 | 8.491 | 11.557 | 11.6 / 8.5 / 11.6 | 26.5% |" in compute_markdown(
        table
    )


def test_the_clip_stream_as_published() -> None:
    cost = clip_stream_cost()
    assert cost["trainable"] == 969829
    fvcore, fused = cost["conventions"].values()
    assert (round(fvcore["clip"], 2), round(fvcore["segment"], 3)) == (4.37, 0.397)
    assert round(fvcore["totals"][32], 2) == 17.07
    assert f"{fused['totals'][32]:.1f}" == "16.9"
    for parts in (fvcore, fused):
        growth = parts["totals"][32] - parts["totals"][8]
        assert growth == pytest.approx(24 * parts["segment"])
        assert parts["totals"][8] == pytest.approx(parts["clip"] + parts["head"] + 8 * parts["segment"])


def test_streams_add_up_and_frames_multiply(small: dict[str, Any]) -> None:
    for setting in SETTINGS:
        for protocol, frames in (("CoViAR", 250), ("MoCrop", 8)):
            rows = small["settings"][setting]["coviar"][protocol]
            assert set(rows) == {"iframe", "mv", "residual", "fused"}
            parts = [rows[name]["gflops_per_clip"] for name in ("iframe", "mv", "residual")]
            assert rows["fused"]["gflops_per_clip"] == pytest.approx(sum(parts))
            assert rows["fused"]["gflops_per_clip"] == pytest.approx(frames * rows["fused"]["gflops_per_frame"])


def test_refuses_what_is_out_of_range() -> None:
    with pytest.raises(ConfigError, match="reduced_size is 8"):
        compute_table(reduced_size=8)
    with pytest.raises(ConfigError, match="repeats"):
        latencies(repeats=0)


def test_same_tags_in_every_run(small: dict[str, Any], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    measured = {
        n.key: {"full_ms": 2.0, "reduced_ms": 1.0, "saving_flops": 0.25, "saving_time": 0.5, "share_in_time": 2.0}
        for n in NETWORKS
    }
    assert "200%" in compute_markdown(small, measured)
    for _ in range(2):  # a second time replaces the first
        log_compute(tmp_path, small, measured)
    tags = []
    for setting in SETTINGS:
        events = EventAccumulator(str(tmp_path / setting)).Reload()
        tags.append(events.Tags()["scalars"])
        assert len(events.Scalars("ms_per_frame/swin_b")) == 1
    assert tags[0] == tags[1] == tags[2]
    assert "gflops_per_clip_MoCrop/fused" in tags[0]


def test_latencies_of_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.compute_table.NETWORKS", NETWORKS[2:3])
    (row,) = latencies(classes=5, full_size=64, reduced_size=32, repeats=1, threads=1).values()
    assert row["full_ms"] > 0
    assert row["share_in_time"] == pytest.approx(row["saving_time"] / row["saving_flops"])


def test_tool(small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, int] = {}
    monkeypatch.setattr("benchmarks.compute_table.compute_table", lambda **options: asked.update(options) or small)
    options = ("--classes", 5, "--full-size", 64, "--reduced-size", 48)
    done = run_tool("compute_table", "--output", tmp_path, *options)
    assert asked == SMALL
    assert "| GFLOPs per frame | baseline (64) | efficiency (48) | attention (64) | published | saved |" in done.stdout
    assert json.loads((tmp_path / "compute.json").read_text())["latency"] is None
    monkeypatch.undo()
    failed = run_tool("compute_table", "--output", tmp_path, "--classes", 0, check=False)
    assert (failed.returncode, failed.stderr) == (2, "error: classes is 0; give 1 or more\n")
