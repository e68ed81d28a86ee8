"""Compiled and in numpy the same bits; compiled once; and work goes on where nothing can be compiled or kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import every_frame, record, wandering
from hypothesis import given, settings
from hypothesis import strategies as st

from coviar_mocrop.bitstream import MOTION_VECTOR_DTYPE, kernels, open_video
from coviar_mocrop.bitstream.accumulate import compile_kernels

numba: Any = pytest.importorskip("numba")


COMPILED: Any = kernels.compiled()
NUMBERS = st.one_of(st.integers(-40, 90), st.integers(-(2**15), 2**15 - 1))
ROWS = st.tuples(st.integers(-2, 2), st.integers(0, 255), st.integers(0, 255), NUMBERS, NUMBERS, NUMBERS, NUMBERS)


@settings(derandomize=True)
@given(height=st.integers(1, 70), width=st.integers(1, 70), rows=st.lists(ROWS, max_size=12))
def test_any_vectors_at_all(height: int, width: int, rows: list[tuple[int, ...]]) -> None:
    """What a damaged file may hold: blocks of any size anywhere, one over the other."""
    vectors = np.array([(*row, 0, 0, 0, 1) for row in rows], dtype=MOTION_VECTOR_DTYPE)
    base = np.random.default_rng(0).integers(0, 2**30, (height, width), dtype=np.int32)
    expected, found = base.copy(), base.copy()
    kernels.IN_NUMPY.compose(vectors, base, expected)
    COMPILED.compose(vectors, base, found)
    np.testing.assert_array_equal(found, expected)


def test_every_motion_and_every_residual() -> None:
    motion = np.arange(-16383, 16385, dtype=np.int16).reshape(64, -1)
    expected = np.rint(np.clip(motion * 127.5 / 20 + 128, 0, 255)).astype(np.uint8)
    sources = np.zeros((256, 256), np.int32)
    frame = np.repeat(np.repeat(np.arange(256, dtype=np.uint8)[:, None], 256, axis=1), 3, axis=1)
    first = np.zeros((256, 771), np.uint8)  # rows may be longer
    first[0, :768] = np.repeat(np.arange(256), 3)
    sources[:] = np.arange(256)
    difference = frame.astype(np.int16) - np.repeat(np.arange(256, dtype=np.int16), 3)
    for way in (COMPILED, kernels.IN_NUMPY):
        coded = np.empty(motion.shape, np.uint8)
        way.code_motion(motion, np.zeros_like(motion), 0, 0, coded)
        np.testing.assert_array_equal(coded, expected)
        residual, coded = np.empty((256, 768), np.int16), np.empty((256, 768), np.uint8)
        way.residual(sources, frame, first, 0, 0, 0, residual)
        way.residual(sources, frame, first, 0, 0, 128, coded)
        np.testing.assert_array_equal(residual, difference)
        np.testing.assert_array_equal(coded, np.clip(difference + 128, 0, 255))


@pytest.mark.parametrize("how", [{}, {"b_frames": 2, "refs": 3}, {"codec": "mpeg4"}])
def test_clips_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Any) -> None:
    path = record(wandering(20, 98, 66, 9, noise=20), tmp_path / "clip.mp4", **how)
    found = []
    for way in (COMPILED, kernels.IN_NUMPY):
        monkeypatch.setattr(kernels, "fastest", lambda way=way: way)
        with open_video(path, anchor_every=6) as video:
            frames = every_frame(video)
            views = video.visit(motion=frames, residuals=frames)
            read = [(view.motion(), view.residual(), view.motion8(), view.residual8()) for view in views]
            found.append([array.tobytes() for arrays in read for array in arrays])
    assert found[0] == found[1]


def code_of(way: Any, motion: list[int]) -> list[int]:
    """The eight bits of one pixel's motion."""
    coded = np.empty((1, 2), np.uint8)
    way.code_motion(np.array([motion], np.int16), np.zeros((1, 2), np.int16), 0, 0, coded)
    return coded[0].tolist()


@pytest.mark.slow  # processes of their own
def test_what_was_compiled_is_kept_and_a_damaged_cache_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    first: Any = kernels.compiled()
    assert all(kernel.stats.cache_misses for kernel in first)
    again: Any = kernels.compiled()
    assert all(kernel.stats.cache_hits and not kernel.stats.cache_misses for kernel in again)
    for file in (path for path in tmp_path.rglob("*.nb?") if "_code_motion" in path.name):
        file.write_bytes(file.read_bytes()[:-20])
    assert code_of(kernels.compiled(), [3, 4]) == [147, 154]


@pytest.mark.slow
def test_where_nothing_can_be_written_it_is_compiled_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import caching

    monkeypatch.setattr(caching.FunctionCache._impl_class, "_locator_classes", [])  # as in a read-only installation
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(lambda: None)
    assert code_of(kernels.compiled(), [3, 4]) == [147, 154]


@pytest.mark.parametrize("why", ["missing", "switched off"])
def test_without_numba_numpy_does_the_work(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    if why == "missing":
        monkeypatch.setitem(sys.modules, "numba", None)
    else:
        monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    assert kernels.compiled() is None
    kernels.fastest.cache_clear()
    try:
        compile_kernels()
        assert kernels.fastest() is kernels.IN_NUMPY
    finally:
        kernels.fastest.cache_clear()


def test_only_motion_and_residuals_need_numba(tmp_path: Path) -> None:
    path = record(wandering(6, 64, 48, 3), tmp_path / "clip.mp4")
    code = (
        "import sys; from coviar_mocrop.bitstream import open_video; video = open_video(sys.argv[1]);"
        "video.get_iframes_at([0, 3]); video.get_motion_vectors_at();"
        "assert not {'numba', 'torch'} & set(sys.modules);"
        "video.get_motion_at([3]); assert 'numba' in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=300)
