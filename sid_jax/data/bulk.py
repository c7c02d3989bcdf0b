"""Items of one file or of many, a part at a time: memory holds one part.

Rules and complaints are those of `parsing.py`, and attributes are of the kinds that
they have over all files, so that an item is read as it would be from a file read whole.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

from sid_jax.data.catalog import CORE, Catalog
from sid_jax.data.distinct import finding_repeats
from sid_jax.data.kinds import Kind, choose_kind, find_traits
from sid_jax.data.parquet import reading_parquet
from sid_jax.data.parsing import parse_core, parse_ids, refuse_ids
from sid_jax.data.readers import (
    Findings,
    Table,
    find_form,
    plain_records,
    refuse_damage,
    stream_rows,
)
from sid_jax.data.row_groups import read_ranges
from sid_jax.errors import InputError

_BLOCK = 1 << 14  # rows that a survey holds
_SHOWN = 3


@dataclass(frozen=True)
class Column:
    """An attribute, by the values that were seen of it.

    Attributes:
      name: of the column.
      text: whether its values are those of a CSV.
      traits: of the values (`find_traits`), sorted.
    """

    name: str
    text: bool
    traits: tuple[str, ...] = ()

    def see(self, table: Table) -> "Column":
        """The column with the rows of a table seen, too."""
        traits = {*self.traits, *find_traits(self.values(table), self.text)}
        if self.text and "text" in traits:
            traits = {"text"}  # others may be found with it, or not
        return replace(self, traits=tuple(sorted(traits)))

    @property
    def kind(self) -> Kind:
        """What its values are together."""
        return choose_kind(set(self.traits), self.text)

    def values(self, table: Table) -> list[Any]:
        """Its values in the rows of a table."""
        return [row.get(self.name) for _, row in table.rows]


@dataclass(frozen=True)
class Survey:
    """What one pass over all items found.

    Attributes:
      rows: items of each file.
      columns: the attributes that were asked for.
    """

    rows: tuple[int, ...]
    columns: tuple[Column, ...]


def find_files(path: Path) -> list[Path]:
    """The file, or the files of a folder by name, but for those that begin with . or _.

    Raises:
      InputError: a name that tells no form, files of several forms, or none.
    """
    files = [path]
    if path.is_dir():
        files = sorted(
            each
            for each in path.iterdir()
            if each.is_file() and each.name[0] not in "._"
        )
    forms = {find_form(each) for each in files}
    if len(forms) != 1:
        found = f"files of several forms ({', '.join(sorted(forms))})"
        raise InputError(
            f"{path}: {found if forms else 'no files'} in the folder; give items as "
            "one file, or as a folder of CSV, of JSON lines or of Parquet files"
        )
    return files


def survey(
    files: Sequence[Path],
    names: Iterable[str],
    scratch: Path,
    vector_ids: Iterator[str] | None = None,
) -> Survey:
    """Counts the items, and finds what is wrong with any before work is put into them.

    Args:
      files: the items, as `find_files` has them.
      names: columns to look at beside the ids.
      scratch: a folder for temporary files.
      vector_ids: the ids of a file of vectors, which have to be those of the items, in
        their order.

    Raises:
      InputError: what `read_items` refuses, an id that stands twice in any files, or
        vectors of other items.
    """
    text = find_form(files[0]) == "csv"
    columns = [Column(name, text) for name in dict.fromkeys(names) if name not in CORE]
    asked = ("item_id", *(column.name for column in columns))
    rows = []
    with finding_repeats(scratch) as repeats:
        for path in files:
            number, findings = 0, _findings(path)
            for table in _read_tables(path, _blocks(), asked, findings):
                ids = [item_id for _, item_id in parse_ids(table)]
                repeats.add(ids)
                columns = [column.see(table) for column in columns]
                if vector_ids is not None:
                    refuse_ids(findings)  # without them, the orders cannot be told
                    _check_order(ids, vector_ids, sum(rows) + number)
                number += len(table.rows)
            refuse_damage(findings)
            refuse_ids(findings)
            if not number:
                raise InputError(f"{path}: no rows (is it the right file?)")
            rows.append(number)
        suspects = repeats.find()
    if suspects:
        _refuse_repeats(files, suspects)
    if vector_ids is not None and (more := next(vector_ids, None)) is not None:
        raise InputError(
            f"the vectors go on after the last of {sum(rows):,} items with that of "
            f"{more!r}; {_ORDER}"
        )
    return Survey(tuple(rows), tuple(columns))


def stream_items(
    path: Path, ranges: Iterable[tuple[int, int]], columns: Sequence[Column]
) -> Iterator[tuple[Catalog, list[str]]]:
    """The items of each range of rows, and a note for each rule that struck so far.

    Args:
      path: one of the files.
      ranges: (first row, row after the last), from 0, in order and apart.
      columns: the attributes to read, from the survey; those without any value are
        left out.
    """
    findings = _findings(path)
    kinds = {column: column.kind for column in columns}
    asked = (*CORE, *(column.name for column in columns))
    for table in _read_tables(path, ranges, asked, findings):
        ids = [item_id for _, item_id in parse_ids(table)]
        attributes = {
            column.name: kind.convert(column.values(table))
            for column, kind in kinds.items()
            if kind.type is not None
        }
        core = parse_core(table)
        catalog = Catalog.from_columns(ids, **core, attributes=attributes)
        yield catalog, findings.lines()


def _read_tables(
    path: Path,
    ranges: Iterable[tuple[int, int]],
    columns: Sequence[str],
    findings: Findings,
) -> Iterator[Table]:
    if (form := find_form(path)) == "parquet":
        for start, found in read_ranges(path, ranges, columns):
            with reading_parquet(path):
                rows = list(enumerate(plain_records(found), start + 1))
            yield Table(tuple(found.column_names), rows, False, findings)
        return
    names: dict[str, None] = {}
    stream, at = stream_rows(path, names, findings), 0
    for start, stop in ranges:
        rows = list(islice(stream, start - at, stop - at))
        if not rows:
            return
        yield Table(tuple(names), rows, form == "csv", findings)
        at = stop


def _findings(path: Path) -> Findings:
    return Findings(path, "row" if find_form(path) == "parquet" else "line")


def _blocks() -> Iterator[tuple[int, int]]:
    return ((start, start + _BLOCK) for start in count(0, _BLOCK))


def _check_order(ids: list[str], vector_ids: Iterator[str], start: int) -> None:
    beside: list[Any] = list(islice(vector_ids, len(ids)))
    beside += [None] * (len(ids) - len(beside))
    for row, (item_id, other) in enumerate(zip(ids, beside, strict=True), start):
        if item_id != other:
            held = (
                "has no vector" if other is None else f"meets the vector of {other!r}"
            )
            raise InputError(f"item {row:,} (from 0), {item_id!r}, {held}; {_ORDER}")


def _refuse_repeats(files: Sequence[Path], suspects: set[int]) -> None:
    places: dict[str, list[str]] = {}
    for path in files:
        findings = _findings(path)
        for table in _read_tables(path, _blocks(), ("item_id",), findings):
            for number, item_id in parse_ids(table):
                if hash(item_id) in suspects:
                    where = f"{path}, {findings.unit} {number}"
                    places.setdefault(item_id, []).append(where)
    twice = {item_id: found for item_id, found in places.items() if len(found) > 1}
    if twice:
        some = [
            f"{item_id!r} at {found[0]} and at {found[1]}"
            for item_id, found in islice(twice.items(), _SHOWN)
        ]
        raise InputError(
            "item ids that stand twice: "
            + "; ".join(some)
            + ("; ..." if len(twice) > _SHOWN else "")
            + "; keep one row an item"
        )


_ORDER = (
    "encoded in parts, items and vectors have to stand in one order: write the vectors "
    "in that of the items"
)
