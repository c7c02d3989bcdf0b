"""Hierarchical batches: half of the items from one neighbourhood of the category tree.

Instacart published: pick a random parent, take about half of the batch from its
children, the rest from unrelated categories, several products a category. Batch size,
items a category and the choice of the parent are ours.

Rules of ours, where a catalog is not so regular:

- Categories that all items share (such as the name of the shop) say nothing: paths
  start below them, and an item that has no more than these has no known category.
- A leaf is a node that holds items itself. A parent's own items are one more child.
- Leaves come in families (the leaves under one node, with its own items); the first
  family of a batch has two leaves or more, and a leaf of two items or more, where the
  catalog has such families; then same-leaf and sibling pairs are certain.
- A parent of too few items is widened to the leaves of its own parent, and so on up to
  its top category; then more items a leaf are taken; then more unrelated ones.
- Where unrelated leaves are too few, more come from the parent's top category.
- In a flat catalog (no node has two leaves below it) all leaves are drawn at random.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sid_jax.data.taxonomy import ROOT, Taxonomy
from sid_jax.errors import InputError
from sid_jax.typing import Bool, Float, Int, NDArray, typed


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Items that the taxonomy term contrasts; see `hierarchical_stream`.

    Attributes:
      kind: `hierarchical` draws them by the category tree; `uniform` takes those of the
        reconstruction's batch, which costs no second pass.
      batch_size: items a step, of the hierarchical ones.
      group: items that share one parent, at most.
      items_per_leaf: items of a leaf.
      sibling_share: of a group that comes from below its parent.
      power: a parent is drawn in proportion to (items below it)^power.
    """

    kind: Literal["hierarchical", "uniform"] = "hierarchical"
    batch_size: int = 256
    group: int = 256
    items_per_leaf: int = 4
    sibling_share: float = 0.5
    power: float = 0.5

    def __post_init__(self):
        _check(
            self.batch_size,
            1,
            self.group,
            self.items_per_leaf,
            self.sibling_share,
            self.power,
        )


@typed
def category_paths(taxonomy: Taxonomy) -> Int[NDArray, "N depth"]:
    """Each item's ancestor nodes, from below the categories that all items share.

    One column or more; -1 below an item's own depth, and everywhere if it is unknown:
    the form that `losses.taxonomy_grades` takes.
    """
    ancestors = taxonomy.ancestors()
    start = int(taxonomy.depth[_find_trunk(taxonomy)]) + 1
    paths = ancestors[taxonomy.leaf, start:]
    paths = np.where(taxonomy.leaf[:, None] < 0, -1, paths)
    return paths if paths.shape[1] else np.full((len(paths), 1), -1, np.int32)


def hierarchical_stream(
    taxonomy: Taxonomy,
    batch_size: int,
    *,
    seed: int,
    group: int = 256,
    items_per_leaf: int = 4,
    sibling_share: float = 0.5,
    power: float = 0.5,
    process: int = 0,
    num_processes: int = 1,
) -> Callable[[int], Int[NDArray, " b"]]:
    """Batches of items, of which many share a leaf or a parent category.

    Args:
      taxonomy: of the catalog; items of unknown category are never drawn.
      batch_size: rows of the global batch; a multiple of `num_processes`.
      seed: of all draws.
      group: rows that share one parent, at most; a larger batch is several groups of
        nearly one size. No item is twice in a group (it can be in two groups).
      items_per_leaf: items taken of a leaf, without replacement.
      sibling_share: of a group that comes from below its parent; 3 rows or more make
        the pairs above certain.
      power: a parent is drawn in proportion to (items below it)^power.
      process: index of this process.
      num_processes: processes P; each gets `batch_size / P` rows of a step.

    Returns:
      `stream(step)` -> int32 [batch_size / P], rows of the catalog: a function of seed
      and step alone. Every process draws the global batch and keeps its slice.

    Raises:
      InputError: a number out of range, fewer items of known category than rows of a
        group, or no two items that share a category.
    """
    _check(batch_size, num_processes, group, items_per_leaf, sibling_share, power)
    shelves = _Shelves.of(taxonomy, power)
    parts = -(-batch_size // group)
    sizes = [batch_size // parts + (part < batch_size % parts) for part in range(parts)]
    if len(shelves.items) < sizes[0]:
        raise InputError(
            f"{len(shelves.items)} items have a category that not all share, fewer "
            f"than the {sizes[0]} of a batch; lower batch_size or group, or use "
            "uniform batches"
        )
    share = batch_size // num_processes

    def stream(step: int) -> Int[NDArray, " b"]:
        rng = np.random.default_rng((seed, step))
        groups = [_draw(shelves, rng, n, items_per_leaf, sibling_share) for n in sizes]
        return np.concatenate(groups)[process * share : (process + 1) * share]

    return stream


@dataclass(frozen=True, eq=False)
class _Shelves:
    """The tree laid flat: leaves in depth-first order, so that a node is a range.

    Attributes:
      items: item rows by leaf; leaf s holds items[starts[s] : starts[s] + counts[s]].
      family: the family of each leaf, by number.
      first: whether a family may come first: it makes same-leaf and sibling pairs.
      begin, end: node g covers the leaves begin[g] to end[g] - 1.
      up: the parent of each node; -1 for those of the top.
      parents: nodes to draw from; empty in a flat catalog.
      odds: cumulative probability of each.
    """

    items: Int[NDArray, " n"]
    starts: Int[NDArray, " s"]
    counts: Int[NDArray, " s"]
    family: Int[NDArray, " s"]
    first: Bool[NDArray, " f"]
    begin: Int[NDArray, " G"]
    end: Int[NDArray, " G"]
    up: Int[NDArray, " G"]
    parents: Int[NDArray, " p"]
    odds: Float[NDArray, " p"]

    @classmethod
    def of(cls, taxonomy: Taxonomy, power: float) -> "_Shelves":
        trunk, depth = _find_trunk(taxonomy), taxonomy.depth
        ancestors = taxonomy.ancestors()
        deep = (taxonomy.leaf >= 0) & (depth[taxonomy.leaf] > depth[trunk])
        if not deep.any():
            raise InputError(
                "no item has a category, beside those that all items share: there is "
                "nothing to contrast; give the items categories or use uniform batches"
            )
        # Paths sorted as rows are the nodes depth first.
        place = np.empty(len(taxonomy), np.int64)
        place[np.lexsort(ancestors.T[::-1])] = np.arange(len(taxonomy))
        rows = np.flatnonzero(deep)
        rows = rows[np.argsort(place[taxonomy.leaf[rows]], kind="stable")]
        _, starts, counts = np.unique(
            place[taxonomy.leaf[rows]], return_index=True, return_counts=True
        )
        leaves = taxonomy.leaf[rows[starts]]
        begin = np.searchsorted(place[leaves], place)
        end = np.searchsorted(place[leaves], place + _count_below(ancestors, None))
        below = np.concatenate([[0], np.cumsum(counts)])
        below = below[end] - below[begin]
        held = np.bincount(leaves, minlength=len(taxonomy))
        branches = held + np.bincount(
            taxonomy.parent[1:], below[1:] > 0, minlength=len(taxonomy)
        )
        own = branches[leaves] > held[leaves]  # a leaf that has children leads them
        heads, family = np.unique(
            np.where(own, leaves, taxonomy.parent[leaves]), return_inverse=True
        )
        # Leaves of the top have no parent below the trunk.
        related = depth[heads] > depth[trunk]
        several = related & (np.bincount(family, minlength=len(heads)) > 1)
        rich = several & (np.bincount(family, counts > 1, len(heads)) > 0)
        able = (branches > 1) & (depth > depth[trunk])
        parents, first = np.flatnonzero(able), several
        for choice in (rich, several):
            has = _count_below(ancestors, heads[choice]) > 0
            if (able & has).any():
                parents, first = np.flatnonzero(able & has), choice
                break
        if not len(parents) and not (counts > 1).any():
            raise InputError(
                "no two items share a category, beside those that all items share: "
                "there is nothing to contrast; use uniform batches"
            )
        weights = below[parents].astype(np.float64) ** power
        return cls(
            items=rows.astype(np.int32),
            starts=starts,
            counts=counts,
            family=family,
            first=first,
            begin=begin,
            end=end,
            up=np.where(depth > depth[trunk] + 1, taxonomy.parent, -1),
            parents=parents,
            odds=np.cumsum(weights) / weights.sum(),
        )


def _draw(
    shelves: _Shelves, rng: np.random.Generator, size: int, each: int, share: float
) -> Int[NDArray, " n"]:
    """The rows of one group."""
    related, outside = _order(shelves, rng, round(size * share), each)
    near = _share_out(shelves.counts[related], round(size * share), each)
    far = _share_out(shelves.counts[outside], size - near.sum(), each)
    if near.sum() + far.sum() < size:
        near = _share_out(shelves.counts[related], size - far.sum(), each)
    return _pick(
        shelves, rng, np.concatenate([related, outside]), np.concatenate([near, far])
    )


def _order(
    shelves: _Shelves, rng: np.random.Generator, size: int, each: int
) -> tuple[Int[NDArray, " a"], Int[NDArray, " b"]]:
    """Leaves in the order in which they give items: below one top, and outside it."""
    if not len(shelves.parents):
        outside = rng.permutation(len(shelves.counts))
        pair = np.argmax(shelves.counts[outside] > 1)
        outside[[0, pair]] = outside[[pair, 0]]
        return outside[:0], outside
    node = int(shelves.parents[np.searchsorted(shelves.odds[:-1], rng.random())])
    rank = rng.permutation(len(shelves.first)).astype(np.float64)
    begin, end = int(shelves.begin[node]), int(shelves.end[node])
    inner = np.arange(begin, end)
    family = shelves.family[inner]
    starters = family[shelves.first[family]]
    if len(starters):
        rank[starters[np.argmin(rank[starters])]] = -1
    keys = rank[family] + rng.random(len(inner))
    # The first family's leaves of two or more come before its others.
    keys -= (keys < 0) & (shelves.counts[inner] > 1)
    order = [inner[np.argsort(keys)]]
    found = np.minimum(shelves.counts[inner], each).sum()
    while shelves.up[node] >= 0:
        node = shelves.up[node]
        start, stop = int(shelves.begin[node]), int(shelves.end[node])
        ring = np.concatenate([np.arange(start, begin), np.arange(end, stop)])
        if found < size:
            keys = rank[shelves.family[ring]] + rng.random(len(ring))
            ring = ring[np.argsort(keys)]
            found += np.minimum(shelves.counts[ring], each).sum()
        order.append(ring)
        begin, end = start, stop
    outside = rng.permutation(len(shelves.counts) - (end - begin))
    return np.concatenate(order), outside + (end - begin) * (outside >= begin)


def _share_out(counts: Int[NDArray, " s"], size: int, each: int) -> Int[NDArray, " s"]:
    """How many items each leaf gives, in order: `each`, or more where these are short.

    One leaf does not give all, so that a second one has a place.
    """
    most = max(size - 1, 1) if len(counts) > 1 else size
    each = min(each, most)
    while each < most and np.minimum(counts, each).sum() < size:
        each = min(2 * each, most)
    gives = np.minimum(counts, each)
    return np.clip(size - (np.cumsum(gives) - gives), 0, gives)


def _pick(
    shelves: _Shelves,
    rng: np.random.Generator,
    leaves: Int[NDArray, " s"],
    gives: Int[NDArray, " s"],
) -> Int[NDArray, " n"]:
    """So many items of each leaf, none twice: Floyd's algorithm, all leaves at once."""
    leaves, gives = leaves[gives > 0], gives[gives > 0]
    counts = shelves.counts[leaves]
    picked = np.full((len(leaves), int(gives.max(initial=0))), -1)
    for turn in range(picked.shape[1]):
        last = counts - gives + turn
        item = (rng.random(len(leaves)) * (last + 1)).astype(np.int64)
        again = (picked[:, :turn] == item[:, None]).any(axis=1)
        picked[:, turn] = np.where(again, last, item)
    taken = np.arange(picked.shape[1]) < gives[:, None]
    return shelves.items[(shelves.starts[leaves][:, None] + picked)[taken]]


def _find_trunk(taxonomy: Taxonomy) -> int:
    """The deepest node that all items of known category are below or at."""
    held = np.unique(taxonomy.leaf[taxonomy.leaf >= 0])
    paths = taxonomy.ancestors()[held, 1:]
    node = ROOT
    for level in paths.T if len(paths) else ():
        if level[0] < 0 or (level != level[0]).any():
            break
        node = int(level[0])
    return node


def _count_below(
    ancestors: Int[NDArray, "G depth"], nodes: Int[NDArray, " n"] | None
) -> Int[NDArray, " G"]:
    """How many of these nodes (all: None) each node has below it, itself included."""
    path = ancestors if nodes is None else ancestors[nodes]
    return np.bincount(path[path >= 0], minlength=len(ancestors))


def _check(
    batch_size: int,
    num_processes: int,
    group: int,
    items_per_leaf: int,
    sibling_share: float,
    power: float,
) -> None:
    if batch_size < 1 or batch_size % num_processes:
        raise InputError(
            f"batch_size {batch_size} does not divide among {num_processes} processes"
        )
    for name, value, least in (
        ("group", group, 4),
        ("items_per_leaf", items_per_leaf, 2),
    ):
        if value < least:
            raise InputError(f"{name}={value} must be at least {least}")
    if not 0 <= sibling_share <= 1:
        raise InputError(f"sibling_share={sibling_share} must be in [0, 1]")
    if not 0 <= power < float("inf"):
        raise InputError(f"power={power} must be a number of at least 0")
