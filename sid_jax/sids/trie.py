"""SID table -> prefix trie as flat arrays, level by level.

Rows are sorted, so the children of a node are consecutive and a child's id is the
position of its edge: no next-state column (compare STATIC, arXiv 2602.22647, whose
edges carry one). A leaf's id is its row in the sorted SID table.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from sid_jax.errors import InputError
from sid_jax.typing import Array, Bool, Int, NDArray, UInt, typed


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trie:
    """A prefix trie over SIDs; depth 0 holds the root, depth L the leaves.

    Attributes:
      tokens: a level, the code of each node of depth l + 1, `[n_{l+1}]`, in the
        smallest of uint8, uint16 and int32 that fits.
      row_start: a level, int32 `[n_l + 1]`; the children of node i of depth l are the
        nodes `row_start[l][i] : row_start[l][i + 1]` of depth l + 1.
      codebook_sizes: codes a level.
      max_children: a level, the most children of one node of depth l.
    """

    tokens: tuple[Array, ...]
    row_start: tuple[Array, ...]
    codebook_sizes: tuple[int, ...] = field(metadata={"static": True})
    max_children: tuple[int, ...] = field(metadata={"static": True})

    @property
    def num_levels(self) -> int:
        return len(self.codebook_sizes)

    @property
    def num_leaves(self) -> int:
        return self.tokens[-1].shape[0]


@typed
def child_slots(
    trie: Trie, level: int, nodes: Int[Array, "*b"]
) -> tuple[Int[Array, "*b C1"], Int[Array, "*b C"], Bool[Array, "*b C"]]:
    """The children of nodes of depth `level`, in C = `max_children[level]` slots each.

    Returns:
      Bounds, such that slot i holds the child `bounds[i]` and `bounds[i + 1]` follows;
      the codes of the slots; and which of them hold a child: those past a node's
      children stay at their end.
    """
    row_start, tokens = trie.row_start[level], trie.tokens[level]
    end = row_start[nodes + 1][..., None]
    slots = row_start[nodes][..., None] + jnp.arange(trie.max_children[level] + 1)
    bounds = jnp.minimum(slots, end)
    children = jnp.minimum(bounds[..., :-1], tokens.shape[0] - 1)
    return bounds, tokens[children].astype(jnp.int32), slots[..., :-1] < end


@typed
def descend(
    trie: Trie, level: int, nodes: Int[Array, "*b"], codes: Int[Array, "*b"]
) -> Int[Array, "*b"]:
    """The children that codes lead to from nodes of depth `level`; 0 if none."""
    bounds, tokens, exists = child_slots(trie, level, nodes)
    hit = (tokens == codes[..., None]) & exists
    return jnp.where(hit, bounds[..., :-1], 0).sum(axis=-1)


@typed
def existing_codes(
    trie: Trie, level: int, nodes: Int[Array, "*b"]
) -> Bool[Array, "*b K"]:
    """Which codes of a level follow nodes of depth `level`."""
    _, tokens, exists = child_slots(trie, level, nodes)
    slots = tokens.shape[-1]
    tokens, exists = tokens.reshape(-1, slots), exists.reshape(-1, slots)
    none = jnp.zeros((len(tokens), trie.codebook_sizes[level]), bool)
    found = none.at[jnp.arange(len(tokens))[:, None], tokens].max(exists)
    return found.reshape(*nodes.shape, -1)


@typed
def build_trie(
    sids: Int[NDArray, "_ L"] | UInt[NDArray, "_ L"], codebook_sizes: tuple[int, ...]
) -> Trie:
    """Builds the trie of SIDs in any order, duplicates welcome.

    Raises:
      InputError: no SIDs, another number of levels, or a code outside its codebook.
    """
    order, parting = sort_sids(sids, codebook_sizes)
    if not len(order):
        raise InputError("a trie needs at least one SID")
    tokens, row_start = [], []
    for level, size in enumerate(codebook_sizes):
        starts = np.flatnonzero(parting <= level)  # first row of each child
        tokens.append(sids[order[starts], level].astype(_code_dtype(size)))
        first_children = np.flatnonzero(parting[starts] < level)
        row_start.append(np.append(first_children, len(starts)).astype(np.int32))
    return Trie(
        tokens=tuple(jnp.asarray(codes) for codes in tokens),
        row_start=tuple(jnp.asarray(starts) for starts in row_start),
        codebook_sizes=codebook_sizes,
        max_children=tuple(int(np.diff(starts).max()) for starts in row_start),
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
    bits = [max(size - 1, 1).bit_length() for size in sizes]
    if sum(bits) > 63:
        return np.lexsort(columns[::-1])
    # One 64-bit key a SID sorts several times faster than column by column.
    key = np.zeros(len(columns[0]), np.int64)
    for column, width in zip(columns, bits, strict=True):
        key = (key << width) | column
    if (key[1:] >= key[:-1]).all():
        return np.arange(len(key))
    return np.argsort(key, kind="stable")


def _code_dtype(size: int) -> type[np.integer]:
    if size <= 2**8:
        return np.uint8
    return np.uint16 if size <= 2**16 else np.int32
