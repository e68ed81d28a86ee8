"""Run the networks of an export with ONNX Runtime. PyTorch is not needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream import Gop
from coviar_mocrop.card import INPUT, NAME, OUTPUT, read_card
from coviar_mocrop.clips.frame_views import FrameViews
from coviar_mocrop.clips.reader import CHANNELS, ReadViews, View
from coviar_mocrop.config import Config, build_config
from coviar_mocrop.datasets.lists import form_of
from coviar_mocrop.errors import CheckpointError, ConfigError, CoviarMocropError
from coviar_mocrop.fusion_weights import LearnedFusion
from coviar_mocrop.inference.backend import Backend, Precision, require_finite
from coviar_mocrop.messages import first_line
from coviar_mocrop.shared_settings import READING, require_shared

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FORMAT_OF: dict[Precision, str] = {"fp32": "onnx", "int8": "int8"}
"""The key of a precision's file in the card."""


@dataclass(frozen=True)
class OnnxStream:
    """A stream of an export.

    Attributes:
        title: display name.
        fusion_weight: default weight in late fusion.
        wants: sampling, windows and input size.
        session: the network, ready to run.
    """

    title: str
    fusion_weight: float
    wants: FrameViews
    session: InferenceSession

    @property
    def name(self) -> str:
        """Name of the stream."""
        return self.wants.name

    def views(
        self, num_frames: int, gops: Sequence[Gop], generator: np.random.Generator | None = None
    ) -> dict[str, View]:
        """See :meth:`FrameViews.views`."""
        return self.wants.views(num_frames, gops, generator)

    def logits(self, clip: ReadViews) -> NDArray[np.float32]:
        """Compute the logits of a clip, float32 [classes].

        Raises:
            CheckpointError: the network cannot be run, or its logits are not finite.
        """
        try:
            (row,) = self.session.run([OUTPUT], {INPUT: clip.pixels["frames"][None]})[0]
        except Exception as error:  # ONNX Runtime has a class of its own for each kind
            raise CheckpointError(
                f"the {self.name} stream: ONNX Runtime cannot compute it ({first_line(error)}); export again"
            ) from error
        logits: NDArray[np.float32] = row
        return require_finite(self.name, logits)


class OnnxBackend(Backend):
    """Streams that were written by ``coviar export``.

    Clips go through a network one at a time. On a CPU this costs no time, and the logits of a clip do not depend on
    other clips.

    Attributes:
        classes: class names, in the order of the logits.
        config: settings of the first stream. Settings of reading clips are equal for all streams.
        form: form of the videos that the streams were trained on; None: not known.
        learned: learned fusion weights; None: there are none.
    """

    def __init__(
        self, folder: str | os.PathLike[str], precision: Precision = "fp32", overrides: Sequence[str] = ()
    ) -> None:
        """Open the networks.

        Args:
            folder: folder of the export, which holds ``card.json``.
            precision: precision of the networks, ``fp32`` or ``int8``.
            overrides: settings to change, as ``a.b=value``. Only ``data.*`` and ``train.threads`` can change.

        Raises:
            CheckpointError: a file is missing or damaged, or does not belong to the card.
            ConfigError: a setting or the precision is invalid, or a setting is built into the networks.
            CoviarMocropError: ONNX Runtime is not installed.
        """
        if precision not in FORMAT_OF:
            raise ConfigError(f"precision is {precision!r}; choose from {', '.join(FORMAT_OF)}")
        if os.path.isfile(folder):
            raise CheckpointError(f"{os.fspath(folder)}: is a file; give the folder that coviar export made")
        path = Path(folder, NAME)
        card = read_card(path)
        self.classes, self._streams = tuple(card["classes"]), dict[str, OnnxStream]()
        configs = {name: _config(entry["config"], overrides, path) for name, entry in card["streams"].items()}
        if not configs:
            raise CheckpointError(f"{path}: names no stream; export again")
        try:
            require_shared(configs, READING)
        except ConfigError as error:  # its advice holds only for streams that are not exported
            raise CheckpointError(f"{path}: {str(error).partition('; ')[0]}; export again") from error
        self.config = next(iter(configs.values()))
        for name, entry in card["streams"].items():
            title, weight, wants = _facts(name, entry, configs[name], path)
            file, session = _open(Path(folder), name, entry, precision, self.config.train.threads)
            _require_fitting(session, wants, len(self.classes), file)
            self._streams[name] = OnnxStream(title, weight, wants, session)
        self.form = form_of(card.get("videos"))
        self.learned = None
        if (learned := card["fusion"].get("learned")) is not None:
            try:
                self.learned = LearnedFusion.from_json(learned, configs)
            except ValueError as error:
                raise CheckpointError(f"{path}: the weights of the fusion are damaged; export again") from error

    @property
    def streams(self) -> Mapping[str, OnnxStream]:
        """See :attr:`Backend.streams`."""
        return self._streams

    def logits(self, clips: Sequence[Mapping[str, ReadViews]]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """See :meth:`Backend.logits`."""
        for name, stream in self._streams.items():
            yield name, np.stack([stream.logits(clip[name]) for clip in clips])


def _config(values: dict[str, Any], overrides: Sequence[str], path: Path) -> Config:
    exported = build_config(values, (), str(path))
    config = build_config(values, overrides, str(path))
    threads = exported.train.model_copy(update={"threads": config.train.threads})
    if config != exported.model_copy(update={"data": config.data, "train": threads}):
        built_in = [item for item in overrides if not item.startswith(("data.", "train.threads="))]
        raise ConfigError(
            f"--set {' '.join(built_in or overrides)}: is built into the exported networks, only data.* and "
            "train.threads are not; export again with this setting"
        )
    return config


def _facts(name: str, entry: Mapping[str, Any], config: Config, path: Path) -> tuple[str, float, FrameViews]:
    """Read and check a stream's entry in the card: title, fusion weight, and sampling, windows and size."""
    try:
        title, kind, weight = entry["title"], entry["input"]["kind"], float(entry["fusion_weight"])
        sound = isinstance(title, str) and kind in CHANNELS and 0 <= weight < float("inf")
    except (KeyError, TypeError, ValueError, OverflowError):
        sound = False
    # scores are kept by stream and "fused", views by "stream/view"
    if not sound or config.stream != name or name in ("", "fused") or "/" in name:
        raise CheckpointError(f"{path}: what it says of the {name} stream is damaged; export again")
    return title, weight, FrameViews(name, kind, config.input, config.size)


def _require_fitting(session: InferenceSession, wants: FrameViews, classes: int, path: Path) -> None:
    """Check that a network takes a clip of the shape that is read, and returns one logit per class."""
    windows = 5 if wants.input.test_crops == 10 else 1  # mirrored windows share the pixels of others
    taken = (1, windows, wants.input.test_segments, CHANNELS[wants.kind], wants.size, wants.size)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if not (
        len(inputs) == len(outputs) == 1
        and (inputs[0].name, inputs[0].type, outputs[0].name) == (INPUT, "tensor(uint8)", OUTPUT)
        and _allows(inputs[0].shape, taken)
        and _allows(outputs[0].shape, (1, classes))
    ):
        raise CheckpointError(
            f"{path}: it does not take {INPUT} {list(taken)} or give {classes} {OUTPUT}, as {NAME} says; export again"
        )


def _allows(shape: Sequence[int | str | None], needed: tuple[int, ...]) -> bool:
    """Whether a shape of the network equals ``needed``; dimensions without a fixed size fit any size."""
    sides = zip(shape, needed, strict=False)
    return len(shape) == len(needed) and all(side == size or not isinstance(side, int) for side, size in sides)


def _open(
    folder: Path, name: str, entry: Mapping[str, Any], precision: Precision, threads: int | None
) -> tuple[Path, InferenceSession]:
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
        raise CheckpointError(f"{path}: no such file, though {NAME} names it; export again") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise CheckpointError(f"{path}: cannot be read ({error}); export again") from error
    if hashlib.sha256(content).hexdigest() != file.get("sha256"):
        raise CheckpointError(f"{path}: is damaged or not the file that {NAME} names (checksums differ); export again")
    try:
        return path, open_session(content, threads)
    except CoviarMocropError:
        raise
    except Exception as error:  # ONNX Runtime has a class of its own for each kind
        raise CheckpointError(f"{path}: ONNX Runtime cannot use it ({first_line(error)}); export again") from error


def open_session(content: bytes, threads: int | None) -> InferenceSession:
    """Open an ONNX network.

    Args:
        content: content of an ONNX file. It is loaded from memory, so that it cannot refer to other files.
        threads: number of CPU threads; None: all cores.

    Raises:
        CoviarMocropError: ONNX Runtime is not installed.
        Exception: ONNX Runtime cannot load the network. It has its own class for each kind of error.
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
    # threads that wait in a busy loop would take CPU time from reading
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@cache
def _share_memory() -> None:
    """Use one memory pool for all networks instead of one for each, because they run one after the other."""
    from onnxruntime import OrtAllocatorType, OrtMemoryInfo, OrtMemType, create_and_register_allocator

    memory = OrtMemoryInfo("Cpu", OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, OrtMemType.DEFAULT)
    create_and_register_allocator(memory, None)
