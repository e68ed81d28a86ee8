"""Features of frozen networks: computed once a clip, kept on disk, never mistaken for those of another network."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from coviar_mocrop.clips.dataset import Sample
from coviar_mocrop.datasets.lists import VideoList
from coviar_mocrop.errors import DataError
from coviar_mocrop.files import DataRoot, atomic_write, write_json
from coviar_mocrop.mocrop import CropBox

_FORMAT = 1


@dataclass(frozen=True)
class ClipState:
    """What a clip's feature depends on beside the network: the file as it is now, and the box.

    Attributes:
        size: of the file, bytes.
        changed: time of its last change, nanoseconds.
        box: None where the picture is not cropped.
    """

    size: int
    changed: int
    box: CropBox | None

    @classmethod
    def of(cls, root: DataRoot, name: str, box: CropBox | None) -> ClipState:
        """The state of clip ``name`` below ``root``; to be taken before the file is read.

        Raises:
            DataError: there is no such file, or it lies outside the root.
        """
        path, facts = root.find(name)
        if facts is None:
            raise DataError(f"{path}: no such file, or it cannot be read; check data.root and the list")
        return cls(facts.st_size, facts.st_mtime_ns, box)

    def row(self) -> NDArray[np.float64]:
        """Box [4], or empty."""
        return np.array(self.box or (), dtype=np.float64)


class FeatureStore:
    """One kind of feature of the clips below a root: a small file a clip, so that any number of processes can write.

    A file is whole or not there. What is in it counts only if the clip has not changed since, its box is the same,
    and the network and settings are the same (they name the folder, and stand in the file again); all else is as
    good as nothing and computed anew.

    Attributes:
        folder: where its files are.
        dim: length of a feature.
    """

    def __init__(
        self, cache: str | os.PathLike[str], root: str, made_by: Mapping[str, Any], dim: int, note: str = ""
    ) -> None:
        """Open the store; nothing is written before there is a feature to keep.

        Args:
            cache: folder of all caches.
            root: data root.
            made_by: all that decides the features: network fingerprint, frames, input size, box settings, ...
            dim: length of a feature.
            note: for people, in ``about.json``; decides nothing.
        """
        self.root, self.dim = root, dim
        self._about = {"format": _FORMAT, "root": os.path.realpath(root), "dim": dim, **made_by}
        key = json.dumps(self._about, sort_keys=True)
        self._key = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        self._note = note
        self.folder = Path(cache) / "features" / self._key[:16]

    def get(self, name: str, state: ClipState) -> NDArray[np.float32] | None:
        """The feature float32 [dim] of a clip in this state; None if it is not kept, stale, damaged or foreign."""
        try:
            with np.load(self._place(name), allow_pickle=False) as kept:
                feature, key = kept["feature"], str(kept["key"])
                identity, box = kept["identity"], kept["box"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None
        fits = key == self._key and identity.tolist() == [state.size, state.changed]
        if not fits or not np.array_equal(box, state.row()):
            return None
        if feature.shape != (self.dim,) or feature.dtype != np.float32 or not np.isfinite(feature).all():
            return None
        return feature

    def put(self, name: str, state: ClipState, feature: NDArray[np.float32]) -> None:
        """Keep a feature, whole or not at all.

        Raises:
            DataError: it is not finite.
            CoviarMocropError: the cache cannot be written.
        """
        if feature.shape != (self.dim,) or not np.isfinite(feature).all():
            raise DataError(
                f"{name}: its {self._about.get('part', 'feature')} feature is not finite; are weights broken?"
            )
        about = self.folder / "about.json"
        if not about.exists():
            write_json(about, {**self._about, "note": self._note})
        with atomic_write(self._place(name)) as temporary:
            np.savez(
                temporary,
                feature=feature.astype(np.float32),
                identity=np.array([state.size, state.changed], dtype=np.int64),
                box=state.row(),
                key=np.array(self._key),
            )

    def _place(self, name: str) -> Path:
        digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        return self.folder / digest[:2] / f"{digest}.npz"


class FeatureDataset(Dataset[Sample]):
    """Clips as vectors: items are keyed (epoch, index) like a clip data set's, and ``frames`` is float32 [dim].

    Attributes:
        videos: the clips, in the list's order.
        features: float32 [clips, dim].
        training: whether batches are to be shuffled.
        computed: how many of them were not in the cache.
        clip_digest: fingerprint of the CLIP that made the first part; empty where there is none.
        stopwatch: what making features takes, measured anew: milliseconds a clip of reading, and of the networks.
    """

    def __init__(
        self,
        videos: VideoList,
        features: Tensor,
        *,
        training: bool,
        computed: int = 0,
        clip_digest: str = "",
        stopwatch: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0),
    ) -> None:
        """Hold the features of all clips of ``videos``."""
        if features.shape[0] != len(videos):
            raise ValueError(f"{features.shape[0]} features for {len(videos)} clips")
        self.videos, self.features, self.training = videos, features, training
        self.computed = computed
        self.clip_digest, self.stopwatch = clip_digest, stopwatch

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """A clip's feature; the epoch changes nothing."""
        _, index = key
        return Sample(self.features[index], self.videos.clips[index].label, index)


def stack(features: Mapping[str, Mapping[str, NDArray[np.float32]]], names: list[str]) -> Tensor:
    """Join the kinds of features, side by side, in the order given: float32 [names, dims together].

    Raises:
        DataError: a clip lacks one.
    """
    rows = []
    for name in names:
        lacking = [kind for kind, known in features.items() if name not in known]
        if lacking:
            raise DataError(f"{name}: has no {lacking[0]} feature; extract it again")
        rows.append(np.concatenate([known[name] for known in features.values()]))
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0)
