"""Helpers for all commands: errors in one line, exit codes, progress bars and common options."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from coviar_mocrop.errors import CoviarMocropError, DataError, Interrupted, ScoreError
from coviar_mocrop.interrupt import ended_by_signals
from coviar_mocrop.messages import first_line, pip_install
from coviar_mocrop.torchrun import is_main_process

if TYPE_CHECKING:
    from tqdm import tqdm

_OTHERS = "another process hangs or has ended; read its message, then continue with --resume"
_REMEDIES = {
    "Timed out waiting": _OTHERS,
    "Connection closed by peer": _OTHERS,
    "out of memory": "lower train.batch_size or train.test_batch_size, or raise train.accumulate",
    "does not have a deterministic implementation": "--set train.deterministic=false allows it",
}
"""Advice for errors of PyTorch, by a part of their message."""


def run(main: Callable[[], None]) -> None:
    """Run a command. Errors that a user can cause end in one line on stderr and exit code 2, without a traceback.

    Args:
        main: the command.

    Raises:
        SystemExit: the command failed. The exit code is 2 for an error, 130 after Ctrl-C or a signal, and 1 if standard
            output was closed.
    """
    # warnings and errors are printed by every process, information only by the main process
    level = logging.INFO if is_main_process() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", handlers=[LinesAboveBars()])
    try:
        with ended_by_signals():
            main()
        return
    except Interrupted as error:
        said, code = str(error), 130
    except CoviarMocropError as error:
        said, code = f"error: {error}", 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "coviar_mocrop"):
            raise
        said, code = f"error: this needs {package}, which is not installed; {pip_install()} installs it", 2
    except RuntimeError as error:
        remedy = next((remedy for words, remedy in _REMEDIES.items() if words in str(error)), None)
        if remedy is None:
            raise
        said, code = f"error: {first_line(error)}; {remedy}", 2
    except BrokenPipeError:  # `coviar ... | head`
        said, code = "", 1
    except OSError as error:
        if error.filename is None:
            raise
        said, code = f"error: {error.filename}: {error.strerror}", 2  # no permission, a name too long, ...
    except KeyboardInterrupt:
        said, code = "stopped", 130
    if said:
        print(said, file=sys.stderr)
    gc.collect()  # the error kept main's variables alive, and so data-loading processes, which end when they are freed
    raise SystemExit(code)


class LinesAboveBars(logging.Handler):
    """Log handler that prints messages to stderr, above any progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message."""
        if "tqdm" in sys.modules:
            from tqdm import tqdm

            tqdm.write(self.format(record), file=sys.stderr)
        else:  # tqdm, which is slow to import, is not loaded, so there is no bar
            print(self.format(record), file=sys.stderr)


class FrameBar:
    """A progress bar over the frames of a video, for ``progress=``. It appears after two seconds."""

    def __init__(self, title: str) -> None:
        """Set up the bar.

        Args:
            title: text in front of the bar.
        """
        self._title = title
        self._bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> FrameBar:
        return self

    def __call__(self, done: int, total: int) -> None:
        """Update the bar.

        Args:
            done: number of frames that are done. If it is lower than before, a new pass has begun.
            total: number of frames of the video.
        """
        if self._bar is not None and done < self._bar.n:
            self.close()
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=self._title, unit="frame", leave=False, delay=2)
        self._bar.update(done - self._bar.n)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def parser(description: str, examples: str = "", program: str | None = None) -> argparse.ArgumentParser:
    """Create an argument parser that keeps line breaks in its description.

    Args:
        description: text of ``--help``.
        examples: command lines to show at the end of ``--help``.
        program: name of the program; None: that of the command line.
    """
    return argparse.ArgumentParser(
        program,
        description=description,
        epilog=epilog(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # an abbreviation would stop working when an option that begins the same is added
    )


def epilog(examples: str) -> str | None:
    """Return the last section of ``--help``, which shows example command lines; None without examples."""
    return f"examples:\n{examples}" if examples else None


def add_config_argument(arguments: argparse.ArgumentParser, of: str | None = None) -> None:
    """Add ``--config``.

    Args:
        arguments: parser of the command.
        of: if the option is not required, what the settings are for, to continue the help text. None: it is required.
    """
    arguments.add_argument(
        "--config",
        required=of is None,
        metavar="FILE",
        help=f"YAML settings{' ' + of if of else ''}: a file, or the name of one that comes with the package, such as "
        "demo or folder",
    )


def add_part_argument(arguments: argparse.ArgumentParser) -> None:
    """Add ``--part``."""
    arguments.add_argument(
        "--part",
        choices=("train", "val", "test"),
        nargs="+",
        help="lists to do (default: all that the settings name)",
    )


def add_set_argument(arguments: argparse._ActionsContainer) -> None:
    """Add ``--set key=value``."""
    arguments.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change settings by their dotted names, such as --set setting=efficiency train.epochs=5",
    )


def parse_pairs(items: Sequence[str], option: str, expected: str) -> dict[str, str]:
    """Parse the STREAM=VALUE items of an option.

    Args:
        items: the items.
        option: name of the option, for messages.
        expected: description of the items, for messages.

    Returns:
        Values by stream.

    Raises:
        ScoreError: an item does not have this form, or a stream is given twice.
    """
    pairs: dict[str, str] = {}
    for item in items:
        name, _, value = item.partition("=")
        if not name or not value:
            raise ScoreError(f"{option} {item}: expected {expected}")
        if name in pairs:
            raise ScoreError(f"{option}: {name} is given twice")
        pairs[name] = value
    return pairs


def parse_weights(items: Sequence[str] | None, streams: Sequence[str] = ()) -> dict[str, float] | None:
    """Parse the fusion weights of ``--weights``.

    Args:
        items: items STREAM=NUMBER; or only ``coviar``; or, if ``streams`` are given, one number for each of them. None:
            the option was not used.
        streams: valid names of streams; empty: any name.

    Returns:
        Weights by stream, empty for ``coviar``; None if the option was not used.

    Raises:
        ScoreError: an item has another form, or a stream is given twice or unknown.
    """
    if items is None:
        return None
    if list(items) == ["coviar"]:
        return {}
    if streams and not any("=" in item for item in items):
        if len(items) != len(streams):
            raise ScoreError(f"--weights: {len(items)} numbers for {len(streams)} streams; give one for each")
        items = [f"{name}={item}" for name, item in zip(streams, items, strict=True)]
    weights = {}
    for name, text in parse_pairs(items, "--weights", "STREAM=NUMBER, such as iframe=2, or coviar").items():
        if streams and name not in streams:
            raise ScoreError(f"weight for {name!r}, but the streams are {', '.join(streams)}")
        try:
            weights[name] = float(text)
        except ValueError:
            raise ScoreError(f"--weights {name}={text}: {text!r} is not a number") from None
    return weights


def output_paths(
    inputs: Sequence[str | os.PathLike[str]], output: Path, option: str, suffixes: Sequence[str]
) -> list[Path]:
    """Return the output path for each input: ``output`` itself, or files in it that are named after the inputs.

    Args:
        inputs: paths or addresses. If several have the same name, numbers are added.
        output: if there is one input, a file or a folder; else a folder.
        option: name of the option that ``output`` was given with, for messages.
        suffixes: suffixes of such files. Files in a folder get the first one.

    Raises:
        DataError: ``output`` is a file, but there are several inputs.
    """
    if len(inputs) == 1 and output.suffix and not output.is_dir():
        return [output]
    if output.suffix.lower() in suffixes and not output.is_dir():
        raise DataError(f"{option} {output}: names one file for {len(inputs)} inputs; give a folder")
    taken = set[str]()
    paths = []
    for source in inputs:
        stem = _file_stem(os.fspath(source))
        name, copy = stem, 1
        while name.casefold() in taken:
            copy += 1
            name = f"{stem}_{copy}"
        taken.add(name.casefold())
        paths.append(output / f"{name}{suffixes[0]}")
    return paths


def _file_stem(source: str) -> str:
    path = urllib.parse.urlsplit(source).path if "://" in source else source
    return Path(path).stem or "video"
