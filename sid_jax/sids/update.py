"""A catalog that changes: SIDs come and go, and a search neither stops nor recompiles.

A trie with room (`make_room`) is one whose arrays are longer than they need be.
`update_trie` gives the next version in arrays of the same shapes, so that a compiled
search takes it; the one before answers until then, and beside it if asked.
"""

import dataclasses
import math

import jax
import numpy as np

from sid_jax.errors import InputError
from sid_jax.sids.ranges import bisect_ranges
from sid_jax.sids.trie import Trie, build_trie, sorted_columns, trie_of_columns
from sid_jax.typing import Int, NDArray, UInt, typed


@typed
def make_room(trie: Trie, share: float) -> Trie:
    """The same trie in arrays that fit a share more SIDs.

    As large a share more fits under any one prefix, beside what the fullest prefix of
    its level has: many new SIDs under one of them need a larger share. Leaves past
    the last SID are never reached; `num_leaves` counts them.
    """
    if not 0 <= share < math.inf:
        raise InputError(f"share={share} of room must be a number of at least 0")
    sizes = [
        size if level < trie.dense else _more(size, share)
        for level, size in enumerate(trie_sizes(trie))
    ]
    if max(sizes) > np.iinfo(np.int32).max:
        raise InputError(
            f"share={share} of room makes {max(sizes):,} places, which int32 does not"
            " number"
        )
    most = [
        min(_more(most, share) + 2, size if level < trie.tail else sizes[-1])
        for level, (most, size) in enumerate(
            zip(trie.max_slots, trie.codebook_sizes, strict=True)
        )
    ]
    return fit_trie(trie, sizes, tuple(most))


@typed
def update_trie(
    trie: Trie,
    added: Int[NDArray, "n L"] | UInt[NDArray, "n L"],
    removed: Int[NDArray, "m L"] | UInt[NDArray, "m L"],
) -> Trie:
    """The next version: some SIDs more, some less, in arrays of the same shapes.

    Leaves are rows of the sorted SIDs and move; one that stays may be given again.

    Args:
      trie: the version before.
      added: SIDs that are to exist, in any order.
      removed: SIDs that no item has any longer; each must be there.

    Raises:
      InputError: a removed SID that is not there, a code outside its codebook, another
        number of levels, nothing left, or no room: make some, which compiles searches
        anew.
    """
    for name, sids in (("added", added), ("removed", removed)):
        if sids.shape[1] != trie.num_levels:
            raise InputError(
                f"{name} SIDs have {sids.shape[1]} levels, the trie {trie.num_levels}"
            )
    columns = sorted_columns(trie)
    keep = np.ones(len(columns[0]), bool)
    if len(removed):
        row, found = _find(columns, removed)
        if not found.all():
            sid = removed[np.flatnonzero(~found)[0]]
            raise InputError(
                f"removed SID {'_'.join(map(str, sid))} is not in the trie"
            )
        keep[row] = False
    if len(added):
        new = sorted_columns(build_trie(added, trie.codebook_sizes))
        row, found = _find(columns, np.stack(new, axis=1))
        keep[row[found]] = True
        # New SIDs stand before the first old one above them, in order.
        before = np.cumsum(keep) - keep
        at = np.append(before, keep.sum())[row[~found]]
        at = at + np.arange(len(at))
        fresh = np.zeros(int(keep.sum()) + len(at), bool)
        fresh[at] = True
        columns = [
            _merge(fresh, old[keep], codes[~found])
            for old, codes in zip(columns, new, strict=True)
        ]
    else:
        columns = [old[keep] for old in columns]
    if not len(columns[0]):
        raise InputError("no SID is left")
    fresh = trie_of_columns(columns, trie.codebook_sizes, trie.tail, trie.dense)
    return fit_trie(fresh, trie_sizes(trie), trie.max_slots)


@typed
def refit_trie(trie: Trie, sids: Int[NDArray, "U L"]) -> Trie:
    """A trie of other SIDs, in any order, in arrays of the same shapes.

    Raises:
      InputError: no SIDs, another number of levels, a code outside its codebook, or no
        room.
    """
    fresh = build_trie(sids, trie.codebook_sizes, tail=trie.tail, dense=trie.dense)
    return fit_trie(fresh, trie_sizes(trie), trie.max_slots)


def trie_sizes(trie: Trie) -> list[int]:
    """Places of each level up to the tail."""
    return [trie.num_places(level) for level in range(trie.tail + 1)]


def fit_trie(trie: Trie, sizes: list[int], max_slots: tuple[int, ...]) -> Trie:
    """The trie in arrays of so many places a level, and of leaves, and slots a node."""
    for what, needed, room in (
        ("places", trie_sizes(trie), sizes),
        ("children of one node", trie.max_slots, max_slots),
    ):
        for level, (number, most) in enumerate(zip(needed, room, strict=True)):
            if number > most:
                raise InputError(
                    f"no room at level {level + 1}: {number} {what}, and the arrays "
                    f"fit {most}; a new trie with more (`make_room`, `sid export "
                    "--room`) compiles searches anew"
                )
    lengths = [*sizes[:-1], *[sizes[-1]] * (trie.num_levels - trie.tail)]
    # On the host: on a device each length would be a program of its own.
    tokens = [
        jax.device_put(np.pad(codes, (0, length + slots - len(codes))))
        for codes, length, slots in zip(trie.tokens, lengths, max_slots, strict=True)
    ]
    rows = [2, *(size + 1 for size in sizes[:-1])]
    bounds = [
        jax.device_put(np.pad(each, (0, length - len(each)), mode="edge"))
        for each, length in zip(trie.bounds, rows, strict=True)
    ]
    return dataclasses.replace(
        trie, tokens=tuple(tokens), bounds=tuple(bounds), max_slots=max_slots
    )


def _find(columns: list[NDArray], sids: NDArray) -> tuple[NDArray, NDArray]:
    """The first row that is not below each SID, and whether it is that SID."""
    first = np.zeros(len(sids), np.int64)
    end = np.full(len(sids), len(columns[0]))
    for column, codes in zip(columns, sids.T.astype(np.int64), strict=True):
        # Rows that agree so far are sorted by this level's codes.
        told = column.__getitem__, first, end
        first, end = bisect_ranges(*told, codes), bisect_ranges(*told, codes + 1)
    return first, end > first


def _merge(fresh: NDArray, old: NDArray, new: NDArray) -> NDArray:
    out = np.empty(len(fresh), old.dtype)
    out[fresh], out[~fresh] = new, old
    return out


def _more(count: int, share: float) -> int:
    return math.ceil(count * (1 + share))
