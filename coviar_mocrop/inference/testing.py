"""Testing streams on a list: every clip is read once for all of them; scores, what they cost, how long they took."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from coviar_mocrop.card import NAME, read_card
from coviar_mocrop.checkpoint import load_checkpoint, load_model_state
from coviar_mocrop.clips.lists import Part, read_videos
from coviar_mocrop.clips.loading import ClipLoader, create_testing_loader
from coviar_mocrop.config import build_config, load_config
from coviar_mocrop.datasets.lists import VideoList, form_of, read_classes
from coviar_mocrop.errors import CheckpointError, ConfigError, CoviarMocropError, DataError
from coviar_mocrop.runtime import ALONE, Group, Runtime, choose_runtime
from coviar_mocrop.scores import Scores
from coviar_mocrop.shared_settings import require_shared
from coviar_mocrop.streams.base import Stream, create_stream, stream_class, stream_names


def find_checkpoints(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Checkpoint files: files as they are; of a folder its ``best.pt``, those of its folders named like streams, or the
    safetensors of an export.

    Raises:
        CheckpointError: a folder holds none.
    """
    found = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside = [path / "best.pt", *(path / name / "best.pt" for name in stream_names())]
        files = [file for file in inside if file.is_file()]
        if not files and (path / NAME).is_file():
            exported = [entry["files"].get("safetensors") for entry in read_card(path / NAME)["streams"].values()]
            if not any(exported):
                raise CheckpointError(f"{path}: holds an export without safetensors; --onnx reads its networks")
            found += [path / file["name"] for file in exported if file]
            continue
        if not files:
            raise CheckpointError(f"{path}: holds no best.pt, nor STREAM/best.pt; give the folder of a run")
        found += files[:1] if files[0] == inside[0] else files
    return found


def load_stream(
    checkpoint: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    config_file: str | os.PathLike[str] | None = None,
) -> Stream:
    """Load a trained stream, in evaluation mode.

    Args:
        checkpoint: made by training; or ``.safetensors`` with its card beside it, made by ``coviar export``.
        overrides: ``a.b=value`` items on top of the settings, such as ``setting=efficiency``.
        config_file: settings to use in place of those in the checkpoint; they must describe the same network.

    Raises:
        CheckpointError: the file cannot be used, or does not fit the settings.
        ConfigError: a setting is wrong.
    """
    content = load_checkpoint(checkpoint)
    trained = content["config"].get("stream")
    if config_file is not None:
        config = load_config(config_file, overrides, trained)
        if config.model.freeze == "few":  # training decided by the number of clips
            freeze = content["config"].get("model", {}).get("freeze", False)
            config = config.model_copy(update={"model": config.model.model_copy(update={"freeze": freeze})})
    else:
        config = build_config(content["config"], overrides, str(checkpoint))
    if config.stream != trained:
        raise CheckpointError(f"{os.fspath(checkpoint)}: is a {trained} stream; it cannot be tested as {config.stream}")
    stream = create_stream(config, content["classes"], weights=False)
    stream.form = form_of(content.get("rules", {}).get("videos"))
    load_model_state(stream.network, content["model"], checkpoint)
    stream.network.eval()
    return stream


def load_untrained(
    config_file: str | os.PathLike[str], overrides: Sequence[str] = (), name: str | None = None
) -> Stream:
    """A stream that needs no training, and so has no checkpoint: its classes are those of the settings.

    Raises:
        ConfigError: the settings are of a stream that is trained.
        CoviarMocropError: its weights cannot be had.
    """
    config = load_config(config_file, overrides, name)
    if stream_class(config.stream).trainable:
        raise ConfigError(f"{os.fspath(config_file)}: the {config.stream} stream is trained; give its --checkpoint")
    stream = create_stream(config, read_classes(config.data.classes), weights=True)
    stream.network.eval()
    return stream


def score_checkpoint(
    checkpoint: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    config_file: str | os.PathLike[str] | None = None,
    *,
    group: Group = ALONE,
) -> Scores:
    """Score the test list with one trained stream; see :func:`load_stream` and :func:`score_streams`."""
    stream = load_stream(checkpoint, overrides, config_file)
    scores = score_streams([stream], group=group)[stream.name]
    scores.settings["checkpoint"] = os.fspath(checkpoint)
    return scores


def score_checkpoints(
    checkpoints: Sequence[str | os.PathLike[str]],
    overrides: Sequence[str] = (),
    part: Part = "test",
    *,
    group: Group = ALONE,
) -> dict[str, Scores]:
    """Score a list with several trained streams from one decode of each clip.

    Returns:
        Scores by stream.

    Raises:
        CheckpointError: two checkpoints are of the same stream, or of different classes.
        CoviarMocropError: of whatever kind the input deserves.
    """
    paths = find_checkpoints(checkpoints)
    streams = load_streams(paths, overrides)
    scores = score_streams(list(streams.values()), part, group=group)
    for name, path in zip(streams, paths, strict=True):
        scores[name].settings["checkpoint"] = os.fspath(path)
    return scores


def load_streams(checkpoints: Iterable[str | os.PathLike[str]], overrides: Sequence[str] = ()) -> dict[str, Stream]:
    """Load streams that belong together, by name, in the order given.

    Args:
        checkpoints: files or folders; see :func:`find_checkpoints`.
        overrides: ``a.b=value`` items on top of every stream's settings.

    Raises:
        CheckpointError: none is given, two are of the same stream, or they are of different classes.
    """
    streams: dict[str, Stream] = {}
    for path in find_checkpoints(checkpoints):
        stream = load_stream(path, overrides)
        if stream.name in streams:
            raise CheckpointError(f"{path}: is a second {stream.name} stream; give one checkpoint a stream")
        first = next(iter(streams.values()), stream)
        if stream.classes != first.classes:
            raise CheckpointError(
                f"{path}: was trained on other classes than the {first.name} stream "
                f"({_difference(stream.classes, first.classes)})"
            )
        streams[stream.name] = stream
    if not streams:
        raise CheckpointError("no checkpoint given; give at least one best.pt, or the folder of a run")
    return streams


def _difference(mine: Sequence[str], other: Sequence[str]) -> str:
    """How two lists of classes differ."""
    if len(mine) != len(other):
        return f"{len(mine)} against {len(other)}"
    at = next(label for label, name in enumerate(mine) if name != other[label])
    return f"label {at} is {mine[at]!r} against {other[at]!r}"


def require_classes(streams: Iterable[Stream], videos: VideoList) -> None:
    """Check that labels of a list mean what they meant in training.

    Raises:
        CheckpointError: the list's classes are others than a stream's.
    """
    for stream in streams:
        if videos.classes != stream.classes:
            raise CheckpointError(
                f"the {stream.name} stream was trained on other classes than {stream.config.data.classes} names "
                f"({_difference(stream.classes, videos.classes)})"
            )


def score_streams(streams: Sequence[Stream], part: Part = "test", *, group: Group = ALONE) -> dict[str, Scores]:
    """Score a list; the processes of ``group`` share the work and get the same.

    Raises:
        ConfigError: the streams differ in settings that they share.
        CheckpointError: the list's classes are others than the streams'.
        CoviarMocropError: of whatever kind the input deserves.
    """
    config = streams[0].config
    require_shared({stream.name: stream.config for stream in streams}, (f"data.{part}_list",))
    videos = read_videos(config.data, part)
    require_classes(streams, videos)
    runtime = choose_runtime(config.train, group.local_rank)
    for stream in streams:
        runtime.place(stream.network)
    loader = create_testing_loader(streams, videos, group)
    scores = score_clips(streams, loader, runtime, title="validate" if part == "val" else part, group=group)
    loader.clips.keep_boxes()
    loader.summarise(group, f"{part} clips")
    for stream in streams:
        facts = scores[stream.name].settings
        facts.update(stream.description(), part=part)
        if features := loader.clips.features.get(stream.name):
            facts["ms_read"] += 1e3 * features.reading
            facts["ms_network"] += 1e3 * features.networks
    return scores


def score_clips(
    streams: Sequence[Stream],
    loader: ClipLoader,
    runtime: Runtime,
    *,
    batches: int | None = None,
    title: str = "test",
    group: Group = ALONE,
) -> dict[str, Scores]:
    """Mean logits of every clip that can be read, in the list's order; the same on every process of ``group``.

    ``settings`` of the results hold ``ms_read`` and ``ms_network``: what a clip takes on this machine, in milliseconds,
    the mean over the list. Reading is timed in the processes that read and divided equally among the streams.

    Args:
        streams: some of those that ``loader`` reads for.
        loader: the clips.
        runtime: where the networks are.
        batches: stop after so many; None: the whole list.
        title: of the progress bar.
        group: the processes of the run.

    Raises:
        DataError: no clip could be read.
    """
    dataset = loader.clips
    numbers: dict[str, list[np.ndarray]] = {stream.name: [] for stream in streams}
    loader.sampler.streams = tuple(numbers)
    rows: dict[str, list[np.ndarray]] = {stream.name: [] for stream in streams}
    network_seconds = dict.fromkeys(numbers, 0.0)
    read_seconds = 0.0
    problem: CoviarMocropError | None = None
    was_training = [stream.network.training for stream in streams]
    for stream in streams:
        stream.network.eval()
        if runtime.device.type == "cpu":
            stream.network.frames_at_once = runtime.frames_at_once  # type: ignore[assignment]
    bar = tqdm(
        total=len(dataset), desc=f"{title} {' '.join(numbers)}", unit="clip", leave=False, disable=not group.is_main
    )
    # one context for all batches, so that weights are brought to half precision once
    with torch.inference_mode(), runtime.autocast(), bar:
        try:
            for batch in islice(loader, batches):
                bar.update(group.world * batch.size)
                read_seconds += batch.seconds
                for stream in streams:
                    part = batch.streams.get(stream.name)
                    if part is None or not len(part.labels):
                        continue
                    start = time.perf_counter()
                    logits = stream.network(stream.inputs(part.to(runtime.device).inputs))
                    rows[stream.name].append(logits.float().cpu().numpy())
                    network_seconds[stream.name] += time.perf_counter() - start
                    numbers[stream.name].append(part.numbers.numpy())
        except CoviarMocropError as error:
            if group.world == 1:
                raise
            problem = error  # the others are waiting to hear of it
    for stream, training in zip(streams, was_training, strict=True):
        stream.network.train(training)
    scores = {}
    read_seconds = float(group.table([read_seconds]).sum()) / len(streams)
    for stream in streams:
        number, logits = _collect(numbers[stream.name], rows[stream.name], problem, group)
        if not len(number):
            raise DataError(
                f"none of the {len(dataset)} clips could be read: {next(iter(loader.skipped.reasons.values()))}"
            )
        clips = [dataset.videos.clips[i] for i in number]
        seconds = float(group.table([network_seconds[stream.name]]).sum())
        scores[stream.name] = Scores(
            names=np.array([clip.path for clip in clips]),
            labels=np.array([clip.label for clip in clips], dtype=np.int64),
            scores=logits,
            classes=np.array(dataset.videos.classes),
            settings={
                "ms_read": 1e3 * read_seconds / len(number),
                "ms_network": 1e3 * seconds / len(number),
                "compute": str(runtime),
                "skipped": len(loader.skipped.reasons),
            },
        )
    return scores


def _collect(
    numbers: list[np.ndarray], rows: list[np.ndarray], problem: CoviarMocropError | None, group: Group
) -> tuple[np.ndarray, np.ndarray]:
    """All processes' clips, in the list's order, each once; the error of whichever met one."""
    shares = group.gather((numbers, rows, problem))
    for _, _, error in shares:
        if error is not None:
            raise error
    number = np.concatenate([np.empty(0, np.int64), *(part for share in shares for part in share[0])])
    scores = [part for share in shares for part in share[1]]
    order = np.argsort(number)
    return number[order], np.concatenate(scores)[order] if scores else np.empty((0, 0), np.float32)
