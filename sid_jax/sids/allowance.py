"""Sets of leaves that searches may reach, as bits: a set a retailer, or a predicate.

A set holds a bit for each leaf and, for each place of the levels before the trie's
tail, the OR of those below it: a search tests a child by one look-up. Sets are combined
by their leaves (`&`, `|` on words), and what stands above is made anew (`lift`): the
AND of two inner nodes' bits says nothing of their leaves.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sid_jax.errors import InputError
from sid_jax.sids.trie import Trie, first_leaves
from sid_jax.typing import Array, Bool, Int, NDArray, UInt, typed

Name = TypeVar("Name", bound=Hashable)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Allowances:
    """A sets of leaves, and which of them each request is held to.

    Attributes:
      words: for each level before the tail, and for the leaves, uint32 `[A, W_l]` of 32
        places each, the first one in the lowest bit.
      rows: int32 `[B]`; None where each request has a set of its own, in order, so that
        devices that share requests need nothing of each other's.
    """

    words: tuple[Array, ...]
    rows: Array | NDArray | None


@typed
def pack_bits(bits: Bool[Array, "A n"]) -> UInt[Array, "A W"]:
    """32 bits a word, the first one lowest."""
    padded = jnp.pad(bits, ((0, 0), (0, -bits.shape[1] % 32)))
    parts = padded.reshape(len(bits), -1, 32).astype(jnp.uint32)
    return (parts << jnp.arange(32, dtype=jnp.uint32)).sum(axis=2, dtype=jnp.uint32)


@typed
def lift(trie: Trie, leaves: UInt[Array, "A W"]) -> tuple[UInt[Array, "A _"], ...]:
    """Words of each level before the tail, and of the leaves, from those of the leaves.

    Takes one pass over the leaves' words and one over the places above them.
    """
    sizes = lax.population_count(leaves).astype(jnp.int32)
    before = jnp.pad(jnp.cumsum(sizes, axis=1), ((0, 0), (1, 0)))
    padded = jnp.pad(leaves, ((0, 0), (0, 1)))
    levels = []
    for first in first_leaves(trie):
        below = (jnp.uint32(1) << (first & 31).astype(jnp.uint32)) - 1
        within = lax.population_count(padded[:, first >> 5] & below)
        reached = before[:, first >> 5] + within.astype(jnp.int32)
        levels.append(pack_bits(reached[:, 1:] > reached[:, :-1]))
    return *levels, leaves


@typed
def allow_leaves(trie: Trie, allowed: Bool[Array, "B U"]) -> Allowances:
    """A set for each request, from a mask of leaves."""
    words = lift(trie, pack_bits(allowed))
    return Allowances(words, None)


def check_allowances(allowances: Allowances, trie: Trie) -> None:
    """Raises InputError for sets that are not of a trie of these shapes."""
    levels = (*range(trie.tail), trie.num_levels - 1)
    wanted = [-(-trie.num_places(level) // 32) for level in levels]
    found = [words.shape[1] for words in allowances.words]
    if found != wanted:
        raise InputError(
            f"allowed: sets of {found} words a level, but the trie has {wanted}; make "
            "them by its own leaves"
        )


@typed
def allowed_slots(
    allowances: Allowances,
    trie: Trie,
    level: int,
    places: Int[Array, "B M C"],
    codes: Int[Array, "B M C"],
    ends: Int[Array, "B M"],
) -> Bool[Array, "B M C"]:
    """Which slots, as from `child_slots`, lead to an allowed leaf of their node.

    Where places are leaves, a slot speaks for all of its code that follow it.
    """
    words = allowances.words[min(level, trie.tail)]
    if allowances.rows is None:
        held = jax.vmap(lambda own, at: own[at])(words, places >> 5)
    else:
        held = words[jnp.asarray(allowances.rows)[:, None, None], places >> 5]
    held = (held >> (places & 31).astype(jnp.uint32)) & 1
    reached = (held > 0) & (places < ends[..., None])
    if level < trie.tail or level + 1 == trie.num_levels or places.shape[2] == 1:
        return reached
    following = lax.associative_scan(
        lambda later, one: jnp.where(one < 0, later, one),
        jnp.where(reached, codes, -1),
        reverse=True,
        axis=2,
    )
    return following == codes


@cache
def _writer(sharding: jax.sharding.Sharding) -> Callable[..., tuple[Array, ...]]:
    """Puts a set into a row; compiled once for all caches of tries of one shape."""

    def write(trie: Trie, words: tuple[Array, ...], row: Array, leaves: Array):
        lifted = lift(trie, leaves[None])
        return tuple(
            held.at[row].set(new[0]) for held, new in zip(words, lifted, strict=True)
        )

    return jax.jit(write, donate_argnums=1, out_shardings=sharding)


class AllowanceCache:
    """Sets on the device, by name; the one that was not asked for longest makes room.

    Whatever is in it, a search compiles once: sets come and go in arrays of one shape.
    """

    def __init__(self, trie: Trie, capacity: int, sharding: jax.sharding.Sharding):
        """No set is held yet.

        Args:
          trie: whose leaves sets are of.
          capacity: sets A that are held at once, each of about a bit a leaf.
          sharding: of the words.
        """
        if capacity < 1:
            raise InputError(f"a cache holds a set or more: capacity={capacity}")
        self._trie, self._capacity = trie, capacity
        self._row_of: OrderedDict[Hashable, int] = OrderedDict()
        none = jnp.zeros((capacity, -(-trie.num_leaves // 32)), jnp.uint32)
        self._words = jax.device_put(lift(trie, none), sharding)
        self._write, self._lock = _writer(sharding), threading.Lock()

    @contextmanager
    def lend(
        self,
        names: Sequence[Name],
        leaves_of: Callable[[Name], Int[NDArray, " n"]],
    ) -> Iterator[Allowances]:
        """As `take`, for a block that begins a search: other threads wait for its end,
        so that none brings a set in meanwhile.
        """
        with self._lock:
            yield self.take(names, leaves_of)

    @typed
    def take(
        self,
        names: Sequence[Name],
        leaves_of: Callable[[Name], Int[NDArray, " n"]],
    ) -> Allowances:
        """The set of each request; `rows` are NumPy's, to be placed with the batch.

        What an earlier call returned is void if this one brings a set in: threads that
        share a cache use `lend`.

        Args:
          names: of the sets, one a request.
          leaves_of: the leaves of a set that is not held.

        Raises:
          InputError: more sets at once than the cache holds, or a leaf outside.
        """
        wanted = set(names)
        if len(wanted) > self._capacity:
            raise InputError(
                f"{len(wanted)} sets at once, but the cache holds {self._capacity}; "
                "ask for fewer requests at a time"
            )
        for name in wanted & self._row_of.keys():
            self._row_of.move_to_end(name)
        for name in sorted(wanted - self._row_of.keys(), key=names.index):
            words = self._pack(name, leaves_of(name))
            full = len(self._row_of) == self._capacity
            row = self._row_of.popitem(last=False)[1] if full else len(self._row_of)
            self._words = self._write(self._trie, self._words, row, words)
            self._row_of[name] = row
        for name in names:
            self._row_of.move_to_end(name)
        rows = np.asarray([self._row_of[name] for name in names], np.int32)
        return Allowances(self._words, rows)

    def _pack(self, name: Hashable, leaves: NDArray) -> NDArray:
        outside = (leaves < 0) | (leaves >= self._trie.num_leaves)
        if outside.any():
            raise InputError(
                f"set {name!r}: leaf {leaves[outside][0]} is outside"
                f" 0..{self._trie.num_leaves - 1}"
            )
        bits = np.zeros(-(-self._trie.num_leaves // 32) * 32, bool)
        bits[leaves] = True
        return np.packbits(bits, bitorder="little").view("<u4")
