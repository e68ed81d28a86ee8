"""Learned fusion weights in the folder of a run: ``fusion.json``, by setting, with checksums of the networks."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coviar_mocrop.card import NAME, read_card
from coviar_mocrop.checkpoint import digest
from coviar_mocrop.errors import CheckpointError, ScoreError
from coviar_mocrop.files import write_json
from coviar_mocrop.fusion import common_clips
from coviar_mocrop.fusion_weights import LearnedFusion, tune_weights
from coviar_mocrop.inference.testing import find_checkpoints, load_streams
from coviar_mocrop.inference.validation import validation_scores
from coviar_mocrop.runtime import ALONE
from coviar_mocrop.scores import HELD_OUT
from coviar_mocrop.streams.base import Stream

_METHOD = "calibrated streams, weights drawn to equal ones"
logger = logging.getLogger(__name__)


def fusion_file(checkpoints: Iterable[str | os.PathLike[str]], streams: Mapping[str, Stream]) -> Path | None:
    """Where the weights of a run with several streams are kept: ``RUN/fusion.json``.

    Args:
        checkpoints: the folder of the run, or its files ``RUN/STREAM/best.pt``.
        streams: the streams that were loaded from them.

    Returns:
        The file; None if there is only one stream, or the checkpoints lie elsewhere.
    """
    files = find_checkpoints(checkpoints)
    runs = {file.parent.parent for file in files}
    in_place = all(file.parts[-2:] == (name, "best.pt") for file, name in zip(files, streams, strict=True))
    return runs.pop() / "fusion.json" if in_place and len(files) > 1 and len(runs) == 1 else None


def store_fusion(file: Path, streams: Mapping[str, Stream], learned: LearnedFusion) -> None:
    """Write the weights for the setting of the streams. Weights of other settings stay.

    Raises:
        CoviarMocropError: the file cannot be written.
    """
    try:
        settings = _read(file)
    except (FileNotFoundError, ScoreError):
        settings = {}
    checkpoints = {name: digest(stream.network.state_dict()) for name, stream in streams.items()}
    entry = {"method": _METHOD, **asdict(learned), "checkpoints": checkpoints}
    write_json(file, {"settings": {**settings, _setting(streams): entry}})


def learn_from_held_out(checkpoints: Sequence[str | os.PathLike[str]]) -> LearnedFusion | None:
    """Learn and store the weights of a run whose streams were all fitted, from the held-out scores beside checkpoints.

    Returns:
        The weights; None if a stream was not fitted but trained, there is only one stream, or scores cannot be used,
            for example because all clips are of one class.

    Raises:
        CoviarMocropError: a file cannot be used or written.
    """
    if not all((Path(checkpoint).parent / HELD_OUT).exists() for checkpoint in checkpoints):
        return None
    streams = load_streams(checkpoints)
    file = fusion_file(checkpoints, streams)
    if file is None:
        return None
    try:
        scores = validation_scores(streams, find_checkpoints(checkpoints), ALONE)
        learned = tune_weights(common_clips(scores))
    except ScoreError as problem:
        logger.warning("fusion weights are the default ones, because %s", problem)
        return None
    store_fusion(file, streams, learned)
    return learned


def learned_fusion(
    checkpoints: Sequence[Path], loaded: Mapping[str, Stream], used: Mapping[str, Stream]
) -> LearnedFusion | None:
    """Find the weights learned with the streams ``used``, in the folder of their run or on the card of an export.

    If there are only weights of other streams or settings, a warning says so.

    Args:
        checkpoints: checkpoint files.
        loaded: the streams that were loaded from them.
        used: all of these streams, or some.

    Returns:
        The weights; None if there are none.

    Raises:
        ScoreError, CheckpointError: the file, or the card, is damaged.
    """
    folders = {checkpoint.parent for checkpoint in checkpoints}
    card = Path(*folders, NAME) if len(folders) == 1 else None
    if card is None or not card.exists() or any(path.suffix != ".safetensors" for path in checkpoints):
        return stored_fusion(fusion_file(checkpoints, loaded), used)
    content = read_card(card)
    if (learned := content["fusion"].get("learned")) is None:
        return None
    if content.get("setting") != _setting(used):
        _warn(card, f"are not of the setting {_setting(used)}")
    elif content["streams"].keys() != used.keys():
        _warn(card, f"are of other streams ({', '.join(content['streams'])})")
    else:
        try:
            return LearnedFusion.from_json(learned, used)
        except ValueError as error:
            raise CheckpointError(f"{card}: the weights of the fusion are damaged; export again") from error
    return None


def stored_fusion(file: Path | None, streams: Mapping[str, Stream]) -> LearnedFusion | None:
    """Find the weights learned with these streams in their setting.

    If the file holds only weights of other streams or settings, or the streams have been trained again since, a warning
    says so.

    Returns:
        The weights; None if there are none.

    Raises:
        ScoreError: the file is damaged.
    """
    if file is None or not file.exists():
        return None
    settings = _read(file)
    if (entry := settings.get(_setting(streams))) is None:
        reason = f"are not of the setting {_setting(streams)}"
    elif (known := entry["checkpoints"]).keys() != streams.keys():
        reason = f"are of other streams ({', '.join(known)})"
    elif changed := [name for name, stream in streams.items() if known[name] != digest(stream.network.state_dict())]:
        reason = f"are older than the checkpoints ({', '.join(changed)} trained again since)"
    else:
        return LearnedFusion.from_json(entry, streams)
    _warn(file, reason)
    return None


def _warn(file: Path, reason: str) -> None:
    logger.warning(
        "warning: %s: its fusion weights %s; the default ones are used, coviar fuse learns new ones", file, reason
    )


def _read(file: Path) -> dict[str, Any]:
    """Read the weights, by setting.

    Raises:
        ScoreError: the file is damaged.
        FileNotFoundError: there is no file.
    """
    try:
        settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["settings"]
        for entry in settings.values():
            LearnedFusion.from_json(entry, entry["checkpoints"].keys())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ScoreError(
            f"{file}: does not hold fusion weights; remove it, or make it again with coviar fuse"
        ) from error
    return settings


def _setting(streams: Mapping[str, Stream]) -> str:
    """The setting, which is the same for all streams that are tested together."""
    return next(iter(streams.values())).config.setting
