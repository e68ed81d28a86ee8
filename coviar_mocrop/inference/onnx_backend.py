"""Networks of an export, computed by ONNX Runtime. PyTorch is not needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream import Gop
from coviar_mocrop.card import NAME, read_card
from coviar_mocrop.clips.frame_views import FrameViews
from coviar_mocrop.clips.reader import ReadViews, View
from coviar_mocrop.config import Config, build_config
from coviar_mocrop.datasets.lists import form_of
from coviar_mocrop.errors import CheckpointError, ConfigError, CoviarMocropError
from coviar_mocrop.fusion_weights import LearnedFusion
from coviar_mocrop.inference.backend import Backend, Precision
from coviar_mocrop.messages import first_line

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FORMAT_OF: dict[Precision, str] = {"fp32": "onnx", "int8": "int8"}
"""Name, on the card, of the file for a precision."""


@dataclass(frozen=True)
class OnnxStream:
    """A stream of an export.

    Attributes:
        title: for people.
        fusion_weight: default weight in late fusion.
        wants: sampling, windows and size.
        session: the network.
    """

    title: str
    fusion_weight: float
    wants: FrameViews
    session: InferenceSession

    @property
    def name(self) -> str:
        """Of the stream."""
        return self.wants.name

    def views(
        self, num_frames: int, gops: Sequence[Gop], generator: np.random.Generator | None = None
    ) -> dict[str, View]:
        """See :meth:`FrameViews.views`."""
        return self.wants.views(num_frames, gops, generator)

    def logits(self, clip: ReadViews) -> NDArray[np.float32]:
        """Logits [classes] of a clip."""
        (row,) = self.session.run(["logits"], {"windows": clip.pixels["frames"][None]})[0]
        logits: NDArray[np.float32] = row
        return logits


class OnnxBackend(Backend):
    """Streams that ``coviar export`` wrote.

    One clip at a time goes through a network: on a CPU that costs no time, and the logits of a clip do not depend on
    the clips beside it.

    Attributes:
        precision: ``fp32`` or ``int8``.
    """

    def __init__(
        self, folder: str | os.PathLike[str], precision: Precision = "fp32", overrides: Sequence[str] = ()
    ) -> None:
        """Open the networks.

        Args:
            folder: with a ``card.json``.
            precision: which files to use.
            overrides: ``a.b=value`` items; only how videos are read (``data``) and ``train.threads`` can change.

        Raises:
            CheckpointError: a file is missing, damaged, or does not belong to the card.
            ConfigError: a setting is built into the networks, or wrong.
            CoviarMocropError: ONNX Runtime is not installed.
        """
        path = Path(folder, NAME)
        card = read_card(path)
        self.precision = precision
        self.classes, self._streams = tuple(card["classes"]), dict[str, OnnxStream]()
        for name, entry in card["streams"].items():
            config = _config(entry["config"], overrides, path)
            session = _open(Path(folder), name, entry, precision, config.train.threads)
            kind, inputs = entry["input"]["kind"], config.input
            wants = FrameViews(name, kind, inputs, config.size)
            self._streams[name] = OnnxStream(entry["title"], float(entry["fusion_weight"]), wants, session)
            if len(self._streams) == 1:
                self.config = config
        if not self._streams:
            raise CheckpointError(f"{path}: names no stream; export anew")
        self.form = form_of(card.get("videos"))
        self.learned = _learned(card["fusion"].get("learned"), path)

    @property
    def streams(self) -> Mapping[str, OnnxStream]:
        """See :attr:`Backend.streams`."""
        return self._streams

    def logits(self, clips: Sequence[Mapping[str, ReadViews]]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """See :meth:`Backend.logits`."""
        for name, stream in self._streams.items():
            yield name, np.stack([stream.logits(clip[name]) for clip in clips])

    def __str__(self) -> str:
        return f"ONNX Runtime, cpu {self.precision}"


def _config(values: dict[str, Any], overrides: Sequence[str], path: Path) -> Config:
    exported = build_config(values, (), str(path))
    config = build_config(values, overrides, str(path))
    threads = exported.train.model_copy(update={"threads": config.train.threads})
    if config != exported.model_copy(update={"data": config.data, "train": threads}):
        raise ConfigError(
            f"--set {' '.join(overrides)}: is built into the exported networks, only data.* and train.threads are not; "
            "export anew with this setting"
        )
    return config


def _open(
    folder: Path, name: str, entry: Mapping[str, Any], precision: Precision, threads: int | None
) -> InferenceSession:
    file = entry["files"].get(FORMAT_OF[precision])
    if file is None:
        raise CheckpointError(
            f"{folder / NAME}: the {name} stream has no network in {precision}; coviar export makes it with "
            f"--format {FORMAT_OF[precision]}"
        )
    path = folder / file["name"]
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file, though {NAME} names it; export anew") from error
    if hashlib.sha256(content).hexdigest() != file.get("sha256"):
        raise CheckpointError(f"{path}: is damaged or not the file that {NAME} names (checksums differ); export anew")
    try:
        return open_session(content, threads)
    except CoviarMocropError:
        raise
    except Exception as error:  # ONNX Runtime has a class of its own for each kind
        raise CheckpointError(f"{path}: ONNX Runtime cannot use it ({first_line(error)}); export anew") from error


def open_session(content: bytes, threads: int | None) -> InferenceSession:
    """A network, ready to run.

    Args:
        content: of an ONNX file. From memory, so that it can refer to no other file.
        threads: of the processor; None: all cores.

    Raises:
        CoviarMocropError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise CoviarMocropError(
            "ONNX networks need the package onnxruntime; pip install onnxruntime installs it"
        ) from error
    _share_memory()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 4  # errors are raised as well
    # what waits in a loop takes processor time from the readers
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@cache
def _share_memory() -> None:
    """One pool of memory for all networks, which run one after the other, in place of one for each."""
    from onnxruntime import OrtAllocatorType, OrtMemoryInfo, OrtMemType, create_and_register_allocator

    memory = OrtMemoryInfo("Cpu", OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, OrtMemType.DEFAULT)
    create_and_register_allocator(memory, None)


def _learned(values: Any, path: Path) -> LearnedFusion | None:
    if values is None:
        return None
    try:
        return LearnedFusion(**{field.name: values[field.name] for field in fields(LearnedFusion)})
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: the weights of the fusion are damaged; export anew") from error
