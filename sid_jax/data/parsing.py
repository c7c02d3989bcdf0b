"""A user's files of items, sequences or baskets -> a catalog and interactions.

Every complaint names file and row. The rules, beside those of `readers.py`:

- Items have `item_id`, and may have `title`, `brand` and `categories` (a list, or text
  joined by ` > `). An id is text or a whole number. A missing id, or one that stands
  twice, is refused.
- An empty title, brand or category path is kept as unknown. A path that has a gap (an
  empty name) ends before it. Of a list of paths the first is taken.
- Any other column is an attribute: whole numbers, numbers, true/false or text. Whole
  and other numbers together are numbers; other mixtures are text. Of a list, the values
  are joined with `|` (of a list in it, with ` > `). A number that is not finite is
  unknown. A column without any value is left out.
- A line of sequences is `user_id item_id item_id ...`, oldest first; a user's further
  lines continue the first.
- Baskets have a user (`user_id`, `household_id`), a time or order (`timestamp`, `time`,
  `date`, `order_number`, `order`: a number, or an ISO date, UTC where it says no zone),
  items (`product_ids`, `item_ids`: a list, or text separated by blanks) and may have a
  retailer (`retailer_id`, `store_id`; where it is absent: `all`). Numbers and dates in
  one time column are refused. A basket without user or readable time is skipped.
- An unknown item id in a sequence or basket is skipped, an item twice in a basket
  counts once, and baskets and users left with nothing are skipped. If none is left, the
  file is refused.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from sid_jax.data.catalog import ALL, CORE, Catalog, Interactions
from sid_jax.data.kinds import infer_columns
from sid_jax.data.readers import Findings, Table, read_lines, read_table
from sid_jax.errors import InputError

_USER = ("user_id", "household_id")
_TIME = ("timestamp", "time", "date", "order_number", "order")
_ITEMS = ("product_ids", "item_ids")
_RETAILER = ("retailer_id", "store_id")


class Basket(NamedTuple):
    """A row of a history file that names a user.

    Attributes:
      number: of the row.
      user: its user.
      time: seconds or an order number; None in a sequence, or if it is not readable.
      items: the known ones, as they stand there; none without a time.
      retailer: its retailer.
    """

    number: int
    user: str
    time: int | None
    items: list[str]
    retailer: str


@dataclass(frozen=True)
class Histories:
    """What a history file holds.

    Attributes:
      baskets: rows in the order of the file; of a sequence, each holds a part.
      findings: what was skipped.
      time: what times are, a `number` or a `date`; "" in a file of sequences, or where
        none is readable.
      unused: columns that are not read.
    """

    baskets: list[Basket]
    findings: Findings
    time: str = ""
    unused: tuple[str, ...] = ()


def read_items(path: Path) -> tuple[Catalog, list[str]]:
    """A user's item file as a catalog, and a note for each rule that came to use.

    Raises:
      InputError: by a rule above.
    """
    table = read_table(path)
    findings = table.findings
    first: dict[str, int] = {}
    for number, item_id in parse_ids(table):
        if first.setdefault(item_id, number) != number:
            findings.note(TWICE, number, f"{item_id!r}, first at {first[item_id]}")
    refuse_ids(findings)
    core = parse_core(table)
    attributes, notes = infer_columns(table, skip=CORE)
    catalog = Catalog.from_columns(list(first), **core, attributes=attributes)
    return catalog, [*findings.lines(), *notes]


def parse_ids(table: Table) -> list[tuple[int, str]]:
    """Row numbers and item ids of a table of items; rows without one are noted.

    Raises:
      InputError: the table has no column of ids.
    """
    _find_column(table, ("item_id",))
    found = []
    for number, row in table.rows:
        item_id = _parse_id(row.get("item_id"))
        if item_id is None:
            table.findings.note(NO_ID, number, _shorten(row.get("item_id")))
        else:
            found.append((number, item_id))
    return found


def refuse_ids(findings: Findings) -> None:
    """Raises InputError for items without an id, or with one that stands twice."""
    findings.refuse(
        {NO_ID: "an id is text or a whole number", TWICE: "keep one row an item"}
    )


def parse_core(table: Table) -> dict[str, list[Any]]:
    """Titles, brands and category paths of a table of items, by the catalog's name."""
    titles = [_parse_name(row.get("title")) for _, row in table.rows]
    for (number, _), title in zip(table.rows, titles, strict=True):
        if not title:
            table.findings.note(_NO_TITLE, number)
    return {
        "title": titles,
        "brand": [_parse_name(row.get("brand")) for _, row in table.rows],
        "categories": [
            _parse_path(row.get("categories"), number, table.findings)
            for number, row in table.rows
        ],
    }


def read_sequences(path: Path, catalog: Catalog) -> tuple[Interactions, list[str]]:
    """Lines `user_id item_id ...` as baskets of one item, and a note for each rule.

    An item's time is its position in the user's sequence.
    """
    row_of = {item_id: row for row, item_id in enumerate(catalog.item_ids)}
    parsed = parse_sequences(path, row_of.__contains__)
    first: dict[str, int] = {}
    histories: dict[str, list[int]] = {}
    for number, user, _, items, _ in parsed.baskets:
        if first.setdefault(user, number) != number:
            parsed.findings.note(CONTINUED, number, repr(user))
        histories.setdefault(user, []).extend(row_of[item] for item in items)
    events = [
        (user, time, [row], ALL)
        for user, history in histories.items()
        for time, row in enumerate(history)
    ]
    return _group(events, parsed)


def parse_sequences(path: Path, is_known: Callable[[str], bool]) -> Histories:
    """The lines of a file of sequences, each with its known items."""
    findings, baskets = Findings(path), []
    for number, line in read_lines(path):
        user, *item_ids = line.split() or [""]
        if user:
            items = _keep_known(item_ids, is_known, number, findings)
            baskets.append(Basket(number, user, None, items, ALL))
    return Histories(baskets, findings)


def read_baskets(path: Path, catalog: Catalog) -> tuple[Interactions, list[str]]:
    """A basket file as interactions, and a note for each rule that came to use."""
    row_of = {item_id: row for row, item_id in enumerate(catalog.item_ids)}
    parsed = parse_baskets(path, row_of.__contains__)
    events = [
        (basket.user, basket.time, [row_of[i] for i in basket.items], basket.retailer)
        for basket in parsed.baskets
        if basket.time is not None
    ]
    return _group(events, parsed)


def parse_baskets(path: Path, is_known: Callable[[str], bool]) -> Histories:
    """The rows of a basket file that name a user, each with its known items.

    Raises:
      InputError: a file that `read_table` refuses, an absent column, or times of
        which some are numbers and some are dates.
    """
    table = read_table(path)
    findings = table.findings
    names = [_find_column(table, choices) for choices in (_USER, _TIME, _ITEMS)]
    store = next((name for name in _RETAILER if name in table.columns), None)
    kinds: dict[str, int] = {}
    baskets = []
    for number, row in table.rows:
        user = _parse_id(row.get(names[0]))
        time, kind = _parse_time(row.get(names[1]))
        if user is None:
            findings.note(_NO_USER, number)
            continue
        if time is None:
            findings.note(_NO_TIME, number, _shorten(row.get(names[1])))
            baskets.append(Basket(number, user, None, [], ALL))
            continue
        kinds.setdefault(kind, number)
        item_ids = _split_ids(row.get(names[2]))
        items = _keep_known(item_ids, is_known, number, findings)
        retailer = _parse_id(row.get(store)) if store else ALL
        if retailer is None:
            findings.note(_NO_RETAILER, number)
        baskets.append(Basket(number, user, time, items, retailer or ALL))
    if len(kinds) > 1:
        where = ", ".join(
            f"a {kind} at {findings.unit} {n}" for kind, n in kinds.items()
        )
        raise InputError(f"{path}: column {names[1]!r} has {where}; use one of the two")
    unused = [name for name in table.columns if name not in (*names, store)]
    return Histories(baskets, findings, "".join(kinds), tuple(unused))


def refuse_nothing(path: Path, lines: Sequence[str]) -> NoReturn:
    """Raises InputError: of a file of histories nothing is left, and why."""
    raise InputError("\n".join([f"{path}: nothing is left to import", *lines]))


def describe_unused(path: Path, columns: Iterable[str]) -> list[str]:
    """A note of the columns that were not read, if there are some."""
    return [f"{path}: columns not used: {', '.join(columns)}"] if columns else []


def _group(
    events: list[tuple[str, int, list[int], str]], parsed: Histories
) -> tuple[Interactions, list[str]]:
    data = Interactions.from_baskets(
        [event[0] for event in events],
        [event[1] for event in events],
        [event[2] for event in events],
        [event[3] for event in events],
    )
    findings, kept = parsed.findings, set(data.users)
    first: dict[str, int] = {}
    for basket in parsed.baskets:
        first.setdefault(basket.user, basket.number)
    for user, number in first.items():
        if user not in kept:
            findings.note(NO_HISTORY, number, repr(user))
    if not kept:
        refuse_nothing(findings.path, findings.lines())
    return data, [*findings.lines(), *describe_unused(findings.path, parsed.unused)]


def _find_column(table: Table, choices: tuple[str, ...]) -> str:
    for name in choices:
        if name in table.columns:
            return name
    raise InputError(
        f"{table.findings.path}: no column {' or '.join(choices)}; it has "
        + ", ".join(table.columns)
    )


def _keep_known(
    item_ids: Iterable[str],
    is_known: Callable[[str], bool],
    number: int,
    findings: Findings,
) -> list[str]:
    items = []
    for item_id in item_ids:
        if is_known(item_id):
            items.append(item_id)
        else:
            findings.note(_UNKNOWN, number, repr(item_id))
    if not items:
        findings.note(_NOTHING, number)
    return items


def _split_ids(value: Any) -> list[str]:
    if isinstance(value, str):
        return value.split()
    values = value if isinstance(value, list) else [value]
    # What is no id is looked up as it is written, and so counted as unknown.
    return [_parse_id(v) or str(v) for v in values if v is not None]


def _parse_id(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return (value.strip() or None) if isinstance(value, str) else None


def _parse_name(value: Any) -> str | None:
    if value is None or isinstance(value, (list, dict)):
        return None
    return str(value).strip() or None


def _parse_path(value: Any, number: int, findings: Findings) -> list[str]:
    if isinstance(value, str):
        value = re.split(r"(?:^|\s)>(?=\s|$)", value.strip())
    if isinstance(value, list) and value and isinstance(value[0], list):
        if len(value) > 1:
            findings.note(_PATHS, number, f"{len(value)} paths")
        value = value[0]
    names = [_parse_name(name) for name in value] if isinstance(value, list) else []
    if not any(names):
        odd = value is not None and not isinstance(value, list)
        findings.note(_NO_PATH, number, _shorten(value) if odd else "")
    elif None in names:
        findings.note(_GAP, number)
    return [name for name in names[: [*names, None].index(None)] if name]


def _parse_time(value: Any) -> tuple[int | None, str]:
    """Seconds or an order number, and which it is; None where it is neither."""
    text = "" if value is None else str(value).strip()
    try:
        # Through a float, a large whole number would lose its last digits.
        whole = re.fullmatch(r"[-+]?[0-9]{1,19}", text)
        number = int(text) if whole else math.floor(float(text))
        return (number, "number") if -(2**63) <= number < 2**63 else (None, "")
    except (ValueError, OverflowError):
        pass
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None, ""
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return math.floor(date.timestamp()), "date"


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


NO_ID = "rows without an item_id"
TWICE = "rows whose item_id stands in an earlier row"
_NO_TITLE = "items without a title, kept"
_NO_PATH = "items without a category path, kept as unknown"
_GAP = "category paths with a gap, ended before it"
_PATHS = "items with several category paths, the first taken"
_UNKNOWN = "item ids that are not in the catalog, skipped"
_NOTHING = "rows without a known item, skipped"
CONTINUED = "lines that continue an earlier line of the user"
_NO_USER = "baskets without a user, skipped"
_NO_TIME = "baskets without a readable time or order, skipped"
_NO_RETAILER = f"baskets without a retailer, taken as {ALL!r}"
NO_HISTORY = "users left with nothing, skipped"
