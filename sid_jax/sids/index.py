"""(retailer, SID) -> products: what a retailer carries, how it sold, and the ranking.

Products of one SID share its probability by weights, which a rule gives them. The rule
that stands here by default, `own_then_sales`, weighs an item

    w = own + max(s, 0.001) / (1 + S),

own = the household's own purchases of it, s = its sales at the retailer, S = the sales
of all items that the retailer carries under that SID. The second term stays below 1, so
within a SID own purchases come first, then sales; what is carried but never sold comes
last. An item's score is its beam's score + log(w / sum of w over the SID's eligible
items).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from sid_jax.errors import InputError
from sid_jax.sids.ranges import bisect_ranges, in_ranges
from sid_jax.typing import Bool, Float, Int, NDArray, Shaped, typed

_UNSOLD = 1e-3  # sales that a carried item without sales counts as


@dataclass(frozen=True, eq=False)
class Candidates:
    """n items that a retailer carries under a beam's SID, as a rule weighs them.

    Attributes:
      entries: int64 `[n]`, rows of the index, whose `columns` tell more.
      items: int32 `[n]`, item rows.
      sales: float64 `[n]`, how many the retailer sold.
      total: float64 `[n]`, of all that it carries under the same SID.
      owned: float64 `[n]`, how often the household bought the item.
    """

    entries: NDArray
    items: NDArray
    sales: NDArray
    total: NDArray
    owned: NDArray


Rule = Callable[[Candidates], NDArray]
"""Weights `[n]` of candidates, each above 0."""


def own_then_sales(candidates: Candidates) -> NDArray:
    """The module's rule: own purchases, then sales at the retailer."""
    sold = np.maximum(candidates.sales, _UNSOLD)
    return candidates.owned + sold / (1 + candidates.total)


@dataclass(frozen=True, eq=False)
class Products:
    """Each request's products, best first; fillers come last.

    Attributes:
      items: int32 `[B, top]` item rows; -1 for a filler. No item stands twice in a row.
      scores: float32 `[B, top]`; -inf for a filler.
      leaves: int32 `[B, top]`, the SID that each product came by; -1 for a filler.
      beam_yield: float32 `[B]`, the share of valid beams with an eligible product; 0
        without valid beams.
    """

    items: NDArray
    scores: NDArray
    leaves: NDArray
    beam_yield: NDArray

    def reorder(self, scores: Float[NDArray, "B top"], top: int) -> "Products":
        """The best `top` of them by other scores; ties keep their order.

        Args:
          scores: of each product; not read of fillers.
          top: products a request.
        """
        scores = np.where(self.items >= 0, scores, -np.inf).astype(np.float32)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        items, leaves, scores = (
            np.take_along_axis(each, order, axis=1)
            for each in (self.items, self.leaves, scores)
        )
        return Products(items, scores, leaves, self.beam_yield)


@dataclass(frozen=True, eq=False)
class ItemIndex:
    """What each retailer carries: 8 bytes an entry and those of `columns`, 4 an item.

    Attributes:
      leaves: int32 `[N]`, the leaf of each item row.
      starts: int64 `[R + 1]`; retailer r carries entries `starts[r] : starts[r + 1]`.
      items: int32 `[E]`, the item of each entry; a retailer's entries are sorted by
        (leaf, item), no item twice.
      sales: float32 `[E]`, how many the retailer sold of it.
      columns: what else is known of each entry, `[E]` each: a price, whether it is in
        stock.
    """

    leaves: NDArray
    starts: NDArray
    items: NDArray
    sales: NDArray
    columns: Mapping[str, NDArray] = field(default_factory=dict)

    @property
    def num_leaves(self) -> int:
        return int(self.leaves.max()) + 1

    @property
    def num_retailers(self) -> int:
        return len(self.starts) - 1

    @typed
    def allowed(
        self,
        retailers: Int[NDArray, " B"],
        item_mask: Bool[NDArray, "*b N"] | None = None,
        num_leaves: int | None = None,
        *,
        entry_mask: Bool[NDArray, " E"] | None = None,
    ) -> Bool[NDArray, "B U"]:
        """Leaves under which each retailer carries an item of the mask.

        Args:
          retailers: retailer indices.
          item_mask: eligible items, `[N]` for all requests or `[B, N]`; all when None.
          entry_mask: eligible entries, such as those in stock; all when None.
          num_leaves: U, of a table whose last SIDs may be of items that are not here;
            up to the last leaf of those that are when None.

        Raises:
          InputError: unknown retailers, or a mask of another shape.
        """
        allowed = np.zeros((len(retailers), num_leaves or self.num_leaves), bool)
        allowed[self._reach(retailers, item_mask, entry_mask)] = True
        return allowed

    @typed
    def leaves_at(self, retailer: int) -> Int[NDArray, " n"]:
        """The leaves under which a retailer carries an item, each once, ascending."""
        requests = np.asarray([retailer], np.int32)
        return np.unique(self._reach(requests, None)[1])

    @typed
    def entries_of(
        self, retailers: Int[NDArray, " B"], items: Int[NDArray, "B n"]
    ) -> Int[NDArray, "B n"]:
        """Rows of `items`, `sales` and `columns`; -1 where the item is not carried."""
        self._check(retailers, None)
        if not len(self.items):
            return np.full(items.shape, -1)
        known = np.clip(items, 0, len(self.leaves) - 1)
        first, end = self._find(retailers[:, None], self.leaves[known])
        entry = bisect_ranges(self.items.__getitem__, first, end, known)
        at = np.minimum(entry, len(self.items) - 1)
        there = (items == known) & (entry < end) & (self.items[at] == known)
        return np.where(there, entry, -1)

    @typed
    def counts(
        self,
        retailers: Int[NDArray, " B"],
        item_mask: Bool[NDArray, "*b N"] | None = None,
        num_leaves: int | None = None,
    ) -> Int[NDArray, "B U"]:
        """How many items of the mask each retailer carries under each leaf.

        Arguments and errors as in `allowed`.
        """
        shape = len(retailers), num_leaves or self.num_leaves
        requests, leaves = self._reach(retailers, item_mask)
        cells = np.ravel_multi_index((requests, leaves), shape)
        return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)

    @typed
    def products(
        self,
        leaves: Int[NDArray, "B M"],
        scores: Float[NDArray, "B M"],
        valid: Bool[NDArray, "B M"],
        retailers: Int[NDArray, " B"],
        *,
        top: int,
        item_mask: Bool[NDArray, "*b N"] | None = None,
        entry_mask: Bool[NDArray, " E"] | None = None,
        rule: Rule = own_then_sales,
        owned: tuple[Int[NDArray, "B X"], Shaped[NDArray, "B X"]] | None = None,
        exclude: Int[NDArray, "B Z"] | None = None,
    ) -> Products:
        """The best products of each request's beams.

        Equal scores come in the order of beams, then of item rows.

        Args:
          leaves: a request's distinct SIDs, as from `beam_search`.
          scores: of the beams.
          valid: which beams are answers.
          retailers: retailer indices.
          top: products a request.
          item_mask: eligible items, `[N]` for all requests or `[B, N]`; all when None.
          entry_mask: eligible entries, such as those in stock; all when None.
          rule: how products of one SID share its probability.
          owned: what the household bought: item rows, padded with -1, and how often;
            an item that stands twice counts for the sum.
          exclude: items never to answer, padded with -1.

        Raises:
          InputError: unknown retailers, a mask of another shape, or top < 1.
        """
        self._check(retailers, item_mask, entry_mask)
        if top < 1:
            raise InputError(f"top must be >= 1: {top}")
        batch, num_beams = leaves.shape
        first, end = self._find(retailers[:, None], np.where(valid, leaves, -1))
        beams, entries = in_ranges(first.ravel(), end.ravel())
        requests, items = beams // num_beams, self.items[entries]
        sold = self.sales[entries].astype(np.float64)
        total = np.bincount(beams, sold, minlength=leaves.size)
        bought = np.zeros(len(items))
        if owned is not None:
            bought = self._amounts(requests, items, *owned)
        weights = rule(Candidates(entries, items, sold, total[beams], bought))
        if np.shape(weights) != items.shape or not (weights > 0).all():
            raise InputError(
                f"the rule must give {len(items)} weights above 0, one a candidate"
            )
        keep = _eligible(item_mask, requests, items)
        if entry_mask is not None:
            keep &= entry_mask[entries]
        if exclude is not None:
            ones = np.ones(exclude.shape)
            keep &= self._amounts(requests, items, exclude, ones) == 0

        beams, items, weights = beams[keep], items[keep], weights[keep]
        shared = np.bincount(beams, weights, minlength=leaves.size)
        ranked = scores.ravel()[beams] + np.log(weights / shared[beams])
        row, rank, chosen = _best(ranked, beams // num_beams, batch, top)
        answer = Products(
            items=np.full((batch, top), -1, np.int32),
            scores=np.full((batch, top), -np.inf, np.float32),
            leaves=np.full((batch, top), -1, np.int32),
            beam_yield=_share(shared.reshape(batch, num_beams) > 0, valid),
        )
        answer.items[row, rank] = items[chosen]
        answer.scores[row, rank] = ranked[chosen]
        answer.leaves[row, rank] = leaves.ravel()[beams[chosen]]
        return answer

    def _reach(
        self,
        retailers: NDArray,
        item_mask: NDArray | None,
        entry_mask: NDArray | None = None,
    ) -> tuple[NDArray, NDArray]:
        """Request and leaf of each eligible entry."""
        self._check(retailers, item_mask, entry_mask)
        requests, entries = in_ranges(
            self.starts[retailers], self.starts[retailers + 1]
        )
        items = self.items[entries]
        keep = _eligible(item_mask, requests, items)
        if entry_mask is not None:
            keep &= entry_mask[entries]
        return requests[keep], self.leaves[items[keep]]

    def _check(
        self,
        retailers: NDArray,
        item_mask: NDArray | None,
        entry_mask: NDArray | None = None,
    ) -> None:
        unknown = (retailers < 0) | (retailers >= self.num_retailers)
        if unknown.any():
            raise InputError(
                f"no retailer {retailers[unknown][0]}; the index has 0 to"
                f" {self.num_retailers - 1}"
            )
        num_items = len(self.leaves)
        shapes = [(num_items,), (len(retailers), num_items)]
        if item_mask is not None and item_mask.shape not in shapes:
            raise InputError(
                f"item_mask of shape {item_mask.shape}, want one of {shapes}"
            )
        if entry_mask is not None and entry_mask.shape != self.items.shape:
            raise InputError(
                f"entry_mask of shape {entry_mask.shape}, want {self.items.shape}"
            )

    def _find(self, retailers: NDArray, leaves: NDArray) -> tuple[NDArray, NDArray]:
        """The entries `first : end` of (retailer, leaf) pairs; none for leaf -1."""
        starts = np.broadcast_to(self.starts[retailers], leaves.shape)
        ends = np.broadcast_to(self.starts[retailers + 1], leaves.shape)
        first = bisect_ranges(self._leaf_at, starts, ends, leaves)
        return first, bisect_ranges(self._leaf_at, first, ends, leaves + 1)

    def _leaf_at(self, entries: NDArray) -> NDArray:
        return self.leaves[self.items[entries]]

    def _amounts(
        self, requests: NDArray, items: NDArray, listed: NDArray, amounts: NDArray
    ) -> NDArray:
        """What a request's list (padded with -1) says of each (request, item)."""
        if not len(items):
            return np.zeros(0)
        # The candidates are few, the lists long: sort the few.
        num_items = np.int64(len(self.leaves))
        keys, place = np.unique(requests * num_items + items, return_inverse=True)
        rows = np.broadcast_to(np.arange(len(listed))[:, None], listed.shape)
        wanted = (rows * num_items + listed)[listed >= 0]
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        hits = keys[at] == wanted
        sums = np.bincount(at[hits], amounts[listed >= 0][hits], minlength=len(keys))
        return sums[place]


@typed
def build_index(
    leaves: Int[NDArray, " N"],
    retailers: Int[NDArray, " P"],
    items: Int[NDArray, " P"],
    sales: Shaped[NDArray, " P"],
    num_retailers: int,
    columns: Mapping[str, Shaped[NDArray, " P"]] | None = None,
) -> ItemIndex:
    """Builds the index from sales lines in any order; lines of one product add up.

    Args:
      leaves: the leaf of each item row, as `SidTable.leaves()`.
      retailers: of each line.
      items: of each line; a line says that the retailer carries the item.
      sales: of each line, how many were sold; 0 is welcome.
      num_retailers: R.
      columns: what else each line says of its product there; of several lines of one
        product at one retailer, the last one says it.

    Raises:
      InputError: retailers, items, leaves or sales out of range.
    """
    num_items = len(leaves)
    _check_range("leaf", leaves, np.iinfo(np.int32).max)
    _check_range("retailer", retailers, num_retailers)
    _check_range("item", items, num_items)
    wrong = np.flatnonzero(~(np.isfinite(sales) & (sales >= 0)))
    if len(wrong):
        raise InputError(
            f"line {wrong[0]}: sales {sales[wrong[0]]} are not a number >= 0; leave"
            " returns out"
        )
    by_leaf = np.argsort(leaves, kind="stable")
    place = np.empty(num_items, np.int64)
    place[by_leaf] = np.arange(num_items)
    keys, entry = np.unique(
        retailers.astype(np.int64) * num_items + place[items], return_inverse=True
    )
    for name, column in (columns or {}).items():
        if column.dtype == object:
            raise InputError(f"column {name!r} holds objects; give it a NumPy type")
    last = np.zeros(len(keys), np.int64)
    np.maximum.at(last, entry, np.arange(len(entry)))
    return ItemIndex(
        leaves=leaves.astype(np.int32),
        starts=np.searchsorted(keys, np.arange(num_retailers + 1) * num_items),
        items=by_leaf[keys % max(num_items, 1)].astype(np.int32),
        sales=np.bincount(entry, sales, minlength=len(keys)).astype(np.float32),
        columns={name: column[last] for name, column in (columns or {}).items()},
    )


def _eligible(mask: NDArray | None, requests: NDArray, items: NDArray) -> NDArray:
    if mask is None:
        return np.ones(len(items), bool)
    return mask[items] if mask.ndim == 1 else mask[requests, items]


def _best(
    scores: NDArray, requests: NDArray, batch: int, top: int
) -> tuple[NDArray, NDArray, NDArray]:
    """Request, rank and position of the best candidates; ties keep their order."""
    order = np.lexsort((-scores, requests))
    counts = np.bincount(requests, minlength=batch)
    row = requests[order]
    rank = np.arange(len(order)) - (np.cumsum(counts) - counts)[row]
    kept = rank < top
    return row[kept], rank[kept], order[kept]


def _share(served: NDArray, valid: NDArray) -> NDArray:
    return (served.sum(axis=1) / np.maximum(valid.sum(axis=1), 1)).astype(np.float32)


def _check_range(name: str, values: NDArray, size: int) -> None:
    wrong = np.flatnonzero((values < 0) | (values >= size))
    if len(wrong):
        raise InputError(
            f"position {wrong[0]}: {name} {values[wrong[0]]} is outside 0..{size - 1}"
        )
