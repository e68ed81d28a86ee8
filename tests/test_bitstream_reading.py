"""``open_video``: what it reports, how GOPs are cut, that every way of reading gives the same, and its errors."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import decode, every_place, record, wandering

from coviar_mocrop.bitstream import Gop, Video, open_video
from coviar_mocrop.bitstream.transcode import encode
from coviar_mocrop.errors import CoviarMocropError, VideoError

STREAMS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"codec": "libx264"},
    "h264_b.mp4": {"codec": "libx264", "b_frames": 2, "refs": 3},
    "h264_open_gop.mkv": {"codec": "libx264", "b_frames": 3, "open_gop": True},
    "mpeg4.m4v": {"codec": "mpeg4"},
    "mpeg4_b.avi": {"codec": "mpeg4", "b_frames": 2},
    "mpeg2.ts": {"codec": "mpeg2video"},
    "mpeg2_b.ts": {"codec": "mpeg2video", "b_frames": 2},
}


@pytest.fixture(scope="module", params=STREAMS)
def stream(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 26 frames, a key frame about every 10."""
    path = tmp_path_factory.mktemp("reading") / request.param
    return record(wandering(26, 98, 66, 7, noise=4), path, gop=10, **STREAMS[request.param])


@pytest.fixture(scope="module")
def canonical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames, 98x66, GOP 12."""
    path = tmp_path_factory.mktemp("reading") / "canonical.mp4"
    encode(wandering(30, 98, 66, 7, noise=4), path)
    return path


def test_info(canonical: Path) -> None:
    with open_video(canonical, backend="pyav") as video:
        info = video.info
    assert (info.codec, info.width, info.height, info.num_frames) == ("h264", 98, 66, 30)
    assert (info.frame_rate, info.has_b_frames, info.backend, info.rotation) == (25.0, False, "pyav", 0)


@pytest.mark.parametrize("convert", [str, Path])
def test_paths_of_either_kind(canonical: Path, convert: Callable[[Path], Any]) -> None:
    with open_video(convert(canonical)) as video:
        assert video.info.num_frames == 30


@pytest.mark.parametrize(
    ("anchor_every", "gops"),
    [
        (None, [(0, 12), (12, 12), (24, 6)]),
        (12, [(0, 12), (12, 12), (24, 6)]),
        (100, [(0, 12), (12, 12), (24, 6)]),
        (5, [(0, 5), (5, 5), (10, 2), (12, 5), (17, 5), (22, 2), (24, 5), (29, 1)]),
        (1, [(frame, 1) for frame in range(30)]),
    ],
)
def test_gops_are_cut_at_key_frames_and_anchors(
    canonical: Path, anchor_every: int | None, gops: list[tuple[int, int]]
) -> None:
    with open_video(canonical, anchor_every=anchor_every) as video:
        assert list(video.gops) == gops
        assert all(isinstance(gop, Gop) for gop in video.gops)


def test_one_key_frame_only(tmp_path: Path) -> None:
    path = record(wandering(26, 64, 48, 5), tmp_path / "long.mp4", gop=100)
    with open_video(path, anchor_every=None) as video:
        assert list(video.gops) == [(0, 26)]
    with open_video(path) as video:
        assert list(video.gops) == [(0, 12), (12, 12), (24, 2)]


def test_gops_of_b_frame_streams_start_at_key_frames(stream: Path) -> None:
    with open_video(stream, anchor_every=None) as video:
        assert video.gops[0].start == 0
        assert [gop.start + gop.length for gop in video.gops] == [*[gop.start for gop in video.gops[1:]], 26]
        assert [len(video.motion_vectors(gop, 0)) for gop in video.gops] == [0] * len(video.gops)
        assert len(video.gops) == 3


def same(video: Video, kind: Any, place: tuple[int, int], expected: np.ndarray) -> bool:
    """Whether the method for one frame gives what the pass gave."""
    method = {"mv": video.accumulated_motion, "residual": video.residual}.get(kind)
    found = method(*place) if method else video.iframe(place[0])
    return found.dtype == expected.dtype and bool((found == expected).all())


@pytest.mark.parametrize("kind", ["iframe", "mv", "residual"])
@pytest.mark.parametrize("anchor_every", [4, None])
def test_one_pass_gives_what_single_reads_give(stream: Path, kind: Any, anchor_every: int | None) -> None:
    with open_video(stream, anchor_every=anchor_every) as video:
        places = every_place(video)
        expected = video.read(kind, places)
        channels = 2 if kind == "mv" else 3
        assert expected.shape == (26, 66, 98, channels)
        assert expected.dtype == (np.uint8 if kind == "iframe" else np.int16)
        different = [p for p, row in zip(places, expected, strict=True) if not same(video, kind, p, row)]
        assert different == []


@pytest.mark.parametrize("kind", ["iframe", "mv", "residual"])
def test_any_order_and_repeats(stream: Path, kind: Any) -> None:
    with open_video(stream, anchor_every=4) as video:
        places = every_place(video)
        by_place = dict(zip(places, video.read(kind, places), strict=True))
        mixed = places + places[::3]
        random.Random(0).shuffle(mixed)
        found = video.read(kind, mixed)
        assert all((row == by_place[place]).all() for place, row in zip(mixed, found, strict=True))
        some = [places[-1], places[3], places[3], places[11]]
        assert (video.read(kind, some) == np.stack([by_place[place] for place in some])).all()
        assert video.read(kind, []).shape == (0, *found.shape[1:])


def test_vectors_of_all_of_some_and_of_one_frame(stream: Path) -> None:
    with open_video(stream, backend="pyav", anchor_every=4) as video:
        whole = video.vectors()
        assert len(whole) == 26
        assert sum(len(vectors) > 0 for vectors in whole) == 26 - 3
        single = [video.motion_vectors(*place) for place in every_place(video)]
        assert [a.tobytes() == b.tobytes() for a, b in zip(whole, single, strict=True)] == [True] * 26
        some = [25, 3, 3, 14]
        assert [v.tobytes() for v in video.vectors(some)] == [whole[frame].tobytes() for frame in some]
        assert video.vectors([]) == []


def test_automatic_backend_gives_the_same_vectors(stream: Path) -> None:
    with open_video(stream, backend="pyav") as video, open_video(stream) as automatic:
        ours, theirs = video.vectors(), automatic.vectors()
        assert [a.tobytes() == b.tobytes() for a, b in zip(ours, theirs, strict=True)] == [True] * 26


def test_read_many_gives_what_read_gives(stream: Path) -> None:
    with open_video(stream, anchor_every=4) as video:
        places = every_place(video)
        asked: dict[Any, Any] = {"iframe": places[::5], "residual": places[3:9], "mv": places[::-2]}
        found = video.read_many(asked)
        assert list(found) == list(asked)
        for kind, some in asked.items():
            assert (found[kind] == video.read(kind, some)).all()
        assert video.read_many({}) == {}


def test_decoded_frames_are_the_decoders_in_the_same_pass(stream: Path) -> None:
    expected = decode(stream)
    with open_video(stream, anchor_every=4) as video:
        places = every_place(video)
        found = video.read_many({"frame": places[::-1], "iframe": places[:5], "mv": places[3:6]})
        assert found["frame"].dtype == np.uint8
        numbers = [video.gops[gop].start + pos for gop, pos in places[::-1]]
        assert (found["frame"] == np.stack([expected[number] for number in numbers])).all()
        assert (found["iframe"][4] == expected[4]).all()
        assert (found["mv"] == video.read("mv", places[3:6])).all()


def test_read_many_decodes_once(canonical: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_video(canonical, backend="pyav") as video:
        passes = []
        frames = video._pyav.frames

        def counted(*spans: Any, **how: Any) -> Any:
            passes.append(spans)
            return frames(*spans, **how)

        monkeypatch.setattr(video._pyav, "frames", counted)
        video.read_many({"iframe": [(0, 0)], "mv": [(0, 3), (2, 1)], "residual": [(0, 5)], "frame": [(0, 4)]})
        assert passes == [([(0, 5), (24, 25)],)]  # the GOPs that are needed, as far as they are needed


def test_gops_themselves_serve_as_places(canonical: Path) -> None:
    with open_video(canonical, anchor_every=5) as video:
        for number, gop in enumerate(video.gops):
            last = gop.length - 1
            assert (video.iframe(gop) == video.iframe(number)).all()
            assert (video.accumulated_motion(gop, last) == video.accumulated_motion(number, last)).all()
            assert (video.residual(gop, last) == video.residual(number, last)).all()


def test_iframe_takes_any_position(canonical: Path) -> None:
    with open_video(canonical) as video:
        assert (video.read("iframe", [(1, 0), (1, 7)]) == decode(canonical)[12]).all()


def test_every_frame_as_a_virtual_iframe(stream: Path) -> None:
    with open_video(stream, anchor_every=1) as video:
        np.testing.assert_array_equal(video.read("iframe", every_place(video)), decode(stream))


def one_line(error: pytest.ExceptionInfo[CoviarMocropError]) -> str:
    """The message, which must be one line that says something."""
    message = str(error.value)
    assert "\n" not in message
    assert len(message) > 20
    return message


@pytest.mark.parametrize(
    ("read", "named"),
    [
        (lambda video: video.iframe(3), "3"),
        (lambda video: video.iframe(-1), "-1"),
        (lambda video: video.iframe(Gop(30, 1)), "30"),
        (lambda video: video.iframe(Gop(-4, 8)), "-4"),
        (lambda video: video.residual(Gop(3, 4), 2), "3"),
        (lambda video: video.residual(0, 12), "12"),
        (lambda video: video.residual(0, -1), "-1"),
        (lambda video: video.accumulated_motion(2, 6), "6"),
        (lambda video: video.motion_vectors(2, 6), "6"),
        (lambda video: video.motion_vectors(7, 0), "7"),
        (lambda video: video.read("mv", [(0, 0), (0, 99)]), "99"),
        (lambda video: video.vectors([0, 30]), "30"),
        (lambda video: video.vectors([-1]), "-1"),
    ],
)
def test_places_that_are_not_there(canonical: Path, read: Callable[[Video], Any], named: str) -> None:
    with open_video(canonical) as video:
        with pytest.raises(VideoError) as error:
            read(video)
        message = one_line(error)
        assert str(canonical) in message
        assert named in message.replace(str(canonical), "")


def test_unknown_kind(canonical: Path) -> None:
    with open_video(canonical) as video, pytest.raises(VideoError, match="'flow' is unknown") as error:
        video.read("flow", [(0, 0)])  # type: ignore[arg-type]
    one_line(error)


@pytest.mark.parametrize("wrong", [{"backend": "opencv"}, {"anchor_every": 0}, {"anchor_every": -12}])
def test_wrong_settings(canonical: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(VideoError, match=str(*wrong.values())) as error:
        open_video(canonical, **wrong)
    assert str(*wrong) in one_line(error)


def test_a_video_that_was_closed(canonical: Path) -> None:
    video = open_video(canonical, backend="pyav")
    video.close()
    video.close()
    with pytest.raises(VideoError) as error:
        video.iframe(0)
    assert str(canonical) in one_line(error)
