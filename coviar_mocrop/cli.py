"""What all commands share: errors as one line, exit codes, `--set`."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from coviar_mocrop.errors import ConfigError, CoviarMocropError, DataError, Interrupted, ScoreError
from coviar_mocrop.messages import first_line, pip_install

if TYPE_CHECKING:
    from tqdm import tqdm

_OTHERS = "another process hangs or has ended; see what it said, and go on with --resume"
_REMEDIES = {
    "Timed out waiting": _OTHERS,
    "Connection closed by peer": _OTHERS,
    "out of memory": "lower train.batch_size or train.test_batch_size, or raise train.accumulate",
    "does not have a deterministic implementation": "--set train.deterministic=false allows it",
}
"""What a user can do about PyTorch's own errors, by what they say."""


def run(main: Callable[[], None]) -> None:
    """Run a command; what a user can cause ends in one line on stderr and exit code 2, not a traceback."""
    # what goes wrong is said by whichever process meets it
    level = logging.INFO if is_main_process() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", handlers=[LinesAboveBars()])
    try:
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
    gc.collect()  # the error held main's variables, and so processes that read, which end when they are no longer used
    raise SystemExit(code)


class LinesAboveBars(logging.Handler):
    """Messages on stderr, on lines of their own where there are progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message."""
        if "tqdm" in sys.modules:
            from tqdm import tqdm

            tqdm.write(self.format(record), file=sys.stderr)
        else:  # no bar without tqdm, which takes long to import
            print(self.format(record), file=sys.stderr)


class FrameBar:
    """A progress bar over the frames of a video, for ``progress=``. It shows itself once a video takes two seconds."""

    def __init__(self, title: str) -> None:
        """``title``: what stands before the bar."""
        self._title = title
        self._bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> FrameBar:
        return self

    def __call__(self, done: int, total: int) -> None:
        """So many frames are done; fewer than before: another pass has begun."""
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
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def is_main_process() -> bool:
    """Whether this process prints: of those that torchrun starts, the first."""
    return os.environ.get("RANK", "0") == "0"


def parser(description: str, examples: str = "", program: str | None = None) -> argparse.ArgumentParser:
    """An argument parser that keeps line breaks and shows examples at the end of ``--help``."""
    return argparse.ArgumentParser(
        program,
        description=description,
        epilog=epilog(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def epilog(examples: str) -> str | None:
    """The end of ``--help``: command lines to begin with."""
    return f"examples:\n{examples}" if examples else None


def add_config_argument(arguments: argparse.ArgumentParser, of: str | None = None) -> None:
    """Add ``--config``.

    Args:
        arguments: of the command.
        of: what the settings are for, where they may be left out. None: ``--config`` is required.
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


def parse_weights(items: Sequence[str] | None) -> dict[str, float] | None:
    """Fusion weights of ``--weights``: STREAM=NUMBER items; ``coviar`` alone: an empty dictionary.

    Raises:
        ScoreError: an item is neither.
    """
    if items is None:
        return None
    if items == ["coviar"]:
        return {}
    weights = {}
    for item in items:
        name, _, text = item.partition("=")
        try:
            weights[name] = float(text)
        except ValueError:
            raise ScoreError(f"--weights {item}: expected STREAM=NUMBER, such as iframe=2, or coviar") from None
    return weights


def output_paths(
    inputs: Sequence[str | os.PathLike[str]], output: Path, option: str, suffixes: Sequence[str]
) -> list[Path]:
    """Where what is made of each input goes: the file named, or files of the inputs' names in a folder.

    Args:
        inputs: paths or addresses; equal names are told apart by a number.
        output: a file if there is one input, else a folder.
        option: that named it, for messages.
        suffixes: of such files; the first is given to files in a folder.

    Raises:
        DataError: one file is named for several inputs.
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


def torchrun_share(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """This process's number and how many there are, as torchrun sets them: (0, 1) without it.

    Raises:
        ConfigError: the variables are not as torchrun sets them.
    """
    rank, world = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ConfigError(f"RANK={rank} and WORLD_SIZE={world} name no process; torchrun sets them")
    return int(rank), int(world)
