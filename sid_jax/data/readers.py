"""Rows of a user's CSV, JSON lines or Parquet file, gzipped or not, with their numbers.

What damages a whole file is refused here: a file that is missing, truncated, not UTF-8
or without rows, a row with too few or too many columns, a line that is no JSON object,
two columns of one name. A column without a name (a data frame's index) is left out.
"""

import csv
import gzip
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sid_jax.errors import InputError

_SHOWN = 3
_INT64 = range(-(2**63), 2**63)
_KINDS = {
    ".csv": "csv",
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
}


@dataclass
class Findings:
    """What was found odd in a file: by rule, how often, and where at first.

    Attributes:
      path: the file.
      unit: what its rows are called: `line` (from 1, a header counts) or `row`.
      counts: how often each rule struck.
    """

    path: Path
    unit: str = "line"
    counts: Counter[str] = field(default_factory=Counter)
    _places: dict[str, list[str]] = field(default_factory=dict)

    def note(self, rule: str, number: int, detail: str = "") -> None:
        """Counts one more case of `rule`, at row `number`."""
        self.counts[rule] += 1
        places = self._places.setdefault(rule, [])
        if len(places) < _SHOWN:
            places.append(f"{self.unit} {number}" + (f" ({detail})" if detail else ""))

    def lines(self) -> list[str]:
        """A line a rule, to print."""
        return [self._describe(rule) for rule in self.counts]

    def refuse(self, fixes: Mapping[str, str]) -> None:
        """Raises InputError if one of these rules struck; a fix is given for each."""
        struck = [
            f"{self._describe(rule)}; {fix}"
            for rule, fix in fixes.items()
            if self.counts[rule]
        ]
        if struck:
            raise InputError("\n".join(struck))

    def _describe(self, rule: str) -> str:
        places = self._places[rule]
        more = ", ..." if self.counts[rule] > len(places) else ""
        return (
            f"{self.path}: {rule}: {self.counts[rule]:,} at {', '.join(places)}{more}"
        )


@dataclass(frozen=True)
class Table:
    """A file's rows as they stand in it.

    Attributes:
      columns: names, in order of first appearance.
      rows: (row number, values by column); an absent or empty value is None or missing.
      text: whether every value is text (CSV), so that numbers are yet to be recognised.
      findings: of this file; whoever checks further adds to it.
    """

    columns: tuple[str, ...]
    rows: list[tuple[int, dict[str, Any]]]
    text: bool
    findings: Findings


def read_table(path: Path) -> Table:
    """Reads a CSV, JSON lines or Parquet file, by its name; `.gz` may follow.

    Raises:
      InputError: the file is damaged (see above), or its name tells no form.
    """
    stem = path.with_suffix("") if path.suffix == ".gz" else path
    kind = _KINDS.get(stem.suffix.lower())
    if kind is None:
        raise InputError(
            f"{path}: the name must end in {', '.join(_KINDS)} (and .gz, if gzipped)"
        )
    table = {"csv": _read_csv, "json": _read_json, "parquet": _read_parquet}[kind](path)
    if not table.rows:
        raise InputError(f"{path}: no rows (is it the right file?)")
    return table


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 text file, gzipped or not, with their numbers from 1.

    Raises:
      InputError: the file is missing, a truncated gzip, or not UTF-8.
    """
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                # A byte order mark, which Windows writes, is no part of the text.
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                byte = f"byte {line[error.start]:#x} at position {error.start + 1}"
                raise InputError(
                    f"{path}, line {number}: not UTF-8 ({byte}); save the file as UTF-8"
                ) from None
            yield number, text


def infer_columns(
    table: Table, skip: Container[str]
) -> tuple[dict[str, pa.Array], list[str]]:
    """Columns as string, int64, finite float64 or bool, and a note for each change.

    Lists and objects become text, and mixtures too (but whole and other numbers
    together are numbers). In a CSV, a column is of numbers or true/false if all its
    values are. A column without any value is left out.
    """
    arrays: dict[str, pa.Array] = {}
    empty, joined, mixed, unbounded = [], [], [], []
    for name in table.columns:
        if name in skip:
            continue
        values = [row.get(name) for _, row in table.rows]
        if any(isinstance(value, (list, dict)) for value in values):
            joined.append(name)
            values = [_join(value) for value in values]
        if table.text:
            values = _recognise(values)
        if any(
            isinstance(value, float) and not math.isfinite(value) for value in values
        ):
            unbounded.append(name)
            values = [_drop_unbounded(value) for value in values]
        array, is_mixed = _unify(values)
        if array.null_count == len(array):
            empty.append(name)
            continue
        mixed += [name] if is_mixed else []
        arrays[name] = array
    notes = [
        f"{table.findings.path}: {rule}: {', '.join(names)}"
        for rule, names in (
            ("columns left out, as they have no value", empty),
            ("columns of lists or objects, joined to text with |", joined),
            ("columns of mixed kinds, taken as text", mixed),
            ("columns with numbers that are not finite, taken as unknown", unbounded),
        )
        if names
    ]
    return arrays, notes


@contextmanager
def _open(path: Path) -> Iterator[gzip.GzipFile | BufferedReader]:
    """The file as it was before it was gzipped, if it was."""
    try:
        file = path.open("rb")
        gzipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    with file, gzip.open(file) if gzipped else file as content:
        try:
            yield content
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(
                f"{path}: truncated or damaged gzip ({error}); copy or pack it again"
            ) from None


def _read_csv(path: Path) -> Table:
    findings = Findings(path)
    reader = csv.reader((line for _, line in read_lines(path)), strict=True)
    columns: list[str] = []
    rows = []
    start = 1
    try:
        for cells in reader:
            number, start = start, reader.line_num + 1
            if not cells:
                continue
            if not columns:
                columns = [name.strip() for name in cells]
            elif len(cells) != len(columns):
                findings.note(_WIDTH, number, f"{len(cells)} for {len(columns)}")
            else:
                pairs = zip(columns, cells, strict=True)
                rows.append((number, {name: cell or None for name, cell in pairs}))
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: {error}; check the quotes from there up"
        ) from None
    _check_names(path, columns)
    findings.refuse({_WIDTH: "quote a value that has a comma in it"})
    return Table(tuple(filter(None, columns)), rows, True, findings)


def _read_json(path: Path) -> Table:
    findings = Findings(path)
    columns: dict[str, None] = {}
    rows = []
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if "\\u" in line:
                json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            findings.note(_SURROGATE, number)
        except (ValueError, RecursionError) as error:
            findings.note(_OBJECT, number, str(error).split(":")[0])
        else:
            if isinstance(record, dict):
                columns.update(dict.fromkeys(record))
                rows.append((number, record))
            else:
                findings.note(_OBJECT, number, type(record).__name__)
    findings.refuse(
        {
            _OBJECT: 'each line must be one object, such as {"item_id": "1"}',
            _SURROGATE: "half of a pair of \\u escapes is missing",
        }
    )
    return Table(tuple(filter(None, columns)), rows, False, findings)


def _read_parquet(path: Path) -> Table:
    with _open(path) as file:
        content = file.read()
    try:
        table = pq.read_table(pa.BufferReader(content))
        _check_names(path, table.column_names)
        plain = [pa.field(f.name, _plain_type(f.type)) for f in table.schema if f.name]
        table = table.select([f.name for f in plain]).cast(pa.schema(plain))
        records = table.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from None
    rows = list(enumerate(records, start=1))
    return Table(tuple(table.column_names), rows, False, Findings(path, "row"))


def _check_names(path: Path, columns: list[str]) -> None:
    twice = [
        name for name, count in Counter(filter(None, columns)).items() if count > 1
    ]
    if twice:
        raise InputError(
            f"{path}: two columns share a name ({', '.join(twice)}); rename one"
        )


def _plain_type(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if types.is_floating(kind) or types.is_decimal(kind):
        return pa.float64()
    # Times become ISO text, the form that they have in the other files.
    if types.is_temporal(kind) or types.is_large_string(kind) or types.is_binary(kind):
        return pa.string()
    return kind


def _recognise(values: list[str | None]) -> list[Any]:
    """Values of a CSV column, as true/false or numbers where all of them are."""
    known = {value.strip() for value in values if value is not None}
    if known and all(value.lower() in ("true", "false") for value in known):
        return [None if v is None else v.strip().lower() == "true" for v in values]
    # A leading zero means a code (007), not a number.
    if known and all(re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", value) for value in known):
        return [None if v is None else int(v) for v in values]
    number = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|nan|-?inf"
    if known and all(re.fullmatch(number, value.lower()) for value in known):
        codes = any(re.fullmatch("0[0-9]+", value) for value in known)
        return values if codes else [None if v is None else float(v) for v in values]
    return values


def _unify(values: list[Any]) -> tuple[pa.Array, bool]:
    """One arrow array of plain values, and whether they were of mixed kinds."""
    kinds = {type(value) for value in values if value is not None}
    fits = all(value in _INT64 for value in values if type(value) is int)
    if kinds <= {str} or (kinds <= {bool}) or (kinds <= {int, float} and fits):
        if kinds == {int, float}:
            values = [None if value is None else float(value) for value in values]
        array = pa.array(values)
        return (array.cast(pa.string()) if not kinds else array), False
    return pa.array(
        [None if v is None else _join(v) for v in values], pa.string()
    ), True


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


def _drop_unbounded(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


_WIDTH = "rows with a wrong number of columns"
_OBJECT = "lines that are no JSON object"
_SURROGATE = "lines with a broken \\u escape"
