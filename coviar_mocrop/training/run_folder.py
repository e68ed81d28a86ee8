"""The folder of a run: checkpoints, settings, environment, metrics. Files are written atomically."""

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
    """The files of a run.

    These are ``last.pt``, ``best.pt``, ``held_out.npz`` (frozen networks only), ``settings.yaml``, ``run.json``
    (versions, machine, command), ``metrics.jsonl``, ``metrics.csv`` and TensorBoard's event files.

    Attributes:
        path: the folder.
        last: path of ``last.pt``, the checkpoint to resume from.
        best: path of ``best.pt``, the result of the run.
        held_out: path of the scores of held-out clips.
        facts: path of ``run.json``.
    """

    def __init__(self, path: str) -> None:
        """Set the path of the folder. Nothing is read or written.

        Args:
            path: the folder.
        """
        self.path = Path(path)
        self.last = self.path / "last.pt"
        self.best = self.path / "best.pt"
        self.held_out = self.path / HELD_OUT
        self.facts = self.path / "run.json"

    @property
    def results(self) -> list[Path]:
        """The checkpoints and scores that are in the folder, and that a new run would replace."""
        return [file for file in (self.last, self.best, self.held_out) if file.exists()]

    def require_free(self, *, resume: bool = False) -> None:
        """Check that training in the folder deletes no result of anything else.

        Args:
            resume: whether a run in the folder is to be continued.

        Raises:
            ConfigError: the folder holds a run, or with ``resume``, a ``best.pt`` that was not trained there.
        """
        found = self.results
        if found and not resume:
            raise ConfigError(
                f"{self.path}: already holds a run ({found[0].name}); continue it (--resume), replace it (--overwrite) "
                "or choose another --output"
            )
        if found and not self.last.exists() and not self.facts.exists():
            raise ConfigError(
                f"{found[0]}: was not trained here, so --resume cannot continue it; replace it (--overwrite) or choose "
                "another --output"
            )

    def remove_temporaries(self) -> None:
        """Remove temporary files that a killed run left while writing checkpoints."""
        for file in (*self.path.glob(".last.*.pt"), *self.path.glob(".best.*.pt")):
            file.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the checkpoints, scores, metrics and event files of an older run.

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
        """Write ``settings.yaml`` and ``run.json``. For a resumed run, an entry is added to ``run.json``.

        Args:
            config: settings of the run.
            facts: further values for ``run.json``.

        Raises:
            CoviarMocropError: the folder cannot be written to.
        """
        write_text(self.path / "settings.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        parts = _parts(self.facts) if self.last.exists() else []
        write_json(self.facts, {"parts": [*parts, {**describe_machine(), **facts}]})

    def write_metrics(self, history: Sequence[dict[str, Any]]) -> None:
        """Write the metrics of all epochs so far to ``metrics.jsonl`` and ``metrics.csv``.

        Raises:
            CoviarMocropError: the files cannot be written.
        """
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
