"""What ``coviar prepare ssv1`` and ``ssv2`` share: the options, and the work."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

from coviar_mocrop.commands.dataset_options import add_annotated, common, report_annotated


def add_something(parser: argparse.ArgumentParser, *, source: str) -> None:
    """Add the options; ``source`` says what the folder of the clips holds."""
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="DIR", help="folder of the official annotation files"
    )
    add_annotated(parser, source=source)


def prepare_version(given: argparse.Namespace, version: Literal["v1", "v2"]) -> None:
    """Write the lists, and print what is missing and the commands to run next."""
    from coviar_mocrop.datasets.something import prepare_something, read_something

    name = f"ss{version}"
    prepared, coverage = prepare_something(
        given.source,
        read_something(given.annotations, version),
        version=version,
        val_share=given.val_share,
        **common(given, name),
    )
    report_annotated(name, prepared, coverage, follow_links=given.follow_links and not given.transcode)
