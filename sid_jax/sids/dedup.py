"""One more level that tells the items of one SID apart (TIGER, Rajput et al. 2023).

An item's digit is its place among the items of its SID: 0 for the first in priority. By
default the index resolves such collisions and this level is left out: it says nothing
of what an item is, and it has to be learnt and searched all the same.
"""

from dataclasses import replace

import numpy as np

from sid_jax.errors import InputError
from sid_jax.sids.table import SidTable
from sid_jax.typing import Int, NDArray, Shaped, typed


@typed
def add_dedup_level(
    codes: Int[NDArray, "N L"], priority: Shaped[NDArray, " N"] | None = None
) -> Int[NDArray, "N M"]:
    """SIDs with a digit at their end, int32 `[N, L + 1]`; no two are equal.

    Args:
      codes: the SID of each item.
      priority: of each item, such as its sales; the highest of a SID gets digit 0.
        Items of equal priority, or of all when None, go by their row.
    """
    if priority is None:
        priority = np.zeros(len(codes))
    groups = _group(codes)
    order = np.lexsort((-np.asarray(priority, np.float64), groups))
    return _append(codes, _place(groups, order))


@typed
def extend_dedup(
    old: Int[NDArray, "N M"],
    new: Int[NDArray, "n L"],
    priority: Shaped[NDArray, " n"] | None = None,
) -> Int[NDArray, "n M"]:
    """SIDs of new items with digits after those that are taken; no old one moves.

    Digits go on from the largest of their SID. Gaps that removed items left are not
    filled: histories may still name those items.

    Args:
      old: SIDs with their digit, `[N, L + 1]`, as from `add_dedup_level`.
      new: SIDs of new items without one.
      priority: of the new items, as in `add_dedup_level`.

    Raises:
      InputError: SIDs of another number of levels.
    """
    if old.shape[1] != new.shape[1] + 1:
        raise InputError(
            f"new SIDs of {new.shape[1]} levels after old ones of {old.shape[1]}, the"
            " digit included; want one fewer"
        )
    added = add_dedup_level(new, priority)
    groups = _group(np.concatenate([old[:, :-1], new]))
    taken = np.zeros(groups.max(initial=-1) + 1, np.int64)
    np.maximum.at(taken, groups[: len(old)], old[:, -1] + 1)
    return _append(new, added[:, -1] + taken[groups[len(old) :]])


@typed
def dedup_size(codes: Int[NDArray, "N M"], spare: int = 0) -> int:
    """Codes of the last level: the largest digit, plus one, plus spare ones.

    A decoder's vocabulary is made for this size. `spare` leaves room for new items.
    """
    return int(codes[:, -1].max(initial=-1)) + 1 + spare


def drop_dedup_level(table: SidTable) -> SidTable:
    """The table of the learned levels alone; the table itself if it has no other."""
    if not table.manifest.dedup:
        return table
    sizes = table.manifest.codebook_sizes[:-1]
    manifest = replace(table.manifest, codebook_sizes=sizes, dedup=False)
    codes = table.codes()[:, :-1]
    return SidTable.build(table.item_ids, codes, table.distances, manifest)


def _group(codes: NDArray) -> NDArray:
    """A number for each distinct SID."""
    return np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)


def _place(groups: NDArray, order: NDArray) -> NDArray:
    """The place of each row within its group; `order` sorts the rows by group."""
    sizes = np.bincount(groups)
    starts = np.cumsum(sizes) - sizes
    place = np.empty(len(groups), np.int64)
    place[order] = np.arange(len(groups)) - starts[groups[order]]
    return place


def _append(codes: NDArray, digits: NDArray) -> NDArray:
    return np.concatenate([codes, digits[:, None]], axis=1).astype(np.int32)
