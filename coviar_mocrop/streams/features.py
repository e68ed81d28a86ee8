"""Frozen networks over clips, once each: features from the cache, or computed and kept.

Every clip goes through the networks alone, in single precision and (on a CPU) on one thread, so that a feature's
bits depend on the clip and nothing else: not on batches, workers, processes, nor on where an earlier run stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from coviar_mocrop.bitstream import Gop, Kind, open_video
from coviar_mocrop.clips.features import ClipState, FeatureStore
from coviar_mocrop.clips.sampling import middle_frames, places
from coviar_mocrop.clips.windows import Window, cut, testing_windows
from coviar_mocrop.config import Config
from coviar_mocrop.device import choose_compute
from coviar_mocrop.distributed import ALONE, Group
from coviar_mocrop.errors import CoviarMocropError
from coviar_mocrop.files import DataRoot
from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.networks.clip import CLIPEncoder
from coviar_mocrop.networks.fusion_head import MotionEncoder

Features = dict[str, NDArray[np.float32]]
"""By clip name: float32 [dim]."""
Raw = tuple[NDArray[Any], list[int]]
"""Raw frames [T, H, W, C] without repeats, and which of them are wanted, in order."""


class Extracted(NamedTuple):
    """What :func:`features_of_clips` gives."""

    features: dict[str, Features]
    """By part, ``image`` first."""
    errors: dict[str, CoviarMocropError]
    """Why clips have none, by name."""
    computed: int
    """Clips of which a feature was not in the cache."""


@dataclass(frozen=True)
class FrozenParts:
    """The networks that turn clips into features; None: left out. ``image`` comes first wherever both are joined."""

    image: CLIPEncoder | None
    motion: MotionEncoder | None

    def dims(self) -> dict[str, int]:
        """Length of each part's features, ``image`` first."""
        parts = {"image": self.image, "motion": self.motion}
        return {kind: part.dim for kind, part in parts.items() if part is not None}

    def to(self, device: torch.device) -> None:
        """Bring the networks to a device."""
        for part in (self.image, self.motion):
            if part is not None:
                part.to(device)


def wanted_places(
    config: Config, parts: FrozenParts, num_frames: int, gops: Sequence[Gop]
) -> dict[Kind, list[tuple[int, int]]]:
    """What the parts have to see of a clip, as (GOP, position), repeats included."""
    wanted: dict[Kind, list[tuple[int, int]]] = {}
    if parts.image is not None:
        wanted["iframe"] = places(gops, middle_frames(num_frames, config.clip.frames, "iframe"), "iframe")
    if parts.motion is not None:
        wanted["mv"] = places(gops, middle_frames(num_frames, config.input.test_segments, "mv"), "mv")
    return wanted


def image_window(config: Config, frame_size: tuple[int, int], box: CropBox | None) -> Window:
    """What CLIP sees of a frame [height, width]: the box, or the middle square."""
    if box is not None and config.clip.crop:
        return testing_windows(frame_size, box, 1)[0]
    height, width = frame_size
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return Window(top, left, top + side, left + side)


def image_feature(config: Config, encoder: CLIPEncoder, pictures: Raw, box: CropBox | None) -> NDArray[np.float32]:
    """CLIP's feature float32 [dim] of a clip: the mean over its pictures uint8 [T, H, W, 3], cropped by ``box``."""
    raw, order = pictures
    stretch = box is not None and config.clip.crop
    window = image_window(config, (raw.shape[1], raw.shape[2]), box)
    if stretch:  # without a box, CLIP's own transform takes the middle
        raw = raw[:, window.top : window.bottom, window.left : window.right]
    return _mean(encoder(_onto(encoder, encoder.prepare(raw, stretch=stretch)))[order])


def motion_feature(config: Config, encoder: MotionEncoder, motion: Raw, box: CropBox | None) -> NDArray[np.float32]:
    """The motion network's feature float32 [dim] of a clip: the mean over segments and crops."""
    raw, order = motion
    windows = testing_windows((raw.shape[1], raw.shape[2]), box, config.input.test_crops)
    segments = torch.cat([cut("mv", raw, window, config.size)[order] for window in windows])
    return _mean(encoder(_onto(encoder, segments)[None]))


def read_clip(config: Config, parts: FrozenParts, name: str) -> dict[Kind, Raw]:
    """Read what the parts have to see of a clip.

    Raises:
        CoviarMocropError: it cannot be read.
    """
    data = config.data
    path, _ = DataRoot(data.root, follow_links=data.follow_links).find(name)
    with open_video(path, data.backend, data.anchor_every, index_cache=data.index_folder) as video:
        wanted = wanted_places(config, parts, video.info.num_frames, video.gops)
        unique = {kind: sorted(set(asked)) for kind, asked in wanted.items()}
        raw = video.read_many(unique)
    return {kind: (raw[kind], [unique[kind].index(place) for place in asked]) for kind, asked in wanted.items()}


def features_of_raw(config: Config, parts: FrozenParts, raw: Mapping[Kind, Raw], box: CropBox | None) -> Features:
    """The feature of a clip that was read, by part, ``image`` first."""
    features: Features = {}
    with torch.inference_mode():
        if parts.image is not None:
            features["image"] = image_feature(config, parts.image, raw["iframe"], box)
        if parts.motion is not None:
            features["motion"] = motion_feature(config, parts.motion, raw["mv"], box)
    return features


def open_stores(config: Config, parts: FrozenParts) -> dict[str, FeatureStore]:
    """The caches of the parts' features, ``image`` first."""
    common = {"anchor_every": config.data.anchor_every}
    box = config.mocrop.model_dump(mode="json") if config.crops else None
    stores = {}
    if parts.image is not None:
        made_by: dict[str, Any] = {
            "part": "image",
            "network": parts.image.digest,
            "frames": config.clip.frames,
            "box": box if config.clip.crop else None,
            **common,
        }
        note = f"{parts.image.title}, weights {config.clip.pretrained or f'random, seed {config.seed}'}"
        stores["image"] = FeatureStore(config.data.cache, config.data.root, made_by, parts.image.dim, note)
    if parts.motion is not None:
        made_by = {
            "part": "motion",
            "network": parts.motion.digest(),
            "backbone": config.model.backbone,
            "segments": config.input.test_segments,
            "crops": config.input.test_crops,
            "size": config.size,
            "box": box,
            **common,
        }
        stores["motion"] = FeatureStore(config.data.cache, config.data.root, made_by, parts.motion.dim)
    return stores


def features_of_clips(
    config: Config,
    parts: FrozenParts,
    names: Sequence[str],
    boxes: Mapping[str, CropBox] | None,
    group: Group = ALONE,
) -> Extracted:
    """The features of many clips, from the cache where they are known; what was computed before a stop is kept.

    Args:
        config: of the CLIP stream.
        parts: the networks; on the way they are brought to the device of ``config.train``.
        names: of the clips, below the data root.
        boxes: by name; None where the setting does not crop.
        group: the processes of the run; the first shows a bar.

    Raises:
        CoviarMocropError: the cache cannot be written.
    """
    stores = open_stores(config, parts)
    known: dict[str, Features] = {kind: {} for kind in stores}
    errors: dict[str, CoviarMocropError] = {}
    missing: dict[str, dict[str, ClipState]] = {}
    root = DataRoot(config.data.root, follow_links=config.data.follow_links)
    for name in dict.fromkeys(names):
        box = boxes[name] if boxes is not None else None
        for kind, store in stores.items():
            try:
                state = ClipState.of(root, name, box if kind == "motion" or config.clip.crop else None)
            except CoviarMocropError as error:
                errors[name] = error
                break
            feature = store.get(name, state)
            if feature is None:
                missing.setdefault(name, {})[kind] = state
            else:
                known[kind][name] = feature
    if not missing:
        return Extracted(known, errors, 0)

    device = choose_compute(config.train, group.local_rank).device
    parts.to(device)
    turn = Lock() if device.type != "cpu" else nullcontext()  # a GPU takes one clip at a time

    def compute(name: str) -> Features:
        asked = missing[name]
        only = FrozenParts(
            parts.image if "image" in asked else None,
            parts.motion if "motion" in asked else None,
        )
        raw = read_clip(config, only, name)
        with turn:
            return features_of_raw(config, only, raw, boxes[name] if boxes is not None else None)

    with _same_bits():
        # threads: decoding and networks both let go of Python's lock; each computes on one core
        pool = ThreadPoolExecutor(max(config.data.workers, 1), initializer=torch.set_num_threads, initargs=(1,))
        try:
            jobs = {pool.submit(compute, name): name for name in missing}
            title = f"{' and '.join(stores)} features"
            for done in tqdm(as_completed(jobs), title, len(jobs), unit="clip", disable=not group.is_main):
                name = jobs[done]
                try:
                    features = done.result()
                except CoviarMocropError as error:
                    errors[name] = error
                    continue
                for kind, feature in features.items():
                    stores[kind].put(name, missing[name][kind], feature)
                    known[kind][name] = feature
        finally:
            pool.shutdown(cancel_futures=True)  # whoever stops it does not want to wait for what is queued
    return Extracted(known, errors, sum(name not in errors for name in missing))


def time_of_clips(
    config: Config, parts: FrozenParts, names: Sequence[str], boxes: Mapping[str, CropBox] | None
) -> tuple[float, float]:
    """Median milliseconds of reading a clip, and of running the frozen networks on it, without the cache."""
    parts.to(choose_compute(config.train).device)
    spent = []
    for name in names:
        start = time.perf_counter()
        raw = read_clip(config, parts, name)
        read = time.perf_counter()
        features_of_raw(config, parts, raw, boxes[name] if boxes is not None else None)
        spent.append((read - start, time.perf_counter() - read))
    reading, networks = 1e3 * np.median(spent, axis=0)
    return float(reading), float(networks)


def _onto(module: torch.nn.Module, values: Tensor) -> Tensor:
    return values.to(next(module.parameters()).device)


def _mean(features: Tensor) -> NDArray[np.float32]:
    row: NDArray[np.float32] = features.float().mean(dim=0).cpu().numpy()
    return row


@contextmanager
def _same_bits() -> Iterator[None]:
    """One thread on CPUs; on GPUs only kernels that give the same bits every time, in full single precision."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(threads)
