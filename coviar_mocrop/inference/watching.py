"""Classify several sources at once: a thread reads each source, and one set of networks classifies all windows.

If live sources are faster than the networks, their oldest windows are dropped, so that predictions are never late. No
source can stop the others: if the windows of one cannot be used, only that one ends.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream.addresses import STANDARD_INPUT, source_name, source_names
from coviar_mocrop.bitstream.types import Source
from coviar_mocrop.clips.time_windows import TimeWindow, require_lengths
from coviar_mocrop.errors import ConfigError, NoMotionVectorsError, VideoError
from coviar_mocrop.inference.classifier import Classifier
from coviar_mocrop.inference.prediction import WindowPrediction
from coviar_mocrop.inference.source_reader import Notice, SourceReader, StreamOptions, Waiting
from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.mocrop.density import GATE, motion_level

__all__ = ["Notice", "StreamOptions", "watch"]
logger = logging.getLogger(__name__)


def watch(
    classifier: Classifier,
    sources: Sequence[Source],
    *,
    gate: float = GATE,
    options: StreamOptions | None = None,
    on_notice: Callable[[Notice], None] | None = None,
    on_window: Callable[[WindowPrediction, TimeWindow], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[WindowPrediction]:
    """Classify windows of several sources as they come.

    Args:
        classifier: the networks.
        sources: see :func:`~coviar_mocrop.bitstream.addresses.open_source`.
        gate: see :meth:`~coviar_mocrop.inference.predictor.Predictor.over_time`.
        options: how the sources are read, and how long windows are; None: the defaults.
        on_notice: called with everything that happens to a source, such as a break; None: a warning is logged.
        on_window: called with each prediction and its window, before the frames of the window are freed.
        should_stop: called at least once a second; if it returns True, watching ends.

    Returns:
        Predictions as they are made. The sources are opened when the first one is asked for.

    Raises:
        VideoError: none of the sources could be opened, or all of them ended in an error.
        ConfigError: the window, the stride, the timeout or the gate is out of range, ``data.anchor_every`` is null,
            standard input is named twice, or ``key_frames_only`` is set and motion vectors or transcoding are needed.
    """
    options = options or StreamOptions()
    if not 0 <= gate < 1:
        raise ConfigError(f"the gate is {gate:g}; give a level of motion from 0 to below 1")
    require_lengths(options.window, options.stride)
    if not 0 < options.timeout < math.inf:
        raise ConfigError(f"the timeout is {options.timeout:g} s; give more than 0")
    if sources.count(STANDARD_INPUT) > 1:
        raise ConfigError(f"{source_name(STANDARD_INPUT)} can be read once; name it once")
    if options.key_frames_only and (classifier.needs_vectors or options.form is not None):
        raise ConfigError(
            "key frames alone have no motion vectors and are not transcoded: give the I-frame stream alone, with "
            "setting=baseline and without --transcode"
        )
    if classifier.data.anchor_every is None:
        raise ConfigError("data.anchor_every is null: a GOP could fill the memory; set data.anchor_every=12")
    return _watch(classifier, sources, gate, options, on_notice or _warn, on_window, should_stop)


def _watch(
    classifier: Classifier,
    sources: Sequence[Source],
    gate: float,
    options: StreamOptions,
    on_notice: Callable[[Notice], None],
    on_window: Callable[[WindowPrediction, TimeWindow], None] | None,
    should_stop: Callable[[], bool],
) -> Iterator[WindowPrediction]:
    changed = threading.Condition()
    readers = [
        SourceReader(source, name, classifier.data, options, changed)
        for source, name in zip(sources, source_names(sources), strict=True)
    ]
    for reader in readers:
        reader.start()
    known: set[str] = set()
    try:
        while not should_stop():
            with changed:
                changed.wait_for(lambda: _has_news(readers), timeout=1.0)
                notices = [notice for reader in readers for notice in reader.take_notices()]
                taken = _take(readers)
                ended = all(reader.done and not reader.ready for reader in readers)
                changed.notify_all()
            for reader, waiting in taken:
                if reader.name not in known and not classifier.has_form(waiting.window.info):
                    notices.append(
                        Notice(
                            reader.name,
                            f"does not have the format of the training videos ({classifier.form}); add --transcode",
                        )
                    )
                known.add(reader.name)
            if all(reader.error and not reader.opened for reader in readers):
                _report_errors(readers, on_notice)
            for notice in notices:
                on_notice(notice)
            if taken:
                for prediction, cut in _predict(classifier, taken, gate):
                    if on_window is not None:
                        on_window(prediction, cut)
                    cut.forget_rgb()
                    yield prediction
            elif ended:
                _report_errors(readers, on_notice)
                return
    finally:
        for reader in readers:
            reader.stop()
        with changed:
            changed.notify_all()
        until = time.monotonic() + 1.0  # a thread that waits for its source ends later, when that is given up
        for reader in readers:
            reader.join(max(until - time.monotonic(), 0.0))


def _has_news(readers: Sequence[SourceReader]) -> bool:
    return (
        bool(_takeable(readers))
        or any(reader.notices for reader in readers)
        or all(reader.done for reader in readers)
        or all(reader.error and not reader.opened for reader in readers)
    )


def _takeable(readers: Sequence[SourceReader]) -> list[SourceReader]:
    """The readers that have a window to take. Files wait for one another, so that batches are the same every time."""
    in_step = all(reader.ready or reader.done for reader in readers if reader.is_file)
    return [reader for reader in readers if reader.ready and (in_step or not reader.is_file)]


def _take(readers: Sequence[SourceReader]) -> list[tuple[SourceReader, Waiting]]:
    return [(reader, reader.ready.popleft()) for reader in _takeable(readers)]


def _report_errors(readers: Sequence[SourceReader], on_notice: Callable[[Notice], None]) -> None:
    """Report the errors of sources. If all sources have one, the first error is raised instead."""
    failed = [(reader, reader.error) for reader in readers if reader.error is not None]
    told = failed[1:] if len(failed) == len(readers) else failed
    for reader, error in told:
        on_notice(Notice(reader.name, reader.reason(error)))
    if len(told) < len(failed):
        raise failed[0][1]


def _predict(
    classifier: Classifier, taken: Sequence[tuple[SourceReader, Waiting]], gate: float
) -> Iterator[tuple[WindowPrediction, TimeWindow]]:
    """Predict for windows. Those with enough motion go through the networks together."""
    levels = [_level(waiting.window) for _, waiting in taken]
    moving = [number for number, level in enumerate(levels) if level is None or level >= gate]
    scores = _classify(classifier, taken, moving)
    for number, (reader, (window, dropped)) in enumerate(taken):
        if number in scores and scores[number] is None:
            continue
        row, box = scores.get(number) or ({}, None)
        yield (
            WindowPrediction(
                path=reader.name,
                classes=classifier.classes,
                scores=row,
                box=box,
                milliseconds={},
                seen={},
                iframes=[],
                damaged_frames=window.damaged_frames,
                as_trained=classifier.has_form(window.info),
                start=window.start,
                end=window.end,
                motion=levels[number] or 0.0,
                idle=number not in scores,
                frames=window.info.num_frames,
                missing_frames=window.missing_frames,
                dropped=dropped,
                latency=time.monotonic() - window.arrived if reader.is_live else 0.0,
                wall_time=time.time() - time.monotonic() + window.arrived if reader.is_live else None,
            ),
            window,
        )


def _classify(
    classifier: Classifier, taken: Sequence[tuple[SourceReader, Waiting]], moving: Sequence[int]
) -> dict[int, tuple[dict[str, NDArray[np.float32]], CropBox | None] | None]:
    """Scores and boxes of the windows ``moving``; None for a window that cannot be used, which ends its source."""
    try:
        windows = [taken[number][1].window for number in moving]
        return dict(zip(moving, classifier.classify(windows) if windows else [], strict=True))
    except VideoError as error:
        if len(moving) > 1:  # one by one, to find the window that cannot be used
            return {number: _classify(classifier, taken, [number])[number] for number in moving}
        if isinstance(error, NoMotionVectorsError):
            error = error.advising(
                "add --transcode, have the camera send H.264, or use the I-frame stream alone with --set "
                "setting=baseline"
            )
        taken[moving[0]][0].fail(error)
        return {moving[0]: None}


def _level(window: TimeWindow) -> float | None:
    """The motion that is compared with the gate; None without vectors (the codec exports none, or only I-frames)."""
    if not window.has_vectors:
        return None
    return motion_level(window.raw_vectors(), window.frames[0].size)


def _warn(notice: Notice) -> None:
    logger.warning("%s: %s", notice.source, notice.text)
