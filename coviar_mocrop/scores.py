"""Score files: the scores of one stream for each clip of a list, with the settings of the test.

A score file is an ``.npz`` file without pickled objects: ``names`` (str [clips]), ``labels`` (int64 [clips]),
``scores`` (float32 [clips, classes]), ``classes`` (str [classes]) and ``settings`` (a JSON string).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.arrays import read_arrays
from coviar_mocrop.errors import ScoreError
from coviar_mocrop.files import atomic_write

HELD_OUT = "held_out.npz"
"""Score file beside the checkpoint of a fitted stream: each clip's scores are from a fit that held it out."""


@dataclass
class Scores:
    """Clip scores of one stream.

    Attributes:
        names: paths of the clips in the video list, str [clips].
        labels: int64 [clips].
        scores: logits averaged over segments and crops, float32 [clips, classes].
        classes: class names by label, str [classes].
        settings: how the scores were computed: stream, setting, segments, GFLOPs, seed, ...
    """

    names: NDArray[np.str_]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    classes: NDArray[np.str_]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def top1(self) -> float:
        """Share of clips whose label has the highest score, in [0, 1]. If scores are equal, the first class wins."""
        return float((self.scores.argmax(axis=1) == self.labels).mean())

    @property
    def loss(self) -> float:
        """Mean cross-entropy of the scores as logits."""
        return float(log_losses(self.scores.astype(np.float64), self.labels).mean())

    def check(self, source: str) -> None:
        """Check that the parts fit each other.

        Args:
            source: path of the score file, for messages.

        Raises:
            ScoreError: the parts do not fit, there is no clip, a clip appears twice, or a score is not finite.
        """
        clips, classes = len(self.names), len(self.classes)
        if self.scores.shape != (clips, classes) or self.labels.shape != (clips,):
            raise ScoreError(
                f"{source}: {clips} names and {classes} classes, but scores {self.scores.shape} and labels "
                f"{self.labels.shape}; test the stream again"
            )
        if not clips:
            raise ScoreError(f"{source}: holds no clip; test the stream again")
        names, times = np.unique(self.names, return_counts=True)
        if len(names) < clips:
            raise ScoreError(
                f"{source}: names {names[times > 1][0]} twice; list each video once and test the stream again"
            )
        if not np.isfinite(self.scores).all():
            raise ScoreError(f"{source}: holds scores that are not finite; train the stream again")
        if clips and not (self.labels.min() >= 0 and self.labels.max() < classes):
            raise ScoreError(f"{source}: labels do not lie in 0..{classes - 1}; test the stream again")


def log_losses(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute the cross-entropy of each row of ``logits`` [N, classes] with its label, float64 [N]."""
    top = logits.max(axis=1)
    own = logits[np.arange(len(labels)), labels]
    losses: NDArray[np.float64] = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - own
    return losses


def save_scores(path: str | os.PathLike[str], scores: Scores) -> None:
    """Write a score file atomically.

    Raises:
        ScoreError: the parts do not fit each other; see :meth:`Scores.check`.
        CoviarMocropError: the file cannot be written.
    """
    scores.check(os.fspath(path))
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            names=np.asarray(scores.names, dtype=np.str_),
            labels=np.asarray(scores.labels, dtype=np.int64),
            scores=np.asarray(scores.scores, dtype=np.float32),
            classes=np.asarray(scores.classes, dtype=np.str_),
            settings=np.asarray(json.dumps(scores.settings)),
        )


def load_scores(path: str | os.PathLike[str]) -> Scores:
    """Read a score file. Pickled objects are never loaded.

    Raises:
        ScoreError: the file is missing, damaged, or not a score file.
    """
    try:
        names, labels, scores, classes, settings = read_arrays(path, "names", "labels", "scores", "classes", "settings")
        loaded = Scores(names, labels.astype(np.int64), scores.astype(np.float32), classes, json.loads(str(settings)))
    except FileNotFoundError as error:
        raise ScoreError(f"{path}: no such score file; make it with coviar test") from error
    except IsADirectoryError as error:
        raise ScoreError(f"{path}: is a folder; give a score file") from error
    except Exception as error:  # what is read may be anything
        raise ScoreError(f"{path}: is damaged or not a score file; make it again with coviar test") from error
    if not isinstance(loaded.settings, dict):
        raise ScoreError(f"{path}: settings must be a JSON object; test the stream again")
    if loaded.names.dtype.kind != "U" or loaded.classes.dtype.kind != "U":
        raise ScoreError(f"{path}: names and classes must be text; test the stream again")
    loaded.check(os.fspath(path))
    return loaded
