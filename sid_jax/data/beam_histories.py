"""Files of sequences or baskets -> records of users, on Apache Beam.

The ids that a file names meet the catalog's by id, and what is missing there goes back
to that file, which is then parsed as on one machine. Baskets meet by user. Users are
numbered where they begin: within a stretch of rows, after those of the stretches before
it, whose numbers of users are all that a worker is told of them.
"""

# pyright: reportMissingImports=false

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import accumulate, chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsSingleton, PCollection, TaggedOutput

from sid_jax.data.beam import ReadRecords
from sid_jax.data.beam_files import Facts, FileRecords, dump
from sid_jax.data.catalog import ALL
from sid_jax.data.parsing import (
    CONTINUED,
    NO_HISTORY,
    Histories,
    describe_unused,
    parse_sequences,
    refuse_nothing,
)
from sid_jax.data.readers import Findings
from sid_jax.errors import InputError

_STRETCH = 1 << 12
"""Rows of a file whose users are counted together."""

Parse = Callable[[Path, Callable[[str], bool]], Histories]


class HistoryRecords(FileRecords):
    """Records of users: those of what `read_sequences` or `read_baskets` reads."""

    spare = dict.fromkeys(("times", "retailers", "sizes", "item_ids"), ()) | {
        "row": 0,
        "user_id": "",
    }

    def __init__(self, pattern: Path, report: Path, *, parse: Parse, items: Path):
        """Takes `parse_sequences` or `parse_baskets`, and where item records are."""
        super().__init__(pattern, report)
        self._parse, self._items = parse, items

    def expand(self, input_or_inputs: beam.Pipeline) -> PCollection:
        files = self.spread(input_or_inputs)
        items = input_or_inputs | "items" >> ReadRecords(self._items)
        sides = {
            "known": items | "ids" >> beam.FlatMap(_list_ids),
            "named": files | "named" >> beam.FlatMap(_find_named, self._parse),
        }
        unknown = (
            sides
            | "by id" >> beam.CoGroupByKey()
            | "unknown" >> beam.FlatMap(_find_unknown)
        )
        read: Any = (
            {"path": files, "unknown": unknown}
            | "by file" >> beam.CoGroupByKey()
            | "read"
            >> beam.FlatMap(_read_histories, self._parse).with_outputs(
                "facts", main="baskets"
            )
        )
        found: Any = (
            read.baskets
            | "by user" >> beam.GroupByKey()
            | "arrange"
            >> beam.FlatMap(_arrange, self._parse is parse_sequences).with_outputs(
                "cases", main="users"
            )
        )
        starts = AsSingleton(
            found.users
            | beam.Keys()
            | beam.combiners.Count.PerElement()
            | beam.combiners.ToList()
            | "start" >> beam.Map(_find_starts)
        )
        records = (
            found.users
            | "by stretch" >> beam.GroupByKey()
            | "number" >> beam.FlatMap(_make_records, starts)
        )
        return self.finish(records, read.facts, found.cases)

    def judge_facts(
        self, facts: list[Facts], findings: Findings, count: int
    ) -> tuple[dict[str, Any], list[str]]:
        times = {fact["time"]: fact["file"] for fact in facts if fact["time"]}
        if len(times) > 1:
            where = ", ".join(f"{self.files[at][1]} {t}s" for t, at in times.items())
            raise InputError(f"{self.pattern}: as times, {where}; use one of the two")
        if not count:
            refuse_nothing(self.pattern, findings.lines())
        unused = list(dict.fromkeys(name for fact in facts for name in fact["unused"]))
        counts = {
            "users": count,
            "retailers": len({name for fact in facts for name in fact["retailers"]}),
            "baskets": sum(fact["baskets"] for fact in facts),
            "interactions": sum(fact["interactions"] for fact in facts),
        }
        return counts, [*findings.lines(), *describe_unused(self.pattern, unused)]


def _find_named(file: tuple[int, str], parse: Parse) -> Iterator[tuple[str, int]]:
    """The item ids that a file names, each once, with the file's place."""
    named: set[str] = set()

    def look_up(item_id: str) -> bool:
        named.add(item_id)
        return False

    # A file that cannot be read is told by `_read_histories`.
    with suppress(InputError):
        parse(Path(file[1]), look_up)
    for item_id in named:
        yield item_id, file[0]


def _list_ids(record: dict[str, Any]) -> Iterator[tuple[str, None]]:
    for item_id in record["item_ids"]:
        yield item_id.decode(), None


def _find_unknown(found: tuple[str, dict[str, Iterable]]) -> Iterator[tuple[int, str]]:
    """An id that no item has, to each file that names it."""
    item_id, sides = found
    if not list(sides["known"]):
        for place in sides["named"]:
            yield place, item_id


def _read_histories(
    file: tuple[int, dict[str, Iterable[str]]], parse: Parse
) -> Iterator[Any]:
    """(user, (place of the file, row, time, items, retailer)); facts, by their tag."""
    place, sides = file
    (path,), unknown = sides["path"], set(sides["unknown"])
    facts = {"file": place, "error": ""}
    try:
        found = parse(Path(path), lambda item_id: item_id not in unknown)
    except InputError as error:
        yield TaggedOutput("facts", facts | {"error": str(error)})
    else:
        for number, user, time, items, retailer in found.baskets:
            yield user, (place, number, time, items, retailer)
        kept = [basket for basket in found.baskets if basket.items]
        # Without a time, they are of a sequence: each item is a basket.
        alone = sum(len(basket.items) for basket in kept if basket.time is None)
        baskets = [set(basket.items) for basket in kept if basket.time is not None]
        facts |= {
            "unit": found.findings.unit,
            "found": dump(found.findings),
            "time": found.time,
            "unused": found.unused,
            "retailers": sorted({basket.retailer for basket in kept}),
            "baskets": alone + len(baskets),
            "interactions": alone + sum(map(len, baskets)),
        }
        yield TaggedOutput("facts", facts)


def _arrange(found: tuple[str, Iterable[tuple]], in_sequence: bool) -> Iterator[Any]:
    """(stretch, (row, user, baskets)), baskets as (time, retailer, items).

    The row is that of the file where the user begins. Cases, by their tag.
    """
    user, rows = found[0], sorted(found[1], key=itemgetter(0, 1))
    if in_sequence:
        for place, number, *_ in rows[1:]:
            case = (place, CONTINUED), (1, [(number, repr(user))])
            yield TaggedOutput("cases", case)
    kept = [row for row in rows if row[3]]
    if not kept:
        place, number, *_ = rows[0]
        case = (place, NO_HISTORY), (1, [(number, repr(user))])
        yield TaggedOutput("cases", case)
    elif in_sequence:
        place, number, *_ = rows[0]
        items = chain.from_iterable(row[3] for row in kept)
        baskets = [(time, ALL, [item]) for time, item in enumerate(items)]
        yield (place, number // _STRETCH), (number, user, baskets)
    else:
        place, number, *_ = kept[0]
        kept.sort(key=itemgetter(2))
        baskets = [(row[2], row[4], [*dict.fromkeys(row[3])]) for row in kept]
        yield (place, number // _STRETCH), (number, user, baskets)


def _find_starts(counts: list[tuple[tuple, int]]) -> dict[tuple, int]:
    """The row of the first user of each stretch (place of the file, number)."""
    stretches, sizes = zip(*sorted(counts), strict=True) if counts else ((), ())
    rows = [0, *accumulate(sizes)][: len(sizes)]
    return dict(zip(stretches, rows, strict=True))


def _make_records(
    stretch: tuple[tuple[int, int], Iterable[tuple]],
    starts: Mapping[tuple[int, int], int],
) -> Iterator[tuple[int, dict[str, Any]]]:
    users = sorted(stretch[1], key=itemgetter(0))
    for row, (_, user, baskets) in enumerate(users, starts[stretch[0]]):
        record = {
            "row": row,
            "user_id": user,
            "times": [time for time, _, _ in baskets],
            "retailers": [retailer for _, retailer, _ in baskets],
            "sizes": [len(items) for _, _, items in baskets],
            "item_ids": [item for _, _, items in baskets for item in items],
        }
        yield row, record
