"""Several sources at once: breaks, stalls, drops, idle windows, and sources that fail without harm to the others."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from clips import record, wandering
from live import Rtsp, camera_pictures, chunked, feed, raw_h264, serving

from coviar_mocrop.bitstream.addresses import source_name
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.time_windows import TimeWindow
from coviar_mocrop.errors import ConfigError, NoMotionVectorsError, VideoError
from coviar_mocrop.inference import source_reader
from coviar_mocrop.inference.prediction import WindowPrediction
from coviar_mocrop.inference.watching import StreamOptions, watch


class Networks:
    """Stands for a predictor: its scores are a fingerprint of what it is given.

    Attributes:
        pause: seconds that a batch takes.
        batches: how many windows were in each.
        vectors: whether it asks for motion.
    """

    classes = ("a", "b")
    form = None

    def __init__(self, *, pause: float = 0.0, vectors: bool = True) -> None:
        self.pause, self.vectors, self.batches = pause, vectors, list[int]()
        self.data: Any = SimpleNamespace(anchor_every=12, max_frame_pixels=1 << 20)

    def has_form(self, info: Any) -> bool:
        return True

    def classify(self, clips: Sequence[TimeWindow]) -> list[Any]:
        time.sleep(self.pause)
        found = []
        for clip in clips:
            last = clip.info.num_frames - 1
            seen = clip.get({"iframe": [0, last], **({"mv": [last], "residual": [last]} if self.vectors else {})})
            mark = sum(float(np.abs(array.astype(np.int64)).sum()) for array in seen.values())
            found.append(({"fused": np.array([mark, 0.0], np.float32)}, None))
        self.batches.append(len(clips))
        return found


class Watch:
    """Runs :func:`watch` in a thread; ``close`` ends it.

    Attributes:
        windows: predictions so far.
        notices: texts so far, as "source: text".
        error: what it ended in.
    """

    def __init__(self, sources: Sequence[Any], networks: Any = None, **how: Any) -> None:
        self.windows: list[WindowPrediction] = []
        self.notices: list[str] = []
        self.error: Exception | None = None
        self._stop = threading.Event()
        options = StreamOptions(**{"window": 1.0, "stride": 0.5, "timeout": 2.0, **how.pop("options", {})})
        how = {"gate": 0.0, "should_stop": self._stop.is_set, **how}
        self._found = watch(
            networks or Networks(),
            sources,
            options=options,
            on_notice=self._notice,
            **how,
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _notice(self, notice: source_reader.Notice) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt
        self.notices.append(f"{notice.source}: {notice.text}")

    def _run(self) -> None:
        try:
            for prediction in self._found:
                self.windows.append(prediction)
                if self._stop.is_set():
                    break
        except KeyboardInterrupt:
            pass
        except Exception as error:
            self.error = error
        finally:
            self._found.close()  # type: ignore[attr-defined]

    def until(self, what: Any, seconds: float = 15.0) -> None:
        """Wait until ``what()`` is true."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, (len(self.windows), self.notices, self.error)
            time.sleep(0.01)

    def said(self, text: str) -> bool:
        """Whether a notice holds ``text``."""
        return any(text in notice for notice in self.notices)

    def finished(self) -> Watch:
        """Wait for the end."""
        self._thread.join(20.0)
        assert not self._thread.is_alive()
        return self

    def of(self, source: Any) -> list[WindowPrediction]:
        """The windows of a source."""
        return [window for window in self.windows if window.path == source_name(source)]


@contextlib.contextmanager
def watching(*sources: Any, **how: Any) -> Iterator[Watch]:
    """A watch that goes on, ended at the end."""
    running = Watch(sources, **how)
    try:
        yield running
    finally:
        running._stop.set()
        running._thread.join(5.0)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_reader, "_FIRST_PAUSE", 0.05)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds."""
    return record(camera_pictures(100), tmp_path_factory.mktemp("clip") / "clip.ts", gop=10)


def rows(windows: Sequence[WindowPrediction]) -> list[tuple[Any, ...]]:
    """What says which windows they are, and what was in them."""
    return [(w.start, w.end, w.frames, w.idle, w.dropped, float(w.scores["fused"][0])) for w in windows]


# -- files and pipes -------------------------------------------------------------------------------------


def test_files_are_the_same_every_time_and_lose_nothing(clip: Path, tmp_path: Path) -> None:
    alone = Watch([clip]).finished()
    assert [(w.start, w.end, w.frames) for w in alone.windows] == [(n / 2, n / 2 + 1, 25) for n in range(7)]
    assert all((w.dropped, w.latency, w.wall_time, w.missing_frames) == (0, 0.0, None, 0) for w in alone.windows)
    slow = Watch([clip], Networks(pause=0.05)).finished()
    assert rows(slow.windows) == rows(alone.windows)
    feed(tmp_path / "pipe", clip.read_bytes(), piece=1000)
    piped = Watch([tmp_path / "pipe"], Networks(pause=0.05)).finished()
    assert rows(piped.windows) == rows(alone.windows)
    assert (alone.notices, slow.notices, piped.notices) == ([], [], [])


def test_several_files_go_through_together(clip: Path, tmp_path: Path) -> None:
    short = record(camera_pictures(50, seed=1), tmp_path / "short.mp4", gop=10)
    alone = {path: rows(Watch([path]).finished().windows) for path in (clip, short)}
    for _ in range(2):
        networks = Networks()
        both = Watch([clip, short], networks).finished()
        assert {path: rows(both.of(path)) for path in alone} == alone
        assert networks.batches == [2, 2, 2, 1, 1, 1, 1]


def test_windows_can_be_dropped_of_files_too_if_asked_for(clip: Path) -> None:
    found = Watch([clip], Networks(pause=0.1), options={"live": True}).finished()
    assert sum(1 + window.dropped for window in found.windows) == 7
    assert any(window.dropped for window in found.windows)


def test_a_pipe_that_stalls_holds_up_nobody(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_reader, "_STALLED", 0.5)
    data, stalled = clip.read_bytes(), tmp_path / "pipe"
    import os

    os.mkfifo(stalled)
    held = threading.Event()

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), stalled.open("wb", buffering=0) as pipe:
            pipe.write(data[: len(data) * 3 // 4])
            held.wait(10)
            pipe.write(data[len(data) * 3 // 4 :])

    threading.Thread(target=write, daemon=True).start()
    running = Watch([clip, stalled])
    running.until(lambda: len(running.of(clip)) == 7 and running.said("no frame has come for"))
    held.set()
    running.finished()
    assert len(running.of(stalled)) == 7
    assert running.said("frames come again")


def test_a_camera_that_is_away_holds_up_nobody(clip: Path) -> None:
    with serving(lambda client: None) as server:
        pass
    away = f"rtsp://user:geheim@127.0.0.1:{server.port}/a"
    with watching(clip, away) as running:
        running.until(lambda: len(running.of(clip)) == 7)
        running.until(lambda: running.said("trying again in 0.2 s"))
        assert running.said(f"rtsp://user:***@127.0.0.1:{server.port}/a: the connection was refused")
        assert not running.said("geheim")
        assert not running.windows[7:]


def test_sources_that_differ_only_in_a_password_are_told_apart(clip: Path) -> None:
    with serving(lambda client: None) as server:
        pass
    with watching(clip, *(f"rtsp://user:{word}@127.0.0.1:{server.port}/a" for word in ("one", "two"))) as running:
        shown = f"rtsp://user:***@127.0.0.1:{server.port}/a"
        running.until(lambda: all(running.said(f"{name}: the connection") for name in (shown, f"{shown} (2)")))


def test_pauses_double_up_to_the_longest(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_reader, "_LONGEST_PAUSE", 0.15)
    with serving(lambda client: None) as server:
        pass
    with watching(clip, f"rtsp://127.0.0.1:{server.port}/a") as running:
        running.until(lambda: len(running.notices) >= 4)
    pauses = [notice.rpartition(" in ")[2] for notice in running.notices[:4]]
    assert pauses == ["0.05 s", "0.1 s", "0.15 s", "0.15 s"]


# -- cameras -----------------------------------------------------------------------------------------------


def test_windows_of_a_camera_are_like_those_of_its_file(tmp_path: Path) -> None:
    packets = raw_h264(tmp_path)
    path = tmp_path / "camera.h264"
    path.write_bytes(b"".join(packets * 4))
    expected = {round(2 * row[0]): row for row in rows(Watch([path]).finished().windows)}
    for transport in ("tcp", "udp"):
        with (
            serving(Rtsp(packets)) as server,
            watching(f"rtsp://127.0.0.1:{server.port}/a", options={"transport": transport}) as running,
        ):
            running.until(lambda r=running: len(r.windows) >= 6)  # type: ignore[misc]
        # a busy machine drops windows and loses datagrams
        found = [window for window in running.windows if not (window.dropped or window.missing_frames)][:6]
        assert found
        # which of the four rounds this is does not matter; nor that times are rounded to 1/90000 s
        for start, end, *mine in rows(found):
            other_start, other_end, *other = expected[round(2 * start)]
            assert (start, end) == (pytest.approx(other_start, abs=1e-4), pytest.approx(other_end, abs=1e-4))
            assert mine == other
        assert all(window.wall_time is not None for window in found)


def test_a_prediction_comes_with_its_last_frame(tmp_path: Path) -> None:
    """Nothing is sent after the frame at second 2.4, which the demuxer still holds: the window up to it comes."""
    camera = Rtsp(raw_h264(tmp_path))
    camera.stalls_after = 61
    short = {"window": 0.4, "stride": 0.2, "timeout": 60.0}
    with serving(camera) as server, watching(f"rtsp://127.0.0.1:{server.port}/a", options=short) as running:
        running.until(lambda: running.windows and running.windows[-1].end > 2.39)
        assert running.windows[-1].end == pytest.approx(2.4, abs=0.01)
        assert running.windows[-1].latency < 5.0


def test_slow_networks_drop_the_oldest_windows_of_cameras(tmp_path: Path) -> None:
    networks = Networks(pause=0.4)
    with (
        serving(Rtsp(raw_h264(tmp_path))) as server,
        watching(f"rtsp://127.0.0.1:{server.port}/a", networks=networks) as running,
    ):
        running.until(lambda: len(running.windows) >= 6)
    found = running.windows
    assert found[-1].dropped > 0
    for before, after in itertools.pairwise(found):
        assert after.start - before.start == pytest.approx((after.dropped + 1) / 2, abs=1e-3)  # all are accounted for
    assert found[-1].latency < 2.0


@pytest.mark.parametrize("kind", ["rtsp", "http"])
def test_cutting_and_restoring_the_connection(tmp_path: Path, clip: Path, kind: str) -> None:
    serve: Any = Rtsp(raw_h264(tmp_path)) if kind == "rtsp" else chunked(clip.read_bytes())
    with serving(serve) as server:
        address = f"{kind}://user:geheim@127.0.0.1:{server.port}/a"
        with watching(address, options={"timeout": 60.0}) as running:  # no break but this one
            running.until(lambda: len(running.windows) >= 3)
            server.cut()
            cut = time.monotonic()
            running.until(lambda: running.said("connection was refused; check the host, the port"))
            running.until(lambda: running.said("trying again in 0.4 s"))
            known, latest = len(running.windows), running.windows[-1]
            with serving(serve, server.port):
                running.until(lambda: len(running.windows) >= known + 3)
            away = time.monotonic() - cut
    [back] = [notice for notice in running.notices if "is back after" in notice]
    assert back.startswith(f"{kind}://user:***@127.0.0.1:{server.port}/a: is back after")
    first = running.windows[known]
    assert latest.end - 1e-3 <= first.start < latest.end + away + 1
    assert all(before.start < after.start for before, after in itertools.pairwise(running.windows))
    pauses = [notice.rpartition(" in ")[2] for notice in running.notices if "trying again" in notice]
    assert pauses[:3] == ["0.05 s", "0.1 s", "0.2 s"]
    assert "geheim" not in str(running.notices)


def test_another_camera_answers_when_it_is_back(tmp_path: Path, clip: Path) -> None:
    """Another codec and another size: read as what they are."""
    other = record(camera_pictures(100, (96, 80)), tmp_path / "other.ts", gop=10, codec="mpeg2video")
    seen: list[tuple[str, int]] = []

    def note(_: WindowPrediction, window: TimeWindow) -> None:
        seen.append((window.info.codec, window.info.width))

    with serving(chunked(clip.read_bytes())) as server:
        address = f"http://127.0.0.1:{server.port}/a"
        with watching(address, on_window=note) as running:
            running.until(lambda: len(running.windows) >= 2)
            server.cut()
            running.until(lambda: running.said("connection was refused"))
            with serving(chunked(other.read_bytes()), server.port):
                running.until(lambda: ("mpeg2video", 96) in seen)
    assert [kind for kind, _ in itertools.groupby(seen)] == [("h264", 64), ("mpeg2video", 96)]
    assert all(before.start < after.start for before, after in itertools.pairwise(running.windows))


def test_what_came_before_a_break_is_not_lost(tmp_path: Path) -> None:
    camera = Rtsp(raw_h264(tmp_path))
    camera.ends_after = 60  # 2.4 s
    with serving(camera) as server:
        running = Watch([f"rtsp://127.0.0.1:{server.port}/a"], options={"reconnect": False}).finished()
    assert running.windows[-1].end == pytest.approx(2.4, abs=0.01)
    assert {window.frames for window in running.windows[:-1]} == {25}


@pytest.mark.slow
def test_a_camera_that_stalls_and_one_that_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_reader, "_STALLED", 0.5)
    good, bad = Rtsp(raw_h264(tmp_path)), Rtsp(raw_h264(tmp_path, "other"))
    bad.stalls_after = 60
    with serving(good) as one, serving(bad) as other:
        sources = [f"rtsp://127.0.0.1:{server.port}/a" for server in (one, other)]
        with watching(*sources, options={"timeout": 2.0}) as running:
            running.until(lambda: running.said("no frame has come for"))
            bad.stalls_after = 1 << 60
            running.until(lambda: running.said("frames come again"))
            bad.stalls_after = 0
            running.until(lambda: running.said("sent nothing for 2 s; trying again in"))
            assert len(running.of(sources[0])) > len(running.of(sources[1])) > 1
            bad.stalls_after = 1 << 60
            running.until(lambda: running.said("is back after"))
    told = [notice.removeprefix(f"{sources[0]}: ") for notice in running.notices if sources[0] in notice]
    # nothing, or on a machine that is busy for 0.5 s, that frames came late
    assert not [text for text in told if not text.startswith(("no frame has come for", "frames come again"))]


def test_clocks_that_jump_and_time_stamps_without_sense(tmp_path: Path) -> None:
    jumping, stuck = Rtsp(raw_h264(tmp_path)), Rtsp(raw_h264(tmp_path, "other"))
    jumping.stamp = lambda n: n / 25 + (3600 if n >= 100 else 0) - (7000 if n >= 150 else 0)
    stuck.stamp = lambda n: min(n, 70) / 25
    with serving(jumping) as one, serving(stuck) as other:
        sources = [f"rtsp://127.0.0.1:{server.port}/a" for server in (one, other)]
        with watching(*sources) as running:
            running.until(lambda: all(len(running.of(source)) >= 14 for source in sources))
    assert running.said(f"{sources[0]}: the clock of the source jumps by +3600.0 s")
    # back by 7000 s is forward by the rest of RTP's 32 bits to FFmpeg
    assert sum(f"{sources[0]}: the clock of the source jumps by" in notice for notice in running.notices) == 2
    assert running.said(f"{sources[1]}: its time stamps are invalid; frames are counted instead")
    assert len(running.notices) <= 5
    assert max(window.end for window in running.windows) < 60


# -- what moves --------------------------------------------------------------------------------------------


def test_idle_windows_are_seen_by_no_network(tmp_path: Path) -> None:
    still = [camera_pictures(1)[0]] * 75
    path = record([*still, *wandering(75, 64, 48, 6)], tmp_path / "clip.mp4", gop=25)
    networks = Networks()
    found = Watch([path], networks, gate=0.002, options={"stride": 1.0}).finished().windows
    assert [window.idle for window in found] == [True] * 3 + [False] * 3
    assert networks.batches == [1, 1, 1]
    assert found[0].scores == {} and found[0].box is None and found[0].motion < 0.002 <= found[-1].motion
    assert json.loads(json.dumps(found[0].as_json()))["idle"]
    assert not any(w.idle for w in Watch([path], gate=0.0, options={"stride": 1.0}).finished().windows)


@pytest.mark.parametrize(
    "how", [{"gop": 1}, {"codec": "libx265"}, {"codec": "libvpx-vp9"}], ids=["intra", "hevc", "vp9"]
)
def test_what_has_no_vectors_is_never_idle(tmp_path: Path, how: dict[str, Any]) -> None:
    path = record(camera_pictures(), tmp_path / "clip.mkv", **how)
    found = Watch([path], Networks(vectors=False), gate=0.5).finished()
    assert found.error is None
    assert [(window.idle, window.frames) for window in found.windows] == [(False, 25)] * 3


def test_a_codec_without_vectors_ends_its_source_alone(tmp_path: Path, clip: Path) -> None:
    bad = record(camera_pictures(), tmp_path / "hevc.mkv", codec="libx265")
    found = Watch([bad, clip]).finished()
    assert found.error is None
    assert len(found.of(clip)) == 7
    assert not found.of(bad)
    (notice,) = found.notices
    expected = (
        "the decoder of hevc exports no motion vectors; add --transcode, have the camera send H.264, or use the "
        "I-frame stream alone with --set setting=baseline"
    )
    assert notice == f"{bad}: {expected}"
    alone = Watch([bad]).finished()
    assert isinstance(alone.error, NoMotionVectorsError)
    assert str(alone.error) == f"{bad}: {expected}"


# -- what fails --------------------------------------------------------------------------------------------


def test_sources_that_cannot_be_opened(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video\n" * 99)
    missing, text = tmp_path / "none.mp4", tmp_path / "text.mp4"
    found = Watch([missing, clip, text]).finished()
    assert found.error is None
    assert len(found.windows) == 7
    assert sorted(notice.split(" (")[0] for notice in found.notices) == [
        f"{missing}: no such file; check the path",
        f"{text}: is not a readable video",
    ]
    nothing = Watch([missing, text]).finished()
    assert isinstance(nothing.error, VideoError)
    assert str(nothing.error) == f"{missing}: no such file; check the path"
    assert [notice.split(" (")[0] for notice in nothing.notices] == [f"{text}: is not a readable video"]


def test_whatever_goes_wrong_in_one_source_the_others_go_on(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = record(camera_pictures(), tmp_path / "bad.mp4")
    before = source_reader.VideoStream

    def opened(source: Any, **how: Any) -> Any:
        if source == bad:
            raise RuntimeError("of rtsp://user:geheim@host/ nobody knows")
        return before(source, **how)

    monkeypatch.setattr(source_reader, "VideoStream", opened)
    found = Watch([bad, clip]).finished()
    assert len(found.windows) == 7
    assert found.notices == [f"{bad}: RuntimeError: of rtsp://user:***@host/ nobody knows"]


def test_the_size_changes(tmp_path: Path) -> None:
    parts = [raw_h264(tmp_path, "a"), raw_h264(tmp_path, "b", pictures=camera_pictures(size=(96, 64)))]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(itertools.chain(*parts)))
    sizes: list[tuple[int, int]] = []
    found = Watch([path], on_window=lambda _, window: sizes.append((window.info.width, window.info.height))).finished()
    assert found.notices == [f"{path}: the frames change from 64x48 to 96x64 pixels"]
    assert sizes == [(64, 48)] * 3 + [(96, 64)] * 3
    assert [(round(window.start, 6), window.frames) for window in found.windows][3:] == [
        (2.0, 25),
        (2.5, 25),
        (3.0, 25),
    ]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"gate": 1.0}, "the gate is 1; give"),
        ({"gate": -0.1}, "the gate is -0.1; give"),
        ({"options": {"timeout": 0.0}}, "the timeout is 0 s; give more than 0"),
        ({"options": {"timeout": float("nan")}}, "the timeout is nan s"),
        ({"options": {"stride": 3.0}}, "windows of 1 s every 3 s: give a stride above 0 s"),
        ({"options": {"window": 0.0}}, "give a stride above 0 s"),
        ({"sources": ["-", "-"]}, "standard input can be read once; name it once"),
    ],
)
def test_settings_out_of_range(clip: Path, how: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Watch(**{"sources": [clip], **how})


def test_a_window_is_classified_like_a_clip(demo: Path, tmp_path: Path) -> None:
    """With real networks: the scores of a window that spans a clip are those of the clip."""
    from test_stored_fusion import write_run

    from coviar_mocrop.inference.predictor import Predictor

    predictor = Predictor([write_run(demo, tmp_path / "run")], ["setting=attention"])
    for path in sorted((demo / "videos").rglob("*.mp4"))[:3]:
        (window,) = predictor.over_time(path, window=100.0, stride=100.0)
        clip = predictor(path)
        assert (window.box, window.frames > 20, window.missing_frames) == (clip.box, True, 0)
        assert window.scores.keys() == clip.scores.keys()
        for name, row in clip.scores.items():
            np.testing.assert_array_equal(window.scores[name], row)


def test_the_reason_that_ends_a_source_stays(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading that breaks because it is asked to end says nothing of its own."""
    given = VideoError("the networks cannot use its windows")
    reader = source_reader.SourceReader(clip, "clip", DataConfig(classes=""), StreamOptions(), threading.Condition())

    def read() -> None:
        reader.fail(given)
        raise VideoError("the connection broke")

    monkeypatch.setattr(reader, "_read", read)
    reader.run()
    assert reader.error is given


def test_an_end_that_is_asked_for_is_soon(tmp_path: Path) -> None:
    """Also of a pipe that gives nothing, and of servers that stall for a minute."""
    import os

    os.mkfifo(tmp_path / "pipe")
    camera = Rtsp(raw_h264(tmp_path))
    with serving(camera) as server, serving(lambda client: time.sleep(60)) as silent:
        sources = [f"rtsp://127.0.0.1:{server.port}/a", *[f"tcp://127.0.0.1:{silent.port}"] * 3, tmp_path / "pipe"]
        options = StreamOptions(1.0, 0.5, timeout=60.0)
        found = watch(Networks(), sources, options=options, gate=0.0)  # type: ignore[arg-type]
        next(found)
        began = time.monotonic()
        found.close()  # type: ignore[attr-defined]
        assert time.monotonic() - began < 10.0
    with (tmp_path / "pipe").open("wb"):
        pass  # lets the thread end that waits for a writer
