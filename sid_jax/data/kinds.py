"""What the columns of a user's file hold: text, whole numbers, numbers or true/false.

A column's kind follows from the traits of its values alone, and traits add up: files
may be read in parts, each by a machine of its own.
"""

import json
import math
import re
from collections.abc import Container, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from sid_jax.data.readers import Table

_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Kind:
    """What a column's values become.

    Attributes:
      type: string, int64, double or bool; None for a column without any value.
      joined: it has lists or objects, which are joined to text.
      mixed: it has values of several kinds, which become text.
      unbounded: it has numbers that are not finite, which become unknown.
    """

    type: pa.DataType | None
    joined: bool = False
    mixed: bool = False
    unbounded: bool = False

    def convert(self, values: Sequence[Any]) -> pa.Array:
        """Values of the column, of any of its rows, as an array of its type."""
        assert self.type is not None
        if self == Kind(pa.string()):
            return pa.array(values, self.type)
        return pa.array([self._convert(value) for value in values], self.type)

    def _convert(self, value: Any) -> Any:
        if value is None or (self.unbounded and _is_unbounded(value)):
            return None
        if pa.types.is_floating(self.type):
            number = float(value)
            return number if math.isfinite(number) else None
        if pa.types.is_boolean(self.type):
            return value if isinstance(value, bool) else _is_true(value)
        return int(value) if pa.types.is_integer(self.type) else _join(value)


def infer_columns(
    table: Table, skip: Container[str]
) -> tuple[dict[str, pa.Array], list[str]]:
    """Columns as string, int64, finite float64 or bool, and a note for each change.

    Lists and objects become text, and mixtures too (but whole and other numbers
    together are numbers). In a CSV, a column is of numbers or true/false if all its
    values are. A column without any value is left out.
    """
    values = {
        name: [row.get(name) for _, row in table.rows]
        for name in table.columns
        if name not in skip
    }
    kinds = {
        name: choose_kind(find_traits(column, table.text), table.text)
        for name, column in values.items()
    }
    arrays = {
        name: kind.convert(values[name])
        for name, kind in kinds.items()
        if kind.type is not None
    }
    return arrays, describe_kinds(table.findings.path, kinds)


def find_traits(values: Sequence[Any], text: bool) -> set[str]:
    """What there is among values of a column; `text` where they are those of a CSV."""
    if not text:
        return {_trait(value) for value in values if value is not None}
    traits = set()
    for value in set(values) - {None}:
        traits.add(_trait_of_text(value))
        if "text" in traits:
            break  # whatever else there is, the column is text
    return traits


def choose_kind(traits: Set[str], text: bool) -> Kind:
    """The kind of a column by the traits of all its values; see `infer_columns`."""
    if traits & {"list", "empty list"}:
        return Kind(None if traits == {"empty list"} else pa.string(), joined=True)
    unbounded, known = "unbounded" in traits, traits - {"unbounded"}
    if not known:
        return Kind(None, unbounded=unbounded)
    if text and unbounded:
        # Among words, `nan` is one.
        is_number = known <= {"whole", "number"}
        return Kind(pa.float64(), unbounded=True) if is_number else Kind(pa.string())
    for kind, allowed in (
        (pa.string(), {"text"}),
        (pa.bool_(), {"flag"}),
        (pa.int64(), {"whole"}),
        (pa.float64(), {"whole", "number"}),
    ):
        if known <= allowed:
            return Kind(kind, unbounded=unbounded)
    return Kind(pa.string(), mixed=not text, unbounded=unbounded)


def describe_kinds(path: Path, kinds: Mapping[str, Kind]) -> list[str]:
    """A note for each rule that came to use in a file's columns."""
    return [
        f"{path}: {rule}: {', '.join(names)}"
        for rule, names in (
            (_EMPTY, [name for name, kind in kinds.items() if kind.type is None]),
            (_JOINED, [name for name, kind in kinds.items() if kind.joined]),
            (_MIXED, [name for name, kind in kinds.items() if kind.mixed]),
            (_UNBOUNDED, [name for name, kind in kinds.items() if kind.unbounded]),
        )
        if names
    ]


def _trait_of_text(value: str) -> str:
    value = value.strip().lower()
    if value in ("true", "false"):
        return "flag"
    # A leading zero means a code (007), not a number.
    if re.fullmatch("0[0-9]+", value):
        return "text"
    if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", value):
        return "whole"
    number = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|nan|-?inf"
    if re.fullmatch(number, value):
        return "number" if math.isfinite(float(value)) else "unbounded"
    return "text"


def _is_true(value: str) -> bool:
    return value.strip().lower() == "true"


def _trait(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return "empty list" if _join(value) is None else "list"
    if type(value) is int:
        return "whole" if value in _INT64 else "other"
    if _is_unbounded(value):
        return "unbounded"
    return {bool: "flag", float: "number", str: "text"}.get(type(value), "other")


def _join(value: Any) -> str | None:
    if isinstance(value, list):
        parts = [
            " > ".join(map(str, part)) if isinstance(part, list) else _join(part)
            for part in value
        ]
        return "|".join(part for part in parts if part) or None
    if isinstance(value, (dict, bool)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return None if value is None else str(value)


def _is_unbounded(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


_EMPTY = "columns left out, as they have no value"
_JOINED = "columns of lists or objects, joined to text with |"
_MIXED = "columns of mixed kinds, taken as text"
_UNBOUNDED = "columns with numbers that are not finite, taken as unknown"
