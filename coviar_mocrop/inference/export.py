"""Export of streams for other programs: safetensors, ``torch.export``, ONNX, and a card that describes them."""

from __future__ import annotations

import copy
import io
import logging
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coviar_mocrop.checkpoint import CARD_FORMAT, CARD_VERSION, digest, read_card, read_tensors, write_safetensors
from coviar_mocrop.errors import ConfigError, CoviarMocropError, ModelError
from coviar_mocrop.files import atomic_write, write_json
from coviar_mocrop.inference.testing import load_stream
from coviar_mocrop.messages import first_line, quiet
from coviar_mocrop.networks.stream_net import StreamNet
from coviar_mocrop.streams.base import Stream

ExportFormat = Literal["safetensors", "torch_export", "onnx"]
logger = logging.getLogger(__name__)
SUFFIXES: dict[ExportFormat, str] = {"safetensors": ".safetensors", "torch_export": ".pt2", "onnx": ".onnx"}
FORMATS = tuple(SUFFIXES)
OPSET = 20


def export_stream(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    formats: Sequence[ExportFormat] = ("safetensors",),
    overrides: Sequence[str] = (),
    *,
    tolerance: float = 1e-4,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a stream to ``STREAM.safetensors``, ``.pt2`` or ``.onnx``, and its card to ``STREAM.json``.

    Before a program gets its name, it is read back and compared with the stream, on the CPU in fp32.

    Args:
        checkpoint: of the stream, or safetensors with a card.
        output: folder.
        formats: some of ``FORMATS``.
        overrides: ``a.b=value`` items on top of the settings; they choose the input size (``setting=efficiency``).
        tolerance: of the logits; relative to the largest, absolute where that is below 1.
        overwrite: replace the export of another stream of that name.

    Returns:
        The content of the card. Its ``files`` hold, by format, the ``name``, the shape of the ``input`` (``clips`` and
        ``segments`` stand for any number) and ``max_abs_difference``: the largest difference of the logits from those
        of the stream, over the inputs tried.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ConfigError: the folder holds another stream's export.
        CoviarMocropError: a format needs packages that are not there, or the result differs from the stream.
    """
    if "onnx" in formats:
        _require_onnx()
    stream = load_stream(checkpoint, overrides)
    config = stream.config
    if stream.scaling is None:
        raise ModelError(
            f"{os.fspath(checkpoint)}: the {config.stream} stream cannot be exported, as it does not say how other "
            "programs make its input (Stream.scaling); iframe, mv and residual do"
        )
    model = cast(StreamNet, stream.network)
    segments = config.input.test_segments * config.input.test_crops
    frame = (model.in_channels, config.size, config.size)
    target = Path(output) / config.stream
    state = model.state_dict()
    card_path = target.with_suffix(".json")
    if card_path.exists() and not overwrite and read_card(card_path)["weights"].get("sha256") != digest(state):
        raise ConfigError(
            f"{card_path}: is the card of another stream; choose another --output, or replace it (--overwrite)"
        )
    traced = _trace(model, segments, frame) if {"torch_export", "onnx"} & set(formats) else None
    files: dict[str, dict[str, Any]] = {}
    for kind in (kind for kind in FORMATS if kind in formats):
        path = target.with_suffix(SUFFIXES[kind])
        if kind == "safetensors" or traced is None:
            write_safetensors(path, state)
            read_tensors(path, "export anew")  # compares the checksum
            shape: tuple[int | str, ...] = ("clips", "segments", *frame)
            difference = 0.0
        else:
            program, shapes, shape = traced
            with atomic_write(path) as temporary:
                run = (_write_program if kind == "torch_export" else _write_onnx)(program, temporary, shape)
                difference = _compare(model, run, shapes, tolerance, path)
        files[kind] = {"name": path.name, "input": shape, "max_abs_difference": difference}
    card = {**_describe(stream, state, Path(checkpoint).name), "files": files}
    _settle_older_files(card_path, card)
    write_json(card_path, card)
    return card


def _settle_older_files(card_path: Path, card: dict[str, Any]) -> None:
    """Keep the files of an earlier export on the card if they are of the same network and input; else remove them."""
    older = read_card(card_path) if card_path.exists() else {}
    if older.get("weights", {}).get("sha256") == card["weights"]["sha256"] and older.get("input") == card["input"]:
        card["files"] = {**older.get("files", {}), **card["files"]}
    for kind in SUFFIXES.keys() - card["files"].keys():
        card_path.with_suffix(SUFFIXES[kind]).unlink(missing_ok=True)


def _describe(stream: Stream, state: dict[str, Tensor], source: str) -> dict[str, Any]:
    model, config, cost = cast(StreamNet, stream.network), stream.config, stream.cost()
    how = "of the mean and the spread" if stream.fitted else "the mean"
    return {
        "format": CARD_FORMAT,
        "version": CARD_VERSION,
        "stream": config.stream,
        "backbone": config.model.backbone,
        "setting": config.setting,
        "input": {
            "shape": ["clips", "segments", model.in_channels, config.size, config.size],
            "dtype": "float32",
            "channels": model.in_channels,
            "size": config.size,
            "segments": config.input.test_segments,
            "crops": config.input.test_crops,
            "scaling": stream.scaling,
        },
        "output": {"shape": ["clips", len(stream.classes)], "what": f"logits, {how} over segments"},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gflops_per_frame": cost.gflops_per_frame,
        "gflops_per_clip": cost.gflops_per_clip,
        "weights": {"sha256": digest(state), "checkpoint": source},
        "rules": stream.rules(),
        "versions": _versions(),
        "classes": list(stream.classes),
        "config": config.model_dump(mode="json"),
    }


def _trace(
    model: nn.Module, segments: int, frame: tuple[int, int, int]
) -> tuple[torch.export.ExportedProgram, list[tuple[int, ...]], tuple[int | str, ...]]:
    """The program, input shapes to try it on, and its input, with any number of clips and segments if possible."""
    dimensions = {0: torch.export.Dim("clips"), 1: torch.export.Dim("segments")}
    any_number: list[tuple[int, ...]] = [(2, 3, *frame), (1, 5, *frame), (3, 1, *frame)]
    fixed = (1, segments, *frame)
    try:
        program = _export(model, torch.zeros(any_number[0]), (dimensions,))
        # the path that a program takes for two clips need not be the one for one
        _compare(model, program.module(), any_number, 1e-3, Path("torch.export"))
        return program, any_number, ("clips", "segments", *frame)
    except Exception as error:  # what torch.export cannot keep free it reports in many ways
        logger.warning("the number of clips and segments is fixed to 1 x %d: %s", segments, first_line(error))
    try:
        return _export(model, torch.zeros(fixed), None), [fixed], fixed
    except Exception as error:
        raise ModelError(f"{type(model).__name__}: torch.export cannot follow it ({first_line(error)})") from error


def _export(model: nn.Module, example: Tensor, dynamic_shapes: Any) -> torch.export.ExportedProgram:
    with quiet(), torch.no_grad():
        program = torch.export.export(model, (example,), dynamic_shapes=dynamic_shapes)
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:  # it would carry the paths of this machine into the file
                node.meta.pop("stack_trace", None)
    return program


Run = Callable[[Tensor], Tensor]


def _write_program(program: torch.export.ExportedProgram, path: Path, shape: tuple[int | str, ...]) -> Run:
    with quiet():
        buffer = io.BytesIO()  # given a path, it would keep the temporary name inside
        torch.export.save(program, buffer)
        path.write_bytes(buffer.getbuffer())
        module = torch.export.load(path).module()
    return lambda clips: module(clips)


def _write_onnx(program: torch.export.ExportedProgram, path: Path, shape: tuple[int | str, ...]) -> Run:
    import onnxruntime

    names = {axis: name for axis, name in enumerate(shape) if isinstance(name, str)}
    with quiet():
        converted = torch.onnx.export(
            copy.deepcopy(program),
            input_names=["clips"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamic_shapes=(names,) if names else None,
            verbose=False,
        )
    assert converted is not None
    for node in converted.model.graph:
        node.metadata_props.clear()  # names and traces of Python code, with paths
    converted.save(os.fspath(path), external_data=False)
    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])

    def run(clips: Tensor) -> Tensor:
        logits: NDArray[np.float32] = session.run(["logits"], {"clips": clips.numpy()})[0]
        return torch.from_numpy(logits)

    return run


def _compare(model: nn.Module, run: Run, shapes: Sequence[tuple[int, ...]], tolerance: float, path: Path) -> float:
    """Largest absolute difference of logits.

    Raises:
        ModelError: it is above the tolerance, or not a number.
    """
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    with torch.no_grad():
        for shape in shapes:
            clips = torch.randn(shape, generator=generator)
            expected, given = model(clips), run(clips)
            if given.shape != expected.shape:
                raise ModelError(f"{path}: gives logits of shape {tuple(given.shape)}, not {tuple(expected.shape)}")
            difference = float((given - expected).abs().max())
            if not difference <= tolerance * max(1.0, float(expected.abs().max())):
                raise ModelError(
                    f"{path}: its logits differ from the stream's by {difference:.2g}, more than the tolerance "
                    f"{tolerance:g}; nothing is written, allow more with --tolerance"
                )
            largest = max(largest, difference)
    return largest


def _require_onnx() -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        try:
            import_module(package)
        except ImportError as error:
            raise CoviarMocropError(
                f"ONNX needs the package {package}; pip install -e '.[export]' installs it"
            ) from error


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("coviar_mocrop", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
