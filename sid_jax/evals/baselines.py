"""What needs no training: best sellers, the household's own, the rule, and neighbours.

Each takes a batch of requests and returns a ranked list a request: only items that
the store carries (sold in the training baskets: anything else would be a sure miss),
none that the basket already holds, no item twice, -1 behind the last.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sid_jax.errors import InputError
from sid_jax.evals.ranking import pack
from sid_jax.typing import Float, Int, NDArray, typed

LAST = 3
"""Products that `nearest` is told of, where nothing else says."""
_AT_ONCE = 256  # requests whose scores of all items are held


@dataclass(frozen=True, eq=False)
class StoreSales:
    """What each retailer sold, best seller first; built by `count_sales`.

    Attributes:
      offsets: retailer r carries items[offsets[r] : offsets[r + 1]].
      items: item rows, by sales, then by lower row.
      sales: how often the retailer sold each.
    """

    offsets: Int[NDArray, " R+1"]
    items: Int[NDArray, " P"]
    sales: Int[NDArray, " P"]

    @typed
    def of(
        self, retailers: Int[NDArray, " B"], items: Int[NDArray, "B X"]
    ) -> Int[NDArray, "B X"]:
        """Sales of each item at its row's retailer; -1 where it is not carried."""
        self._check(retailers)
        keys, sales = self._lookup
        if not len(keys):
            return np.full(items.shape, -1, np.int64)
        wanted = retailers[:, None] * self._span + items
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        known = (items >= 0) & (items < self._span) & (keys[place] == wanted)
        return np.where(known, sales[place], -1)

    @typed
    def top(self, retailers: Int[NDArray, " B"], k: int) -> Int[NDArray, "B k"]:
        """The first k items of each retailer; -1 behind the last."""
        self._check(retailers)
        place = self.offsets[retailers][:, None] + np.arange(k)
        held = place < self.offsets[retailers + 1][:, None]
        items = np.append(self.items, -1)  # a place to read from when all is empty
        return np.where(held, items[np.minimum(place, len(self.items))], -1)

    @property
    def retailers(self) -> Int[NDArray, " P"]:
        """Retailer of each of `items`."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def _span(self) -> int:
        return int(self.items.max(initial=-1)) + 1

    @cached_property
    def _lookup(self) -> tuple[NDArray, NDArray]:
        keys = self.retailers * self._span + self.items
        order = np.argsort(keys)
        return keys[order], self.sales[order]

    def _check(self, retailers: NDArray) -> None:
        bad = (retailers < 0) | (retailers >= len(self.offsets) - 1)
        if bad.any():
            raise InputError(
                f"request {bad.argmax()}: retailer {retailers[bad.argmax()]} is not "
                f"among the {len(self.offsets) - 1} retailers that sales were counted "
                "for; count the sales with a larger num_retailers"
            )


@typed
def count_sales(
    retailers: Int[NDArray, " P"],
    items: Int[NDArray, " P"],
    num_retailers: int,
    sales: Int[NDArray, " P"] | None = None,
) -> StoreSales:
    """Ranks each retailer's items by sales.

    Args:
      retailers: retailer of each line of the training baskets.
      items: item row of each line.
      num_retailers: R; a retailer without a line carries nothing.
      sales: how often each line was sold; once if absent. Repeated pairs are summed.
    """
    if len(items) and (
        min(items.min(), retailers.min()) < 0 or retailers.max() >= num_retailers
    ):
        raise InputError(
            "sales lines must name items >= 0 and retailers from 0 to "
            f"{num_retailers - 1}; drop the other lines before counting"
        )
    span = int(items.max(initial=-1)) + 1
    pairs, line = np.unique(
        retailers.astype(np.int64) * span + items, return_inverse=True
    )
    total = np.zeros(len(pairs), np.int64)
    np.add.at(total, line, 1 if sales is None else sales)
    retailer, item = np.divmod(pairs, max(span, 1))
    order = np.lexsort((item, -total, retailer))
    offsets = np.searchsorted(retailer, np.arange(num_retailers + 1))
    return StoreSales(offsets, item[order], total[order])


@typed
def popular(
    store: StoreSales,
    retailers: Int[NDArray, " B"],
    k: int,
    exclude: Int[NDArray, "B Z"] | None = None,
) -> Int[NDArray, "B k"]:
    """The store's best sellers; ties by lower row.

    Args:
      store: sales of the training baskets.
      retailers: the store of each request.
      k: length of the list.
      exclude: items already in the basket, padded with -1.
    """
    spare = 0 if exclude is None else exclude.shape[1]
    ranked = store.top(retailers, k + spare)
    return pack(ranked, ranked >= 0, exclude, k)


@typed
def repeats(
    store: StoreSales,
    retailers: Int[NDArray, " B"],
    owned: tuple[Int[NDArray, "B X"], Int[NDArray, "B X"]],
    k: int,
    exclude: Int[NDArray, "B Z"] | None = None,
) -> Int[NDArray, "B k"]:
    """What the household bought most often; ties by store sales, then by lower row.

    Args:
      store: sales of the training baskets.
      retailers: the store of each request.
      owned: items that the household bought, padded with -1, each once; and how often.
      k: length of the list.
      exclude: items already in the basket, padded with -1.
    """
    ranked, kept = _own(store, retailers, owned)
    return pack(ranked, kept, exclude, k)


@typed
def rule(
    store: StoreSales,
    retailers: Int[NDArray, " B"],
    owned: tuple[Int[NDArray, "B X"], Int[NDArray, "B X"]],
    k: int,
    exclude: Int[NDArray, "B Z"] | None = None,
) -> Int[NDArray, "B k"]:
    """The rule alone: the list of `repeats`, then the store's best sellers.

    It is the order that the index gives to products of one SID, with no SID in it, so
    that what a model adds to it shows. Arguments as in `repeats`.
    """
    own, kept = _own(store, retailers, owned)
    own = pack(own, kept, exclude, min(k, own.shape[1]))
    spare = own.shape[1] + (0 if exclude is None else exclude.shape[1])
    ranked = np.concatenate([own, store.top(retailers, k + spare)], axis=1)
    return pack(ranked, ranked >= 0, exclude, k)


@typed
def nearest(
    store: StoreSales,
    retailers: Int[NDArray, " B"],
    vectors: Float[NDArray, "N D"],
    history: Int[NDArray, "B S"],
    k: int,
    exclude: Int[NDArray, "B Z"] | None = None,
    *,
    decay: float = 0.7,
) -> Int[NDArray, "B k"]:
    """What is like the last products: by cosine with the sum of their unit vectors.

    The last one weighs 1, the one before it `decay`, and so on. Ties, among them all
    items where there is no history, are by store sales.

    Args:
      store: sales of the training baskets.
      retailers: the store of each request.
      vectors: of each item of the catalog.
      history: item rows, the last one last; -1 where absent.
      k: length of the list.
      exclude: items already in the basket, padded with -1.
      decay: of the weight, a product.
    """
    units = unit_rows(vectors)
    wanted = last_vectors(units, history, decay)
    if exclude is None:
        exclude = np.zeros((len(retailers), 0), np.int32)
    store._check(retailers)
    found = np.full((len(retailers), k), -1, np.int32)
    for retailer in np.unique(retailers):
        first, end = store.offsets[retailer : retailer + 2]
        carried = store.items[first:end]
        asking = np.flatnonzero(retailers == retailer)
        for rows in np.array_split(asking, -(-len(asking) // _AT_ONCE)):
            scores, hidden = wanted[rows] @ units[carried].T, exclude[rows]
            # The best k that are not hidden are among the best k + hidden ones.
            number = min(k + hidden.shape[1], len(carried))
            ranked = carried[_largest(scores, number)]
            found[rows] = pack(ranked, ranked >= 0, hidden, k)
    return found


@typed
def last_vectors(
    units: Float[NDArray, "N D"], history: Int[NDArray, "B S"], decay: float = 0.7
) -> Float[NDArray, "B D"]:
    """Sum of the last products' vectors: the last one's weighs 1, the one's before it
    `decay`, and so on. Arguments as in `nearest`; 0 where there is no history.
    """
    real = history >= 0
    ago = real.sum(axis=1, keepdims=True) - np.cumsum(real, axis=1)
    weights = np.where(real, decay**ago, 0).astype(np.float32)
    return (units[np.maximum(history, 0)] * weights[..., None]).sum(axis=1)


@typed
def unit_rows(vectors: Float[NDArray, "*b D"]) -> Float[NDArray, "*b D"]:
    """Vectors of length 1, float32; 0 stays 0."""
    vectors = vectors.astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)


def _largest(scores: NDArray, number: int) -> NDArray:
    """Columns of each row's largest scores, in their order; of equal ones the first."""
    if not number:
        return np.zeros((len(scores), 0), np.int64)
    least = np.partition(scores, scores.shape[1] - number, axis=1)[:, -number]
    places = (
        np.flatnonzero(row >= low) for row, low in zip(scores, least, strict=True)
    )
    return np.stack(
        [
            at[np.argsort(-row[at], kind="stable")[:number]]
            for at, row in zip(places, scores, strict=True)
        ]
    )


def _own(
    store: StoreSales, retailers: NDArray, owned: tuple[NDArray, NDArray]
) -> tuple[NDArray, NDArray]:
    """Owned items by (count, store sales), and which of them may be listed."""
    items, counts = owned
    sales = store.of(retailers, items)
    order = np.lexsort((items, -sales, -counts), axis=1)
    kept = (sales >= 0) & (counts > 0)
    return np.take_along_axis(items, order, 1), np.take_along_axis(kept, order, 1)
