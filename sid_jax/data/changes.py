"""What changed between two catalogs, and what a user's files say of items.

A file of items is CSV, JSON lines or Parquet (gzipped or not) with a column `item_id`;
ids are text or whole numbers.  A `.txt` file has an id a line.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sid_jax.data.catalog import Catalog
from sid_jax.data.readers import Table, read_lines, read_table
from sid_jax.errors import InputError
from sid_jax.typing import Bool, NDArray, typed

_TEXT = ("title", "brand", "categories")


@typed
def find_edited(
    old: Catalog, new: Catalog, item_ids: Sequence[str]
) -> tuple[Bool[NDArray, " n"], list[str]]:
    """Which items have another title, brand, category path or attribute now.

    Args:
      old: catalog of the old version.
      new: catalog of the new one.
      item_ids: items that both hold.

    Returns:
      A mask in the order of `item_ids`, and the attributes that one catalog alone has:
      these are not compared, as all items would count as edited.

    Raises:
      InputError: an item that one of the catalogs lacks.
    """
    old_rows, new_rows = old.rows(item_ids), new.rows(item_ids)
    edited = np.zeros(len(item_ids), bool)
    for name in (*_TEXT, *(set(old.attributes) & set(new.attributes))):
        before, after = old.column(name), new.column(name)
        pairs = zip(old_rows, new_rows, strict=True)
        edited |= np.asarray([before[a] != after[b] for a, b in pairs], bool)
    return edited, sorted(set(old.attributes) ^ set(new.attributes))


def read_item_ids(path: Path) -> set[str]:
    """The item ids that a file names.

    Raises:
      InputError: a damaged file, one without ids, or a row without one.
    """
    if path.suffix == ".txt":
        ids = {line.strip() for _, line in read_lines(path)} - {""}
        if not ids:
            raise InputError(f"{path}: no item ids; write one a line")
        return ids
    table = read_table(path)
    if "item_id" not in table.columns:
        raise InputError(
            f"{path}: no column item_id; it has {', '.join(table.columns)}"
        )
    return {_id_of(table, path, number, row) for number, row in table.rows}


def _id_of(table: Table, path: Path, number: int, row: dict[str, Any]) -> str:
    value = row.get("item_id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise InputError(
        f"{_place(table, path, number)}: item_id is {value!r}; want text or a whole "
        "number"
    )


def _place(table: Table, path: Path, number: int) -> str:
    return f"{path}, {table.findings.unit} {number}"
