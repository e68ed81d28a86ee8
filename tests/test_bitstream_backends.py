"""The two backends agree where both are right, the right one is chosen, and vectors never vary."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import every_frame, may_refuse, read_packets, record, remux, wandering

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.errors import VideoError

WITHOUT_B_FRAMES: dict[str, dict[str, Any]] = {
    "h264.mp4": {"codec": "libx264"},
    "refs.mkv": {"codec": "libx264", "refs": 4},
    "odd_444.mp4": {"codec": "libx264", "size": (97, 65)},
    "h264.h264": {"codec": "libx264"},
    "mpeg4.m4v": {"codec": "mpeg4"},
    "mpeg4.avi": {"codec": "mpeg4", "size": (97, 70)},
    "odd_height.avi": {"codec": "mpeg4", "size": (96, 75)},
}


@pytest.fixture(scope="module")
def with_b_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large and busy enough for frame threads to get its vectors wrong."""
    path = tmp_path_factory.mktemp("backends") / "b_frames.mp4"
    return record(wandering(40, 176, 144, 9, noise=3), path, gop=20, b_frames=3, refs=3)


def extractor() -> None:
    """Skip the test where mvextractor does not load."""
    pytest.importorskip("mvextractor.videocap", exc_type=ImportError)


@pytest.mark.parametrize("name", WITHOUT_B_FRAMES)
@pytest.mark.parametrize("anchor_every", [5, None])
def test_backends_agree_bit_for_bit(tmp_path: Path, name: str, anchor_every: int | None) -> None:
    extractor()
    how = WITHOUT_B_FRAMES[name].copy()
    path = record(wandering(26, *how.pop("size", (98, 66)), 7, noise=4), tmp_path / name, gop=10, **how)
    with (
        open_video(path, backend="pyav", anchor_every=anchor_every) as ours,
        open_video(path, backend="mvextractor", anchor_every=anchor_every) as theirs,
    ):
        assert (ours.info.backend, theirs.info.backend) == ("pyav", "mvextractor")
        assert ours.gops == theirs.gops
        frames = every_frame(ours)
        one, other = (video.get({"iframe": frames, "mv": frames, "residual": frames}) for video in (ours, theirs))
        for kind, array in one.items():
            np.testing.assert_array_equal(array, other[kind])
        vectors = ours.get_motion_vectors_at()
        assert sum(map(len, vectors)) > 100
        for frame, (a, b) in enumerate(zip(vectors, theirs.get_motion_vectors_at(), strict=True)):
            assert a.dtype == b.dtype
            assert a.tobytes() == b.tobytes(), f"frame {frame}"
        for frame, a in zip(frames, vectors, strict=True):
            assert theirs.get_motion_vectors_at([frame])[0].tobytes() == a.tobytes()
        some = {"iframe": [3, 20], "mv": [23], "residual": [4]}  # pixels of some GOPs, vectors of others
        for a, b in zip(ours.get(some).values(), theirs.get(some).values(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_auto_takes_pyav_without_b_frames_too(tmp_path: Path) -> None:
    """Damage makes mvextractor's vectors vary as well, and nothing tells of it beforehand."""
    path = record(wandering(12, 64, 48, 5), tmp_path / "clip.mp4")
    with open_video(path) as video:
        assert video.info.backend == "pyav"


def test_auto_takes_pyav_with_b_frames(with_b_frames: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_video(with_b_frames) as video:
            assert video.info.has_b_frames
            assert video.info.backend == "pyav"
            video.get_motion_vectors_at()


def test_auto_works_without_mvextractor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mvextractor.videocap", None)
    path = record(wandering(12, 64, 48, 5), tmp_path / "clip.mp4")
    with open_video(path) as video:
        assert video.info.backend == "pyav"
        assert len(video.get_motion_vectors_at()) == 12
    with pytest.raises(VideoError, match="not installed") as error:
        open_video(path, backend="mvextractor")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_asking_mvextractor_for_b_frames_warns_once(with_b_frames: Path) -> None:
    extractor()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with open_video(with_b_frames, backend="mvextractor") as video:
            video.get_motion_vectors_at()
            video.get_iframes_at([0])
            video.get_motion_at([5])
    ours = [warning for warning in caught if "B-frames" in str(warning.message)]
    assert len(ours) == 1
    assert str(with_b_frames) in str(ours[0].message)
    assert ours[0].filename == __file__


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
@pytest.mark.parametrize("backend", ["auto", "pyav", "mvextractor"])
def test_a_frame_that_is_not_coded_repeats_the_one_before(tmp_path: Path, suffix: str, backend: Any) -> None:
    """MPEG-4 encoders write an empty frame for one that did not change; decoders give no frame for it."""
    if backend == "mvextractor":
        extractor()
    plain = record(wandering(20, 98, 66, 7, noise=4), tmp_path / "plain.m4v", codec="mpeg4", gop=10)
    packets = read_packets(plain)
    packets.insert(5, b"\0\0\1\xb6\x51\x40\x7f")
    path = remux(packets, plain, tmp_path / f"not_coded{suffix}")
    frames = [*range(5), 4, *range(5, 20)]
    with open_video(plain, backend="pyav", anchor_every=1) as video:
        pictures = video.get_iframes_at(every_frame(video))[frames]
        vectors = [v.tobytes() for v in video.get_motion_vectors_at(frames)]
    vectors[5] = b""
    with may_refuse(backend, path), open_video(path, backend=backend, anchor_every=1) as video:
        assert video.info.num_frames == 21
        np.testing.assert_array_equal(video.get_iframes_at(every_frame(video)), pictures)
        assert [v.tobytes() for v in video.get_motion_vectors_at()] == vectors
        assert [video.get_motion_vectors_at([frame])[0].tobytes() for frame in range(21)] == vectors


# -- determinism -------------------------------------------------------------------------------------

PRINT_DIGEST = """
import sys
sys.path.insert(0, sys.argv[1])
from test_bitstream_backends import digest
print(digest(sys.argv[2]))
"""


def digest(path: str) -> str:
    """A hash over the vectors of every frame, in one pass and GOP by GOP, and over accumulated motion."""
    found = hashlib.sha256()
    with open_video(path) as video:
        for vectors in video.get_motion_vectors_at():
            found.update(vectors.tobytes())
        for frame in every_frame(video)[::7]:
            found.update(video.get_motion_vectors_at([frame])[0].tobytes())
        found.update(video.get_motion_at(every_frame(video)).tobytes())
    return found.hexdigest()


@pytest.mark.slow  # processes of their own
def test_vectors_of_b_frames_never_vary(with_b_frames: Path) -> None:
    found = {digest(str(with_b_frames)) for _ in range(4)}
    command = [sys.executable, "-c", PRINT_DIGEST, str(Path(__file__).parent), str(with_b_frames)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found |= {run.communicate(timeout=300)[0].strip() for run in runs}
    assert len(found) == 1
    assert [run.returncode for run in runs] == [0, 0]


def _read_again(path: Path) -> None:
    gc.collect()
    with open_video(path) as video:
        video.get_residuals_at([3])


def test_reading_goes_on_in_a_forked_process(tmp_path: Path) -> None:
    """What reading leaves behind must not hang a data loading worker that frees it."""
    path = record(wandering(12, 200, 160, 5), tmp_path / "clip.mp4")
    gc.collect()  # the other tests' frames are not the question
    video = open_video(path)
    kept = [video.get_residuals_at(range(1, 12)), video]
    loop: list[object] = [kept]
    loop.append(loop)  # only the garbage collector frees it
    del video, kept, loop
    child = multiprocessing.get_context("fork").Process(target=_read_again, args=(path,))
    child.start()
    child.join(30)
    hangs = child.is_alive()
    child.kill()
    assert not hangs
    assert child.exitcode == 0
