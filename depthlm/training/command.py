"""A recipe as a command: its settings read, its end told in one line."""

from __future__ import annotations

import difflib
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import yaml
from trl import TrlParser

from depthlm.errors import DepthLMError

INTERRUPTED = 130
CORRECT = "correct it in the YAML file or on the command line"


def parse(*kinds: Any) -> tuple[Any, ...]:
    """The settings of a recipe, from its ``--config`` and its command line, as instances of these dataclasses.

    Raises:
        DepthLMError: no such file, an unknown setting, a value that is none, or one that this machine can't do.
    """
    try:
        *found, unknown = Parser(kinds).parse_args_and_config(return_remaining_strings=True)
    except OSError as error:
        raise DepthLMError(
            f"--config {error.filename}", f"can't be read: {error.strerror}", "see recipes/configs"
        ) from error
    except IndexError as error:
        raise DepthLMError("--config", "names no file", "see recipes/configs") from error
    except yaml.YAMLError as error:
        raise DepthLMError("--config", f"is no YAML: {error}".replace("\n", " "), "correct the file") from error
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        no_gpu = "bf16" in reason or "fp16" in reason
        mend = "on a machine without such a GPU add --bf16 false --use_cpu true" if no_gpu else CORRECT
        raise DepthLMError("settings", reason, mend) from error
    if unknown:
        known = [field.name for kind in kinds for field in fields(kind)]
        close = difflib.get_close_matches(unknown[0].lstrip("-"), known, 1)
        raise DepthLMError(
            unknown[0], "is no setting of this recipe", f"did you mean --{close[0]}?" if close else CORRECT
        )
    return tuple(found)


class Parser(TrlParser):
    """Tells what is wrong with a value without all the settings before it."""

    def error(self, message: str) -> NoReturn:
        where, _, reason = message.removeprefix("argument ").partition(": ")
        raise DepthLMError(where.partition("/")[0], reason.rstrip(".") or "is wrong", CORRECT)


def run_command(main: Callable[[], None]) -> None:
    """Run a recipe's ``main`` so that a user sees one line for what was wrong, and status 130 where they stopped it."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # PEFT looks on the hub whether the base's vocabulary has changed, and says so where there is no hub to ask
    for message in ("Unable to fetch remote file", "Could not find a config file"):
        warnings.filterwarnings("ignore", message=message)
    name = Path(sys.argv[0]).name
    try:
        main()
    except DepthLMError as error:
        sys.exit(f"{name}: error: {error}")
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: stopped; the same command goes on from its last whole checkpoint\n")
        sys.exit(INTERRUPTED)
