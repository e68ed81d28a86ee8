"""Export the streams of a run for other programs, as ONNX, ``torch.export`` or safetensors, with a card about them."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from coviar_mocrop import card as cards
from coviar_mocrop.bitstream import Gop
from coviar_mocrop.card import INPUT, OUTPUT
from coviar_mocrop.checkpoint import digest, read_tensors, write_safetensors
from coviar_mocrop.clips.reader import View
from coviar_mocrop.clips.windows import whole_frame
from coviar_mocrop.errors import ConfigError, CoviarMocropError, ModelError
from coviar_mocrop.files import atomic_write, write_json
from coviar_mocrop.fusion_weights import LearnedFusion
from coviar_mocrop.inference.export_folder import (
    SUFFIXES,
    ExportFormat,
    earlier_export,
    settle_earlier_files,
    unfinished,
)
from coviar_mocrop.inference.exported_stream import ExportedStream, Traced, compare, read_onnx, share_of
from coviar_mocrop.inference.int8 import ValidationClips, accuracies, quantise
from coviar_mocrop.inference.stored_fusion import learned_fusion
from coviar_mocrop.inference.testing import find_checkpoints, load_streams
from coviar_mocrop.messages import first_line, pip_install
from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.shared_settings import READING, require_shared
from coviar_mocrop.streams.base import Stream
from coviar_mocrop.streams.frames import FrameStream

FORMATS = tuple(SUFFIXES)
logger = logging.getLogger(__name__)


def export_run(
    checkpoints: Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    formats: Sequence[ExportFormat] | None = None,
    overrides: Sequence[str] = (),
    *,
    tolerance: float = 1e-4,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Export the streams of a run: one file per stream and format (``STREAM.onnx``, ...), and ``card.json`` for all.

    Every exported program is read back and compared with its stream, on the CPU in fp32. The top-1 of int8 programs is
    measured on clips of the validation list, together with that of the fp32 programs. Files are moved into the folder
    at the end, the card last. So an export that fails or is stopped leaves the folder unchanged.

    Args:
        checkpoints: checkpoints or safetensors files of the streams, or the folder of a run or export; see
            :func:`~coviar_mocrop.inference.testing.find_checkpoints`.
        output: folder of the export.
        formats: formats to write, from ``FORMATS``. int8 includes onnx. None: onnx, and int8 if there is a validation
            list.
        overrides: settings to change, as ``a.b=value``. For instance ``setting=efficiency`` changes the input size.
        tolerance: largest allowed difference of the logits. It is relative to the largest logit, or absolute if that is
            below 1.
        overwrite: whether to replace the export of other streams.

    Returns:
        The content of the card.

    Raises:
        CheckpointError: a checkpoint cannot be used.
        ConfigError: the folder holds another export, a format is unknown, or int8 is requested without a validation
            list.
        CoviarMocropError: a package is not installed, a network cannot be exported in a format, its result differs from
            the stream's, or a file cannot be written.
    """
    if unknown := [kind for kind in formats or () if kind not in SUFFIXES]:
        raise ConfigError(f"format {unknown[0]!r} is unknown; choose from {', '.join(FORMATS)}")
    if formats is None or {"onnx", "int8"} & set(formats):
        _require_onnx()
    paths = find_checkpoints(checkpoints)
    loaded = load_streams(paths, overrides)
    streams = _exportable(loaded)
    wanted = set(_usual_formats(next(iter(streams.values()))) if formats is None else formats)
    if "int8" in wanted:
        wanted.add("onnx")
    require_shared({name: stream.config for name, stream in streams.items()}, READING)
    # learned weights are not valid if a stream is left out; learned_fusion logs a warning
    card = _describe(streams, paths, learned_fusion(paths, loaded, streams))
    folder = Path(output)
    earlier = earlier_export(folder, card, overwrite)
    clips = ValidationClips(list(streams.values())) if "int8" in wanted else None
    calibration = clips.for_calibration() if clips else {}
    with unfinished(folder) as work:
        with tqdm(total=len(streams) * len(wanted), desc="export", unit="file", leave=False) as bar:
            for name, stream in streams.items():
                files = card["streams"][name]["files"]
                traced: Traced | None = None
                for kind in (kind for kind in FORMATS if kind in wanted):
                    path = work / f"{name}{SUFFIXES[kind]}"
                    bar.set_postfix_str(path.name)
                    if kind == "safetensors":
                        files[kind] = _write_weights(stream, path)
                    elif kind == "int8":
                        files[kind] = _write_int8(stream, files["onnx"], path, calibration[name])
                    else:
                        traced = traced or _trace(stream)
                        files[kind] = _write_program(stream, traced, kind, path, tolerance)
                    bar.update()
        if clips is not None:
            write_json(work / cards.NAME, card)  # needed to open the networks
            card["accuracy"] = accuracies(work, clips)
        stale = settle_earlier_files(folder, card, earlier)
        write_json(work / cards.NAME, card)
    for path in stale:
        path.unlink(missing_ok=True)
    return card


def _usual_formats(stream: Stream) -> Sequence[ExportFormat]:
    videos = stream.config.data.val_list
    return ("onnx", "int8") if videos and Path(videos).exists() else ("onnx",)


def _exportable(streams: Mapping[str, Stream]) -> dict[str, FrameStream]:
    """Select the streams that can be exported, and log a warning about each of the others.

    Raises:
        ModelError: no stream can be exported.
    """
    kept: dict[str, FrameStream] = {}
    for name, stream in streams.items():
        if stream.wants is not None and stream.scaling is not None and _reads_as_said(cast(FrameStream, stream)):
            kept[name] = cast(FrameStream, stream)
        else:
            logger.warning(
                "warning: the %s stream is left out; only streams over frames of one kind, sampled and cropped as "
                "the settings say, are exported",
                name,
            )
    if not kept:
        raise ModelError(
            f"the {', '.join(streams)} stream cannot be exported: it looks at more than frames of one kind; iframe, mv "
            "and residual can"
        )
    return kept


def _reads_as_said(stream: FrameStream) -> bool:
    """Whether the stream uses the frames and windows that its settings describe, tested on an example."""
    gops = [Gop(start, 12) for start in range(0, 300, 12)]

    def example(views: Mapping[str, View]) -> list[Any]:
        windows = [view.windows((240, 320), box) for view in views.values() for box in (None, CropBox(0, 0.1, 0.6, 1))]
        return [[(name, *view._replace(windows=whole_frame)) for name, view in views.items()], windows]

    return example(stream.views(300, gops)) == example(stream.wants.views(300, gops))


def _trace(stream: FrameStream) -> Traced:
    config, model = stream.config, stream.network
    frame = (int(model.in_channels), config.size, config.size)  # type: ignore[arg-type]
    return Traced(ExportedStream(stream).eval(), _windows(stream), config.input.test_segments, frame)


def _windows(stream: FrameStream) -> int:
    """Number of windows of a clip in the input of the network, which mirrors them itself."""
    return 5 if stream.config.input.test_crops == 10 else 1


def _write_program(
    stream: FrameStream, traced: Traced, kind: ExportFormat, path: Path, tolerance: float
) -> dict[str, Any]:
    with atomic_write(path) as temporary, _converting(stream, kind):
        run = (traced.write_torch_export if kind == "torch_export" else traced.write_onnx)(temporary)
        difference = compare(ExportedStream(stream).eval(), run, traced.tried, tolerance, Path(path.name))
    return {**_file(path), "input": traced.shape, "relative_difference": difference}


def _write_weights(stream: FrameStream, path: Path) -> dict[str, Any]:
    write_safetensors(path, stream.network.state_dict())
    read_tensors(path, "export again")  # compares the checksum
    return {**_file(path), "relative_difference": 0.0}


def _write_int8(
    stream: FrameStream, exact_file: Mapping[str, Any], path: Path, clips: Sequence[NDArray[np.uint8]]
) -> dict[str, Any]:
    source = path.with_name(exact_file["name"])
    with atomic_write(path) as temporary, _converting(stream, "int8"):
        quantise(source, temporary, clips)
        run, exact = read_onnx(temporary), read_onnx(source)
        differences = [share_of(run(windows), exact(windows)) for windows in map(torch.from_numpy, clips[:4])]
    return {**_file(path), "input": exact_file["input"], "relative_difference": max(differences)}


@contextmanager
def _converting(stream: FrameStream, kind: ExportFormat) -> Iterator[None]:
    """Replace the many kinds of errors of converters by a :class:`ModelError` with a message of one line.

    Raises:
        ModelError: the network cannot be converted.
    """
    try:
        yield
    except (CoviarMocropError, OSError):
        raise
    except Exception as error:
        raise ModelError(
            f"the {stream.name} stream's network ({stream.config.model.backbone}) cannot be written as {kind} "
            f"({first_line(error)}); choose other formats (--format)"
        ) from error


def _file(path: Path) -> dict[str, Any]:
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _describe(
    streams: Mapping[str, FrameStream], paths: Sequence[Path], learned: LearnedFusion | None
) -> dict[str, Any]:
    first = next(iter(streams.values()))
    form = next((stream.form for stream in streams.values() if stream.form), None)
    weights = learned.weights if learned else {name: stream.fusion_weight for name, stream in streams.items()}
    return {
        "format": cards.FORMAT,
        "version": cards.VERSION,
        "setting": first.config.setting,
        "videos": form and form._asdict(),
        "fusion": {
            "formula": "softmax(sum over streams of weight * logits / (sum of weights * temperature))",
            "weights": weights,
            "temperature": learned.temperature if learned else 1.0,
            "learned": asdict(learned) if learned else None,
        },
        "accuracy": None,
        "streams": {name: _describe_stream(stream) for name, stream in streams.items()},
        "checkpoints": [path.name if len(path.parts) < 2 else "/".join(path.parts[-2:]) for path in paths],
        "versions": _versions(),
        "classes": list(first.classes),
    }


def _describe_stream(stream: FrameStream) -> dict[str, Any]:
    model, config, cost = stream.network, stream.config, stream.cost()
    how = "of the mean and the spread" if stream.fitted else "the mean"
    return {
        "title": stream.title,
        "fusion_weight": stream.fusion_weight,
        "backbone": config.model.backbone,
        "input": {
            "name": INPUT,
            "shape": ["clips", _windows(stream), "segments", model.in_channels, config.size, config.size],
            "dtype": "uint8",
            "kind": stream.kind,
            "segments": config.input.test_segments,
            "crops": config.input.test_crops,
            "scaling": stream.scaling,
            "scaled_inside": True,
        },
        "output": {
            "name": OUTPUT,
            "shape": ["clips", len(stream.classes)],
            "what": f"logits, {how} over segments and windows",
        },
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gflops_per_frame": cost.gflops_per_frame,
        "gflops_per_clip": cost.gflops_per_clip,
        "weights": {"sha256": digest(model.state_dict())},
        "rules": stream.rules(),
        "config": config.model_dump(mode="json"),
        "files": {},
    }


def _require_onnx() -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        try:
            import_module(package)
        except ImportError as error:
            raise CoviarMocropError(f"ONNX needs the package {package}; {pip_install('export')} installs it") from error


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("coviar_mocrop", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
