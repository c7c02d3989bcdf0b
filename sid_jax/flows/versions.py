"""Two SID tables to compare, and what is known of the items that both hold."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sid_jax.data.changes import find_edited, read_item_ids
from sid_jax.data.purchases import read_purchases
from sid_jax.errors import InputError
from sid_jax.flows import runs
from sid_jax.sids.table import SidTable, read_table
from sid_jax.typing import NDArray


@dataclass(frozen=True, eq=False)
class Versions:
    """Two tables, and the B items that both hold, in the old one's order.

    Attributes:
      old, new: the tables.
      rows: rows of the B items in either [B].
      edited: which of them have another text now [B].
      purchases: how often they were bought [B]; None if unknown.
      notes: what the reader must know of how these were told.
    """

    old: SidTable
    new: SidTable
    rows: tuple[NDArray, NDArray]
    edited: NDArray
    purchases: NDArray | None
    notes: list[str]

    def summary(self) -> str:
        shared, edited = len(self.edited), int(self.edited.sum())
        return (
            f"{shared:,} items in both ({shared - edited:,} unchanged, {edited:,} "
            f"edited), {len(self.new) - shared:,} new, {len(self.old) - shared:,} gone"
        )


def read_versions(
    old: Path, new: Path, changed: Path | None, purchases: Path | None
) -> Versions:
    """Reads two tables; files and errors are those of `compare_tables`."""
    left, right = read_table(old), read_table(new)
    row_of = {each: row for row, each in enumerate(right.item_ids.to_pylist())}
    names = left.item_ids.to_pylist()
    shared = [name for name in names if name in row_of]
    if not shared:
        raise InputError(
            f"{old} and {new} have no item in common: {names[0]!r} is one of the "
            f"first, {next(iter(row_of))!r} one of the second; name two versions of "
            "one catalog"
        )
    rows = (left.rows(shared), np.asarray([row_of[name] for name in shared]))
    if changed is not None:
        edited, notes = _read_changed(changed, shared, {*names, *row_of})
    else:
        edited, notes = _find_edited(old, new, shared)
    weights = None
    if purchases is not None:
        weights, told = read_purchases(purchases, shared)
        notes += told
    return Versions(left, right, rows, edited, weights, notes)


def _read_changed(
    path: Path, shared: list[str], known: set[str]
) -> tuple[NDArray, list[str]]:
    ids = read_item_ids(path)
    unknown = sorted(ids - known)
    if unknown:
        some = ", ".join(map(repr, unknown[:5]))
        raise InputError(
            f"{path}: {len(unknown)} of {len(ids)} item ids are in neither version: "
            f"{some}; its item ids must be the tables'"
        )
    return np.asarray([name in ids for name in shared]), []


def _find_edited(old: Path, new: Path, shared: list[str]) -> tuple[NDArray, list[str]]:
    """Edited items by the catalogs that lie beside the tables."""
    catalogs = []
    for path in (old, new):
        catalog = None
        if (path.parent / runs.CATALOG).exists():
            catalog = runs.read_catalog(path.parent)
        if catalog is None or not set(shared) <= set(catalog.item_ids):
            return np.zeros(len(shared), bool), [
                f"{path} has no catalog of its items beside it, so that all shared "
                "items count as unchanged; --changed names those that are not"
            ]
        catalogs.append(catalog)
    edited, alone = find_edited(catalogs[0], catalogs[1], shared)
    if not alone:
        return edited, []
    return edited, [
        f"attributes of one catalog alone, not compared: {', '.join(alone)}"
    ]
