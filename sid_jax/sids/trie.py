"""SID table -> prefix trie as flat arrays, level by level.

Rows are sorted, so the children of a node are consecutive, and a node is where they
stand: a range of the places of its level. There is no next-state column (compare
STATIC, arXiv 2602.22647, whose edges carry one). The first levels, where most codes
follow any prefix, are dense: a node has a place for every code, and no code is looked
up. From the level `tail` on, where few SIDs share a prefix, there are no nodes: places
are the rows of the sorted SID table, and a child is a run of rows with one code. A
leaf's id is its row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sid_jax.errors import InputError
from sid_jax.typing import Array, Bool, Int, NDArray, Shaped, UInt, typed

_FEW = 16  # rows that a node may hold without any gain in reading its children apart
_FULL = 0.5  # of a dense level's places, the share that holds a child at least


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trie:
    """A prefix trie over SIDs; depth 0 holds the root, depth L the leaves.

    The places of level l are the nodes of depth l + 1; from level `tail` on, leaves.

    Attributes:
      tokens: a level, the code of each place, in the smallest of uint8, uint16 and
        int32 that fits, and `max_slots` zeros, so that any node's are one slice. A
        place of a dense level that holds no child has another code than its own.
      bounds: for each level up to `tail`, int32; the children of node i of depth l
        stand at the places `bounds[l][i] : bounds[l][i + 1]`.
      codebook_sizes: codes a level.
      max_slots: a level, the most places of one node.
      dense: the number of first levels of which each node has a place for each code.
    """

    tokens: tuple[Array, ...]
    bounds: tuple[Array, ...]
    codebook_sizes: tuple[int, ...] = field(metadata={"static": True})
    max_slots: tuple[int, ...] = field(metadata={"static": True})
    dense: int = field(default=0, metadata={"static": True})

    @property
    def num_levels(self) -> int:
        return len(self.codebook_sizes)

    @property
    def num_leaves(self) -> int:
        return self.num_places(self.num_levels - 1)

    def num_places(self, level: int) -> int:
        """Places of a level, those that nothing stands at yet among them."""
        return self.tokens[level].shape[0] - self.max_slots[level]

    @property
    def tail(self) -> int:
        """The first level whose places are leaves; at most the last one."""
        return len(self.bounds) - 1

    def root(self, shape: tuple[int, ...]) -> "Nodes":
        """The node of depth 0, in arrays of any shape."""
        first, end = self.bounds[0]
        return Nodes(jnp.full(shape, first), jnp.full(shape, end))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Nodes:
    """Nodes of one depth: their children stand at the places `first : end`.

    Attributes:
      first: int32 `[*b]`.
      end: int32 `[*b]`; equal to `first` where there is no node.
    """

    first: Array
    end: Array


@typed
def child_slots(
    trie: Trie, level: int, nodes: Nodes
) -> tuple[Int[Array, "*b C"], Int[Array, "*b C"], Bool[Array, "*b C"]]:
    """What stands at the places of nodes of depth `level`, C = `max_slots[level]` each.

    Returns:
      Places; their codes; and which of them hold a child: the first place of each run
      of one code, before the node's end. Codes ascend.
    """
    slots = jnp.arange(trie.max_slots[level])
    places = nodes.first[..., None] + slots
    codes = windows(trie.tokens[level], nodes.first, trie.max_slots[level])
    codes = codes.astype(jnp.int32)
    exists = places < nodes.end[..., None]
    if level < trie.dense:
        return places, jnp.broadcast_to(slots, places.shape), exists & (codes == slots)
    if level >= trie.tail:
        exists = exists.at[..., 1:].min(codes[..., 1:] != codes[..., :-1])
    return places, codes, exists


@typed
def enter(
    trie: Trie, level: int, places: Int[Array, "*b"], end: Int[Array, "*b"]
) -> Nodes:
    """The children at places of level `level`, of nodes that end at `end`.

    Below the last level there is nothing to enter.
    """
    if level < trie.tail:
        bounds = trie.bounds[level + 1]
        return Nodes(
            bounds.at[places].get(mode="clip"), bounds.at[places + 1].get(mode="clip")
        )
    width = trie.max_slots[level + 1]
    rows = places[..., None] + jnp.arange(width)
    codes = windows(trie.tokens[level], places, width)
    same = (codes == codes[..., :1]) & (rows < end[..., None])
    return Nodes(places, places + same.sum(axis=-1, dtype=jnp.int32))


@typed
def windows(
    values: Shaped[Array, " n"], first: Int[Array, "*b"], width: int
) -> Shaped[Array, "*b w"]:
    """`width` values from each place on: slices, which cost less than as many gathers.

    A window that would reach past the end begins earlier.
    """
    cut = jax.vmap(lambda at: jax.lax.dynamic_slice(values, (at,), (width,)))
    return cut(first.reshape(-1)).reshape(*first.shape, width)


@typed
def score_slots(
    trie: Trie, level: int, scores: Shaped[Array, "*b K"], codes: Int[Array, "*b C"]
) -> Shaped[Array, "*b C"]:
    """Scores of a level's codes -> those of the slots that `child_slots` tells."""
    if level < trie.dense:
        return scores
    return jnp.take_along_axis(scores, codes, axis=-1)


@typed
def descend(
    trie: Trie, level: int, nodes: Nodes, codes: Int[Array, "*b"]
) -> tuple[Nodes, Bool[Array, "*b"]]:
    """The children that codes lead to from nodes of depth `level`, and which exist."""
    places, tokens, exists = child_slots(trie, level, nodes)
    hit = (tokens == codes[..., None]) & exists
    found = hit.any(axis=-1)
    place = jnp.where(hit, places, 0).sum(axis=-1)
    if level + 1 == trie.num_levels:
        return Nodes(place, jnp.where(found, place + 1, place)), found
    child = enter(trie, level, place, nodes.end)
    return Nodes(child.first, jnp.where(found, child.end, child.first)), found


@typed
def existing_codes(trie: Trie, level: int, nodes: Nodes) -> Bool[Array, "*b K"]:
    """Which codes of a level follow nodes of depth `level`."""
    _, tokens, exists = child_slots(trie, level, nodes)
    if level < trie.dense:
        return exists
    slots = tokens.shape[-1]
    tokens, exists = tokens.reshape(-1, slots), exists.reshape(-1, slots)
    none = jnp.zeros((len(tokens), trie.codebook_sizes[level]), bool)
    found = none.at[jnp.arange(len(tokens))[:, None], tokens].max(exists)
    return found.reshape(*nodes.first.shape, -1)


@typed
def first_leaves(trie: Trie) -> list[Int[Array, "_"]]:
    """For each level before the tail, the first leaf below each place, and the end."""
    return _compose(trie.bounds)


@typed
def sorted_columns(trie: Trie) -> list[UInt[NDArray, " U"] | Int[NDArray, " U"]]:
    """The codes of the sorted SIDs, a level, without the room for more."""
    # On the host: on a device each number of SIDs would be a program of its own.
    bounds, tokens = jax.device_get((trie.bounds, trie.tokens))
    columns = []
    for codes, first in zip(tokens, _compose(bounds), strict=False):
        lengths = np.diff(first)
        columns.append(np.repeat(codes[: len(lengths)], lengths))
    return columns + [codes[: bounds[-1][-1]] for codes in tokens[trie.tail :]]


@typed
def build_trie(
    sids: Int[NDArray, "_ L"] | UInt[NDArray, "_ L"],
    codebook_sizes: tuple[int, ...],
    *,
    tail: int | None = None,
    dense: int | None = None,
) -> Trie:
    """Builds the trie of SIDs in any order, duplicates welcome.

    Args:
      sids: codes.
      codebook_sizes: codes a level.
      tail: the first level whose places are leaves; by default the first one from which
        on a node has 16 leaves at most, or twice as many leaves as children.
      dense: levels of which each node has a place for each code, before the tail; by
        default those first ones of which half of the places or more hold a child.

    Raises:
      InputError: no SIDs, another number of levels, a code outside its codebook, or no
        such level.
    """
    order, parting = sort_sids(sids, codebook_sizes)
    if not len(order):
        raise InputError("a trie needs at least one SID")
    order = order[parting < len(codebook_sizes)]
    columns = [
        sids[order, level].astype(code_dtype(size))
        for level, size in enumerate(codebook_sizes)
    ]
    return trie_of_columns(columns, codebook_sizes, tail, dense)


def trie_of_columns(
    columns: Sequence[NDArray],
    codebook_sizes: tuple[int, ...],
    tail: int | None = None,
    dense: int | None = None,
) -> Trie:
    """The trie of sorted SIDs, each once, from their codes a level.

    Arguments and errors as in `build_trie`.
    """
    num_levels, count = len(columns), len(columns[0])
    starts = [np.zeros(count, bool)]  # where nodes of each depth begin
    starts[0][0] = True
    for column in columns:
        starts.append(starts[-1].copy())
        starts[-1][1:] |= column[1:] != column[:-1]
    first = [np.flatnonzero(each) for each in starts[:-1]]
    leaves = [int(np.diff(each, append=count).max()) for each in first]

    def bounds_of(level: int) -> NDArray:
        ends = np.count_nonzero(starts[level + 1])
        return np.append(np.flatnonzero(starts[level][starts[level + 1]]), ends)

    if tail is None:
        tail = num_levels - 1
        while tail:
            most = int(np.diff(bounds_of(tail - 1)).max())
            if leaves[tail - 1] > max(_FEW, 2 * most):
                break
            tail -= 1
    if not 0 <= tail < num_levels:
        raise InputError(f"tail={tail} is no level of SIDs of {num_levels} levels")
    # Places of a level, were it and those before it dense; exact, so never overflown.
    full = [math.prod(codebook_sizes[: level + 1]) for level in range(tail)]
    if dense is None:
        dense = 0
        while dense < tail and len(first[dense + 1]) >= _FULL * full[dense]:
            dense += 1
    if not 0 <= dense <= tail or (dense and full[dense - 1] > np.iinfo(np.int32).max):
        raise InputError(f"dense={dense} of SIDs whose tail begins at level {tail}")

    bounds = [bounds_of(level) for level in range(tail)]
    most = [int(np.diff(each).max()) for each in bounds] + leaves[tail:]
    bounds.append(np.append(first[tail], count))
    tokens = [
        column[starts[level + 1]] if level < tail else column
        for level, column in enumerate(columns)
    ]
    nodes = np.zeros(1, np.int64)  # of the dense level's depth, by their codes
    for level, size in zip(range(dense), codebook_sizes, strict=False):
        nodes = np.repeat(nodes, np.diff(bounds[level])) * size + tokens[level]
        own = np.tile(np.arange(size, dtype=tokens[level].dtype), full[level] // size)
        none = (own == 0).astype(own.dtype)  # another code than a place's own
        none[nodes] = own[nodes]
        tokens[level], most[level] = none, size
        bounds[level] = np.arange(0, full[level] + 1, size)
    if dense:
        # Of the first level that is not dense; nodes that are not there have no child.
        counts = np.zeros(full[dense - 1], np.int64)
        counts[nodes] = np.diff(bounds[dense])
        bounds[dense] = np.append(0, np.cumsum(counts))
    return Trie(
        tokens=tuple(
            jax.device_put(np.pad(codes, (0, slots)))
            for codes, slots in zip(tokens, most, strict=True)
        ),
        bounds=tuple(jax.device_put(each.astype(np.int32)) for each in bounds),
        codebook_sizes=codebook_sizes,
        max_slots=tuple(most),
        dense=dense,
    )


@typed
def sort_sids(
    sids: Int[NDArray, "n L"] | UInt[NDArray, "n L"], codebook_sizes: tuple[int, ...]
) -> tuple[Int[NDArray, " n"], Int[NDArray, " n"]]:
    """Stable lexicographic order of SIDs, and where sorted neighbours part.

    Returns:
      The order, and for each sorted row the first level at which it differs from the
      row before it: -1 for the first row, L for a duplicate.

    Raises:
      InputError: another number of levels, or a code outside its codebook.
    """
    _check_codes(sids, codebook_sizes)
    columns = [sids[:, level].astype(np.int32) for level in range(sids.shape[1])]
    order = _sort_columns(columns, codebook_sizes)
    parting = np.full(len(order), len(columns), np.int32)
    parting[:1] = -1
    for level in reversed(range(len(columns))):
        column = columns[level][order]
        parting[1:][column[1:] != column[:-1]] = level
    return order, parting


def _compose(bounds: Sequence[Any]) -> list[Any]:
    """From each level's first places of the next one to the first leaves of each."""
    first = []
    for each in bounds[:0:-1]:
        first.append(each if not first else first[-1][each])
    return first[::-1]


def _check_codes(sids: NDArray, codebook_sizes: tuple[int, ...]) -> None:
    if sids.shape[1] != len(codebook_sizes) or not codebook_sizes:
        raise InputError(
            f"SIDs of {sids.shape[1]} levels, but codebook_sizes={codebook_sizes}"
        )
    outside = (sids < 0) | (sids >= np.asarray(codebook_sizes))
    if outside.any():
        row, level = np.argwhere(outside)[0]
        raise InputError(
            f"row {row}: code {sids[row, level]} at level {level + 1} is outside"
            f" 0..{codebook_sizes[level] - 1}"
        )


def _sort_columns(columns: list[NDArray], sizes: tuple[int, ...]) -> NDArray:
    # Few 64-bit keys a SID sort several times faster than column by column.
    keys, room = [], 0
    for column, size in zip(columns, sizes, strict=True):
        width = max(size - 1, 1).bit_length()
        if width > room:
            keys.append(column.astype(np.int64))
            room = 63 - width
        else:
            keys[-1] = (keys[-1] << width) | column
            room -= width
    if _ascend(keys):
        return np.arange(len(keys[0]))
    if len(keys) == 1:
        return np.argsort(keys[0], kind="stable")
    return np.lexsort(keys[::-1])


def _ascend(keys: list[NDArray]) -> bool:
    """Whether rows of keys, the first one weighing most, come in order."""
    same = np.ones(len(keys[0]) - 1 if len(keys[0]) else 0, bool)
    for key in keys:
        if (same & (key[1:] < key[:-1])).any():
            return False
        same &= key[1:] == key[:-1]
    return True


def code_dtype(size: int) -> type[np.integer]:
    """The smallest type that holds the codes of a codebook."""
    if size <= 2**8:
        return np.uint8
    return np.uint16 if size <= 2**16 else np.int32
