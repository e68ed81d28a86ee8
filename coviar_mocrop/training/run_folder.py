"""The folder of a run: settings, what made it, metrics. Every file is written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from coviar_mocrop.config import Config
from coviar_mocrop.errors import ConfigError, CoviarMocropError
from coviar_mocrop.files import write_json, write_text
from coviar_mocrop.runtime import describe_machine
from coviar_mocrop.scores import HELD_OUT


class RunFolder:
    """Names and contents of a run's files.

    ``last.pt`` and ``best.pt``, ``held_out.npz`` (of a network that is fitted), ``settings.yaml``, ``run.json``
    (versions, machine, command), ``metrics.jsonl`` and ``metrics.csv``, TensorBoard's files.
    """

    def __init__(self, path: str) -> None:
        """Name the folder; nothing is written."""
        self.path = Path(path)
        self.last = self.path / "last.pt"
        self.best = self.path / "best.pt"
        self.held_out = self.path / HELD_OUT

    def require_free(self) -> None:
        """Refuse a folder that holds a run.

        Raises:
            ConfigError: it does.
        """
        if self.last.exists():
            raise ConfigError(
                f"{self.path}: already holds a run; go on with it (--resume), replace it (--overwrite) or choose "
                "another --output"
            )

    def remove_temporaries(self) -> None:
        """Remove checkpoints that a killed run did not finish writing."""
        for file in (*self.path.glob(".last.*.pt"), *self.path.glob(".best.*.pt")):
            file.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what an older run left.

        Raises:
            CoviarMocropError: the folder cannot be written to.
        """
        try:
            metrics = (self.path / "metrics.jsonl", self.path / "metrics.csv")
            for old in (self.last, self.best, self.held_out, *metrics, *self.path.glob("events.out.tfevents.*")):
                old.unlink(missing_ok=True)
        except OSError as error:
            raise CoviarMocropError(
                f"{self.path}: cannot be written ({error.strerror}); choose another --output"
            ) from error

    def describe(self, config: Config, facts: dict[str, Any]) -> None:
        """Write the settings, and what runs them; of a resumed run, every part is kept.

        Raises:
            CoviarMocropError: the folder cannot be written to.
        """
        write_text(self.path / "settings.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        file = self.path / "run.json"
        parts = _parts(file) if self.last.exists() else []
        write_json(file, {"parts": [*parts, {**describe_machine(), **facts}]})

    def write_metrics(self, history: Sequence[dict[str, Any]]) -> None:
        """Write the metrics of all epochs so far, as JSON lines and as CSV."""
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in history))
        table = io.StringIO()
        columns = list(dict.fromkeys(name for line in history for name in line))
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_text(self.path / "metrics.csv", table.getvalue())


def _parts(file: Path) -> list[Any]:
    try:
        parts = json.loads(file.read_text(encoding="utf-8"))["parts"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return parts if isinstance(parts, list) else []
