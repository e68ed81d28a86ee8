"""The progress of training a stream: epochs, steps and metrics.

Random states are not stored, because all randomness is derived from seed, epoch and step (see :func:`step_seed`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from coviar_mocrop.runtime import Group


@dataclass
class Metrics:
    """Sums over the steps of an epoch, on one process. :meth:`reduce` adds up all processes.

    Attributes:
        loss: sum of the loss over clips. A tensor stays on its device until :meth:`reduce`.
        correct: number of correctly classified clips.
        seen: number of clips.
        seconds: duration, seconds.
        waited: time spent waiting for data, seconds.
    """

    loss: float | Tensor = 0.0
    correct: float | Tensor = 0.0
    seen: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0

    def __str__(self) -> str:
        """Mean loss and top-1 over the epoch so far, for the progress bar. On a GPU this waits for the computation."""
        seen = max(self.seen, 1)
        return f"mean loss {float(self.loss) / seen:.3f}, top-1 {float(self.correct) / seen:.3f}"

    def times(self) -> Metrics:
        """Return the times alone. A process whose sums are counted elsewhere goes on from these: times are averaged."""
        return Metrics(seconds=self.seconds, waited=self.waited)

    def reduce(self, group: Group) -> Metrics:
        """Return the sums over all processes; for times, the mean. Collective: every process must call it."""
        mine = [float(value) for value in (self.loss, self.correct, self.seen, self.seconds, self.waited)]
        loss, correct, seen, seconds, waited = group.table(mine).sum(dim=0).tolist()
        return Metrics(loss, correct, seen, seconds / group.world, waited / group.world)


@dataclass
class TrainState:
    """The progress of training.

    Attributes:
        epoch: number of finished epochs.
        step: number of finished steps of the current epoch.
        metrics: sums over these steps.
        history: metrics of the finished epochs, in order. Their ``epoch`` is counted from 1.
    """

    epoch: int = 0
    step: int = 0
    metrics: Metrics = field(default_factory=Metrics)
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def best(self) -> float | None:
        """Best top-1 on the validation list so far; None before the first validation."""
        return max((line["val_top1"] for line in self.history if "val_top1" in line), default=None)

    @property
    def epochs_since_best(self) -> int:
        """Number of epochs since the best validation (the first one, if several are equal); 0 without validation."""
        if self.best is None:
            return 0
        first = next(line["epoch"] for line in self.history if line.get("val_top1") == self.best)
        return self.epoch - int(first)

    @property
    def is_best(self) -> bool:
        """Whether the epoch just finished was validated and is better than all before."""
        return self.best is not None and self.epochs_since_best == 0 and "val_top1" in self.history[-1]


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """Return the random seed of dropout and mixup in one step on one process."""
    return int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1)[0])
