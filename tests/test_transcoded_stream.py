"""Streams that are transcoded on their way: the frames of transcoded files, at once where the source is live."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import record, turn_clockwise, wandering
from small_streams import write_streams

from coviar_mocrop import Predictor
from coviar_mocrop.bitstream import open_video, transcode
from coviar_mocrop.bitstream.stream import StreamFrame, VideoStream
from coviar_mocrop.bitstream.transcoded_stream import TranscodedStream
from coviar_mocrop.bitstream.types import picture_of


def made(kind: str, folder: Path) -> Path:
    pictures = wandering(40, 98, 66, 5, seed=3, noise=4)
    if kind == "hevc":
        return record(pictures, folder / "clip.mp4", codec="libx265")
    if kind == "rotated":
        return turn_clockwise(record(pictures, folder / "upright.mp4"), folder / "clip.mp4", 1)
    return record(pictures, folder / "clip.mkv", b_frames=2, gop=30)


@pytest.mark.parametrize("size", [(64, 48), None])
@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
@pytest.mark.parametrize("kind", ["hevc", "rotated", "b frames"])
def test_a_file_gives_what_its_transcoded_file_gives(tmp_path: Path, kind: str, codec: Any, size: Any) -> None:
    source = made(kind, tmp_path)
    transcode(source, tmp_path / "canonical.mp4", codec=codec, size=size, gop=10)
    frames = list(TranscodedStream(VideoStream(source), codec, size, 10))
    before = list(VideoStream(source))
    assert [frame.time for frame in frames] == [frame.time for frame in before]
    with open_video(tmp_path / "canonical.mp4") as video:
        assert len(frames) == video.info.num_frames == 40
        assert [frame.number for frame in frames if frame.starts_gop] == [gop.start for gop in video.gops]
        assert {frame.size for frame in frames} == {(video.info.height, video.info.width)}
        vectors, pictures = video.get_motion_vectors_at(), video.get_frames_at(range(40))
        for frame, expected, picture in zip(frames, vectors, pictures, strict=True):
            np.testing.assert_array_equal(picture_of(frame.rgb(), video.info.width), picture)
            for name in ("dst_x", "dst_y", "motion_x", "motion_y"):
                np.testing.assert_array_equal(frame.vectors()[name], expected[name])


@pytest.mark.parametrize("is_live", [True, False])
def test_no_frame_of_a_live_source_is_late(tmp_path: Path, is_live: bool) -> None:
    """The frame that went in is the one that comes out; a file may look ahead."""
    stream = VideoStream(made("hevc", tmp_path))
    stream.is_live = is_live
    went_in: list[int] = []
    plain = stream._frames

    def counted() -> Iterator[StreamFrame]:
        for frame in plain():
            went_in.append(frame.number)
            yield frame

    stream._frames = counted  # type: ignore[method-assign]
    late = [went_in[-1] - frame.number for frame in TranscodedStream(stream, "h264", None, 12)]
    assert len(late) == 40
    assert (max(late) == 0) == is_live


def test_damage_and_breaks_are_still_known(tmp_path: Path) -> None:
    stream = VideoStream(made("b frames", tmp_path))
    frames = list(stream)
    frames[7].is_damaged, frames[12].missing, frames[20].broken = True, 3, "the clock jumps"
    stream._frames = lambda: iter(frames)  # type: ignore[method-assign]
    after = list(TranscodedStream(stream, "h264", None, 12))
    assert [frame.number for frame in after if frame.is_damaged] == [7]
    assert [(frame.number, frame.missing) for frame in after if frame.missing] == [(12, 3)]
    assert [frame.number for frame in after if frame.broken] == [20]
    assert [frame.number for frame in after if frame.starts_gop] == [0, 12, 20, 32]  # a new encoder after the break
    assert len(after) == 40


def test_a_window_is_classified_like_a_transcoded_clip(tmp_path: Path) -> None:
    source, streams = made("hevc", tmp_path), write_streams(tmp_path, ("run", "sit"))
    predictor = Predictor(streams, transcode=True)
    (window,) = predictor.over_time(source)
    expected = predictor(source)
    assert window.box == expected.box
    assert window.as_trained and expected.as_trained
    for name, row in expected.scores.items():
        np.testing.assert_allclose(window.scores[name], row, atol=1e-6)
