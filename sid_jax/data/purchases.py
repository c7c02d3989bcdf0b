"""How often each item was bought, from a file of counts or of histories.

- A table with columns `item_id` and `purchases`: one row an item, a number >= 0.
- Baskets, as `sid import --baskets` takes them: lines of a basket count one each.
- A text of `user_id item_id item_id ...` lines, as `--sequences` takes them.

An item that a file does not name was never bought; an id that is no judged item is
counted and passed over.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from sid_jax.data.catalog import Catalog, Interactions
from sid_jax.data.parquet import write_parquet
from sid_jax.data.parsing import read_baskets, read_sequences
from sid_jax.data.readers import read_table
from sid_jax.errors import InputError
from sid_jax.typing import Float, Int, NDArray, typed

_TABLES = (".csv", ".jsonl", ".json", ".ndjson", ".parquet", ".pq")


def read_purchases(
    path: Path, item_ids: Sequence[str]
) -> tuple[Float[NDArray, " N"], list[str]]:
    """Purchases of these items, in their order, and a note for each rule that struck.

    Raises:
      InputError: a bad file, a count that is none, an item that stands twice, or no
        purchase of any of the items.
    """
    stem = path.with_suffix("") if path.suffix == ".gz" else path
    if stem.suffix.lower() not in _TABLES:
        return _count(path, item_ids, read_sequences)
    table = read_table(path)
    if not {"item_id", "purchases"} <= set(table.columns):
        if not {"product_ids", "item_ids"} & set(table.columns):
            raise InputError(
                f"{path}: want columns item_id and purchases, or baskets with "
                "product_ids; it has " + ", ".join(table.columns)
            )
        return _count(path, item_ids, read_baskets)
    row_of = {item_id: row for row, item_id in enumerate(item_ids)}
    counts, seen, unknown = np.zeros(len(item_ids)), set(), 0
    for number, row in table.rows:
        item_id = str(row.get("item_id") or "").strip()
        count = _parse(row.get("purchases"))
        where = f"{path}, {table.findings.unit} {number}"
        if count is None:
            raise InputError(
                f"{where}: {row.get('purchases')!r} purchases; want a number >= 0"
            )
        if item_id in seen:
            raise InputError(f"{where}: item {item_id!r} stands twice; add them up")
        seen.add(item_id)
        if item_id in row_of:
            counts[row_of[item_id]] = count
        else:
            unknown += 1
    if not counts.any():
        raise InputError(
            f"{path}: no purchase of any of the {len(item_ids):,} items; are its ids "
            "those of the SID table?"
        )
    notes = [f"{path}: {unknown:,} item ids without a SID, passed over"]
    return counts, notes if unknown else []


@typed
def write_purchases(
    path: str | Path, item_ids: Sequence[str], purchases: Int[NDArray, " N"]
) -> None:
    """Writes columns item_id and purchases as Parquet, to be read by the above."""
    columns = {"item_id": pa.array(item_ids, pa.string()), "purchases": purchases}
    write_parquet(path, pa.table(columns))


def count_purchases(
    data: Interactions | None, num_items: int
) -> Int[NDArray, " N"] | None:
    """How often each item was bought; None without histories."""
    if data is None:
        return None
    return np.bincount(data.items, minlength=num_items)


def _count(path: Path, item_ids: Sequence[str], read) -> tuple[NDArray, list[str]]:
    data, notes = read(path, Catalog.from_columns(list(item_ids)))
    return np.bincount(data.items, minlength=len(item_ids)).astype(float), notes


def _parse(value: object) -> float | None:
    try:
        count = float(str(value))
    except ValueError:
        return None
    return count if math.isfinite(count) and count >= 0 else None
