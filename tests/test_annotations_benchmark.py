"""benchmark.py annotations: few made clips and a short video go through all steps."""

from __future__ import annotations

import argparse

import pytest

from benchmarks import annotations
from coviar_mocrop.errors import ConfigError

pytestmark = pytest.mark.slow


def test_all_steps_are_timed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotations, "CANONICAL_SIZE", (64, 48))
    found = annotations.run(argparse.Namespace(rows=200, minutes=1, repeats=1))
    assert 170 < found["files"] < 200
    assert len(found["seconds"]) == 4 and min(found["seconds"].values()) > 0
    part, whole = found["cutting"].values()
    assert 0 < part < whole
    said = capsys.readouterr().out
    assert "200 annotated clips" in said and "| all of it |" in said
    with pytest.raises(ConfigError, match="must be at least 1"):
        annotations.run(argparse.Namespace(rows=0, minutes=1, repeats=1))
