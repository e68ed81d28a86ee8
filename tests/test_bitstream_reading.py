"""``open_video``: what it reports, how GOPs are cut, that every way of reading gives the same, and its errors."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import decode, every_frame, record, turn_clockwise, wandering

from coviar_mocrop.bitstream import FrameView, Gop, Video, open_video
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
        assert [len(rows) for rows in video.get_motion_vectors_at([gop.start for gop in video.gops])] == [0, 0, 0]
        assert [video.gop_at(frame) for frame in every_frame(video)] == [
            gop for gop in video.gops for _ in range(gop.length)
        ]


READERS: dict[str, Callable[[Video], Callable[..., np.ndarray]]] = {
    "iframe": lambda video: video.get_iframes_at,
    "mv": lambda video: video.get_motion_at,
    "residual": lambda video: video.get_residuals_at,
    "frame": lambda video: video.get_frames_at,
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("anchor_every", [4, None])
def test_one_pass_gives_what_single_reads_give(stream: Path, kind: Any, anchor_every: int | None) -> None:
    with open_video(stream, anchor_every=anchor_every) as video:
        read = READERS[kind](video)
        expected = read(every_frame(video))
        assert expected.shape == (26, 66, 98, 2 if kind == "mv" else 3)
        assert expected.dtype == (np.int16 if kind in ("mv", "residual") else np.uint8)
        different = [frame for frame in every_frame(video) if not (read([frame])[0] == expected[frame]).all()]
        assert different == []


@pytest.mark.parametrize("kind", READERS)
def test_any_order_and_repeats(stream: Path, kind: Any) -> None:
    with open_video(stream, anchor_every=4) as video:
        read = READERS[kind](video)
        frames = every_frame(video)
        whole = read(frames)
        mixed = frames + frames[::3]
        random.Random(0).shuffle(mixed)
        np.testing.assert_array_equal(read(mixed), whole[mixed])
        for some in ([25, 3, 3, 11], (25, 3, 3, 11), np.array([25, 3, 3, 11], np.uint8), range(25, 2, -4)):
            np.testing.assert_array_equal(read(some), whole[list(some)])
        for none in ([], np.empty(0, np.int64), range(0)):
            assert read(none).shape == (0, *whole.shape[1:])
            assert read(none).dtype == whole.dtype


def test_vectors_of_all_of_some_and_of_one_frame(stream: Path) -> None:
    with open_video(stream, backend="pyav", anchor_every=4) as video:
        whole = video.get_motion_vectors_at()
        assert len(whole) == 26
        assert sum(len(vectors) > 0 for vectors in whole) == 26 - 3
        single = [video.get_motion_vectors_at([frame])[0] for frame in every_frame(video)]
        assert [a.tobytes() == b.tobytes() for a, b in zip(whole, single, strict=True)] == [True] * 26
        some = [25, 3, 3, 14]
        assert [v.tobytes() for v in video.get_motion_vectors_at(some)] == [whole[frame].tobytes() for frame in some]
        assert video.get_motion_vectors_at([]) == []


def test_automatic_backend_gives_the_same_vectors(stream: Path) -> None:
    with open_video(stream, backend="pyav") as video, open_video(stream) as automatic:
        ours, theirs = video.get_motion_vectors_at(), automatic.get_motion_vectors_at()
        assert [a.tobytes() == b.tobytes() for a, b in zip(ours, theirs, strict=True)] == [True] * 26


@pytest.mark.parametrize("accumulate", [True, False])
def test_several_kinds_at_once_are_what_each_is_alone(stream: Path, accumulate: bool) -> None:
    with open_video(stream, anchor_every=4) as video:
        frames = every_frame(video)
        asked: dict[Any, Any] = {"residual": frames[3:9], "iframe": frames[::5], "mv": frames[::-2], "frame": [7, 8, 7]}
        found = video.get(asked, accumulate=accumulate)
        assert list(found) == list(asked)
        for kind, some in asked.items():
            np.testing.assert_array_equal(found[kind], video.get({kind: some}, accumulate=accumulate)[kind])
        assert video.get({}) == {}
        np.testing.assert_array_equal(found["mv"], video.get_motion_at(asked["mv"], accumulate=accumulate))
        np.testing.assert_array_equal(
            found["residual"], video.get_residuals_at(asked["residual"], accumulate=accumulate)
        )


def test_decoded_frames_are_the_decoders_in_the_same_pass(stream: Path) -> None:
    expected = decode(stream)
    with open_video(stream, anchor_every=4) as video:
        frames = every_frame(video)
        found = video.get({"frame": frames[::-1], "iframe": frames[:5], "mv": frames[3:6]})
        assert found["frame"].dtype == np.uint8
        np.testing.assert_array_equal(found["frame"], expected[::-1])
        np.testing.assert_array_equal(found["iframe"][4], expected[4])
        np.testing.assert_array_equal(found["mv"], video.get_motion_at(frames[3:6]))


def test_a_pass_decodes_once_and_no_more_than_is_needed(canonical: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_video(canonical, backend="pyav") as video:
        passes = []
        frames = video._pyav.frames

        def counted(spans: Any) -> Any:
            passes.append([tuple(span) for span in spans])
            return frames(spans)

        monkeypatch.setattr(video._pyav, "frames", counted)
        video.get({"iframe": [0, 14], "mv": [3, 25], "residual": [5], "frame": [4]})
        # first and last frame, vectors, pixels
        assert passes == [[(0, 5, True, True), (12, 12, False, True), (24, 25, True, False)]]


def test_the_iframe_of_any_frame_is_that_of_its_gop(canonical: Path) -> None:
    with open_video(canonical) as video:
        np.testing.assert_array_equal(video.get_iframes_at([12, 19, 3]), np.stack(decode(canonical))[[12, 12, 0]])


def test_every_frame_as_a_virtual_iframe(stream: Path) -> None:
    with open_video(stream, anchor_every=1) as video:
        np.testing.assert_array_equal(video.get_iframes_at(every_frame(video)), decode(stream))


# -- visit -------------------------------------------------------------------------------------------


def eight_bit(motion: np.ndarray, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What networks are given, as the formulas have it."""
    coded_motion = np.rint(np.clip(motion * 127.5 / 20 + 128, 0, 255)).astype(np.uint8)
    return coded_motion, np.clip(residual.astype(int) + 128, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
@pytest.mark.parametrize("accumulate", [True, False])
def test_views_give_any_window_and_eight_bits(tmp_path: Path, quarters: int, accumulate: bool) -> None:
    coded = record(wandering(14, 98, 66, 9, noise=30), tmp_path / "coded.mp4", b_frames=1)
    path = turn_clockwise(coded, tmp_path / "turned.mp4", quarters)
    rng = np.random.default_rng(quarters)
    with open_video(path, anchor_every=6) as video:
        frames = every_frame(video)
        whole = video.get({"mv": frames, "residual": frames, "frame": frames}, accumulate=accumulate)
        vectors = video.get_motion_vectors_at()
        height, width = video.info.height, video.info.width
        seen = []
        for view in video.visit(frames, frames, frames, None, accumulate=accumulate):
            seen.append(view.number)
            motion, residual = whole["mv"][view.number], whole["residual"][view.number]
            np.testing.assert_array_equal(view.picture(), whole["frame"][view.number])
            assert view.vectors.tobytes() == vectors[view.number].tobytes()
            top, left = int(rng.integers(height)), int(rng.integers(width))
            bottom, right = int(rng.integers(top, height + 1)), int(rng.integers(left, width + 1))
            for window in (None, (0, 0, height, width), (top, left, bottom, right), (top, left, top, left)):
                inside = np.s_[:] if window is None else np.s_[window[0] : window[2], window[1] : window[3]]
                expected = (motion[inside], residual[inside], *eight_bit(motion[inside], residual[inside]))
                found = (view.motion(window), view.residual(window), view.motion8(window), view.residual8(window))
                for one, other in zip(expected, found, strict=True):
                    assert one.dtype == other.dtype
                    np.testing.assert_array_equal(one, other)
        assert seen == frames
    assert whole["mv"].any()


def test_a_pass_stops_where_something_is_wanted(stream: Path) -> None:
    with open_video(stream, anchor_every=4) as video:
        frames = every_frame(video)
        whole = video.get({"mv": frames, "residual": frames, "frame": frames})
        views = video.visit(pictures=[9, 2], motion={5, 9}, residuals=np.array([16]), vectors=iter([22, 5]))
        seen = {}
        for view in views:
            seen[view.number] = repr(view)
            if view.number in (2, 9):
                np.testing.assert_array_equal(view.picture(), whole["frame"][view.number])
            if view.number in (5, 9):
                np.testing.assert_array_equal(view.motion(), whole["mv"][view.number])
            if view.number == 16:
                np.testing.assert_array_equal(view.residual(), whole["residual"][16])
        assert list(seen) == [2, 5, 9, 16, 22]
        assert seen[16] == "FrameView(number=16)"
        assert list(video.visit()) == []


def test_what_a_view_gave_stays_as_it_was(stream: Path) -> None:
    with open_video(stream) as video:
        frames = every_frame(video)
        whole = video.get({"frame": frames, "mv": frames, "residual": frames})
        kept = [(view.picture(), view.motion(), view.residual()) for view in video.visit(frames, frames, frames)]
    for array, found in zip(whole.values(), zip(*kept, strict=True), strict=True):
        np.testing.assert_array_equal(array, found)
    with pytest.raises(ValueError, match="read-only"):
        kept[0][0][:] = 0


def test_a_view_gives_only_what_was_asked_for_and_only_in_its_time(canonical: Path) -> None:
    with open_video(canonical) as video:
        views = video.visit(pictures=[1], motion=[2], residuals=[3], vectors=[4])
        reads: list[Callable[[FrameView], Any]] = [
            lambda view: view.picture(),
            lambda view: (view.motion(), view.motion8()),
            lambda view: (view.residual(), view.residual8()),
            lambda view: view.vectors,
        ]
        for number, view in enumerate(views):
            for other, read in enumerate(reads):
                if other == number:
                    read(view)
                    continue
                with pytest.raises(VideoError, match=f"was not asked for .* of frame {number + 1}") as error:
                    read(view)
                one_line(error)
        first, _ = video.visit(motion=[4, 5])
        with pytest.raises(VideoError, match="has left frame 4") as error:
            first.motion()
        one_line(error)


@pytest.mark.parametrize(
    "window", [(-1, 0, 9, 9), (0, -1, 9, 9), (0, 0, 67, 9), (0, 0, 9, 99), (9, 0, 8, 9), (0, 9, 9, 8)]
)
def test_windows_lie_inside_the_frame(canonical: Path, window: Any) -> None:
    with open_video(canonical) as video:
        for view in video.visit(motion=[3], residuals=[3]):
            for read in (view.motion, view.motion8, view.residual, view.residual8):
                with pytest.raises(VideoError, match=r"is not inside the frame of 66 x 98") as error:
                    read(window)
                one_line(error)


# -- errors ------------------------------------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo[CoviarMocropError]) -> str:
    """The message, which must be one line that says something."""
    message = str(error.value)
    assert "\n" not in message
    assert len(message) > 20
    return message


@pytest.mark.parametrize(
    ("read", "named"),
    [
        (lambda video: video.get_iframes_at([30]), "30"),
        (lambda video: video.get_frames_at([-1]), "-1"),
        (lambda video: video.get_motion_at([0, 99]), "99"),
        (lambda video: video.get_residuals_at(np.array([-7])), "-7"),
        (lambda video: video.get_motion_vectors_at([0, 30]), "30"),
        (lambda video: video.get_motion_vectors_at([-1]), "-1"),
        (lambda video: video.get({"iframe": [0], "mv": [31]}), "31"),
        (lambda video: video.visit(vectors=[44]), "44"),
        (lambda video: video.gop_at(30), "30"),
        (lambda video: video.gop_at(-1), "-1"),
        (lambda video: video.get_motion_at([1.5]), "whole numbers"),
        (lambda video: video.get_motion_at([(0, 3)]), "whole numbers"),
    ],
)
def test_frames_that_are_not_there(canonical: Path, read: Callable[[Video], Any], named: str) -> None:
    with open_video(canonical) as video:
        with pytest.raises(VideoError) as error:
            read(video)
        message = one_line(error)
        assert str(canonical) in message
        assert named in message.replace(str(canonical), "")


def test_unknown_kind(canonical: Path) -> None:
    with open_video(canonical) as video, pytest.raises(VideoError, match="'flow' is unknown") as error:
        video.get({"flow": [0]})  # type: ignore[dict-item]
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
        video.get_iframes_at([0])
    assert str(canonical) in one_line(error)
