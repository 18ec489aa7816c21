"""The `depthlm` command: finds its sub-commands by entry points (`depthlm.commands`), so that it imports none of them.

An entry point is a function ``add(subparsers)`` that adds a parser with ``set_defaults(run=function(args))``; what that
returns is the exit status where it is an integer.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import entry_points
from typing import Any

from depthlm import __version__
from depthlm.errors import DepthLMError

Add = Callable[[Any], None]

DESCRIPTION = """\
Metric depth and distance from vision-language models: from frames with measured
depth to marked images with questions, to a fine-tuned model, to scores.

A frame store is a folder of Parquet shards; a suite is a folder of frozen
questions; a model is a Hugging Face folder. Each command says what it reads and
what it writes: `depthlm COMMAND --help`.
"""
EXAMPLES = """\
examples:
  depthlm data synthetic --out stores/rooms --scenes 200 --views 4
  depthlm data curate depthlm-jsonl frames.jsonl --out stores/mine
  depthlm data freeze stores/mine --out suites/mine --count 500
  depthlm data inspect stores/mine --out runs/mine

exit status:
  0 done · 1 done but for what is told · 2 bad input or bad use, explained in one line · 130 interrupted
"""


def manual(subparsers: Any, name: str, summary: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Add a sub-command whose help reads like a manual page: summary, description, options, examples as written."""
    return subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary}\n\n{description}",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def not_negative(text: str) -> int:
    """A whole number of 0 or more; an argument's type, as those below."""
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    value = not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is less than 1")
    return value


def positive_float(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return value


def build_parser(commands: Mapping[str, Callable[[], Add]]) -> argparse.ArgumentParser:
    """The parser of ``depthlm`` with the sub-commands that ``commands`` (name -> loader of its ``add``) give.

    One that doesn't load stays in the list and says why when it is called; the others work.
    """
    parser = argparse.ArgumentParser(
        "depthlm", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"depthlm {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, load in commands.items():
        try:
            load()(subparsers)
        except Exception as error:  # whatever is wrong with one package, the other commands go on
            _add_broken(subparsers, name, error)
    return parser


def _add_broken(subparsers: Any, name: str, error: Exception) -> None:
    reason = str(error).partition("\n")[0] or type(error).__name__
    parser = subparsers.add_parser(name, help=f"(not available: {reason})".replace("%", "%%"), add_help=False)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)

    def run(_: argparse.Namespace) -> int:
        raise DepthLMError(f"command {name!r}", f"can't be loaded: {reason}", "install the package it needs")

    parser.set_defaults(run=run)


def installed_commands() -> dict[str, Callable[[], Add]]:
    """Name -> loader of each installed sub-command, by name."""
    found = sorted(entry_points(group="depthlm.commands"), key=lambda entry: entry.name)
    return {entry.name: partial(entry.load) for entry in found}


def main(argv: Sequence[str] | None = None, commands: Mapping[str, Callable[[], Add]] | None = None) -> int:
    """Run one command; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    commands = installed_commands() if commands is None else commands
    if argv and argv[0] in commands:  # the others need not be imported
        commands = {argv[0]: commands[argv[0]]}
    args, rest = build_parser(commands).parse_known_args(argv)
    progress = _show_progress()
    try:
        if rest and not hasattr(args, "rest"):
            raise DepthLMError("arguments", f"not understood: {' '.join(rest)}", "see --help")
        status = args.run(args)
        return status if isinstance(status, int) else 0
    except DepthLMError as error:
        print(f"depthlm: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("depthlm: interrupted", file=sys.stderr)
        return 130
    finally:
        logging.getLogger("depthlm").removeHandler(progress)


def _show_progress() -> logging.Handler:
    """What the package itself reports goes to stderr; other libraries keep to their own settings."""
    logger, handler = logging.getLogger("depthlm"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    return handler


if __name__ == "__main__":
    sys.exit(main())
