"""Item files -> records of items, on Apache Beam.

Rows of a file follow those of the files before it, whose numbers of rows are all that
a worker is told of them. The kind of a column is that of its traits in every file. An
id that stands twice is found where its places meet.
"""

# pyright: reportMissingImports=false

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsSingleton, PCollection, TaggedOutput

from sid_jax.data.beam_files import Facts, FileRecords, dump
from sid_jax.data.builders import BLOCK, TYPE_NAMES, item_records
from sid_jax.data.catalog import CORE, Catalog
from sid_jax.data.dietary import DIETS, add_dietary, refuse_dietary
from sid_jax.data.kinds import Kind, choose_kind, describe_kinds, find_traits
from sid_jax.data.parsing import TWICE, parse_core, parse_ids, refuse_ids
from sid_jax.data.readers import Findings, read_table
from sid_jax.errors import InputError

Piece = tuple[int, dict[str, list]]
"""A row, and values by column of it and those that follow; at most `BLOCK`."""


class ItemRecords(FileRecords):
    """Records of items: `item_records` of the catalog that `read_items` reads."""

    spare = dict.fromkeys(
        ("item_ids", "titles", "brands", "depths", "categories"), ()
    ) | {"row": 0, "attributes": ""}

    def __init__(self, pattern: Path, report: Path, *, dietary: bool):
        """With `dietary`, what titles say of diets is added (`add_dietary`)."""
        super().__init__(pattern, report)
        self._dietary = dietary

    def expand(self, input_or_inputs: beam.Pipeline) -> PCollection:
        read: Any = self.spread(input_or_inputs) | "read" >> beam.FlatMap(
            _read_items
        ).with_outputs("facts", "ids", main="pieces")
        plan = AsSingleton(
            read.facts | beam.combiners.ToList() | "plan" >> beam.Map(_Plan.make)
        )
        records = (
            read.pieces
            | "cut" >> beam.FlatMap(_cut, plan)
            | "by record" >> beam.GroupByKey()
            | "make" >> beam.FlatMap(_make_record, plan, self._dietary)
        )
        twice = (
            read.ids
            | "by id" >> beam.GroupByKey()
            | "twice" >> beam.FlatMap(_find_twice, dict(self.files))
        )
        return self.finish(records, read.facts, twice)

    def judge_facts(
        self, facts: list[Facts], findings: Findings, count: int
    ) -> tuple[dict[str, Any], list[str]]:
        del count
        refuse_ids(findings)
        if len({fact["text"] for fact in facts}) > 1:
            raise InputError(
                f"{self.pattern}: some of the files are CSV and some are not; give "
                "files of one form"
            )
        kinds = _Plan.make(facts).kinds
        types = {
            name: TYPE_NAMES[str(kind.type)]
            for name, kind in kinds.items()
            if kind.type is not None
        }
        if self._dietary:
            refuse_dietary(types)
            types |= dict.fromkeys(DIETS, "bool")
        counts = {
            name: sum(fact[name] for fact in facts)
            for name in ("items", "with_title", "with_brand", "with_categories")
        }
        notes = [*findings.lines(), *describe_kinds(self.pattern, kinds)]
        return counts | {"attributes": types}, notes


@dataclass(frozen=True)
class _Plan:
    """The first row of each file, and the kinds of attributes."""

    starts: list[int]
    kinds: dict[str, Kind]

    @classmethod
    def make(cls, facts: list[Facts]) -> "_Plan":
        facts = sorted(facts, key=itemgetter("file"))
        traits: dict[str, set[str]] = defaultdict(set)
        for fact in facts:
            for name, found in fact["traits"].items():
                traits[name] |= set(found)
        text = any(fact["text"] for fact in facts)
        kinds = {name: choose_kind(found, text) for name, found in traits.items()}
        return cls([*accumulate((f["items"] for f in facts), initial=0)], kinds)


def _read_items(file: tuple[int, str]) -> Iterator[Any]:
    """(place of the file, piece) for each piece; ids and facts, by their tags."""
    place, path = file
    facts = {"file": place, "error": "", "items": 0, "traits": {}, "text": False}
    try:
        table = read_table(Path(path))
        ids = parse_ids(table)
    except InputError as error:
        yield TaggedOutput("facts", facts | {"error": str(error)})
    else:
        for number, item_id in ids:
            yield TaggedOutput("ids", (item_id, (place, number)))
        core = parse_core(table)
        attributes = {
            name: [row.get(name) for _, row in table.rows]
            for name in table.columns
            if name not in CORE
        }
        columns = {"item_id": [item_id for _, item_id in ids], **core, **attributes}
        if len(ids) == len(table.rows):  # or it is going to be refused
            for start in range(0, len(ids), BLOCK):
                block = slice(start, start + BLOCK)
                piece = {name: values[block] for name, values in columns.items()}
                yield place, (start, piece)
            facts["items"] = len(ids)
        facts |= {f"with_{name}": sum(map(bool, core[name])) for name in core}
        facts |= {
            "text": table.text,
            "unit": table.findings.unit,
            "found": dump(table.findings),
            "traits": {
                name: sorted(find_traits(values, table.text))
                for name, values in attributes.items()
            },
        }
        yield TaggedOutput("facts", facts)


def _cut(piece: tuple[int, Piece], plan: _Plan) -> Iterator[tuple[int, Piece]]:
    """The piece by the number of its record; in two, where a record ends in it."""
    place, (start, columns) = piece
    row, size = plan.starts[place] + start, len(columns["item_id"])
    end = min(-row % BLOCK, size)
    for part in (slice(0, end), slice(end, size)):
        if part.start < part.stop:
            values = {name: column[part] for name, column in columns.items()}
            yield (row + part.start) // BLOCK, (row + part.start, values)


def _make_record(
    pieces: tuple[int, Iterable[Piece]], plan: _Plan, dietary: bool
) -> Iterator[tuple[int, dict[str, Any]]]:
    ordered = sorted(pieces[1], key=itemgetter(0))
    kinds = {name: kind for name, kind in plan.kinds.items() if kind.type is not None}
    columns = {
        name: [
            value
            for _, piece in ordered
            for value in piece.get(name, [None] * len(piece["item_id"]))
        ]
        for name in (*CORE, *kinds)
    }
    ids = columns["item_id"]
    if len(set(ids)) == len(ids):  # or it is going to be refused
        attributes = {name: kind.convert(columns[name]) for name, kind in kinds.items()}
        core = [columns[name] for name in CORE]
        catalog = Catalog.from_columns(*core, attributes=attributes)
        if dietary and not kinds.keys() & set(DIETS):
            catalog = add_dietary(catalog)
        yield from item_records(catalog, ordered[0][0])


def _find_twice(
    found: tuple[str, Iterable[tuple[int, int]]], paths: Mapping[int, str]
) -> Iterator[Any]:
    (first, number), *others = sorted(found[1])
    for place, other in others:
        where = f"{number}" if place == first else f"{number} of {paths[first]}"
        yield (place, TWICE), (1, [(other, f"{found[0]!r}, first at {where}")])
