"""What a long video shows: its timeline, its table and its annotated copy."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import av
import numpy as np
import pytest
from clips import wandering
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import NDArray

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.errors import CoviarMocropError, VideoError
from coviar_mocrop.inference.events import Event, EventFinder
from coviar_mocrop.inference.prediction import WindowPrediction
from coviar_mocrop.messages import clock
from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.viz.annotate import AnnotatedVideo
from coviar_mocrop.viz.drawing import BOX_COLOUR
from coviar_mocrop.viz.pictures import save_figure
from coviar_mocrop.viz.timeline import time_marks, timeline_figure
from coviar_mocrop.viz.timeline_recorder import TimelineRecorder
from coviar_mocrop.viz.window_table import CsvWriter

CLASSES = ("fall", "fight, or play", "walk")
BOX = CropBox(0.25, 0.25, 0.75, 0.75)


def window(start: float, fight: float | None = 0.5, box: CropBox | None = BOX, **more: object) -> WindowPrediction:
    """A window of two seconds with this probability of a fight; None is an idle one."""
    scores = {} if fight is None else {"fused": np.log([0.75 * (1 - fight), fight, 0.25 * (1 - fight)])}
    facts: dict[str, object] = {
        "path": "yard.mp4",
        "classes": CLASSES,
        "scores": {name: row.astype(np.float32) for name, row in scores.items()},
        "box": None if fight is None else box,
        "milliseconds": {},
        "seen": {},
        "iframes": [],
        "damaged_frames": 0,
        "start": start,
        "end": start + 2,
        "motion": 0.125,
        "idle": fight is None,
        "frames": 50,
        "missing_frames": 0,
    }
    return WindowPrediction(**{**facts, **more})  # type: ignore[arg-type]


def drawn(figure: Figure) -> NDArray[np.uint8]:
    """The picture, uint8 [H, W, 3]."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    file.seek(0)
    return np.rint(255 * imread(file)[..., :3]).astype(np.uint8)


def texts(figure: Figure) -> str:
    """Everything that is written in the picture."""
    return "\n".join(text.get_text() for text in [*figure.texts, *(t for axis in figure.axes for t in axis.texts)])


# -- recording ---------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(0, 30), st.none() | st.floats(0.01, 0.99)), min_size=1, max_size=60),
    st.sampled_from([4, 16, 64]),
)
def test_a_recorder_stays_small_and_loses_no_peak(steps: list[tuple[float, float | None]], bins: int) -> None:
    recorder = TimelineRecorder("yard.mp4", CLASSES, bins)
    starts = np.cumsum([step for step, _ in steps])
    windows = [
        window(float(start), fight, motion=number / 60, dropped=number % 3, damaged_frames=number % 2)
        for number, (start, (_, fight)) in enumerate(zip(starts, steps, strict=True))
    ]
    for each in windows:
        recorder.add(each)
    assert len(recorder.probability) == bins and bins * recorder.bin_length > starts[-1] + 1
    middles = np.array([each.start + 1 for each in windows])
    places = (middles / recorder.bin_length).astype(int)
    shares = np.array([each.probabilities["fused"] if not each.idle else np.zeros(3) for each in windows], np.float32)
    for place in range(bins):
        inside = np.flatnonzero(places == place)
        chosen = [windows[number] for number in inside]
        assert recorder.sums["windows"][place] == len(chosen)
        assert recorder.probability[place] == pytest.approx(shares[inside].max(axis=0, initial=0))
        assert recorder.motion[place] == max((each.motion for each in chosen), default=0)
        assert recorder.start[place] == min((each.start for each in chosen), default=np.inf)
        assert recorder.end[place] == max((each.end for each in chosen), default=-np.inf)
        sums = {"idle": "idle", "motion": "motion", "damaged": "damaged_frames", "dropped": "dropped"}
        for name, attribute in sums.items():
            assert recorder.sums[name][place] == pytest.approx(sum(getattr(each, attribute) for each in chosen))
        boxed = [each.box for each in chosen if each.box is not None]
        assert recorder.sums["boxes"][place] == len(boxed)
        assert recorder.sums["x1"][place] == pytest.approx(sum(box.x1 for box in boxed))
    assert recorder.windows == len(windows)


def test_an_event_is_where_it_was_after_bins_were_joined() -> None:
    recorder = TimelineRecorder("yard.mp4", CLASSES, bins=64)
    event = Event("yard.mp4", CLASSES[1], 10.0, 20.0, 0.9, 15.0)
    recorder.add_event(event)
    assert recorder.events[CLASSES[1]] == 0  # it goes on
    recorder.add_event(Event("yard.mp4", CLASSES[1], 10.0, 30.0, 0.9, 15.0, ended=True))
    recorder.add(window(998.0))
    recorder.add_event(Event("yard.mp4", CLASSES[2], 10.0, 33.0, 0.9, 15.0))
    assert recorder.events == {"fall": 0, CLASSES[1]: 1, "walk": 0}
    assert recorder.bin_length == 16
    assert [np.flatnonzero(seen).tolist() for seen in recorder.seen.T] == [[], [0, 1], [0, 1, 2]]


# -- drawing -----------------------------------------------------------------------------------------


def test_a_timeline_shows_classes_events_idle_stretches_and_faults(tmp_path: Path) -> None:
    recorder, finder = TimelineRecorder("folder/yard.mp4", CLASSES), EventFinder(CLASSES[1:2], CLASSES)
    shares = [0.1, 0.2, 0.9, 0.8, 0.1, None, None, None, 0.2, 0.6, 0.2]
    faults = {1: {"damaged_frames": 3}, 4: {"missing_frames": 1234}, 8: {"dropped": 7}}
    for number, share in enumerate(shares):
        each = window(number + (20.0 if number > 9 else 0.0), share, **faults.get(number, {}))
        recorder.add(each)
        for event in finder.add(each):
            recorder.add_event(event)
    frames = [(float(time), np.full((30, 40, 3), 10 * time, np.uint8)) for time in (4, 2, 1)]
    figure = timeline_figure(recorder, frames)
    told = texts(figure)
    for part in (
        "yard.mp4: 11 windows in 0:32.0, 27% idle (grey), 2 events",
        "fight, or play",
        "up to 90%\n2 events",
        "box across",
        "3 frames",
        "1,234 frames",
        "7 windows",
        "nothing came",
        "up to 0.12",
    ):
        assert part in told
    # 3 frames; 3 classes, motion, 2 sides of the box, 4 faults
    assert len(figure.axes) == 3 + 3 + 1 + 2 + 4
    assert [axis.get_xlabel() for axis in figure.axes[:3]] == ["0:01.0", "0:02.0", "0:04.0"]
    rows = {axis.texts[0].get_text(): axis for axis in figure.axes[3:]}
    bars = {name: axis.collections[0].get_datalim(axis.transData).intervalx for name, axis in rows.items()}
    assert bars["dropped"] == pytest.approx([8, 9])  # from the middle of the window before
    assert bars["missing"] == pytest.approx([4.5, 5.5])
    assert bars["nothing came"] == pytest.approx([11, 30])
    picture = drawn(figure)
    assert (picture == [0x1B, 0x7F, 0x5C]).all(axis=2).sum() > 500  # events, in the colour of the first row
    assert (picture == 0xE2).all(axis=2).sum() > 5000  # idle
    save_figure(figure, tmp_path / "timeline.svg")
    assert (tmp_path / "timeline.svg").stat().st_size > 1000


def test_what_is_not_there_is_not_drawn() -> None:
    recorder = TimelineRecorder("rtsp://camera/yard", CLASSES)
    with pytest.raises(VideoError, match="rtsp://camera/yard: no window was classified"):
        timeline_figure(recorder)
    recorder.add(window(0.0, None))
    figure = timeline_figure(recorder)
    assert len(figure.axes) == 1
    assert "rtsp://camera/yard: 1 window in 0:02.0, 100% idle" in texts(figure)
    assert drawn(figure).std() > 5


def test_of_many_classes_the_highest_are_drawn_and_the_rest_is_told() -> None:
    names = tuple(f"class {number}" for number in range(20))
    recorder = TimelineRecorder("yard.mp4", names)
    logits = np.arange(20, dtype=np.float32)
    recorder.add(window(0.0, classes=names, scores={"fused": logits}, box=None))
    recorder.add_event(Event("yard.mp4", "class 3", 0.0, 2.0, 0.1, 1.0, ended=True))
    figure = timeline_figure(recorder)
    rows = [axis.texts[0].get_text() for axis in figure.axes]
    assert rows[:-1] == ["class 3", *(f"class {number}" for number in range(19, 12, -1))]
    peak = np.exp(12.0) / np.exp(logits.astype(float)).sum()
    assert f"12 more classes are left out; their peaks reach {peak:.1%}" in texts(figure)


def test_one_high_window_in_ten_hours_is_seen() -> None:
    recorder, other = (TimelineRecorder("yard.mp4", CLASSES) for _ in range(2))
    for second in range(0, 36_000, 4):
        low = window(float(second), 0.01)
        other.add(low)
        recorder.add(window(float(second), 0.99) if second == 20_000 else low)
    high, flat = (timeline_figure(each) for each in (recorder, other))
    assert "up to 99%" in texts(high) and "up to 99%" not in texts(flat)
    first = np.array([0x1B, 0x7F, 0x5C])  # colour of the first row, that of fights, which is about 60 pixels high
    reached = (np.abs(drawn(high).astype(int) - first).max(axis=2) < 60).any(axis=1).sum()
    assert reached > 40
    assert high.axes[-1].get_xlabel() == "h:min"


@given(start=st.floats(0, 1e6), span=st.floats(0.5, 1e7))
def test_marks_of_the_time_axis_are_few_even_and_inside(start: float, span: float) -> None:
    places, names, unit = time_marks(start, start + span)
    assert len(places) == len(names) <= 14 and unit in ("s", "min:s", "h:min")
    assert all(start - 0.01 * span <= place <= start + 1.01 * span for place in places)
    assert len(set(np.round(np.diff(places), 3))) <= 1
    assert len(set(names)) == len(names)
    assert len(places) >= 4


def test_times_are_written_for_people() -> None:
    assert [clock(time) for time in (0, 7.46, 59.96, 727.5, 3599.96, 11527)] == [
        "0:00.0",
        "0:07.5",
        "1:00.0",
        "12:07.5",
        "1:00:00",
        "3:12:07",
    ]
    assert time_marks(0, 10)[1:] == ([*map(str, range(11))], "s")
    assert time_marks(0, 600)[1] == [f"{minute}:00" for minute in range(11)]
    assert time_marks(0, 36_000)[1][:3] == ["0:00", "1:00", "2:00"]


# -- the table ---------------------------------------------------------------------------------------


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_can_be_read_back_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    windows = [
        window(0.0, 0.7),
        window(1.0, None, missing_frames=3, damaged_frames=2, dropped=1, latency=0.25),
        window(2.0, 0.2, box=None, path='odd, "name"\u00e9.mp4'),
    ]
    with CsvWriter(path, CLASSES) as table:
        for count, each in enumerate(windows, 1):
            table.add(each)
            assert len(rows_of(path)) == count
    for row, each in zip(rows_of(path), windows, strict=True):
        assert row["source"] == each.path
        assert [float(row[name]) for name in ("start", "end", "motion", "latency")] == [
            each.start,
            each.end,
            each.motion,
            each.latency,
        ]
        counts = [int(row[name]) for name in ("idle", "frames", "missing_frames", "damaged_frames", "dropped")]
        assert counts == [each.idle, each.frames, each.missing_frames, each.damaged_frames, each.dropped]
        box = [row[side] for side in ("x0", "y0", "x1", "y1")]
        assert box == [""] * 4 if each.box is None else [float(side) for side in box] == list(each.box)
        shares = [row[f"p({name})"] for name in CLASSES]
        if each.idle:
            assert shares == [""] * 3 and row["class"] == row["probability"] == ""
        else:
            assert [float(share) for share in shares] == pytest.approx(each.probabilities["fused"], abs=1e-6)
            assert (row["class"], float(row["probability"])) == (each.best(1)[0][0], max(map(float, shares)))


@pytest.mark.parametrize("cut", [0, 1, 20, 120])
def test_a_table_is_continued_and_a_broken_line_is_removed(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "table.csv"
    with CsvWriter(path, CLASSES) as table:
        table.add(window(0.0))
        first = path.read_bytes()
        table.add(window(1.0))
    whole = path.read_bytes()
    keep = len(whole) - min(cut, len(whole) - len(first) - 1)
    path.write_bytes(whole[:keep])
    with CsvWriter(path, CLASSES) as table:
        table.add(window(2.0))
    starts = [row["start"] for row in rows_of(path)]
    assert starts == ["0.000", *(["1.000"] if cut == 0 else []), "2.000"]


def test_a_table_that_was_cut_in_its_head_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    for content in ("", "source,sta"):
        path.write_text(content)
        with CsvWriter(path, CLASSES) as table:
            table.add(window(0.0))
        assert [row["start"] for row in rows_of(path)] == ["0.000"]


def test_other_files_are_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    CsvWriter(path, CLASSES[:2]).close()
    letter = tmp_path / "letter.csv"
    letter.write_text("dear reader")
    for file in (path, letter):
        before = file.read_bytes()
        with pytest.raises(CoviarMocropError, match=r"is not a table of windows with these classes; choose another"):
            CsvWriter(file, CLASSES)
        assert file.read_bytes() == before
    with pytest.raises(CoviarMocropError, match="is a folder"):
        CsvWriter(tmp_path, CLASSES)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with CsvWriter(tmp_path / "table.csv", CLASSES) as table, open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(table, "_file", full)
        with pytest.raises(CoviarMocropError, match=r"table\.csv: cannot be written \(No space left"):
            table.add(window(0.0))


# -- the annotated video -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(96, 64), (97, 65), (640, 360)])
def test_an_annotated_video_has_every_frame_the_box_and_a_caption(tmp_path: Path, size: tuple[int, int]) -> None:
    pictures = wandering(12, *size, 3)
    path = tmp_path / "annotated.mp4"
    predictions = [None, window(0.0, 0.7), window(0.0, None)] * 4
    with AnnotatedVideo(path, 12.5, size) as video:
        for picture, prediction in zip(pictures, predictions, strict=True):
            before = picture.copy()
            video.add(picture, prediction)
            assert (picture == before).all()
        assert not path.exists()
    assert video.frames == 12
    with open_video(path) as written:
        assert written.info.num_frames == 12 and written.info.frame_rate == pytest.approx(12.5)
        assert (written.info.width, written.info.height) == (size[0] + size[0] % 2, size[1] + size[1] % 2)
        frames = written.get_frames_at(range(12))[:, : size[1], : size[0]].astype(int)
    differences = np.abs(frames - np.stack(pictures).astype(int)).mean(axis=3)
    height = size[1]
    caption, above = differences[:, height - height // 12 :], differences[:, : height // 2]
    plain, active, idle = (slice(kind, None, 3) for kind in range(3))
    assert caption[active].mean() > 2 * caption[plain].mean() and caption[idle].mean() > 2 * caption[plain].mean()
    edge = above[:, round(0.25 * height), size[0] // 4 : 3 * size[0] // 4]
    assert edge[active].mean() > 1.5 * edge[idle].mean()  # the upper side of the box
    assert above[idle].mean() < 1.2 * above[plain].mean() + 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_frames_of_an_annotated_video_are_shown_when_they_came(tmp_path: Path, suffix: str) -> None:
    times = [0.0, 0.04, 0.08, 0.12, 1.12, 1.16, 1.16, 1.20]  # a gap, and a time twice
    path = tmp_path / f"annotated{suffix}"
    with AnnotatedVideo(path, 25, (64, 48)) as video:
        for picture, at in zip(wandering(8, 64, 48, 3), times, strict=True):
            video.add(picture, None, at)
    with av.open(str(path)) as written:
        shown = [float(frame.time) for frame in written.decode(video=0)]
    if suffix == ".avi":  # which tells no time of display
        assert (len(shown), max(shown) - min(shown)) == (8, pytest.approx(1.24, abs=0.09))
    else:
        assert shown == pytest.approx(times, abs=0.002)


def test_a_video_that_ends_in_an_error_is_not_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "annotated.mp4"
    path.write_bytes(b"an older one")
    with pytest.raises(ZeroDivisionError), AnnotatedVideo(path, 25, (64, 48)) as video:
        video.add(np.zeros((48, 64, 3), np.uint8), window(0.0))
        _ = 1 / (video.frames - 1)
    with pytest.raises(VideoError, match="no frame to write"), AnnotatedVideo(path, 25, (64, 48)):
        pass
    assert path.read_bytes() == b"an older one" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(VideoError, match=r"other\.xyz: cannot be written as H\.264 .*; use \.mp4, \.mkv or \.avi"):
        AnnotatedVideo(tmp_path / "other.xyz", 25, (64, 48)).__enter__()
    assert list(tmp_path.iterdir()) == [path]


def test_pictures_of_another_size_are_resized_and_long_names_fit(tmp_path: Path) -> None:
    path = tmp_path / "annotated.mkv"
    whole = CropBox(0, 0, 1, 1)
    windows = [
        window(36_000.0, classes=(name,), scores={"fused": np.zeros(1, np.float32)}, box=whole)
        for name in ("run", "a very long name of a class " * 9)
    ]
    sizes = [(180, 320), (90, 160), (333, 111)] * 2
    with AnnotatedVideo(path, 29.97, (320, 180)) as video:
        for number, size in enumerate(sizes):
            video.add(np.full((*size, 3), 128, np.uint8), windows[number // 3])
    with open_video(path) as written:
        frames = written.get_frames_at(range(6)).astype(int)
    assert frames.shape == (6, 180, 320, 3)
    orange = np.array([int(BOX_COLOUR[place : place + 2], 16) for place in (1, 3, 5)])
    assert np.abs(frames[:, 0].mean(axis=1) - orange).max() < 60
    # below, the long name reaches further to the right, and leaves the time as it is
    short, long = frames[2, -10:], frames[5, -10:]
    differs = np.abs(long - short).mean(axis=(0, 2))
    assert differs[100:180].mean() > 20 > 5 > differs[-100:].mean()
