"""Rows of a user's CSV, JSON lines or Parquet file, gzipped or not, with their numbers.

What damages a whole file is refused here: a file that is missing, truncated, not UTF-8
or without rows, a row with too few or too many columns, a line that is no JSON object,
two columns of one name. A column without a name (a data frame's index) is left out.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from sid_jax.data.parquet import read_parquet, reading_parquet
from sid_jax.errors import InputError
from sid_jax.files import unpacking

SHOWN = 3
"""Places of a rule that are told."""

_LONGEST = 1 << 26  # bytes of a line

_FORMS = {
    ".csv": "csv",
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
}


Row = tuple[int, dict[str, Any]]
"""A row's number, and its values by column."""


@dataclass
class Findings:
    """What was found odd in a file: by rule, how often, and where at first.

    Attributes:
      path: the file.
      unit: what its rows are called: `line` (from 1, a header counts) or `row`.
      counts: how often each rule struck.
      places: of each rule the first rows, as they are told.
    """

    path: Path
    unit: str = "line"
    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)

    def note(self, rule: str, number: int, detail: str = "") -> None:
        """Counts one more case of `rule`, at row `number`."""
        self.add(rule, 1, [self.place(number, detail)])

    def add(self, rule: str, count: int, places: Sequence[str]) -> None:
        """Counts cases of `rule`, of which the first are at these places."""
        self.counts[rule] += count
        kept = self.places.setdefault(rule, [])
        kept += places[: SHOWN - len(kept)]

    def place(self, number: int, detail: str = "") -> str:
        """How row `number` is told."""
        return f"{self.unit} {number}" + (f" ({detail})" if detail else "")

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
        places = self.places[rule]
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
    rows: list[Row]
    text: bool
    findings: Findings


def read_table(path: Path) -> Table:
    """Reads a CSV, JSON lines or Parquet file, by its name; `.gz` may follow.

    Raises:
      InputError: the file is damaged (see above), or its name tells no form.
    """
    if (form := find_form(path)) == "parquet":
        columns, rows = _read_parquet(path)
        findings = Findings(path, "row")
    else:
        columns, findings = {}, Findings(path)
        rows = list(stream_rows(path, columns, findings))
        refuse_damage(findings)
    if not rows:
        raise InputError(f"{path}: no rows (is it the right file?)")
    return Table(tuple(columns), rows, form == "csv", findings)


def find_form(path: Path) -> str:
    """csv, json or parquet, by a file's name.

    Raises:
      InputError: its name tells no form.
    """
    stem = path.with_suffix("") if path.suffix == ".gz" else path
    form = _FORMS.get(stem.suffix.lower())
    if form is None:
        raise InputError(
            f"{path}: the name must end in {', '.join(_FORMS)} (and .gz, if gzipped)"
        )
    return form


def stream_rows(
    path: Path, columns: dict[str, None], findings: Findings
) -> Iterator[Row]:
    """Rows of a CSV or JSON lines file, one by one.

    Args:
      path: the file.
      columns: names are added to it as they come, in order of first appearance.
      findings: damaged rows are noted there and left out; once all is read, `refuse_
        damage` refuses them.

    Raises:
      InputError: what damages the whole file.
    """
    read = {"csv": _stream_csv, "json": _stream_json}[find_form(path)]
    return read(path, columns, findings)


def refuse_damage(findings: Findings) -> None:
    """Raises InputError if `stream_rows` left damaged rows out."""
    findings.refuse(
        {
            _WIDTH: "quote a value that has a comma in it",
            _OBJECT: 'each line must be one object, such as {"item_id": "1"}',
            _SURROGATE: "half of a pair of \\u escapes is missing",
        }
    )


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 text file, gzipped or not, with their numbers from 1.

    Raises:
      InputError: the file is missing, a truncated gzip, or not UTF-8.
    """
    with unpacking(path) as file:
        lines = iter(partial(file.readline, _LONGEST + 1), b"")
        for number, line in enumerate(lines, start=1):
            if len(line) > _LONGEST:
                raise InputError(
                    f"{path}, line {number}: longer than {_LONGEST:,} bytes; is it the "
                    "right file?"
                )
            try:
                # A byte order mark, which Windows writes, is no part of the text.
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                byte = f"byte {line[error.start]:#x} at position {error.start + 1}"
                raise InputError(
                    f"{path}, line {number}: not UTF-8 ({byte}); save the file as UTF-8"
                ) from None
            yield number, text


def _stream_csv(
    path: Path, columns: dict[str, None], findings: Findings
) -> Iterator[Row]:
    reader = csv.reader((line for _, line in read_lines(path)), strict=True)
    names: list[str] = []
    start = 1
    try:
        for cells in reader:
            number, start = start, reader.line_num + 1
            if not cells:
                continue
            if not names:
                names = [name.strip() for name in cells]
                check_names(path, names)
                columns.update(dict.fromkeys(filter(None, names)))
            elif len(cells) != len(names):
                findings.note(_WIDTH, number, f"{len(cells)} for {len(names)}")
            else:
                pairs = zip(names, cells, strict=True)
                yield number, {name: cell or None for name, cell in pairs}
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: {error}; check the quotes from there up"
        ) from None


def _stream_json(
    path: Path, columns: dict[str, None], findings: Findings
) -> Iterator[Row]:
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
                columns.update(dict.fromkeys(filter(None, record)))
                yield number, record
            else:
                findings.note(_OBJECT, number, type(record).__name__)


def _read_parquet(path: Path) -> tuple[dict[str, None], list[Row]]:
    with unpacking(path) as file:
        content = file.read()
    table = read_parquet(path, pa.py_buffer(content))
    check_names(path, table.column_names)
    with reading_parquet(path):
        records = plain_records(table)
    columns = dict.fromkeys(filter(None, table.column_names))
    return columns, list(enumerate(records, start=1))


def plain_records(table: pa.Table) -> list[dict[str, Any]]:
    """Rows of Parquet as they would stand in the other files."""
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = _plain_type(column.type)
        if name:  # what need not be cast is not: Arrow fails at parts of structs
            columns[name] = column if kind == column.type else column.cast(kind)
    return pa.table(columns).to_pylist()


def check_names(path: Path, columns: list[str]) -> None:
    """Raises InputError if two columns share a name."""
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


_WIDTH = "rows with a wrong number of columns"
_OBJECT = "lines that are no JSON object"
_SURROGATE = "lines with a broken \\u escape"
