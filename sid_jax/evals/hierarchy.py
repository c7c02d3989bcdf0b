"""Codes against the category tree: agreement by depth, and substitutes torn apart.

    AMI            mutual information adjusted for chance (Vinh et al. 2010)
    homogeneity    1 - H(category | prefix) / H(category)
    completeness   1 - H(prefix | category) / H(prefix)
    fragmentation  share of the pairs of one leaf category whose SIDs part too early

Depth 1 is the first one that parts items: a root that all paths begin with ("Beauty")
is not counted. Items whose path is shorter than a depth are left out at that depth.
"""

import numpy as np
from sklearn.metrics import adjusted_mutual_info_score

from sid_jax.data.taxonomy import ROOT, Taxonomy
from sid_jax.errors import InputError
from sid_jax.evals.usage import prefix_nodes
from sid_jax.typing import Int, NDArray, typed


@typed
def agreement(
    codes: Int[NDArray, "N L"],
    taxonomy: Taxonomy,
    rows: Int[NDArray, " n"] | None = None,
    most_items: int = 20_000,
    seed: int = 0,
) -> dict[str, float]:
    """Every prefix beside every depth of the category tree.

    Args:
      codes: SID of each item.
      taxonomy: the tree with the same N items.
      rows: the items to judge; all if None.
      most_items: items that AMI is taken over, drawn at random from those judged; the
        correction for chance takes long, homogeneity and completeness count all.
      seed: of the draw.

    Returns:
      `ami_d2@1`, `homogeneity_d2@1`, `completeness_d2@1`: of the first code with the
      category at depth 2; and `ami_items`, how many items of the judged were drawn.
      NaN: no item has so long a path, or (the latter two) there is no entropy.
    """
    _check(codes, taxonomy)
    rows = np.arange(len(codes)) if rows is None else rows
    rng = np.random.default_rng(seed)
    drawn = rows
    if len(rows) > most_items:
        drawn = np.sort(rng.choice(rows, most_items, replace=False))
    whole, part = prefix_nodes(codes[rows]), prefix_nodes(codes[drawn])
    metrics = {"ami_items": float(len(drawn))}
    trunk = trunk_depth(taxonomy)
    for depth in range(1, taxonomy.max_depth - trunk + 1):
        category = taxonomy.prefix(trunk + depth)
        of_whole, of_part = category[rows], category[drawn]
        for level in range(1, codes.shape[1] + 1):
            names = [
                f"{name}_d{depth}@{level}"
                for name in ("ami", "homogeneity", "completeness")
            ]
            # A level that parts no more items leaves the partition as it was.
            if level > 1 and whole[:, level - 1].max() == whole[:, level - 2].max():
                before = (f"{name.split('@')[0]}@{level - 1}" for name in names)
                metrics |= dict(
                    zip(names, map(metrics.__getitem__, before), strict=True)
                )
                continue
            values = (
                _ami(of_part, part[:, level - 1]),
                *_conditionals(of_whole, whole[:, level - 1]),
            )
            metrics |= dict(zip(names, values, strict=True))
    return metrics


@typed
def fragmentation(
    codes: Int[NDArray, "N L"],
    taxonomy: Taxonomy,
    rows: Int[NDArray, " n"] | None = None,
    levels: tuple[int, ...] = (1, 2),
    others: Int[NDArray, "N L"] | None = None,
) -> dict[str, float]:
    """How often two products of one leaf category part within the first levels.

    Every pair of a judged item and another item of its leaf, by counting. A leaf is
    the deepest known category of an item.

    Args:
      codes: SID of each item.
      taxonomy: the tree with the same N items.
      rows: the items to judge; their mates come from the whole catalog. All if None.
      levels: numbers of leading codes that substitutes should share.
      others: SIDs that the mates have, where the judged items were encoded otherwise
        (from cut texts); the same as `codes` if None.

    Returns:
      `fragmentation@l`: share of the pairs that do not share l codes, so that a leaf
      weighs by its pairs; `fragmentation_by_leaf@l`: the mean over leaves of that
      share, each leaf weighing the same. NaN: no leaf has two items.
    """
    _check(codes, taxonomy)
    leaf = taxonomy.leaf.astype(np.int64)
    others = codes if others is None else others
    judged = np.zeros(len(codes), bool)
    judged[slice(None) if rows is None else rows] = True
    judged &= leaf >= 0
    sizes = np.bincount(leaf[leaf >= 0], minlength=len(taxonomy))
    mine = leaf[judged]
    pairs = np.bincount(mine, sizes[mine] - 1, minlength=len(taxonomy))
    both = prefix_nodes(np.concatenate([codes, others]))
    metrics = {}
    for level in (level for level in levels if level <= codes.shape[1]):
        own, theirs = np.split(both[:, level - 1].astype(np.int64), 2)
        span = int(both[:, level - 1].max(initial=0)) + 1
        cells, counts = np.unique(
            leaf[leaf >= 0] * span + theirs[leaf >= 0], return_counts=True
        )
        wanted = mine * span + own[judged]
        place = np.minimum(np.searchsorted(cells, wanted), len(cells) - 1)
        met = np.where(cells[place] == wanted, counts[place], 0)
        # An item is no mate of itself.
        met = met - (own[judged] == theirs[judged])
        shared = np.bincount(mine, met, minlength=len(taxonomy))
        some = pairs > 0
        apart = 1 - shared[some] / pairs[some]
        total = pairs.sum()
        metrics[f"fragmentation@{level}"] = (
            float(1 - shared.sum() / total) if total else np.nan
        )
        metrics[f"fragmentation_by_leaf@{level}"] = (
            float(apart.mean()) if total else np.nan
        )
    return metrics


@typed
def top_categories(taxonomy: Taxonomy) -> tuple[str, ...]:
    """Name of each item's category at depth 1; empty where it is unknown."""
    if taxonomy.max_depth == 0:
        return ("",) * len(taxonomy.leaf)
    nodes = taxonomy.prefix(min(trunk_depth(taxonomy) + 1, taxonomy.max_depth))
    return tuple(taxonomy.names[node] if node > ROOT else "" for node in nodes)


@typed
def trunk_depth(taxonomy: Taxonomy) -> int:
    """How many first categories all known paths share, and so tell nothing apart."""
    known = np.unique(taxonomy.leaf[taxonomy.leaf >= 0])
    if not len(known):
        return 0
    ancestors = taxonomy.ancestors()[known]
    shared = (ancestors == ancestors[0]).all(axis=0) & (ancestors[0] >= 0)
    return int(np.argmin([*shared[1:], False]))


def _check(codes: NDArray, taxonomy: Taxonomy) -> None:
    if len(codes) != len(taxonomy.leaf):
        raise InputError(
            f"{len(codes)} items have codes but {len(taxonomy.leaf)} a category path; "
            "give both of the same items, in one order"
        )


def _ami(category: NDArray, node: NDArray) -> float:
    known = category >= 0
    if not known.any():
        return float("nan")
    found = adjusted_mutual_info_score(category[known], node[known])
    return round(float(found), 12) + 0.0  # rounding errors around 0 have no sign


def _conditionals(category: NDArray, node: NDArray) -> tuple[float, float]:
    """Homogeneity and completeness."""
    known = category >= 0
    category, node = category[known].astype(np.int64), node[known]
    joint = _entropy(category * (int(node.max(initial=0)) + 1) + node)
    parts = _entropy(category), _entropy(node)
    shared = sum(parts) - joint
    first, second = (shared / part if part > 0 else np.nan for part in parts)
    return float(first), float(second)


def _entropy(labels: NDArray) -> float:
    _, counts = np.unique(labels, return_counts=True)
    share = counts / max(len(labels), 1)
    return float(-np.sum(share * np.log(share)))
