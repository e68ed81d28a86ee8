"""Dry run: one training step and one validation batch on the real clips, to find problems before a long run."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

import torch

from coviar_mocrop.clips.batch import Frames, StreamBatch
from coviar_mocrop.config import Config
from coviar_mocrop.errors import DataError
from coviar_mocrop.inference.testing import score_clips
from coviar_mocrop.messages import counted
from coviar_mocrop.runtime import ALONE
from coviar_mocrop.streams.base import stream_class
from coviar_mocrop.training.fitting import resolve_freeze
from coviar_mocrop.training.run import Trainer
from coviar_mocrop.training.run_folder import RunFolder
from coviar_mocrop.training.setup import prepare
from coviar_mocrop.training.steps import read_steps, sync_step
from coviar_mocrop.training.trainer import train_step


def dry_run(configs: Mapping[str, Config], *, again: bool = False) -> list[str]:
    """Do one training step and one validation batch. For frozen networks, compute the features instead.

    Only caches are written.

    Args:
        configs: settings of each stream, by name.
        again: whether the run will resume or replace an existing one. If false, existing runs are reported.

    Returns:
        Lines of a report: shapes, parameters, GFLOPs, times, memory.

    Raises:
        CoviarMocropError: any error that the run itself would raise at its start.
    """
    configs = resolve_freeze(configs)
    fitted = {name: config for name, config in configs.items() if stream_class(config.stream).is_fitted(config)}
    others = {name: config for name, config in configs.items() if name not in fitted}
    lines = [*(_fitted(fitted) if fitted else []), *(_step(others) if others else [])]
    lines.append(f"output: {', '.join(config.output for config in configs.values())} (nothing written)")
    taken = [config.output for config in configs.values() if RunFolder(config.output).results]
    if taken and not again:
        lines.append(f"  {', '.join(taken)}: already holds a run; --resume, --overwrite or another --output is needed")
    return lines


def _fitted(configs: Mapping[str, Config]) -> list[str]:
    """Report on streams with a frozen network. Nearly all of their training time goes into computing features."""
    start = time.perf_counter()
    run = prepare(configs, ALONE)
    spent = time.perf_counter() - start
    lines = []
    for trainer in run.trainers:
        features = run.loader.clips.features[trainer.stream.name].rows
        lines += _describe(trainer, f"features {features.shape[0]} x {features.shape[1]}")
    clips = sum(len(loader.clips) for loader in (run.loader, run.validation) if loader)
    return [
        *lines,
        f"run: {counted(clips, 'clip')}; computing the features that the cache lacked took {spent:.1f} s, and only a "
        "linear classifier per stream is left to fit",
        f"memory: {_memory(run.runtime.device)}",
    ]


def _step(configs: Mapping[str, Config]) -> list[str]:
    """Report on streams that are trained step by step."""
    run = prepare(configs, ALONE)
    shared, names = run.trainers[0].config, [trainer.stream.name for trainer in run.trainers]
    read = next(read_steps(run.loader, shared.train.accumulate), None)
    if read is None:
        raise DataError(f"{shared.data.train_list}: holds no clips")
    if read.error is not None:
        raise read.error
    synced = sync_step(ALONE, read, names, shared.train.accumulate, stop=False, save=False)
    lines, seconds = [], read.waited
    for trainer in run.trainers:
        name = trainer.stream.name
        if not synced.clips[name]:
            raise DataError(f"none of the first {shared.train.batch_size} clips could be read for the {name} stream")
        trainer.stream.network.train()
        start = time.perf_counter()
        train_step(trainer, synced.batches[name], synced.clips[name], ALONE)
        spent = time.perf_counter() - start
        seconds += spent
        loss = float(trainer.state.metrics.loss) / max(trainer.state.metrics.seen, 1)
        lines += _describe(trainer, f"input {_shapes(synced.batches[name][0])}")
        lines.append(f"  step: loss {loss:.3f}, {spent:.2f} s")
    clips, steps = len(run.loader.clips), run.sampler.steps
    epochs = max(trainer.config.train.epochs for trainer in run.trainers)
    hours = steps * epochs * seconds / 3600
    length = f"{counted(clips, 'clip')}, {counted(steps, 'step')} an epoch, {counted(epochs, 'epoch')}"
    lines += [
        f"reading: {read.waited:.2f} s for the first step of {', '.join(names)}",
        f"run: {length}: at most about {hours:.1f} hours at this pace (the first step is the slowest)",
        f"memory: {_memory(run.runtime.device)}",
    ]
    if run.validation:
        start = time.perf_counter()
        scores = score_clips(
            [trainer.stream for trainer in run.trainers], run.validation, run.runtime, batches=1, title="validate"
        )
        spent = time.perf_counter() - start
        top1 = ", ".join(f"{name} {scored.top1:.1%}" for name, scored in scores.items())
        tested = len(next(iter(scores.values())).names)
        clips = len(run.validation.clips)
        lines.append(f"validation: {tested} of {clips} clips in {spent:.2f} s, top-1 after one step: {top1}")
    else:
        lines.append("validation: data.val_list is not set, so the last epoch will be the result")
    return lines


def _shapes(batch: StreamBatch) -> str:
    tensors = [item.pixels if isinstance(item, Frames) else item for item in batch.inputs.values()]
    return ", ".join(" x ".join(map(str, tensor.shape)) for tensor in tensors)


def _describe(trainer: Trainer, inputs: str) -> list[str]:
    network, config, cost = trainer.stream.network, trainer.config, trainer.stream.cost()
    parameters = list(network.parameters())
    total = sum(p.numel() for p in parameters)
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return [
        f"{trainer.stream.name}: {inputs}, {trainer.runtime}",
        f"  network: {config.model.backbone}, {total / 1e6:.2f} M parameters, {trainable / 1e6:.2f} M of them trained",
        f"  cost: {cost.gflops_per_frame:.3f} GFLOPs a frame, {cost.gflops_per_clip:.2f} a test clip",
    ]


def _memory(device: torch.device) -> str:
    """Peak memory so far: of the GPU if it is used, else of this process."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB at most"
    try:
        import resource
    except ImportError:  # Windows
        return "not measured on this system"
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2f} GB at most"
