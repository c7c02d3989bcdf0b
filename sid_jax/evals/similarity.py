"""Whether alike items share leading codes: similarity against depth.

    similarity-depth  Spearman's rho of cosine(x_i, x_j) and the number of leading
                      levels that the SIDs of i and j share

Rho depends on how pairs are drawn, so three strata are fixed and always given apart:
`near` (2,000 random anchors, each with its 50 nearest neighbours by cosine),
`uniform` (as many random pairs, nearly all of depth 0) and `half` (both pooled).
Intervals are percentiles of a bootstrap that resamples anchors with all their pairs,
since the neighbours of an anchor are alike, and uniform pairs one by one.

Of a subset of the items, the anchors and one item of each uniform pair are drawn from
the subset; neighbours and the other item come from the whole catalog.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sid_jax.data.taxonomy import Taxonomy
from sid_jax.evals.usage import prefix_nodes
from sid_jax.typing import Float, Int, NDArray, typed

CLOSE = 0.9
"""Cosine from which two items count as alike."""

BINS = (-1.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
"""Edges of the bins of cosine for which the share by level is given."""

_CELLS = 2**25  # cosines that are held at once
_MOST_PRODUCTS = 1.3e11  # of numbers, for all cosines: more items, fewer anchors
_STRIDE = 64  # of the sample of a row that tells where its top begins
_BLOCK = 2**16  # unit vectors that are summed at once


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of items.

    Attributes:
      left, right: item rows.
      cosine: of their vectors.
      depth: leading levels that their SIDs share.
      draw: the draw that a pair belongs to, which the bootstrap keeps together.
    """

    left: Int[NDArray, " P"]
    right: Int[NDArray, " P"]
    cosine: Float[NDArray, " P"]
    depth: Int[NDArray, " P"]
    draw: Int[NDArray, " P"]

    def __add__(self, other: "Pairs") -> "Pairs":
        """Both, each draw still apart."""
        first = int(self.draw.max(initial=-1)) + 1
        return Pairs(
            np.append(self.left, other.left),
            np.append(self.right, other.right),
            np.append(self.cosine, other.cosine),
            np.append(self.depth, other.depth),
            np.append(self.draw, other.draw + first),
        )


@typed
def similarity_depth(
    codes: Int[NDArray, "N L"],
    vectors: Float[NDArray, "N D"],
    num_anchors: int = 2000,
    num_neighbours: int = 50,
    close: float = CLOSE,
    seed: int = 0,
    *,
    rows: Int[NDArray, " n"] | None = None,
    taxonomy: Taxonomy | None = None,
    resamples: int = 200,
) -> dict[str, float]:
    """Whether alike items share leading codes, over sampled pairs.

    Items whose vector equals the anchor's are neighbours like any other (cosine 1,
    and, from any deterministic tokenizer, full depth). In a catalog with many such
    copies they crowd the near stratum; judge distinct vectors to leave them out.

    Args:
      codes: SID of each item.
      vectors: what was tokenized; cosines are of these as they are.
      num_anchors: anchors of the near stratum, at most as many as items, and fewer
        where their cosines with all items would take long (1.3e11 products of numbers:
        from a million vectors of width 64 on).
      num_neighbours: nearest neighbours an anchor, at most N - 1.
      close: cosine from which a near pair counts for `share@l`.
      seed: of anchors, uniform pairs and bootstrap.
      rows: the items to judge; all if None.
      taxonomy: adds `rho_lca_*`.
      resamples: of the bootstrap; 0 leaves the intervals out.

    Returns:
      `rho_near`, `rho_uniform`, `rho_half`: Spearman's rho, ties by average rank, NaN
      where all cosines or all depths are equal; with `_low` and `_high` the ends of
      its bootstrap 95% interval; `share@l`: share of the near pairs of cosine >=
      `close` with the first l levels in common, NaN without such pairs; the same as
      `share_0.4-0.6@l` for the pairs of half in each of `BINS`; `rho_lca_near` and so
      on: rho of the depth of the lowest common category and the shared depth, over
      the pairs with both paths known; `anchors` and `alike_pairs`: how many.
    """
    rng = np.random.default_rng(seed)
    near, uniform = draw_pairs(codes, vectors, rng, num_anchors, num_neighbours, rows)
    strata = {"near": near, "uniform": uniform, "half": near + uniform}
    metrics = {"anchors": float(near.draw.max(initial=-1) + 1)}
    for name, pairs in strata.items():
        ranked = _Ranked(pairs.cosine, pairs.depth, pairs.draw)
        metrics[f"rho_{name}"] = ranked.rho()
        if resamples:
            low, high = ranked.interval(rng, resamples)
            metrics |= {f"rho_{name}_low": low, f"rho_{name}_high": high}
        if taxonomy is not None:
            ends = taxonomy.leaf[pairs.left], taxonomy.leaf[pairs.right]
            kept = np.minimum(*ends) >= 0
            common = taxonomy.common_depth(*ends)[kept]
            rank = _Ranked(common, pairs.depth[kept], pairs.draw[kept])
            metrics[f"rho_lca_{name}"] = rank.rho()
    alike = near.depth[near.cosine >= close]
    metrics["alike_pairs"] = float(len(alike))
    metrics |= _shares("share", alike, codes.shape[1])
    # The last bin takes in 1, and what rounding puts above it.
    bins = np.digitize(strata["half"].cosine, BINS[1:-1])
    for place, ends in enumerate(pairwise(BINS)):
        depth = strata["half"].depth[bins == place]
        metrics |= _shares(name_bin(*ends), depth, codes.shape[1])
    return metrics


def name_bin(low: float, high: float) -> str:
    """What the shares of a bin of cosine are called, such as `share_0.4-0.6`."""
    return f"share_below_{high:g}" if low == BINS[0] else f"share_{low:g}-{high:g}"


@typed
def draw_pairs(
    codes: Int[NDArray, "N L"],
    vectors: Float[NDArray, "N D"],
    rng: np.random.Generator,
    num_anchors: int = 2000,
    num_neighbours: int = 50,
    rows: Int[NDArray, " n"] | None = None,
) -> tuple[Pairs, Pairs]:
    """The strata `near` and `uniform`, of one size; arguments as above."""
    units = _units(vectors)
    count = len(units)
    pool = np.arange(count) if rows is None else rows
    most = max(1, int(_MOST_PRODUCTS // max(units.size, 1)))
    anchors = rng.choice(pool, min(num_anchors, len(pool), most), replace=False)
    left, right = _nearest(units, anchors, min(num_neighbours, count - 1))
    draw = np.repeat(np.arange(len(anchors)), len(left) // max(len(anchors), 1))
    near = Pairs(left, right, *_compare(codes, units, left, right), draw)
    # A random other item: shift by 1 .. N - 1, so that no pair is (i, i).
    first = pool[rng.integers(max(len(pool), 1), size=len(left))]
    shift = rng.integers(1, max(count, 2), size=len(left))
    other = (first + shift) % max(count, 1)
    each = np.arange(len(first))
    return near, Pairs(first, other, *_compare(codes, units, first, other), each)


@typed
def coherence(
    codes: Int[NDArray, "N L"], vectors: Float[NDArray, "N D"]
) -> dict[str, float]:
    """Mean cosines of items under one prefix, exact over all pairs.

    The cosines of the pairs of a set sum to (||sum of units||^2 - number) / 2, so no
    pair has to be looked at.

    Returns:
      `coherence@l`: mean cosine of the pairs that share the first l levels (each pair
      counts once, so large prefixes weigh most); `cosine@d`, from d = 0: mean cosine
      of the pairs that share d levels and no more. NaN where there is no such pair.
    """
    num_levels = codes.shape[1]
    cosines, pairs = np.zeros(num_levels + 2), np.zeros(num_levels + 2)
    nodes = prefix_nodes(codes)
    order = np.argsort(nodes[:, -1], kind="stable")
    for level in range(num_levels + 1):
        node = nodes[order, level - 1] if level else np.zeros(len(codes), np.int32)
        sizes = np.bincount(node, minlength=1).astype(np.float64)
        pairs[level] = np.sum(sizes * (sizes - 1)) / 2
    squares, length = _sums(nodes, order, vectors)
    cosines[:-1] = (squares - length) / 2
    metrics = {
        f"coherence@{level}": _mean(cosines[level], pairs[level])
        for level in range(1, num_levels + 1)
    }
    exact, number = -np.diff(cosines), -np.diff(pairs)
    for depth in range(num_levels + 1):
        metrics[f"cosine@{depth}"] = _mean(exact[depth], number[depth])
    return metrics


class _Ranked:
    """Spearman's rho of two columns, also with every draw taken several times.

    Sorted once: a row of weight w is w equal rows, so ranks are sums of weights.
    """

    def __init__(self, x: NDArray, y: NDArray, draw: NDArray):
        order = np.argsort(x, kind="stable")
        self._starts = np.flatnonzero(np.diff(x[order], prepend=np.nan) != 0)
        self._ties = np.diff(self._starts, append=len(x))
        self._y, self._draw = y[order].astype(np.int64), draw[order]
        self._defined = len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0

    def rho(self, times: NDArray | None = None) -> float:
        """Rho; NaN where one side is constant. `times`: weight of each draw."""
        if not self._defined:
            return float("nan")
        weight = np.ones(len(self._y)) if times is None else times[self._draw]
        x = self._midranks(np.add.reduceat(weight, self._starts))
        x = x if len(x) == len(weight) else np.repeat(x, self._ties)
        y = self._midranks(np.bincount(self._y, weight))[self._y]
        total = weight.sum()
        if not total:
            return float("nan")
        x = x - _dot(weight, x) / total
        y = y - _dot(weight, y) / total
        heavy = weight * x
        square = _dot(heavy, x) * _dot(weight * y, y)
        return _dot(heavy, y) / math.sqrt(square) if square > 0 else float("nan")

    def interval(self, rng: np.random.Generator, resamples: int) -> tuple[float, float]:
        """Ends of the bootstrap's 95% interval (percentiles)."""
        if not self._defined:
            return float("nan"), float("nan")
        _, draw = np.unique(self._draw, return_inverse=True)
        self._draw = draw.ravel()
        count = int(self._draw.max()) + 1
        drawn = [
            self.rho(np.bincount(rng.integers(count, size=count), minlength=count) / 1)
            for _ in range(resamples)
        ]
        # Of a few items, a resample may be one pair over and over, and have no rho.
        drawn = [each for each in drawn if math.isfinite(each)] or [float("nan")]
        low, high = np.percentile(drawn, [2.5, 97.5])
        return float(low), float(high)

    @staticmethod
    def _midranks(weights: NDArray) -> NDArray:
        """Mean rank of each group of equal values (up to a constant)."""
        return np.cumsum(weights) - weights / 2


def _dot(a: NDArray, b: NDArray) -> float:
    """Without BLAS, whose threads cost more than so short a sum on a busy machine."""
    return float(np.einsum("p,p->", a, b))


def _mean(total: float, count: float) -> float:
    return float(total / count) if count else float("nan")


def _shares(name: str, depth: NDArray, num_levels: int) -> dict[str, float]:
    """Share of pairs that share each number of levels; NaN without a pair."""
    return {
        f"{name}@{level}": float(np.mean(depth >= level)) if len(depth) else np.nan
        for level in range(1, num_levels + 1)
    }


def _units(vectors: NDArray) -> NDArray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)


def _sums(nodes: NDArray, order: NDArray, vectors: NDArray) -> tuple[NDArray, float]:
    """Sum over a level's nodes of ||sum of units||^2, levels 0 .. L; sum of ||u||^2.

    In blocks of sorted items; a node that a block cuts is carried into the next.
    """
    num_levels = nodes.shape[1]
    squares, length = np.zeros(num_levels + 1), 0.0
    open_node = np.full(num_levels + 1, -1)
    carry = np.zeros((num_levels + 1, vectors.shape[1]))
    for start in range(0, len(order), _BLOCK):
        rows = order[start : start + _BLOCK]
        block = _units(vectors[rows])
        length += float(np.sum(block**2, dtype=np.float64))
        for level in range(num_levels + 1):
            node = nodes[rows, level - 1] if level else np.zeros(len(rows), np.int32)
            starts = np.flatnonzero(np.diff(node, prepend=-1))
            sums = np.add.reduceat(block, starts)
            if node[0] == open_node[level]:
                sums[0] += carry[level]
            else:
                squares[level] += carry[level] @ carry[level]
            squares[level] += np.sum(sums[:-1] ** 2, dtype=np.float64)
            open_node[level], carry[level] = node[-1], sums[-1]
    return squares + np.sum(carry**2, axis=1), length


def _nearest(units: NDArray, anchors: NDArray, count: int) -> tuple[NDArray, NDArray]:
    """Pairs (anchor, neighbour): each anchor with its `count` nearest other items."""
    if count < 1 or not len(anchors):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    step = max(1, min(256, _CELLS // len(units)))
    right = []
    for start in range(0, len(anchors), step):
        block = anchors[start : start + step]
        cosine = units[block] @ units.T
        cosine[np.arange(len(block)), block] = -np.inf
        if len(units) < 64 * _STRIDE * count:
            top = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
        else:
            top = np.stack([_top(row, count) for row in cosine])
        right.append(top)
    return np.repeat(anchors, count), np.concatenate(right).ravel()


def _top(row: NDArray, count: int) -> NDArray:
    """Places of the `count` largest of a long row: a sample tells where to look."""
    sample, few = row[::_STRIDE], 4 * (count // _STRIDE + 1)
    above = np.flatnonzero(row >= np.partition(sample, -few)[-few])
    if len(above) < count:
        above = np.arange(len(row))
    return above[np.argpartition(-row[above], count - 1)[:count]]


def _compare(
    codes: NDArray, units: NDArray, left: NDArray, right: NDArray
) -> tuple[NDArray, NDArray]:
    """Cosine and number of shared leading levels of each pair."""
    cosine = np.einsum("pd,pd->p", units[left], units[right])
    shared = np.cumprod(codes[left] == codes[right], axis=1).sum(axis=1)
    return cosine, shared
