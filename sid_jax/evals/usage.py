"""How the codes are used: skew of each level, collisions, branching of the tree.

H            - sum_k p_k ln p_k, p_k = share of code k (in nats)
perplexity   exp(H)
entropy      H / ln K
Gini         sum_k (2 k - K - 1) p_(k) / K, p_(1) <= .. <= p_(K), unused codes too
H(c_l|c_<l)  H(first l codes) - H(first l - 1 codes)
branching    nodes of level l / nodes of level l - 1
"""

from dataclasses import dataclass

import numpy as np

from sid_jax.errors import InputError
from sid_jax.sids.trie import sort_sids
from sid_jax.typing import Float, Int, NDArray, typed


@dataclass(frozen=True, eq=False)
class LevelUse:
    """How one level's codes are used.

    Attributes:
      counts: items, or purchases, of each code.
    """

    counts: Int[NDArray, " K"] | Float[NDArray, " K"]

    @property
    def usage(self) -> float:
        """Share of the codes that any item has."""
        return float(np.mean(self.counts > 0))

    @property
    def nats(self) -> float:
        """H, the entropy in nats."""
        return _entropy(self.counts)

    @property
    def perplexity(self) -> float:
        """exp(H): the number of evenly used codes that would be as hard to guess."""
        return float(np.exp(self.nats))

    @property
    def entropy(self) -> float:
        """H / ln K, from 0 (one code) to 1 (even); 1 for a codebook of one code."""
        size = len(self.counts)
        return float(self.nats / np.log(size)) if size > 1 else 1.0

    @property
    def gini(self) -> float:
        """Gini's coefficient, from 0 (even) to 1 - 1 / K (one code); NaN if unused."""
        size, total = len(self.counts), self.counts.sum()
        place = 2 * np.arange(1, size + 1) - size - 1
        return float(place @ np.sort(self.counts) / size / total) if total else np.nan

    @property
    def top(self) -> float:
        """Share of the most used code; NaN if none is used."""
        total = self.counts.sum()
        return float(self.counts.max() / total) if total else np.nan


@typed
def level_use(
    codes: Int[NDArray, "N L"],
    codebook_sizes: tuple[int, ...],
    weights: Float[NDArray, " N"] | None = None,
) -> tuple[LevelUse, ...]:
    """Items of each code, a level; with weights (such as purchases), their sums.

    Raises:
      InputError: a code lies outside its codebook, or a weight is no weight.
    """
    if codes.shape[1] != len(codebook_sizes):
        raise InputError(
            f"codes have {codes.shape[1]} levels but codebook_sizes "
            f"{codebook_sizes} has {len(codebook_sizes)}; give one size a level"
        )
    bad = (codes < 0) | (codes >= np.asarray(codebook_sizes))
    if bad.any():
        row, level = np.argwhere(bad)[0]
        raise InputError(
            f"item row {row}: code {codes[row, level]} of level {level + 1} is outside "
            f"its codebook of {codebook_sizes[level]}; do the codes and the codebook "
            "sizes come from the same tokenizer?"
        )
    if weights is not None and not (np.isfinite(weights) & (weights >= 0)).all():
        row = int(np.argmin(np.isfinite(weights) & (weights >= 0)))
        raise InputError(
            f"item row {row}: {weights[row]} is no number of purchases; want 0 or more"
        )
    return tuple(
        LevelUse(np.bincount(column, weights, minlength=size))
        for column, size in zip(codes.T, codebook_sizes, strict=True)
    )


@typed
def usage_metrics(
    codes: Int[NDArray, "N L"],
    codebook_sizes: tuple[int, ...],
    purchases: Float[NDArray, " N"] | None = None,
) -> dict[str, float]:
    """How evenly each level's codes are used, by items and by purchases.

    Args:
      codes: SID of each item.
      codebook_sizes: codes a level.
      purchases: how often each item was bought; NaN follows where none was.

    Returns:
      `usage@l`, `perplexity@l`, `entropy@l`, `nats@l` (H), `gini@l`, `top1@l`; with
      purchases the same as `usage_by_purchase@l` and so on.
    """
    views = {"": level_use(codes, codebook_sizes)}
    if purchases is not None:
        views["_by_purchase"] = level_use(codes, codebook_sizes, purchases)
    metrics = {}
    for view, uses in views.items():
        for level, use in enumerate(uses, start=1):
            for name, value in (
                ("usage", use.usage),
                ("perplexity", use.perplexity),
                ("entropy", use.entropy),
                ("nats", use.nats),
                ("gini", use.gini),
                ("top1", use.top),
            ):
                known = not view or use.counts.any()
                metrics[f"{name}{view}@{level}"] = value if known else np.nan
    return metrics


@typed
def collisions(codes: Int[NDArray, "N L"]) -> dict[str, float]:
    """How far SIDs are from unique.

    Returns:
      `unique` (U / N), `collision_rate` (1 - U / N), `largest_group` (items of the
      most crowded SID), `mean_group` (N / U), `in_groups` (share of the items that
      share their SID).
    """
    if not len(codes):
        raise InputError("no items to judge: the codes are empty")
    sizes = np.bincount(prefix_nodes(codes)[:, -1])
    unique = len(sizes) / len(codes)
    return {
        "unique": unique,
        "collision_rate": 1.0 - unique,
        "largest_group": float(sizes.max()),
        "mean_group": 1.0 / unique,
        "in_groups": float(sizes[sizes > 1].sum() / len(codes)),
    }


@typed
def branching(codes: Int[NDArray, "N L"]) -> dict[str, float]:
    """How the tree of SIDs spreads.

    Returns:
      `branching@l`: mean number of codes of level l that follow a prefix of l - 1
      codes, over the prefixes in use; `conditional_entropy@l`: H(c_l | c_<l) in nats.
    """
    if not len(codes):
        raise InputError("no items to judge: the codes are empty")
    metrics, nodes, nats = {}, 1, 0.0
    for level, column in enumerate(prefix_nodes(codes).T, start=1):
        sizes = np.bincount(column)
        metrics[f"branching@{level}"] = len(sizes) / nodes
        whole = _entropy(sizes)
        metrics[f"conditional_entropy@{level}"] = max(whole - nats, 0.0)
        nodes, nats = len(sizes), whole
    return metrics


@typed
def prefix_nodes(codes: Int[NDArray, "N L"]) -> Int[NDArray, "N L"]:
    """The node of each item at each level: equal where the first l codes are.

    Nodes of a level count from 0, in lexicographic order of their prefixes.
    """
    nodes = np.zeros(codes.shape, np.int32)
    if codes.size:
        sizes = tuple(int(largest) + 1 for largest in codes.max(axis=0))
        order, parting = sort_sids(codes, sizes)
        for level in range(codes.shape[1]):
            nodes[order, level] = np.cumsum(parting <= level) - 1
    return nodes


def _entropy(counts: NDArray) -> float:
    share = counts[counts > 0] / (counts.sum() or 1)
    # The sum of nothing is +0, of one certain code -0: both are to be +0.
    return float(-np.sum(share * np.log(share))) + 0.0
