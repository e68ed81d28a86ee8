"""Reading arrays: in threads, and what is refused."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from coviar_mocrop.arrays import read_arrays

ROWS = np.zeros(3, dtype=[("a", "<i8"), ("b", "<f8", 4)])


def packed(**arrays: object) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


@pytest.fixture
def collected_often() -> Iterator[None]:
    """Python code runs, and so threads change, in the middle of whatever makes objects."""

    def callback(phase: str, info: dict[str, int]) -> None:
        sum(range(20))

    before = gc.get_threshold()
    gc.callbacks.append(callback)
    gc.set_threshold(20, 2, 2)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(callback)


@pytest.mark.usefixtures("collected_often")
def test_threads_read_what_one_reads() -> None:
    data = packed(names=np.array([b"a"]), rows=ROWS)
    with ThreadPoolExecutor(16) as pool:
        assert all(rows.dtype == ROWS.dtype for (rows,) in pool.map(lambda _: read_arrays(data, "rows"), range(400)))


def test_the_order_is_that_of_the_names(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(packed(a=1, b=2, c=3))
    for source in (path, str(path), path.read_bytes()):
        assert [int(array) for array in read_arrays(source, "c", "a")] == [3, 1]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    whole = packed(a=np.arange(9), objects=np.array([{}], dtype=object))
    array = io.BytesIO()
    np.save(array, ROWS)
    for data, name in ((b"", "a"), (b"none", "a"), (whole[:-30], "a"), (array.getvalue(), "a"), (whole, "objects")):
        with pytest.raises(ValueError, match="damaged"):
            read_arrays(data, name)
    with pytest.raises(ValueError, match="damaged"):
        read_arrays(whole, "b")
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "none.npz", "a")
