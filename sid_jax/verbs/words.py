"""The words after a verb, parsed; and lines for the user."""

from collections.abc import Callable
from typing import Any

import tyro

Positional = tyro.conf.Positional
NoPrefix = tyro.conf.arg(name="")


def parse(kind: Any, name: str, argv: list[str], verb: Callable, default=None) -> Any:
    """The words after a verb as an instance of `kind`, a dataclass.

    Args:
      kind: its fields are the flags, their docstrings the help.
      name: what stands after `sid`.
      argv: the words.
      verb: its docstring is the description.
      default: an instance to start from.
    """
    return tyro.cli(
        kind,
        prog=f"sid {name}",
        description=verb.__doc__,
        args=argv,
        default=default,
        # A union field keeps the class that the experiment chose.
        config=(tyro.conf.AvoidSubcommands,),
    )


def say(line: str) -> None:
    """Prints a line at once."""
    print(line, flush=True)
