"""The command ``coviar``, and ``python -m coviar_mocrop``."""

from __future__ import annotations

import sys
from pathlib import Path

from coviar_mocrop import __version__
from coviar_mocrop.commands import NAMES, load, run_command, summary
from coviar_mocrop.messages import did_you_mean, similar

_OVERVIEW = """\
usage: {program} COMMAND ...

Action recognition straight from compressed video: I-frames, motion vectors and residuals share one motion-guided crop.

commands:
{commands}

options:
  -h, --help  show this page; {program} COMMAND --help shows that of a command
  --version   print the version"""


def main() -> None:
    """Run the subcommand named on the command line. Without one, print an overview."""
    program = "python -m coviar_mocrop" if Path(sys.argv[0]).name == "__main__.py" else Path(sys.argv[0]).name
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(overview(program))
    elif name == "--version":
        print(f"coviar_mocrop {__version__}")
    elif name in NAMES:
        run_command(name, words, f"{program} {name}")
    else:
        question = did_you_mean(similar(name, NAMES))
        print(f"error: no command {name!r}; {question or 'there are ' + ', '.join(NAMES)}", file=sys.stderr)
        raise SystemExit(2)


def overview(program: str) -> str:
    """Return the overview: usage, and one line for each subcommand.

    Args:
        program: name of the program, for the usage line.
    """
    width = max(map(len, NAMES))
    commands = "\n".join(f"  {name:{width}}  {summary(load(name))}" for name in NAMES)
    return _OVERVIEW.format(program=program, commands=commands)


if __name__ == "__main__":
    main()
