"""A catalog of items and the baskets that users made of them: schema and validation."""

import difflib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sid_jax.data.parquet import read_parquet, write_parquet
from sid_jax.errors import InputError
from sid_jax.typing import Bool, Int, NDArray, typed

CORE = {
    "item_id": pa.string(),
    "title": pa.string(),
    "brand": pa.string(),
    "categories": pa.list_(pa.string()),
}
"""The columns that every catalog has, in this order."""

ATTRIBUTE_TYPES = (pa.string(), pa.int64(), pa.float64(), pa.bool_())

ALL = "all"
"""The one retailer of data that names none."""


@dataclass(frozen=True)
class Catalog:
    """Items in rows.

    Attributes:
      table: columns item_id (string, unique, never null), title and brand (string;
        unknown = null, and an empty one is made null), categories (list of strings,
        root first; unknown = empty), then attributes: columns of string, int64, finite
        float64 or bool (unknown = null).

    Raises:
      InputError: the table is not of that form; the message names column and row.
    """

    table: pa.Table

    def __post_init__(self):
        _check_schema(self.table.schema)
        object.__setattr__(self, "table", _normalise(self.table))
        _check_ids(self.column("item_id"))
        _check_categories(self.column("categories"))
        for name in self.attributes:
            _check_finite(name, self.column(name))

    @classmethod
    def from_columns(
        cls,
        item_id: Sequence[str],
        title: Sequence[str | None] | None = None,
        brand: Sequence[str | None] | None = None,
        categories: Sequence[Sequence[str]] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> "Catalog":
        """A catalog of Python sequences or arrow arrays; what is left out is unknown.

        An attribute's type is taken from its values. One that has none is a string.
        """
        absent = [None] * len(item_id)
        core = {
            "item_id": item_id,
            "title": absent if title is None else title,
            "brand": absent if brand is None else brand,
            "categories": [[]] * len(item_id) if categories is None else categories,
        }
        columns = {name: pa.array(core[name], kind) for name, kind in CORE.items()}
        for name, values in (attributes or {}).items():
            columns[name] = _widen(pa.array(values))
        return cls(pa.table(columns))

    def __len__(self) -> int:
        return self.table.num_rows

    @cached_property
    def item_ids(self) -> list[str]:
        return self.column("item_id")

    @cached_property
    def titles(self) -> list[str]:
        """Titles; an unknown one is empty."""
        return [title or "" for title in self.column("title")]

    @cached_property
    def brands(self) -> list[str | None]:
        return self.column("brand")

    @cached_property
    def categories(self) -> list[tuple[str, ...]]:
        """Category paths, root first; an unknown one is empty."""
        return [tuple(path) for path in self.column("categories")]

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attribute columns."""
        return tuple(self.table.column_names[len(CORE) :])

    def column(self, name: str) -> list[Any]:
        """The values of a column; None where it is null."""
        if name not in self.table.column_names:
            raise InputError(
                f"the catalog has no column {name!r}; it has "
                + ", ".join(self.table.column_names)
            )
        return self.table[name].to_pylist()

    def rows(self, item_ids: Sequence[str]) -> Int[NDArray, " n"]:
        """Row of each item id.

        Raises:
          InputError: some are not in the catalog; the first few are named.
        """
        found = [self._row_of.get(item_id, -1) for item_id in item_ids]
        rows = np.asarray(found, np.int32)
        unknown = [item_ids[int(at)] for at in np.flatnonzero(rows < 0)]
        if unknown:
            raise InputError(
                f"{len(unknown)} item ids are not in the catalog of {len(self)} items: "
                + ", ".join(map(repr, unknown[:5]))
                + (" ..." if len(unknown) > 5 else "")
                + " (ids are text; check them against its item_id column)"
            )
        return rows

    def take(self, rows: Sequence[int] | NDArray) -> "Catalog":
        """The catalog of these rows, in this order."""
        return Catalog(self.table.take(pa.array(rows, pa.int64())))

    def digest(self) -> str:
        """SHA-256 (hex) of names, types and values, however the table is chunked."""
        digest = hashlib.sha256()
        for field in self.table.schema:
            values = self.table[field.name].to_pylist()
            # JSON delimits itself, so no two contents run together to the same bytes.
            content = json.dumps([field.name, str(field.type), values])
            digest.update(content.encode())
        return digest.hexdigest()

    @typed
    def where(self, conditions: Mapping[str, str]) -> Bool[NDArray, " N"]:
        """Mask of the items that meet every condition, such as `brand_tier=Private`.

        A key is an attribute, `brand`, or `category`, which holds for items that have
        the value anywhere on their category path (an attribute of that name goes
        first).

        Raises:
          InputError: an unknown key, or a value that no item has.
        """
        mask = np.ones(len(self), bool)
        for key, value in conditions.items():
            if key in (*self.attributes, "brand"):
                target = _parse_condition(key, value, self.table.schema.field(key).type)
                held = [() if v is None else (v,) for v in self.column(key)]
            elif key == "category":
                target, held = value, self.categories
            else:
                raise InputError(
                    f"cannot filter on {key!r}; the catalog has category, brand"
                    + "".join(f", {name}" for name in self.attributes)
                )
            matches = np.asarray([target in values for values in held], bool)
            if not matches.any():
                raise InputError(_describe_absence(key, value, held))
            mask &= matches
        return mask

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.item_ids)}


@dataclass(frozen=True, eq=False)
class Interactions:
    """Baskets of users in time order; a sequence is a user's baskets of one item.

    E baskets are sorted by (user, time, input order).

    Attributes:
      users: names; user u's baskets are contiguous, and each user has at least one.
      retailers: names, sorted; `("all",)` where the data names none.
      user: int32 [E]. retailer: int32 [E].
      time: int64 [E], seconds since 1970, or a number that only orders.
      offsets: int64 [E + 1]; basket e holds `items[offsets[e] : offsets[e + 1]]`.
      items: int32 [P], rows of the catalog in cart order, no item twice in a basket.
    """

    users: tuple[str, ...]
    retailers: tuple[str, ...]
    user: Int[NDArray, " E"]
    retailer: Int[NDArray, " E"]
    time: Int[NDArray, " E"]
    offsets: Int[NDArray, " E1"]
    items: Int[NDArray, " P"]

    def __post_init__(self):
        for problem in _find_problems(self):
            raise InputError(f"interactions: {problem}")

    @classmethod
    def from_baskets(
        cls,
        user: Sequence[str],
        time: Sequence[int] | NDArray,
        baskets: Sequence[Sequence[int]],
        retailer: Sequence[str] | None = None,
    ) -> "Interactions":
        """Interactions of E baskets in any order; users keep their first-seen order.

        A repeated item of a basket counts once, an empty basket is left out, and so is
        a user who has no other.
        """
        stores = [ALL] * len(user) if retailer is None else retailer
        kept = [dict.fromkeys(basket) for basket in baskets]
        events = [
            (name, int(when), store, basket)
            for name, when, store, basket in zip(user, time, stores, kept, strict=True)
            if basket
        ]
        users = {name: u for u, name in enumerate(dict.fromkeys(e[0] for e in events))}
        retailers = {name: r for r, name in enumerate(sorted({e[2] for e in events}))}
        events.sort(key=lambda event: (users[event[0]], event[1]))
        return cls(
            users=tuple(users),
            retailers=tuple(retailers) or (ALL,),
            user=np.asarray([users[event[0]] for event in events], np.int32),
            retailer=np.asarray([retailers[event[2]] for event in events], np.int32),
            time=np.asarray([event[1] for event in events], np.int64),
            offsets=np.cumsum(
                [0, *(len(event[3]) for event in events)], dtype=np.int64
            ),
            items=np.asarray([row for event in events for row in event[3]], np.int32),
        )

    def __len__(self) -> int:
        return len(self.user)

    def basket(self, e: int) -> Int[NDArray, " n"]:
        """A view of the items of basket `e`."""
        return self.items[self.offsets[e] : self.offsets[e + 1]]

    @cached_property
    def user_offsets(self) -> Int[NDArray, " _"]:
        """Int64 [users + 1]: where user u's baskets start, and the next user's."""
        return np.searchsorted(self.user, np.arange(len(self.users) + 1))


def write_catalog(path: str | Path, catalog: Catalog) -> None:
    """Writes a catalog as Parquet; the file is whole or absent."""
    write_parquet(path, catalog.table)


def read_catalog(path: str | Path) -> Catalog:
    """Reads what `write_catalog` wrote.

    Raises:
      InputError: the file is missing, no Parquet, or no catalog.
    """
    table = read_parquet(path)
    try:
        return Catalog(table)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _widen(array: pa.Array) -> pa.Array:
    if pa.types.is_integer(array.type):
        return array.cast(pa.int64())
    if pa.types.is_floating(array.type):
        return array.cast(pa.float64())
    if pa.types.is_null(array.type) or pa.types.is_large_string(array.type):
        return array.cast(pa.string())
    return array


def _check_schema(schema: pa.Schema) -> None:
    if schema.names[: len(CORE)] != list(CORE):
        raise InputError(
            f"a catalog's columns start with {', '.join(CORE)}, not "
            + ", ".join(schema.names[: len(CORE)])
        )
    if len(set(schema.names)) < len(schema.names):
        raise InputError(f"two columns share a name: {', '.join(schema.names)}")
    for field in schema:
        wanted = [CORE[field.name]] if field.name in CORE else list(ATTRIBUTE_TYPES)
        if field.type not in wanted:
            raise InputError(
                f"column {field.name!r} is of type {field.type}, and must be "
                + " or ".join(map(str, wanted))
            )


def _normalise(table: pa.Table) -> pa.Table:
    # Files differ in metadata and in what they call a list's element.
    plain = [(field.name, CORE.get(field.name, field.type)) for field in table.schema]
    table = table.cast(pa.schema(plain))
    for name in ("title", "brand"):
        known = pa.array([text or None for text in table[name].to_pylist()], CORE[name])
        table = table.set_column(table.column_names.index(name), name, known)
    return table


def _check_ids(item_ids: list[str | None]) -> None:
    for row, item_id in enumerate(item_ids):
        if not item_id:
            raise InputError(f"column 'item_id', row {row}: no id")
    if len(set(item_ids)) < len(item_ids):
        twice = [i for i, count in Counter(item_ids).items() if count > 1]
        few = ", ".join(map(repr, twice[:5]))
        raise InputError(f"{len(twice)} item ids occur more than once: {few}")


def _check_categories(paths: list[list[str | None] | None]) -> None:
    for row, path in enumerate(paths):
        if path is None or not all(path):
            raise InputError(
                f"column 'categories', row {row}: {path!r} (an unknown path is an "
                "empty list, and each name on a path is text)"
            )


def _check_finite(name: str, values: list[Any]) -> None:
    for row, value in enumerate(values):
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"column {name!r}, row {row}: not finite (unknown = null)")


def _find_problems(data: Interactions) -> Iterator[str]:
    # Later checks rest on earlier ones; the caller stops at the first problem.
    sizes = np.diff(data.offsets)
    narrow, wide = (data.user, data.retailer, data.items), (data.time, data.offsets)
    if {a.dtype for a in narrow} != {np.dtype(np.int32)} or (
        {a.dtype for a in wide} != {np.dtype(np.int64)}
    ):
        yield "user, retailer and items must be int32, time and offsets int64"
    if not len(data.user) == len(data.retailer) == len(data.time) == len(sizes):
        yield "user, retailer, time and offsets must have E, E, E and E + 1 entries"
    ends = (int(data.offsets[0]), int(data.offsets[-1]))
    if ends != (0, len(data.items)) or (sizes < 1).any():
        yield "offsets must rise from 0 to the number of items (no empty basket)"
    step = np.diff(data.user)
    if (step < 0).any() or ((step == 0) & (np.diff(data.time) < 0)).any():
        yield "baskets must be sorted by user, then time"
    if not np.array_equal(np.unique(data.user), np.arange(len(data.users))):
        yield "each user must have a basket"
    if list(data.retailers) != sorted(set(data.retailers)):
        yield "retailers must be sorted and unique"
    if not np.isin(data.retailer, np.arange(len(data.retailers))).all():
        yield "a retailer index is out of range"
    if (data.items < 0).any():
        yield "an item row is negative"
    basket = np.repeat(np.arange(len(data)), sizes)
    order = np.lexsort((data.items, basket))
    if ((np.diff(basket[order]) == 0) & (np.diff(data.items[order]) == 0)).any():
        yield "a basket holds an item twice"


def _parse_condition(key: str, value: str, kind: pa.DataType) -> Any:
    if pa.types.is_string(kind):
        return value
    if pa.types.is_boolean(kind):
        if value.lower() not in ("true", "false"):
            raise InputError(f"{key} is true or false, not {value!r}")
        return value.lower() == "true"
    try:
        return float(value)
    except ValueError:
        raise InputError(f"{key} is a number, not {value!r}") from None


def _describe_absence(key: str, value: str, held: Sequence[tuple]) -> str:
    known = sorted({str(v) for values in held for v in values})
    folded = {v.lower(): v for v in known}
    close = difflib.get_close_matches(value.lower(), folded, n=3, cutoff=0.5)
    if close:
        hint = "did you mean " + " or ".join(repr(folded[c]) for c in close) + "?"
    else:
        few = ", ".join(map(repr, known[:5])) + (", ..." if len(known) > 5 else "")
        hint = f"it has {len(known)} values: {few}"
    return f"no item has {key}={value}; {hint}"
