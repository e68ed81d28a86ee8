"""Test streams on a list: scores, compute and time. Each clip is read once for all streams."""

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
from coviar_mocrop.clips.features import time_features
from coviar_mocrop.clips.lists import Part, read_videos
from coviar_mocrop.clips.loading import ClipLoader, create_testing_loader
from coviar_mocrop.config import build_config, load_config
from coviar_mocrop.datasets.lists import VideoList, form_of, read_classes
from coviar_mocrop.errors import CheckpointError, ConfigError, CoviarMocropError, DataError
from coviar_mocrop.runtime import ALONE, Group, Runtime, choose_runtime
from coviar_mocrop.scores import Scores
from coviar_mocrop.shared_settings import require_shared
from coviar_mocrop.streams.base import Stream, create_stream, stream_class, stream_names


def find_checkpoints(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Find checkpoint files. Paths of files are returned as they are.

    In a folder, this is ``best.pt``. If there is none, these are ``best.pt`` in subfolders named like streams, or else
    the safetensors files of an export.

    Args:
        paths: files or folders, or a single one.

    Raises:
        CheckpointError: a folder holds no checkpoint.
    """
    found = []
    for path in map(Path, [paths] if isinstance(paths, (str, os.PathLike)) else paths):
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
        checkpoint: checkpoint written by training; or a ``.safetensors`` file written by ``coviar export``, with its
            card beside it.
        overrides: settings to change, as ``a.b=value``, such as ``setting=efficiency``.
        config_file: settings file to use instead of the settings in the checkpoint. It must describe the same network.

    Raises:
        CheckpointError: the file cannot be used, or does not fit the settings.
        ConfigError: a setting is invalid.
    """
    content = load_checkpoint(checkpoint)
    trained = content["config"].get("stream")
    if config_file is not None:
        config = load_config(config_file, overrides, trained)
        if config.model.freeze == "few":  # as training decided, by the number of clips
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
    """Load a stream that needs no training and so has no checkpoint. Its classes are those of ``data.classes``.

    Args:
        config_file: settings file.
        overrides: settings to change, as ``a.b=value``.
        name: name of the stream, if the settings file describes several.

    Raises:
        ConfigError: a setting is invalid, or the stream needs training.
        CoviarMocropError: its weights cannot be loaded or downloaded.
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
    """Score a list with several trained streams, decoding each clip once.

    Args:
        checkpoints: files or folders; see :func:`find_checkpoints`.
        overrides: settings to change in every stream, as ``a.b=value``.
        part: the list to score.
        group: the processes of the run.

    Returns:
        Scores by stream.

    Raises:
        CheckpointError: a checkpoint cannot be used, or two belong to the same stream or have different classes.
        CoviarMocropError: a setting, a list or a clip cannot be used.
    """
    paths = find_checkpoints(checkpoints)
    streams = load_streams(paths, overrides)
    scores = score_streams(list(streams.values()), part, group=group)
    for name, path in zip(streams, paths, strict=True):
        scores[name].settings["checkpoint"] = os.fspath(path)
    return scores


def load_streams(checkpoints: Iterable[str | os.PathLike[str]], overrides: Sequence[str] = ()) -> dict[str, Stream]:
    """Load streams that are used together.

    Args:
        checkpoints: files or folders; see :func:`find_checkpoints`.
        overrides: settings to change in every stream, as ``a.b=value``.

    Returns:
        Streams by name, in the given order.

    Raises:
        CheckpointError: there is no checkpoint, one cannot be used, or two belong to the same stream or have different
            classes.
        ConfigError: a setting is invalid.
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
    """Describe how two lists of classes differ."""
    if len(mine) != len(other):
        return f"{len(mine)} against {len(other)}"
    at = next(label for label, name in enumerate(mine) if name != other[label])
    return f"label {at} is {mine[at]!r} against {other[at]!r}"


def require_classes(streams: Iterable[Stream], videos: VideoList) -> None:
    """Check that a list has the classes that the streams were trained on, in the same order.

    Raises:
        CheckpointError: its classes differ from those of a stream.
    """
    for stream in streams:
        if videos.classes != stream.classes:
            raise CheckpointError(
                f"the {stream.name} stream was trained on other classes than {stream.config.data.classes} names "
                f"({_difference(stream.classes, videos.classes)})"
            )


def score_streams(streams: Sequence[Stream], part: Part = "test", *, group: Group = ALONE) -> dict[str, Scores]:
    """Score a list. The processes of ``group`` share the work, and all return the same scores.

    Args:
        streams: streams with the same settings of reading clips, and the same list.
        part: the list to score.
        group: the processes of the run.

    Returns:
        Scores by stream. Their ``settings`` also hold the stream's description and costs.

    Raises:
        ConfigError: settings differ that must be equal for all streams.
        CheckpointError: the list has other classes than the streams.
        CoviarMocropError: a list or a clip cannot be used.
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
    loader.summarise(group, f"{part} clips")
    times = time_features([stream for stream in streams if stream.feature_dims], loader.clips)
    for stream in streams:
        facts = scores[stream.name].settings
        facts.update(stream.description(), part=part)
        if stream.name in times:
            facts["ms_read"] += 1e3 * times[stream.name].reading
            facts["ms_network"] += 1e3 * times[stream.name].networks
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
    """Compute the logits of all clips that can be read. Collective: every process of ``group`` must call it.

    Args:
        streams: streams that ``loader`` reads for, or some of them.
        loader: loader of the clips.
        runtime: device and precision of the networks.
        batches: number of batches on each process after which to stop; None: the whole list.
        title: title of the progress bar.
        group: the processes of the run.

    Returns:
        Scores by stream, in the order of the list and equal on all processes. Their ``settings`` hold ``ms_read`` and
        ``ms_network``, the mean times per clip in milliseconds, ``compute`` and ``skipped`` (number of clips). Reading
        is timed in the data-loading processes, and divided equally among the streams.

    Raises:
        DataError: no clip could be read.
        CoviarMocropError: a clip cannot be used and ``data.on_error`` is ``raise``.
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
    # one autocast context for all batches, so that weights are converted only once
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
            dataset.keep_boxes()
        except CoviarMocropError as error:
            if group.world == 1:
                raise
            problem = error  # shared below with the other processes, which are waiting
    for stream, training in zip(streams, was_training, strict=True):
        stream.network.train(training)
    scores = {}
    skipped = {name: reason for part in group.gather(loader.skipped.reasons) for name, reason in part.items()}
    read_seconds = float(group.table([read_seconds]).sum()) / len(streams)
    for stream in streams:
        number, logits = _collect(numbers[stream.name], rows[stream.name], problem, group)
        if not len(number):
            raise DataError(f"none of the {len(dataset)} clips could be read: {next(iter(skipped.values()), '')}")
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
                "skipped": len(skipped),
            },
        )
    return scores


def _collect(
    numbers: list[np.ndarray], rows: list[np.ndarray], problem: CoviarMocropError | None, group: Group
) -> tuple[np.ndarray, np.ndarray]:
    """Gather the clips of all processes in the order of the list. Raises the error of any process that had one."""
    shares = group.gather((numbers, rows, problem))
    for _, _, error in shares:
        if error is not None:
            raise error
    number = np.concatenate([np.empty(0, np.int64), *(part for share in shares for part in share[0])])
    scores = [part for share in shares for part in share[1]]
    order = np.argsort(number)
    return number[order], np.concatenate(scores)[order] if scores else np.empty((0, 0), np.float32)
