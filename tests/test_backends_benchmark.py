"""benchmark.py backends: every way computes the same network."""

from __future__ import annotations

import argparse

import pytest

from benchmarks import backends

pytestmark = pytest.mark.slow  # exports a network


def test_all_ways_agree(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    given = argparse.Namespace(backbone="squeezenet1_1", frames=2, size=64, threads=1, repeats=1)
    rows = backends.run(given)["rows"]
    assert [row["way"].split(",")[0] for row in rows] == ["PyTorch"] * 3 + ["ONNX Runtime"] * 2
    assert all(row["ms"] > 0 for row in rows)
    exact = {row["way"]: row["difference"] for row in rows}
    assert exact["PyTorch, fp32"] == 0 and exact["ONNX Runtime, fp32"] < 1e-3
    assert 0 < exact["ONNX Runtime, int8"] < 0.5
    assert "| ONNX Runtime, int8 |" in capsys.readouterr().out
