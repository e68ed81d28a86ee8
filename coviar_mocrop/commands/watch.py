"""Classify windows of long videos and live cameras, as they come.

Sources are files of any length, cameras (rtsp://, /dev/video0), servers (http://, udp://, tcp://) and - for MPEG-TS,
Matroska, raw H.264 or raw MPEG-4 on standard input. Several sources are read side by side and share the networks. A
window in which hardly anything moves is idle: no network sees it. A connection that breaks is opened again. Ctrl-C ends
the command, and all output files are finished.

Prints a line for each window; with --events also a line when a class begins and when it ends.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coviar_mocrop.cli import add_set_argument, output_paths
from coviar_mocrop.commands.networks import add_networks_arguments, open_predictor, read_classes
from coviar_mocrop.errors import DataError
from coviar_mocrop.files import require_writable
from coviar_mocrop.interrupt import StopRequest
from coviar_mocrop.messages import clock
from coviar_mocrop.viz.pictures import PICTURES, require_picture

if TYPE_CHECKING:
    from coviar_mocrop.inference.events import Event
    from coviar_mocrop.inference.prediction import WindowPrediction

VIDEOS = (".mp4", ".mkv", ".avi", ".mov", ".m4v", ".ts")
"""Suffixes of --video; files in a folder get the first one."""
EXAMPLES = """\
  coviar watch hour.mp4 --checkpoints runs/mine --timeline hour.png --csv hour.csv
  coviar watch rtsp://user:password@camera/stream --checkpoints runs/mine --events fight --json
  coviar watch rtsp://one/live rtsp://two/live --checkpoints runs/mine
  coviar watch match.mp4 --checkpoints runs/mine --video annotated.mp4
  cat camera.ts | coviar watch - --checkpoints runs/mine
  coviar watch rtsp://camera/stream --checkpoints runs/mine --csv seen.csv --systemd > coviar-watch.service
"""
UNIT = """\
[Unit]
Description=Action recognition on {sources}
After=network-online.target
Wants=network-online.target

[Service]
WorkingDirectory={folder}
ExecStart={command}
Restart=always
RestartSec=10
KillSignal=SIGINT
SuccessExitStatus=130

[Install]
WantedBy=multi-user.target
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("source", nargs="+", metavar="SOURCE", help="files, addresses, cameras, or -")
    add_networks_arguments(parser)
    add("--weights", nargs="+", metavar="STREAM=NUMBER", help="fusion weights, or coviar, as in coviar predict")
    add_set_argument(parser)

    add = parser.add_argument_group("windows").add_argument
    add("--window", type=float, default=2.0, metavar="S", help="length of a window, seconds (default: %(default)g)")
    add("--stride", type=float, default=1.0, metavar="S", help="seconds between windows (default: %(default)g)")
    add(
        "--gate",
        type=float,
        default=0.01,
        metavar="MOTION",
        help="windows with less motion than this (0 to 1) are idle; 0: no window is; see docs/watch.md "
        "(default: %(default)g)",
    )

    add = parser.add_argument_group("events").add_argument
    add("--events", nargs="*", metavar="CLASS", help="say when these classes begin and end (no class: all)")
    add(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="probability at which an event begins (default: %(default)g)",
    )
    add(
        "--release", type=float, default=0.3, metavar="P", help="probability below which it ends (default: %(default)g)"
    )

    add = parser.add_argument_group("outputs").add_argument
    add("--json", action="store_true", help="print one JSON object per window or event and nothing else")
    add("--csv", type=Path, metavar="FILE", help="table of all windows; rows are added to a table that exists")
    add("--timeline", type=Path, metavar="PICTURE", help="probabilities over time; for several sources, a folder")
    add("--no-frames", action="store_true", help="draw timelines without frames of the video")
    add("--video", type=Path, metavar="FILE", help="video with box and class; for several sources, a folder of them")
    add("--tensorboard", type=Path, metavar="DIR", help="TensorBoard run to add the probabilities over time to")

    add = parser.add_argument_group("reading").add_argument
    add(
        "--transcode",
        action="store_true",
        help="transcode the frames to the format of the training videos as they come; also for codecs without motion "
        "vectors (HEVC, VP9, AV1)",
    )
    add(
        "--key-frames",
        action="store_true",
        help="decode key frames only; for the I-frame stream alone, with --set setting=baseline",
    )
    add("--transport", choices=("tcp", "udp"), default="tcp", help="transport of RTSP (default: %(default)s)")
    add(
        "--timeout",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds of silence after which a connection counts as broken (default: %(default)g)",
    )
    add(
        "--live",
        action=argparse.BooleanOptionalAction,
        help="drop windows when computing is too slow (default: yes for cameras and endless servers; "
        "files and pipes wait)",
    )
    add("--once", action="store_true", help="do not open a source again that has ended or broken")

    add = parser.add_argument_group("service").add_argument
    add("--systemd", action="store_true", help="print a systemd unit that runs this command and do nothing else")


def main(given: argparse.Namespace) -> None:
    """Watch the sources and print what they show."""
    if given.systemd:
        print(unit(given.source, given.words), end="")
        return
    timelines, videos = _outputs(given)
    _watch(given, timelines, videos)


def _watch(given: argparse.Namespace, timelines: dict[str, Path], videos: dict[str, Path]) -> None:
    from coviar_mocrop.bitstream.addresses import source_names
    from coviar_mocrop.clips.time_windows import TimeWindow
    from coviar_mocrop.inference.events import EventFinder
    from coviar_mocrop.inference.source_reader import Notice, StreamOptions
    from coviar_mocrop.inference.watching import watch
    from coviar_mocrop.viz.live_table import LiveTable
    from coviar_mocrop.viz.watch_outputs import WatchOutputs

    finder = None
    if given.events is not None:  # a name that is wrong is said before the networks are loaded, which takes seconds
        classes = read_classes(given)
        finder = EventFinder(given.events or classes, classes, given.threshold, given.release)
    predictor = open_predictor(given)
    options = StreamOptions(
        given.window,
        given.stride,
        given.live,
        given.transport,
        given.timeout,
        reconnect=not given.once,
        form=predictor.transcode_to,
        key_frames_only=given.key_frames,
    )
    outputs = WatchOutputs(
        predictor.classes,
        csv=given.csv,
        timelines=timelines,
        frames=not given.no_frames,
        videos=videos,
        tensorboard=given.tensorboard,
    )
    table, summary = LiveTable(source_names(given.source)), Summary()

    def notice(happened: Notice) -> None:
        line = f"{happened.source}: {happened.text}"
        if given.json or not table.updates:
            print(line, file=sys.stderr, flush=True)
        else:
            table.say(line)

    def tell(events: Sequence[Event]) -> None:
        for event in events:
            if given.json:
                print(json.dumps(event.as_json()), flush=True)
            else:
                table.say(event_line(event, several=len(given.source) > 1))

    def show(prediction: WindowPrediction, window: TimeWindow) -> None:
        events = finder.add(prediction) if finder else []
        summary.add(prediction)
        if given.json:
            print(json.dumps(prediction.as_json()), flush=True)
        else:
            table.add(prediction)
        tell(events)
        outputs.add(prediction, window, events)

    # a flag, as an exception out of a signal is lost where it meets a library's callback
    with StopRequest(quiet=True) as stop:
        windows = watch(
            *(predictor, given.source),
            gate=given.gate,
            options=options,
            on_notice=notice,
            on_window=show,
            should_stop=lambda: stop.made,
        )
        try:
            for _ in windows:
                pass
        finally:
            left = finder.finish() if finder else []
            try:
                tell(left)  # fails if nobody reads stdout any more, as in `coviar watch ... | head`
            finally:
                try:
                    outputs.close(left)
                finally:
                    told = [str(summary)] if summary.windows or stop.made else []  # else an error says all
                    for line in (*told, *(f"wrote {path}" for path in outputs.written)):
                        print(line, file=sys.stderr)
    if stop.made:
        raise SystemExit(130)


class Summary:
    """Counts windows, and remembers how late the last ones were."""

    def __init__(self) -> None:
        self.windows = self.idle = self.dropped = self.damaged = 0
        self.seconds: dict[str, float] = {}
        self._late: deque[float] = deque(maxlen=10_000)

    def add(self, prediction: WindowPrediction) -> None:
        """Count a window."""
        self.windows += 1
        self.idle += prediction.idle
        self.dropped += prediction.dropped
        self.damaged += bool(prediction.damaged_frames)
        self.seconds[prediction.path] = prediction.end
        if prediction.wall_time is not None:
            self._late.append(prediction.latency)

    def __str__(self) -> str:
        told = f"{self.windows} windows in {sum(self.seconds.values()):.1f} s of video: {self.idle} idle"
        told += f", {self.damaged} with damaged frames, {self.dropped} dropped"
        if self._late:
            import numpy as np

            median, most = np.quantile(list(self._late), (0.5, 0.95))
            told += f"; latency {median:.2f} s (median), {most:.2f} s (95%)"
        return told


def event_line(event: Event, *, several: bool) -> str:
    """An event for people."""
    source = f"{event.source}: " if several else ""
    if not event.ended:
        return f"{source}{event.name} begins at {clock(event.start)}"
    return (
        f"{source}{event.name} from {clock(event.start)} to {clock(event.end)}, "
        f"peak {event.peak:.0%} at {clock(event.peak_time)}"
    )


def unit(sources: Sequence[str], words: Sequence[str]) -> str:
    """A systemd unit that runs this command with the given ``words``, less ``--systemd``."""
    from coviar_mocrop.bitstream.addresses import source_names

    command = ["-m", "coviar_mocrop", "watch", *(word for word in words if word != "--systemd")]
    # variables are replaced in arguments, but not in the name of the program
    quoted = " ".join([_systemd_word(sys.executable), *(_systemd_word(word).replace("$", "$$") for word in command)])
    parts = {"sources": ", ".join(source_names(sources)), "folder": str(Path.cwd()), "command": quoted}
    return UNIT.format(**{name: text.replace("%", "%%") for name, text in parts.items()})


def _systemd_word(word: str) -> str:
    """A word quoted as systemd.syntax(7) says, which shares JSON's escapes; a shell's quotes within words it lacks."""
    return word if shlex.quote(word) == word else json.dumps(word, ensure_ascii=False)


def _outputs(given: argparse.Namespace) -> tuple[dict[str, Path], dict[str, Path]]:
    """Timelines and videos by name of their source, checked before work begins."""
    from coviar_mocrop.bitstream.addresses import source_names

    names = list(dict.fromkeys(source_names(given.source)))
    paths: dict[str, Any] = {"--timeline": {}, "--video": {}}
    for option, suffixes in (("--timeline", PICTURES), ("--video", VIDEOS)):
        chosen = given.timeline if option == "--timeline" else given.video
        if chosen is not None:
            paths[option] = dict(zip(names, output_paths(names, chosen, option, suffixes), strict=True))
    for picture in paths["--timeline"].values():
        require_picture(picture)
    for video in paths["--video"].values():
        if video.suffix.lower() not in VIDEOS:
            raise DataError(f"--video {video}: is not a supported video format; use {', '.join(VIDEOS)}")
        require_writable(video)
        for source in given.source:
            if video.exists() and os.path.exists(source) and video.samefile(source):
                raise DataError(f"--video {video}: would replace the video it is made from; choose another folder")
    return paths["--timeline"], paths["--video"]
