"""Export a stream as a program from the windows of a clip to its logits: trace, write, read back and compare."""

from __future__ import annotations

import copy
import io
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coviar_mocrop.card import INPUT, OUTPUT
from coviar_mocrop.errors import ModelError
from coviar_mocrop.inference.onnx_backend import open_session
from coviar_mocrop.messages import first_line, quiet
from coviar_mocrop.streams.frames import FrameStream

OPSET = 20
Shape = tuple[int | str, ...]
Run = Callable[[Tensor], Tensor]
logger = logging.getLogger(__name__)


class ExportedStream(nn.Module):
    """Windows uint8 [clips, windows, segments, C, size, size] to logits float32 [clips, classes], scaling included."""

    def __init__(self, stream: FrameStream) -> None:
        """Take the stream's network and scaling."""
        super().__init__()
        self.network, self._logits = stream.network, stream.logits

    def forward(self, windows: Tensor) -> Tensor:
        """See the class."""
        return self._logits(windows)


class Traced:
    """A program, with any number of clips and segments if possible.

    Attributes:
        program: of ``torch.export``.
        shape: of its input; ``clips`` and ``segments`` stand for any number.
        tried: input shapes to try it on.
    """

    def __init__(self, model: nn.Module, windows: int, segments: int, frame: tuple[int, int, int]) -> None:
        """Trace ``model``.

        Args:
            model: see :class:`ExportedStream`.
            windows, segments: of a clip.
            frame: (C, size, size).

        Raises:
            ModelError: ``torch.export`` cannot follow the model.
        """
        dimensions = {0: torch.export.Dim("clips"), 2: torch.export.Dim("segments")}
        self.tried = [(n, windows, t, *frame) for n, t in ((2, 3), (1, 5), (3, 1))]
        self.shape: Shape = ("clips", windows, "segments", *frame)
        try:
            self.program = _export(model, self.tried[0], (dimensions,))
            # the path that a program takes for two clips need not be the one for one
            compare(model, self.program.module(), self.tried, 1e-3, Path("torch.export"))
            return
        except Exception as error:  # what torch.export cannot keep free it reports in many ways
            reason = first_line(error).partition("; ")[0]  # no remedy: the export goes on
            logger.warning("the number of clips and segments is fixed to 1 x %d: %s", segments, reason)
        fixed = (1, windows, segments, *frame)
        self.tried, self.shape = [fixed], fixed
        try:
            self.program = _export(model, fixed, None)
        except Exception as error:
            raise ModelError(f"{type(model).__name__}: torch.export cannot follow it ({first_line(error)})") from error

    def write_torch_export(self, path: Path) -> Run:
        """Write a ``.pt2`` file, and read it back."""
        with quiet():
            buffer = io.BytesIO()  # given a path, it would keep the temporary name inside
            torch.export.save(self.program, buffer)
            path.write_bytes(buffer.getbuffer())
            return torch.export.load(path).module()

    def write_onnx(self, path: Path) -> Run:
        """Write an ONNX file, and read it back."""
        axes = {axis: name for axis, name in enumerate(self.shape) if isinstance(name, str)}
        with quiet():
            converted = torch.onnx.export(
                copy.deepcopy(self.program),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamic_shapes=(axes,) if axes else None,
                verbose=False,
            )
        assert converted is not None
        for node in converted.model.graph:
            node.metadata_props.clear()  # names and traces of Python code, with paths
        converted.save(os.fspath(path), external_data=False)
        return read_onnx(path)


def read_onnx(path: Path) -> Run:
    """Open an ONNX program, for comparisons."""
    session = open_session(path.read_bytes(), None)

    def run(windows: Tensor) -> Tensor:
        logits: NDArray[np.float32] = session.run([OUTPUT], {INPUT: windows.numpy()})[0]
        return torch.from_numpy(logits)

    return run


def compare(model: nn.Module, run: Run, shapes: Sequence[tuple[int, ...]], tolerance: float, path: Path) -> float:
    """Largest difference of logits, as a share (:func:`share_of`), over random windows of these shapes.

    Raises:
        ModelError: it is above the tolerance, or not a number.
    """
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    with torch.no_grad():
        for shape in shapes:
            windows = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
            expected, given = model(windows), run(windows)
            if given.shape != expected.shape:
                raise ModelError(f"{path}: gives logits of shape {tuple(given.shape)}, not {tuple(expected.shape)}")
            difference = share_of(given, expected)
            if not difference <= tolerance:
                raise ModelError(
                    f"{path}: its logits differ from the stream's by {difference:.2g} of the largest, more than "
                    f"the tolerance {tolerance:g}; nothing is written, allow more with --tolerance"
                )
            largest = max(largest, difference)
    return largest


def share_of(given: Tensor, expected: Tensor) -> float:
    """Largest difference of logits as a share of the largest one; absolute where that is below 1."""
    return float((given - expected).abs().max()) / max(1.0, float(expected.abs().max()))


def _export(model: nn.Module, shape: tuple[int, ...], dynamic_shapes: Any) -> torch.export.ExportedProgram:
    with quiet(), torch.no_grad():
        program = torch.export.export(model, (torch.zeros(shape, dtype=torch.uint8),), dynamic_shapes=dynamic_shapes)
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:  # it would carry the paths of this machine into the file
                node.meta.pop("stack_trace", None)
    return program
