"""(retailer, SID) -> products: what a retailer carries, how it sold, and the ranking.

An item of a beam's SID weighs

    w = own + max(s, 0.001) / (1 + S),

own = the household's own purchases of it, s = its sales at the retailer, S = the sales
of all items that the retailer carries under that SID. The second term stays below 1, so
within a SID own purchases come first, then sales; what is carried but never sold comes
last. An item's score is its beam's score + log(w / sum of w over the SID's eligible
items): a SID's probability is shared out among its products.
"""

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from sid_jax.errors import InputError
from sid_jax.files import replacing
from sid_jax.typing import Bool, Float, Int, NDArray, Shaped, typed

_UNSOLD = 1e-3  # sales that a carried item without sales counts as


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
    """What each retailer carries: 8 bytes an entry, and 4 an item.

    Attributes:
      leaves: int32 `[N]`, the leaf of each item row.
      starts: int64 `[R + 1]`; retailer r carries entries `starts[r] : starts[r + 1]`.
      items: int32 `[E]`, the item of each entry; a retailer's entries are sorted by
        (leaf, item), no item twice.
      sales: float32 `[E]`, how many the retailer sold of it.
    """

    leaves: NDArray
    starts: NDArray
    items: NDArray
    sales: NDArray

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
    ) -> Bool[NDArray, "B U"]:
        """Leaves under which each retailer carries an item of the mask.

        Args:
          retailers: retailer indices.
          item_mask: eligible items, `[N]` for all requests or `[B, N]`; all when None.
          num_leaves: U, of a table whose last SIDs may be of items that are not here;
            up to the last leaf of those that are when None.

        Raises:
          InputError: unknown retailers, or a mask of another shape.
        """
        allowed = np.zeros((len(retailers), num_leaves or self.num_leaves), bool)
        allowed[self._reach(retailers, item_mask)] = True
        return allowed

    @typed
    def leaves_at(self, retailer: int) -> Int[NDArray, " n"]:
        """The leaves under which a retailer carries an item, each once, ascending."""
        requests = np.asarray([retailer], np.int32)
        return np.unique(self._reach(requests, None)[1])

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
        owned: tuple[Int[NDArray, "B X"], Shaped[NDArray, "B X"]] | None = None,
        exclude: Int[NDArray, "B Z"] | None = None,
    ) -> Products:
        """The best products of each request's beams, by the module's rule.

        Equal scores come in the order of beams, then of item rows.

        Args:
          leaves: a request's distinct SIDs, as from `beam_search`.
          scores: of the beams.
          valid: which beams are answers.
          retailers: retailer indices.
          top: products a request.
          item_mask: eligible items, `[N]` for all requests or `[B, N]`; all when None.
          owned: what the household bought: item rows, padded with -1, and how often;
            an item that stands twice counts for the sum.
          exclude: items never to answer, padded with -1.

        Raises:
          InputError: unknown retailers, a mask of another shape, or top < 1.
        """
        self._check(retailers, item_mask)
        if top < 1:
            raise InputError(f"top must be >= 1: {top}")
        batch, num_beams = leaves.shape
        first, end = self._find(retailers[:, None], np.where(valid, leaves, -1))
        entries, beams = _spread(first.ravel(), end.ravel())
        requests, items = beams // num_beams, self.items[entries]
        sold = self.sales[entries].astype(np.float64)
        total = np.bincount(beams, sold, minlength=leaves.size)
        weights = np.maximum(sold, _UNSOLD) / (1 + total[beams])
        if owned is not None:
            weights += self._amounts(requests, items, *owned)
        keep = _eligible(item_mask, requests, items)
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
        self, retailers: NDArray, item_mask: NDArray | None
    ) -> tuple[NDArray, NDArray]:
        """Request and leaf of each eligible entry."""
        self._check(retailers, item_mask)
        entries, requests = _spread(self.starts[retailers], self.starts[retailers + 1])
        items = self.items[entries]
        keep = _eligible(item_mask, requests, items)
        return requests[keep], self.leaves[items[keep]]

    def _check(self, retailers: NDArray, item_mask: NDArray | None) -> None:
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

    def _find(self, retailers: NDArray, leaves: NDArray) -> tuple[NDArray, NDArray]:
        """The entries `first : end` of (retailer, leaf) pairs; none for leaf -1."""
        starts = np.broadcast_to(self.starts[retailers], leaves.shape)
        ends = np.broadcast_to(self.starts[retailers + 1], leaves.shape)
        first = self._first_from(starts, ends, leaves)
        return first, self._first_from(first, ends, leaves + 1)

    def _first_from(self, first: NDArray, end: NDArray, leaves: NDArray) -> NDArray:
        """Bisects for the first entry in `first : end` of at least this leaf."""
        while (active := first < end).any():
            middle = (first + end) // 2
            entry = np.minimum(middle, len(self.items) - 1)
            below = active & (self.leaves[self.items[entry]] < leaves)
            end = np.where(active & ~below, middle, end)
            first = np.where(below, middle + 1, first)
        return first

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
) -> ItemIndex:
    """Builds the index from sales lines in any order; lines of one product add up.

    Args:
      leaves: the leaf of each item row, as `SidTable.leaves()`.
      retailers: of each line.
      items: of each line; a line says that the retailer carries the item.
      sales: of each line, how many were sold; 0 is welcome.
      num_retailers: R.

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
    return ItemIndex(
        leaves=leaves.astype(np.int32),
        starts=np.searchsorted(keys, np.arange(num_retailers + 1) * num_items),
        items=by_leaf[keys % max(num_items, 1)].astype(np.int32),
        sales=np.bincount(entry, sales, minlength=len(keys)).astype(np.float32),
    )


def save_index(path: str | Path, index: ItemIndex) -> None:
    """Writes the arrays as an `.npz`."""
    arrays = {field.name: getattr(index, field.name) for field in fields(index)}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load_index(path: str | Path) -> ItemIndex:
    """Reads what `save_index` wrote.

    Raises:
      InputError: an absent, damaged or other file.
    """
    try:
        with zipfile.ZipFile(path) as file:
            names = set(file.namelist())
        needed = [field.name for field in fields(ItemIndex)]
        if names != {f"{name}.npy" for name in needed}:
            raise InputError(f"{path} is no item index; it holds {sorted(names)}")
        with np.load(path, allow_pickle=False) as arrays:
            return ItemIndex(**{name: arrays[name] for name in needed})
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as an item index: {error}") from error


def _spread(first: NDArray, end: NDArray) -> tuple[NDArray, NDArray]:
    """Ranges -> all their members, and the range that each belongs to."""
    counts = end - first
    owners = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return np.arange(len(owners)) + (first - before)[owners], owners


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
