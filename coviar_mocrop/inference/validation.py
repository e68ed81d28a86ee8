"""Scores for learning fusion weights, from clips that are neither used for training nor in the test list."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from coviar_mocrop.checkpoint import digest
from coviar_mocrop.clips.lists import read_videos
from coviar_mocrop.errors import ScoreError
from coviar_mocrop.inference.testing import score_streams
from coviar_mocrop.runtime import Group
from coviar_mocrop.scores import HELD_OUT, Scores, load_scores
from coviar_mocrop.storage import is_address
from coviar_mocrop.streams.base import Stream

logger = logging.getLogger(__name__)


def validation_scores(streams: Mapping[str, Stream], files: Sequence[Path], group: Group) -> dict[str, Scores]:
    """Score the validation list with all streams. For a fitted stream, return its held-out scores instead.

    Args:
        streams: streams by name.
        files: their checkpoints, in the same order.
        group: the processes of the run.

    Raises:
        ScoreError: there is only one stream, no usable validation list, or no usable held-out scores.
        CoviarMocropError: a list or a clip cannot be used.
    """
    if len(streams) < 2:
        raise ScoreError("there is only one stream")
    held_out = {name: _held_out(s, file) for (name, s), file in zip(streams.items(), files, strict=True) if s.fitted}
    others = [stream for name, stream in streams.items() if name not in held_out]
    if others:
        _require_validation_list(others)
        held_out |= score_streams(others, "val", group=group)
    return {name: held_out[name] for name in streams}


def warn_if_fitted_on(checkpoint: str | os.PathLike[str], scores: Scores) -> None:
    """Warn if the classifier of a frozen network was fitted on some of the clips whose scores are reported."""
    file = Path(checkpoint).parent / HELD_OUT
    with suppress(ScoreError):  # nothing is known of its clips then
        fitted = load_scores(file).names.tolist() if file.exists() else []
        if shared := set(fitted) & set(scores.names.tolist()):
            logger.warning(
                "%s: the classifier was fitted on %d of the %d clips reported here, first %s; "
                "on other clips it is less accurate",
                *(os.fspath(checkpoint), len(shared), len(scores.names), min(shared)),
            )


def _held_out(stream: Stream, checkpoint: Path) -> Scores:
    file = checkpoint.parent / HELD_OUT
    if not file.exists():
        raise ScoreError(f"{file}: no such file; it belongs to the {stream.name} stream, which was fitted")
    scores = load_scores(file)
    if scores.settings.get("weights") != digest(stream.network.state_dict()):
        raise ScoreError(f"{file}: belongs to other weights than {checkpoint}; train the stream again")
    if (setting := scores.settings.get("setting")) != stream.config.setting:
        raise ScoreError(f"{file}: is of the setting {setting}, in which the {stream.name} stream was fitted")
    rules = json.loads(json.dumps(stream.rules()))  # tuples become lists, as in the file
    fitted: dict[str, Any] = scores.settings.get("rules", {})
    if changed := [part for part in rules if rules[part] != fitted.get(part)]:
        raise ScoreError(
            f"{file}: the {stream.name} stream was fitted with other settings than it is tested with ({changed[0]})"
        )
    return scores


def _require_validation_list(streams: Sequence[Stream]) -> None:
    data = streams[0].config.data
    lists = {stream.config.data.val_list for stream in streams}
    if lists == {None}:
        raise ScoreError("there is no validation list (data.val_list)")
    if len(lists) > 1:
        raise ScoreError(f"the streams have different validation lists ({', '.join(sorted(map(str, lists)))})")
    name = str(data.val_list)
    if not is_address(name) and not Path(name).exists():
        raise ScoreError(f"{name}: is not a file (data.val_list)")
    validation = {clip.path for clip in read_videos(data, "val").clips}
    test = {clip.path for clip in read_videos(data, "test").clips} if data.test_list else set()
    if shared := validation & test:
        raise ScoreError(f"{len(shared)} clips are in the validation list and in the test list, first {min(shared)}")
