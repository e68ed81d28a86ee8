"""Bad files give usable data, the same every time, or one clear error that names the file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import decode, every_frame, read_packets, record, wandering, warp, write_sound

from coviar_mocrop.bitstream import open_video, transcode
from coviar_mocrop.errors import CoviarMocropError, VideoError

CLIPS: dict[str, dict[str, Any]] = {
    "h264_b.mp4": {"b_frames": 2, "refs": 2},
    "h264.h264": {},
    "mpeg4.m4v": {"codec": "mpeg4"},
    "mpeg4_b.avi": {"codec": "mpeg4", "b_frames": 2},
    "mpeg2.mkv": {"codec": "mpeg2video"},
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Sound clips of 20 frames, 82x50 pixels, by name."""
    folder = tmp_path_factory.mktemp("damage")
    pictures = wandering(20, 82, 50, 6, noise=4)
    return {name: record(pictures, folder / name, gop=8, **how).read_bytes() for name, how in CLIPS.items()}


def outcome(path: Path, backend: Any = "auto") -> str:
    """A hash over all that can be read, which is checked to be usable; or the error, checked to be a good one."""
    try:
        with open_video(path, backend=backend) as video:
            frames = every_frame(video)
            assert len(frames) == video.info.num_frames > 0
            motion, residual = video.get_motion_at(frames), video.get_residuals_at(frames)
            first = video.get_iframes_at(frames)
            vectors = video.get_motion_vectors_at()
        with open_video(path, backend=backend, anchor_every=1) as video:
            pictures = video.get_iframes_at(every_frame(video))
    except CoviarMocropError as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
        return message
    rows, columns = np.indices(motion.shape[1:3])
    assert ((columns - motion[..., 0] >= 0) & (columns - motion[..., 0] < motion.shape[2])).all()
    assert ((rows - motion[..., 1] >= 0) & (rows - motion[..., 1] < motion.shape[1])).all()
    warped = np.stack([warp(*pair) for pair in zip(first, motion, strict=True)])
    np.testing.assert_array_equal(warped + residual, pictures)
    found = hashlib.sha256()
    for array in (motion, residual, first, *vectors):
        found.update(array.tobytes())
    return found.hexdigest()


def damage(data: bytes, seed: int) -> bytes:
    """Single bytes changed, a stretch overwritten or a stretch lost."""
    rng = np.random.default_rng(seed)
    damaged = np.frombuffer(data, np.uint8).copy()
    start, length = int(rng.integers(len(data))), int(rng.integers(1, len(data) // 8))
    if seed % 3 == 0:
        frames = rng.integers(0, len(data), int(rng.integers(1, 12)))
        damaged[frames] = rng.integers(0, 256, len(frames))
    elif seed % 3 == 1:
        stretch = damaged[start : start + length]
        stretch[:] = rng.integers(0, 256, len(stretch))
    else:
        damaged = np.delete(damaged, np.s_[start : start + length])
    return damaged.tobytes()


@pytest.mark.slow  # fuzzing
@pytest.mark.parametrize("name", CLIPS)
def test_random_damage(tmp_path: Path, clips: dict[str, bytes], name: str) -> None:
    path = tmp_path / name
    path.write_bytes(clips[name])
    sound = outcome(path)
    outcomes = []
    for seed in range(15):
        path.write_bytes(damage(clips[name], seed))
        outcomes.append(outcome(path))
        assert outcome(path) == outcomes[-1], f"seed {seed} is not the same again"
    assert sum(found != sound for found in outcomes) > 7
    assert any(": " not in found for found in outcomes), "none was readable"


@pytest.mark.parametrize("name", CLIPS)
def test_random_damage_with_pyav_alone(tmp_path: Path, clips: dict[str, bytes], name: str) -> None:
    path = tmp_path / name
    for seed in range(100, 105):
        path.write_bytes(damage(clips[name], seed))
        assert outcome(path, "pyav") == outcome(path, "pyav"), f"seed {seed}"


@pytest.mark.parametrize("name", CLIPS)
def test_every_way_of_reading_a_damaged_clip_gives_the_same(tmp_path: Path, clips: dict[str, bytes], name: str) -> None:
    path = tmp_path / name
    read = 0
    for seed in range(0, 24, 2):
        path.write_bytes(damage(clips[name], seed))
        try:
            with open_video(path, anchor_every=5) as video:
                frames = every_frame(video)
                kinds: dict[Any, list[int]] = dict.fromkeys(("frame", "mv", "residual"), frames)
                whole = video.get(kinds)
                vectors = video.get_motion_vectors_at()
                for frame in frames:
                    for kind, array in whole.items():
                        assert (video.get({kind: [frame]})[kind][0] == array[frame]).all(), (
                            f"seed {seed}: {kind} {frame}"
                        )
                    same = video.get_motion_vectors_at([frame])[0].tobytes() == vectors[frame].tobytes()
                    assert same, f"seed {seed}: vectors of {frame} differ from those of a whole pass"
                read += 1
        except VideoError:
            continue
    assert read > 3


def test_a_key_frame_that_is_lost_shows_the_next_frame(tmp_path: Path) -> None:
    """Whether that is read with it or not."""
    path = record(wandering(16, 82, 50, 6, noise=4), tmp_path / "clip.mp4", gop=8)
    with open_video(path) as video:
        lost = bytes(next(video._pyav._packets.read([8])))
    path.write_bytes(path.read_bytes().replace(lost, b"\xff" * len(lost)))
    with open_video(path) as video:
        found = video.get_frames_at(range(16))
        for frame in (8, 9, 12):
            np.testing.assert_array_equal(video.get_frames_at([frame])[0], found[frame])
        shown = next(frame for frame in range(9, 16) if (found[frame] != found[8]).any())
        assert (found[8] == found[shown - 1]).all()


@pytest.mark.parametrize("suffix", [".mp4", ".h264"])
def test_vectors_of_damaged_blocks_do_not_depend_on_pixels(tmp_path: Path, suffix: str) -> None:
    """Where pixels are not asked for, the loop filter does not run, from whose output a decoder may guess vectors."""
    path = record(wandering(20, 176, 144, 6, noise=4), tmp_path / f"clip{suffix}", gop=8)
    data = path.read_bytes()
    read = 0
    for seed in range(9, 60, 6):
        path.write_bytes(damage(data, seed))
        try:
            with open_video(path, backend="pyav") as video:
                frames = every_frame(video)
                alone = video.get_motion_at(frames)
                beside = video.get({"mv": frames, "residual": frames})["mv"]
                np.testing.assert_array_equal(alone, beside, err_msg=f"seed {seed}")
                read += 1
        except VideoError:
            continue
    assert read > 5


@pytest.mark.parametrize("name", CLIPS)
def test_truncated_at_several_places(tmp_path: Path, clips: dict[str, bytes], name: str) -> None:
    path = tmp_path / name
    data = clips[name]
    outcomes = []
    for size in [1, 3, 20, 100, *(len(data) * part // 10 for part in range(1, 10)), len(data) - 1]:
        path.write_bytes(data[:size])
        outcomes.append(outcome(path))
        assert outcome(path) == outcomes[-1], f"{size} bytes"
    if not name.endswith(".mp4"):  # whose index comes last
        assert sum(": " not in found for found in outcomes) > 5


def test_frames_before_the_damage_are_untouched(tmp_path: Path, clips: dict[str, bytes]) -> None:
    path = tmp_path / "clip.m4v"
    path.write_bytes(clips["mpeg4.m4v"])
    pictures = decode(path)
    path.write_bytes(clips["mpeg4.m4v"][: len(clips["mpeg4.m4v"]) * 3 // 4])
    with open_video(path, anchor_every=1) as video:
        count = video.info.num_frames
        assert 8 < count < 20
        np.testing.assert_array_equal(video.get_iframes_at(every_frame(video))[:-1], pictures[: count - 1])


def test_a_lost_frame_repeats_the_one_before(tmp_path: Path) -> None:
    """Its data are there but cannot be decoded, so that all other frames keep their number."""
    path = record(wandering(16, 82, 50, 6, noise=4), tmp_path / "clip.mp4", gop=8)
    pictures = decode(path)
    with open_video(path) as video:
        sound = video.get_motion_at(every_frame(video))
        lost = bytes(next(video._pyav._packets.read([11])))
    data = path.read_bytes()
    path.write_bytes(data.replace(lost, b"\xff" * len(lost)))
    for backend in ("pyav", "auto"):
        with open_video(path, backend=backend, anchor_every=1) as video:  # type: ignore[arg-type]
            assert video.info.num_frames == 16
            found = video.get_iframes_at(every_frame(video))
            np.testing.assert_array_equal(found[:11], pictures[:11])
            np.testing.assert_array_equal(found[11], pictures[10])
        with open_video(path, backend=backend) as video:  # type: ignore[arg-type]
            motion = video.get_motion_at(every_frame(video))
            residual = video.get_residuals_at(every_frame(video))
            np.testing.assert_array_equal(motion[:11], sound[:11])
            np.testing.assert_array_equal(motion[11], motion[8 + 3 - 1])
            for frame, gop in [(frame, frame // 8) for frame in range(16)]:
                rebuilt = warp(found[gop * 8], motion[frame]) + residual[frame]
                np.testing.assert_array_equal(rebuilt, found[frame])


# -- damage that is noticed --------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLIPS)
def test_concealed_damage_is_counted(tmp_path: Path, name: str) -> None:
    """However frames are read, in whatever order, and however often; where they are decoded for it."""
    path = record(wandering(20, 98, 66, 6, noise=4), tmp_path / name, gop=5, **CLIPS[name])
    data, packets = path.read_bytes(), read_packets(path)
    # of the second and the third GOP the largest frame but the key frame: B-frames are too small
    lost = [sorted(packets[start : start + 5], key=len)[-2] for start in (5, 10)]
    with open_video(path) as video:
        video.get_frames_at(every_frame(video))
        assert video.damaged_frames == 0
    for packet in lost:
        assert packet in data
        data = data.replace(packet, packet[:60] + b"\xff" * (len(packet) - 60))
    path.write_bytes(data)
    counts = set()
    for kind in ("frame", "mv", "residual"):
        with open_video(path) as video:
            for order in (every_frame(video), every_frame(video)[::-1]):
                video.get({kind: order})  # type: ignore[dict-item]
                counts.add(video.damaged_frames)
    assert counts == {2}
    with open_video(path) as video:
        video.get_frames_at([3])
        assert video.damaged_frames == 0  # nothing of the GOPs that are damaged was decoded
        assert len(video.get_motion_vectors_at([19])) == 1
        assert video.damaged_frames == 0
    assert transcode(path, tmp_path / "out.mp4", size=None).damaged_frames == 2


def test_frames_that_are_replaced_are_counted(tmp_path: Path) -> None:
    path = record(wandering(16, 82, 50, 6, noise=4), tmp_path / "clip.mp4", gop=8)
    data, lost = path.read_bytes(), read_packets(path)[11]
    path.write_bytes(data.replace(lost, b"\xff" * len(lost)))
    with open_video(path) as video:
        video.get_frames_at([10])
        assert video.damaged_frames == 0
        video.get_frames_at([15])
        assert video.damaged_frames == 1
    assert transcode(path, tmp_path / "out.mp4", size=None).damaged_frames == 1


@pytest.mark.parametrize("cache", [False, True])
def test_a_packet_that_the_container_calls_corrupt_is_counted(tmp_path: Path, cache: bool) -> None:
    """In MPEG-TS a counter tells that a part is missing."""
    path = record(wandering(20, 98, 66, 6, noise=20), tmp_path / "clip.ts", gop=5, quality=5)
    data = path.read_bytes()
    pieces = [data[at : at + 188] for at in range(0, len(data), 188)]
    middle = len(pieces) // 2
    path.write_bytes(b"".join(pieces[:middle] + pieces[middle + 1 :]))
    for _ in range(2):
        with open_video(path, index_cache=tmp_path / "cache" if cache else None) as video:
            video.get_frames_at(every_frame(video))
            assert 1 <= video.damaged_frames <= 2


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("open.mp4", {"b_frames": 2, "open_gop": True}),
        ("open.h264", {"b_frames": 2, "open_gop": True}),
        ("hevc.mp4", {"codec": "libx265"}),
        ("vp9.webm", {"codec": "libvpx-vp9"}),
        ("mpeg2_b.mpg", {"codec": "mpeg2video", "b_frames": 2}),
        ("wmv2.asf", {"codec": "wmv2"}),
    ],
)
def test_sound_files_have_no_damaged_frames(tmp_path: Path, name: str, how: dict[str, Any]) -> None:
    path = record(wandering(26, 98, 66, 7, noise=4), tmp_path / name, gop=10, **how)
    with open_video(path) as video:
        for frame in every_frame(video)[::-3]:
            video.get_frames_at([frame])
        assert video.damaged_frames == 0


@pytest.mark.parametrize("backend", ["auto", "pyav", "mvextractor"])
@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "sound", "picture data", "zeros"])
def test_no_video(tmp_path: Path, kind: str, backend: Any) -> None:
    path = tmp_path / "clip.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("This is a text, no video.\n" * 50)
    elif kind == "sound":
        write_sound(path)
    elif kind == "picture data":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "zeros":
        path.write_bytes(bytes(5000))
    with pytest.raises(VideoError) as error:
        open_video(path, backend=backend)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    expected = {"missing": "no such file", "folder": "folder", "empty": "empty", "sound": "no video stream"}
    assert expected.get(kind, "is not a readable video") in message
