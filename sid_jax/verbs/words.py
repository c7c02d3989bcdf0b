"""The words after a verb, parsed; and lines for the user."""

from collections.abc import Callable
from typing import Any

import tyro

from sid_jax.errors import InputError

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


def parse_share(word: str) -> tuple[int, int]:
    """`2/4` as (2, 4): the third of four.

    Raises:
      InputError: it is not of that form, or the first number is not below the second.
    """
    number, _, total = word.partition("/")
    if number.isdecimal() and total.isdecimal() and int(number) < int(total):
        return int(number), int(total)
    raise InputError(f"--host {word}: want one of 0/4, 1/4, 2/4, 3/4, say")


def say(line: str) -> None:
    """Prints a line at once."""
    print(line, flush=True)
