"""Items that are bought together: mined from baskets or sequences, drawn as batches.

PLUM (YouTube, arXiv 2510.07784) contrasts co-watched pairs. How they are found is ours:

  pmi(i, j) = log P(i, j) / (P(i) P(j))

P is over the ordered pairs (e, e') of a user's baskets at most `window` apart, a basket
with itself included: how often i is in e, j in e', and both. With window 0 exp(pmi) is
the lift of two items in baskets.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from sid_jax.data.catalog import Catalog, Interactions
from sid_jax.data.parquet import read_parquet
from sid_jax.errors import InputError
from sid_jax.typing import Bool, Float, Int, NDArray, typed

_BLOCK = 1 << 24
"""Products of two purchases that are held at a time, at most (but for one item's)."""


PAIRS = pa.schema(
    {
        "left": pa.string(),
        "right": pa.string(),
        "count": pa.int32(),
        "pmi": pa.float32(),
    }
)
"""Columns of a file of pairs, in any order: two item ids, their count and PMI."""


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """What counts as bought together; see `mine_pairs` and `pair_stream`.

    Attributes:
      batch_pairs: pairs a step.
      min_support: occurrences together that a pair has at least.
      min_pmi: pointwise mutual information that it has at least.
      window: 0 looks within baskets; n also at baskets of one user at most n apart.
      max_basket: longer baskets are left out.
      power: a pair is drawn in proportion to count^power.
      file: pairs that `sid prepare` has mined, in place of those that the above finds.
    """

    batch_pairs: int = 128
    min_support: int = 5
    min_pmi: float = 0.0
    window: int = 0
    max_basket: int = 64
    power: float = 0.0
    file: str = ""

    def __post_init__(self):
        if self.batch_pairs < 1:
            raise InputError(f"pairs.batch_pairs={self.batch_pairs} must be positive")
        _check(self.min_support, self.min_pmi, self.window, self.max_basket, self.power)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Co-occurring items, sorted by left, then right; each pair once.

    Attributes:
      left, right: int32 [n], item rows; left < right.
      count: int32 [n], how often they occur together.
      pmi: float32 [n], pointwise mutual information, in nats.
    """

    left: Int[NDArray, " n"]
    right: Int[NDArray, " n"]
    count: Int[NDArray, " n"]
    pmi: Float[NDArray, " n"]

    def __len__(self) -> int:
        return len(self.left)


def mine_pairs(
    data: Interactions,
    num_items: int,
    *,
    min_support: int = 5,
    min_pmi: float = 0.0,
    window: int = 0,
    max_basket: int = 64,
) -> Pairs:
    """The pairs of items that occur together often, and more often than by chance.

    Args:
      data: the training baskets alone: what is held out must not be mined.
      num_items: rows of the catalog.
      min_support: occurrences together that a pair has at least.
      min_pmi: that it has at least. High values of rare pairs are noise: raise
        `min_support` before this.
      window: 0 looks within baskets; n also at baskets of one user at most n apart, as
        sequences need, whose baskets hold one item.
      max_basket: a basket of more items tells little of any two; it is left out, as if
        it had never been.

    Raises:
      InputError: a number out of range, or an item that is not in the catalog.
    """
    _check(min_support, min_pmi, window, max_basket)
    if data.items.max(initial=-1) >= num_items:
        raise InputError(
            f"interactions name item row {data.items.max()}, but the catalog has "
            f"{num_items} items"
        )
    bought, near = _lay_out(data, num_items, window, max_basket)
    units = int(near.sum())
    # In how many units each item stands first: no pair of it can have more.
    marginal = np.asarray(bought.T @ near.sum(axis=1)).ravel().astype(np.int64)
    kept = np.flatnonzero(marginal >= min_support)
    bought, marginal = bought[:, kept], marginal[kept]
    around = near @ bought
    found = [np.zeros((4, 0))]
    for block in _blocks(bought, around):
        counts = (bought[:, block].T @ around).tocoo()
        left, right = counts.row + block.start, counts.col
        enough = (left < right) & (counts.data >= min_support)
        left, right, count = left[enough], right[enough], counts.data[enough]
        pmi = pointwise(count, marginal[left], marginal[right], units)
        good = pmi >= min_pmi
        found.append(np.stack([left, right, count, pmi])[:, good])
    left, right, count, pmi = np.concatenate(found, axis=1)
    order = np.lexsort((right, left))
    return Pairs(
        left=kept[left[order].astype(np.int64)].astype(np.int32),
        right=kept[right[order].astype(np.int64)].astype(np.int32),
        count=count[order].astype(np.int32),
        pmi=pmi[order].astype(np.float32),
    )


def pointwise(count: NDArray, left: NDArray, right: NDArray, units: int) -> NDArray:
    """PMI in nats, float64, by how often a pair occurs, and each item of it, int64."""
    return np.log(count * float(units) / (left.astype(np.float64) * right))


def read_pairs(path: str | Path, catalog: Catalog) -> Pairs:
    """What `sid prepare --pairs` has written, as `mine_pairs` gives it.

    Raises:
      InputError: no such file, or an item that the catalog does not have.
    """
    try:
        table = read_parquet(path).cast(PAIRS)
    except (ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: no file of pairs ({error})") from None
    ends = [catalog.rows(table[name].to_pylist()) for name in ("left", "right")]
    left, right = np.minimum(*ends), np.maximum(*ends)
    order = np.lexsort((right, left))
    return Pairs(
        left=left[order],
        right=right[order],
        count=table["count"].to_numpy()[order],
        pmi=table["pmi"].to_numpy()[order],
    )


def pair_stream(
    pairs: Pairs,
    num_items: int,
    batch_pairs: int,
    *,
    seed: int,
    power: float = 0.0,
    process: int = 0,
    num_processes: int = 1,
) -> Callable[[int], dict[str, NDArray]]:
    """Batches of n pairs, drawn independently, for `losses.cooccurrence_loss`.

    Args:
      pairs: to draw from; they are also the known pairs that are not contrasted.
      num_items: rows of the catalog.
      batch_pairs: n, pairs of the global batch; a multiple of `num_processes`.
      seed: of the draws.
      power: a pair is drawn in proportion to count^power; 0 draws all alike.
      process: index of this process.
      num_processes: processes P.

    Returns:
      `stream(step)` -> this process's slice of 2n items, a function of seed and step
      alone: `{"items": int32 [2n / P], "log_prob": float32 [2n / P], "excluded": bool
      [2n / P, 2n]}`. Rows 2i and 2i + 1 of `items` are a pair, `log_prob` is the log of
      how likely each item is to fill a row, and `excluded` tells of each column of the
      global batch whether it holds the row's own item, or one that the row's item is
      known to occur with; the row's partner is False.

    Raises:
      InputError: no pairs, or a number out of range.
    """
    if batch_pairs < 1 or batch_pairs % num_processes:
        raise InputError(
            f"batch_pairs {batch_pairs} does not divide among {num_processes} processes"
        )
    _check(power=power)
    if not len(pairs):
        raise InputError(
            "no two items occur together often enough; lower min_support or min_pmi, "
            "or raise window (sequences need 1 or more)"
        )
    weights = (pairs.count / pairs.count.max()) ** power
    odds = np.cumsum(weights) / weights.sum()
    both = np.stack([pairs.left, pairs.right], axis=1)
    likely = np.bincount(both.ravel(), np.repeat(weights, 2), num_items)
    with np.errstate(divide="ignore"):  # an item of no pair is never drawn
        log_prob = np.log(likely / likely.sum()).astype(np.float32)
    keys = np.sort(both @ np.asarray([num_items, 1], np.int64))
    share = 2 * batch_pairs // num_processes
    rows = np.arange(process * share, (process + 1) * share)

    def stream(step: int) -> dict[str, NDArray]:
        rng = np.random.default_rng((seed, step))
        drawn = np.searchsorted(odds[:-1], rng.random(batch_pairs))
        items = both[drawn].ravel()
        excluded = _find_known(keys, num_items, items)[rows]
        excluded[np.arange(share), rows ^ 1] = False
        return {
            "items": items[rows],
            "log_prob": log_prob[items[rows]],
            "excluded": excluded,
        }

    return stream


def _lay_out(
    data: Interactions, num_items: int, window: int, max_basket: int
) -> tuple[sp.csr_array, sp.csr_array]:
    """What stands in each basket [E, N], and which baskets are near [E, E]."""
    sizes = np.diff(data.offsets)
    short = sizes <= max_basket
    items = data.items[np.repeat(short, sizes)]
    user, sizes = data.user[short], sizes[short]
    E = len(user)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    ones = np.ones(len(items), np.int32)
    bought = sp.csr_array((ones, items, starts), shape=(E, num_items))
    each = np.arange(E)
    near = sp.csr_array((np.ones(E, np.int32), (each, each)), shape=(E, E))
    for lag in range(1, min(window, E - 1) + 1):
        first = np.flatnonzero(user[lag:] == user[:-lag])
        if not len(first):
            break
        ones = np.ones(len(first), np.int32)
        after = sp.csr_array((ones, (first, first + lag)), shape=(E, E))
        near = near + after + after.T
    return bought, sp.csr_array(near)


def _blocks(bought: sp.csr_array, around: sp.csr_array) -> list[slice]:
    """Ranges of items whose products with what is around them are few enough."""
    work = np.cumsum(bought.T @ np.diff(around.indptr).astype(np.int64))
    cuts = np.flatnonzero(np.diff(work // _BLOCK)) + 1
    bounds = [0, *cuts.tolist(), len(work)]
    return [slice(a, b) for a, b in pairwise(bounds) if a < b]


@typed
def _find_known(
    keys: Int[NDArray, " n"], num_items: int, items: Int[NDArray, " b"]
) -> Bool[NDArray, "b b"]:
    """Whether two rows hold one item, or a known pair: left * num_items + right."""
    different, place = np.unique(items, return_inverse=True)
    wanted = different[:, None] * np.int64(num_items) + different
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    known = keys[at] == wanted
    known |= known.T | np.eye(len(different), dtype=bool)
    return known[place[:, None], place]


def _check(
    min_support: int = 1,
    min_pmi: float = 0.0,
    window: int = 0,
    max_basket: int = 1,
    power: float = 0.0,
) -> None:
    for name, value, least in (
        ("min_support", min_support, 1),
        ("window", window, 0),
        ("max_basket", max_basket, 1),
    ):
        if value < least:
            raise InputError(f"{name}={value} must be at least {least}")
    if not np.isfinite(min_pmi):
        raise InputError(f"min_pmi={min_pmi} must be a finite number")
    if not 0 <= power < float("inf"):
        raise InputError(f"power={power} must be a number of at least 0")
