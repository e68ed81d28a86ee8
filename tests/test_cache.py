"""The cache of rows by clip: boxes and features are computed once, kept on disk, and renewed if a file changes."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import record, wandering

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.clips import rows as rows_module
from coviar_mocrop.clips.boxes import box_of_file, boxes_of_list
from coviar_mocrop.clips.cache import ClipCache, open_box_cache
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.rows import Missing, compute_rows
from coviar_mocrop.clips.store import FileStore, State
from coviar_mocrop.errors import CoviarMocropError, DataError, VideoError
from coviar_mocrop.mocrop import CropBox, MoCropSettings, estimate_box

NAMES = [f"{number}.mp4" for number in range(20)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root of 20 files."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(b"x" * number)
    return folder


def opened(root: Path, dim: int = 3, dtype: Any = np.float32, **made_by: Any) -> ClipCache:
    return ClipCache(
        root.parent / "cache", FileStore(DataConfig(root=str(root), classes="")), "features", made_by, dim, dtype
    )


def number_of(name: str) -> np.ndarray:
    """A row of a clip: a third of its number, three times."""
    return np.full(3, int(Path(name).stem) / 3)


def change(path: Path) -> None:
    facts = path.stat()
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))


# -- the cache -------------------------------------------------------------------------------------------


def test_rows_come_back_in_the_caches_dtype_until_the_file_changes(root: Path) -> None:
    cache = opened(root)
    state = cache.store.state("3.mp4")
    assert state == State(3, (root / "3.mp4").stat().st_mtime_ns)
    assert cache.get("3.mp4") is None
    cache.put({})
    assert not cache.folder.exists()
    cache.put({"3.mp4": (state, np.array([1, 2, 1 / 3])), "nö.mp4": (cache.store.state("nö.mp4"), np.zeros(3))})
    for reader in (cache, opened(root)):
        row = reader.get("3.mp4")
        assert row is not None
        assert row.dtype == np.float32
        assert row.tolist() == [1, 2, float(np.float32(1 / 3))]
        assert reader.get("4.mp4") is reader.get("nö.mp4") is None  # the second is no file
    assert (cache.added, opened(root).added) == (2, 0)
    change(root / "3.mp4")
    assert cache.get("3.mp4") is None
    with np.load(next(cache.folder.glob("[0-9]*.npz"))) as file:
        assert json.loads(str(file["about"]))["root"] == str(root)  # for people


def test_of_two_rows_the_later_counts_whoever_wrote_it(root: Path) -> None:
    first, second = opened(root), opened(root)
    for cache, value in ((first, 1), (second, 2)):
        cache.put({name: (cache.store.state(name), np.full(3, value)) for name in NAMES[:2]})
    for cache, value in ((first, 1), (second, 2)):
        assert cache.get("1.mp4") is not None
        assert [row[0] for name in NAMES[:2] if (row := cache.get(name)) is not None] == [value, value]
    first.refresh()
    for cache in (first, opened(root)):
        assert [row[0] for name in NAMES[:2] if (row := cache.get(name)) is not None] == [2, 2]


@pytest.mark.parametrize("other", [{"made_by": 1}, {"dim": 4}, {"dtype": np.float64}])
def test_rows_made_otherwise_are_not_found(root: Path, other: dict[str, Any]) -> None:
    cache = opened(root)
    cache.put({"3.mp4": (cache.store.state("3.mp4"), np.zeros(3))})
    assert opened(root).get("3.mp4") is not None
    assert opened(root, **other).get("3.mp4") is None
    elsewhere = root.parent / "copy"
    root.rename(elsewhere)
    assert (
        ClipCache(
            root.parent / "cache", FileStore(DataConfig(root=str(elsewhere), classes="")), "features", {}, 3, np.float32
        ).get("3.mp4")
        is None
    )


@pytest.mark.parametrize("seed", range(20))
def test_damaged_files_count_as_empty(root: Path, seed: int) -> None:
    """Cut off or with bytes replaced: what is read is what was written, or nothing."""
    rng = np.random.default_rng(seed)
    cache = opened(root)
    rows = {name: rng.normal(size=3).astype(np.float32) for name in NAMES}
    cache.put({name: (cache.store.state(name), row) for name, row in rows.items()})
    (path,) = cache.folder.glob("[0-9]*")
    data = bytearray(path.read_bytes())
    for _ in range(30):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged if rng.random() < 0.8 else damaged[: rng.integers(len(data))])
        again = opened(root)
        for name, row in rows.items():
            found = again.get(name)
            assert found is None or found.tobytes() == row.tobytes()


def test_files_of_another_form_count_as_empty(root: Path) -> None:
    cache = opened(root)
    state = cache.store.state("3.mp4")
    whole = {"names": np.array(["3.mp4"]), "states": np.array([state]), "rows": np.zeros((1, 3), np.float32)}
    others: list[dict[str, Any]] = [
        {},
        {**whole, "rows": np.zeros((1, 4), np.float32)},
        {**whole, "rows": np.zeros((1, 3))},
        {**whole, "rows": np.full((1, 3), np.nan, np.float32)},
        {**whole, "names": np.array(["3.mp4", "4.mp4"])},
        {**whole, "names": np.array("3.mp4")},
        {**whole, "names": np.array([3])},
        {**whole, "states": np.array([[3.0, 0.5]])},
        {**whole, "names": np.array(["3.mp4"], dtype=object)},  # written as a pickle, which must not be loaded
    ]
    cache.folder.mkdir(parents=True)
    for arrays in others:
        np.savez(cache.folder / "1.npz", **arrays)
        assert opened(root).get("3.mp4") is None
    np.savez(cache.folder / "1.npz", **whole)
    assert opened(root).get("3.mp4") is not None


def test_what_cannot_be_kept_is_refused(root: Path) -> None:
    cache = opened(root)
    for value in (np.nan, np.inf, 1e300):  # the last is infinite in float32
        with pytest.raises(DataError, match=r"^4\.mp4: a number computed from it is not finite"):
            cache.put({n: (cache.store.state(n), np.array([0, value if n == "4.mp4" else 0, 0])) for n in NAMES})
    with pytest.raises(ValueError, match=r"4\.mp4: a row of shape"):
        cache.put({"4.mp4": (cache.store.state("4.mp4"), np.zeros(2))})
    assert not cache.folder.exists()
    for use in (cache.store.state, cache.store.open, cache.store.read):
        with pytest.raises(DataError, match="leaves the data root"):
            use("../secret.mp4")


def test_what_two_add_at_the_same_time_is_all_there(root: Path) -> None:
    def add(first: int) -> None:
        cache = opened(root)
        for number in range(first, 20, 2):
            cache.put({f"{number}.mp4": (cache.store.state(f"{number}.mp4"), np.full(3, number))})

    threads = [threading.Thread(target=add, args=(first,)) for first in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache = opened(root)
    assert [row[0] for name in NAMES if (row := cache.get(name)) is not None] == list(range(20))


# -- filling it ------------------------------------------------------------------------------------------


def fill(
    names: list[str], cache: ClipCache, compute: Callable[[str], np.ndarray], **options: Any
) -> tuple[dict[str, np.ndarray], dict[str, CoviarMocropError]]:
    """Rows and errors of a single cache."""
    options = {"progress": False, "threads": True, **options}
    rows, errors = compute_rows(names, {"row": cache}, lambda missing: {"row": compute(missing.clip)}, **options)
    assert list(rows) == list(dict.fromkeys(names))
    return {name: row["row"] for name, row in rows.items() if row}, {name: e["row"] for name, e in errors.items()}


def test_only_what_a_cache_lacks_is_computed(root: Path) -> None:
    caches = {"a": opened(root, split="a"), "b": opened(root, 2, split="b")}
    fill(NAMES[:5], caches["a"], number_of)
    asked = []

    def compute(missing: Missing) -> dict[str, np.ndarray]:
        asked.append(missing)
        return {key: np.full(caches[key].dim, len(asked)) for key in missing.caches}

    rows, _ = compute_rows(NAMES[:7], caches, compute, workers=1, progress=False, threads=True)
    assert asked == [*((name, ("b",)) for name in NAMES[:5]), *((name, ("a", "b")) for name in NAMES[5:7])]
    assert [row["b"].tolist() for row in rows.values()] == [[float(n)] * 2 for n in range(1, 8)]
    assert rows["3.mp4"]["a"].tolist() == [1.0] * 3
    assert opened(root, 2, split="b").get("6.mp4") is not None


def test_rows_are_computed_once_and_the_same_however_the_work_is_split(root: Path) -> None:
    whole, errors = fill([*NAMES, *NAMES], opened(root, split=0), number_of)
    assert not errors
    assert list(whole) == NAMES
    assert whole["7.mp4"].tolist() == [float(np.float32(7 / 3))] * 3  # as it will come from the cache
    for count in (1, 2, 3):
        split: dict[str, Any] = {}
        for shard in range(count):
            cache = opened(root, split=count)
            rows, _ = fill(NAMES[shard::count], cache, number_of, workers=shard)
            assert cache.added == len(rows)
            split |= rows
        assert {name: split[name].tobytes() for name in NAMES} == {name: row.tobytes() for name, row in whole.items()}
        again = opened(root, split=count)
        found, _ = fill(NAMES, again, _never)
        assert again.added == 0
        assert {name: row.tobytes() for name, row in found.items()} == {n: row.tobytes() for n, row in whole.items()}


def _never(name: str) -> np.ndarray:
    raise AssertionError("nothing is left to compute")


def test_errors_are_collected_and_tried_again(root: Path) -> None:
    def compute(name: str) -> np.ndarray:
        if name in ("5.mp4", "2.mp4"):
            raise VideoError(f"{name}: broken")
        return np.full(3, np.nan) if name == "3.mp4" else number_of(name)

    rows, errors = fill(NAMES, opened(root), compute)
    assert list(errors) == ["2.mp4", "3.mp4", "5.mp4"]
    assert str(errors["5.mp4"]) == "5.mp4: broken"
    assert "not finite" in str(errors["3.mp4"])
    assert list(rows) == [name for name in NAMES if name not in errors]
    cache = opened(root)
    rows, errors = fill(NAMES, cache, number_of)
    assert (len(rows), len(errors), cache.added) == (20, 0, 3)
    _, errors = fill(["/etc/passwd"], cache, number_of)
    assert "leaves the data root" in str(errors["/etc/passwd"])


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ZeroDivisionError])
def test_what_was_computed_before_an_interruption_is_kept(root: Path, stop: type[BaseException]) -> None:
    def compute(name: str) -> np.ndarray:
        if name == "12.mp4":
            raise stop
        return number_of(name)

    with pytest.raises(stop):
        fill(NAMES, opened(root), compute, workers=1)
    cache = opened(root)
    assert all(cache.get(name) is not None for name in NAMES[:12])
    assert cache.get("12.mp4") is None


def test_many_clips_are_kept_in_portions(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_SAVE_EVERY", 8)
    cache = opened(root)
    rows, _ = fill(NAMES, cache, number_of)
    assert list(rows) == NAMES
    assert len(list(cache.folder.glob("[0-9]*"))) == 3


def test_a_file_that_changes_while_it_is_read_is_read_again(root: Path) -> None:
    def compute(name: str) -> np.ndarray:
        change(root / name)
        return number_of(name)

    cache = opened(root)
    rows, _ = fill(NAMES[:1], cache, compute)
    assert list(rows) == NAMES[:1]
    assert cache.get(NAMES[0]) is None


def test_one_cache_may_lack_what_another_has(root: Path) -> None:
    caches = {"a": opened(root, split="a"), "b": opened(root, 2, split="b")}

    def compute(missing: Missing) -> dict[str, Any]:
        return {"a": VideoError("no a"), "b": np.full(2, np.nan if missing.clip == "1.mp4" else 4)}

    rows, errors = compute_rows(NAMES[:2], caches, compute, threads=True, progress=False)
    assert {name: list(found) for name, found in rows.items()} == {"0.mp4": ["b"], "1.mp4": []}
    assert {name: list(found) for name, found in errors.items()} == {"0.mp4": ["a"], "1.mp4": ["a", "b"]}
    assert (str(errors["0.mp4"]["a"]), caches["a"].added, caches["b"].added) == ("no a", 0, 1)


def test_threads_compute_with_one_thread_of_torch_each(root: Path) -> None:
    threads = []

    def compute(name: str) -> np.ndarray:
        threads.append(torch.get_num_threads())
        return number_of(name)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    fill(NAMES, opened(root), compute, workers=2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    assert threads == [1] * 20


# -- boxes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips of 40 frames in GOPs of 20."""
    folder = tmp_path_factory.mktemp("boxes")
    for seed in range(3):
        record(wandering(40, 96, 64, 4, seed=seed), folder / f"{seed}.mp4", gop=20)
    return folder


def data_of(videos: Path, cache: Path, **changes: Any) -> DataConfig:
    return DataConfig(root=str(videos), classes="none", cache=str(cache), **changes)


def expected(path: Path, settings: MoCropSettings, frames: Callable[[Any], list[int] | None]) -> CropBox:
    with open_video(path) as video:
        vectors = video.get_motion_vectors_at(frames(video))
        return estimate_box(vectors, (video.info.height, video.info.width), settings)


def test_boxes_are_computed_once_kept_and_renewed(videos: Path, tmp_path: Path) -> None:
    settings = MoCropSettings(area_ratio=0.4)
    data = data_of(videos, tmp_path)
    names = ["0.mp4", "1.mp4"]
    boxes, errors, computed, _ = boxes_of_list(names, data, settings, progress=False)
    assert (errors, computed) == ({}, 2)
    assert boxes == {name: expected(videos / name, settings, lambda video: None) for name in names}
    assert boxes_of_list(names, data, settings, progress=False)[:3] == (boxes, {}, 0)
    assert open_box_cache(data, MoCropSettings(), FileStore(data)).get("0.mp4") is None
    change(videos / "0.mp4")
    assert boxes_of_list(names, data, settings, progress=False)[:3] == (boxes, {}, 1)
    assert boxes_of_list(names, data, settings, progress=False)[:3] == (boxes, {}, 0)
    (tmp_path / "text.mp4").write_text("no video")
    boxes, errors, _, _ = boxes_of_list(["text.mp4", "none.mp4"], data_of(tmp_path, tmp_path), settings, progress=False)
    assert boxes == {}
    assert all(isinstance(errors[name], CoviarMocropError) for name in ("text.mp4", "none.mp4"))


def test_sparse_boxes_depend_on_the_longest_gop_and_others_do_not(videos: Path, tmp_path: Path) -> None:
    """Which frames are read depends on the GOPs: from GOPs of 20 the first 9 that move, from GOPs of 5 all."""
    sparse = MoCropSettings(area_ratio=0.4, sparse=True, sparse_gops=1, sparse_frames=10)
    plain = MoCropSettings(area_ratio=0.4)
    frames = {None: [*range(1, 10), *range(21, 30)], 5: [frame for frame in range(40) if frame % 5]}
    names = [f"{number}.mp4" for number in range(3)]
    found = {}
    for anchor_every, numbers in frames.items():
        data = data_of(videos, tmp_path, anchor_every=anchor_every)
        found[anchor_every] = boxes_of_list(names, data, sparse, progress=False).boxes
        for name in names:
            box = expected(videos / name, sparse, lambda video, numbers=numbers: numbers)
            assert found[anchor_every][name] == box == box_of_file(videos / name, sparse, anchor_every=anchor_every)
        assert boxes_of_list(names, data, plain, progress=False).computed == (3 if anchor_every is None else 0)
    assert found[None] != found[5]
