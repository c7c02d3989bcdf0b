"""Two versions of a catalog's SIDs compared: which items kept their codes, and why not.

    prefix match@l   share of items whose first l codes are the same in both versions
    common prefix    mean number of leading codes that are the same, over L
    churn@l          share of items whose code of level l differs, whatever stands above
    AMI@l            adjusted mutual information of the prefixes of l codes as clusters
    Jaccard@l        mean over items of |A and B| / |A or B|, A and B being the other
                     items that share the item's first l codes in either version
    surviving@l      share of the old prefixes of l codes that exist in the new version

Names matter to the first three and the last, and these stand twice: as they are, and
`aligned` (`align.py`).  AMI and Jaccard do not depend on names: where they are high and
the prefix match is low, codes were renumbered, and alignment mends it; where they are
low, items were clustered anew, and nothing does.  Items that did not change are judged
apart from edited ones, whose codes ought to move (METHODS: ours, after DACT, arXiv
2603.29705, and the staleness paper, arXiv 2604.13273).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import adjusted_mutual_info_score

from sid_jax.errors import InputError
from sid_jax.evals.align import align_codes, rename
from sid_jax.typing import Bool, Float, Int, NDArray, typed

_MOST = 20_000  # items of an AMI, whose cost grows with the square of the clusters


@dataclass(frozen=True, kw_only=True)
class StabilityLimits:
    """What a new version must reach to take the place of the old one.

    A limit stands for a level, from the first: levels past the last limit are free, and
    limits past the last level of the SIDs judge nothing.

    Attributes:
      prefix_match: least prefix match@1, 2, .. of the unchanged items.
      purchased_prefix_match: the same with each item counted by its purchases; judged
        only where these are at hand.
    """

    prefix_match: tuple[float, ...] = (0.99, 0.99, 0.95, 0.90)
    purchased_prefix_match: tuple[float, ...] = ()

    def __post_init__(self):
        for name in ("prefix_match", "purchased_prefix_match"):
            for limit in getattr(self, name):
                if not 0 <= limit <= 1:
                    raise InputError(f"{name}: {limit} is no share between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One limit and what was found; an undefined figure does not pass."""

    name: str
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.value >= self.limit


@dataclass(frozen=True, eq=False)
class Comparison:
    """What two versions have in common.

    Attributes:
      values: the figures: `unchanged/prefix_match@1`, `aligned/unchanged/churn@2`,
        `edited/..`, `unchanged/purchases/..`, `added/known_prefix@1`, `trie/..`.
      permutations: of the new codes of each common level, as `align_codes` has them.
      num_levels: levels that both versions have.
    """

    values: dict[str, float]
    permutations: list[NDArray]
    num_levels: int


@typed
def compare_codes(
    old: Int[NDArray, "O P"],
    new: Int[NDArray, "N L"],
    sizes: tuple[tuple[int, ...], tuple[int, ...]],
    rows: tuple[Int[NDArray, " B"], Int[NDArray, " B"]],
    edited: Bool[NDArray, " B"],
    purchases: Float[NDArray, " B"] | None = None,
    seed: int = 0,
) -> Comparison:
    """Every figure of this room.

    Where the versions differ in depth, the levels that both have are compared, and no
    SID is exactly the same.  The alignment is learned from the unchanged items, or from
    all that both hold if none is unchanged.

    Args:
      old: SID of each old item.
      new: SID of each new item.
      sizes: codes a level of the old and of the new version.
      rows: rows in `old` and in `new` of the B items that both hold.
      edited: which of these have another text now.
      purchases: of these items, not negative and not all 0.
      seed: of the items that the AMI is taken of where there are more than 20,000.

    Returns:
      The figures by name. A group without items has none: `unchanged`, `edited`, and
      `added` (items of the new version alone), for which `known_prefix@l` is the share
      whose first l codes some old item has, so that a retriever has met them.

    Raises:
      InputError: no item in both versions.
    """
    if not len(edited):
        raise InputError(
            "no item is in both versions; do their item ids come from one catalog?"
        )
    num_levels = min(old.shape[1], new.shape[1])
    whole = old.shape[1] == new.shape[1]
    before, after = old[rows[0], :num_levels], new[rows[1], :num_levels]
    base = edited if edited.all() else ~edited
    permutations = align_codes(
        before[base], after[base], sizes[0][:num_levels], sizes[1][:num_levels]
    )
    values = {}
    for group, mask in (("unchanged", ~edited), ("edited", edited)):
        if not mask.any():
            continue
        left, right = before[mask], after[mask]
        weights = None if purchases is None else purchases[mask]
        values |= _named(f"{group}/", same_clusters(left, right, seed=seed))
        for view, codes in (("", right), ("aligned/", rename(right, permutations))):
            values |= _named(f"{view}{group}/", same_codes(left, codes, whole=whole))
            if weights is not None and weights.any():
                bought = same_codes(left, codes, weights, whole=whole)
                values |= _named(f"{view}{group}/purchases/", bought)
    added = np.ones(len(new), bool)
    added[rows[1]] = False
    old, new = old[:, :num_levels], new[:, :num_levels]
    for view, codes in (("", new), ("aligned/", rename(new, permutations))):
        values |= _named(f"{view}trie/", surviving(old, codes))
        if added.any():
            values |= _named(f"{view}added/", known_prefixes(old, codes[added]))
    return Comparison(values=values, permutations=permutations, num_levels=num_levels)


@typed
def same_codes(
    old: Int[NDArray, "N L"],
    new: Int[NDArray, "N L"],
    weights: Float[NDArray, " N"] | None = None,
    *,
    whole: bool = True,
) -> dict[str, float]:
    """How far items kept the names of their codes.

    Args:
      old: SID of each item.
      new: its SID in the new version.
      weights: what each item counts, not all 0; 1 if None.
      whole: whether these are all levels of both versions.

    Returns:
      `exact` (0 if not `whole`), `common_prefix`, and by level `prefix_match@l`,
      `churn@l` and, of the prefixes of these items, `surviving@l`.
    """
    same = old == new
    matches = np.average(np.cumprod(same, axis=1), axis=0, weights=weights)
    churn = np.average(~same, axis=0, weights=weights)
    return {
        "exact": float(matches[-1]) if whole else 0.0,
        "common_prefix": float(matches.mean()),
        **_levels("prefix_match", matches),
        **_levels("churn", churn),
        **({} if weights is not None else surviving(old, new)),
    }


@typed
def same_clusters(
    old: Int[NDArray, "N L"], new: Int[NDArray, "N L"], seed: int = 0
) -> dict[str, float]:
    """How far items kept their company, whatever the codes are called.

    Returns:
      By level `ami@l` (of at most 20,000 items, drawn with `seed`) and `jaccard@l`
      (of the items that have company in either version; NaN if none has).
    """
    some = np.random.default_rng(seed).permutation(len(old))[:_MOST]
    amis, jaccards = [], []
    for a, b in zip(_nodes(old), _nodes(new), strict=True):
        amis.append(adjusted_mutual_info_score(a[some], b[some]))
        jaccards.append(_jaccard(a, b))
    return _levels("ami", amis) | _levels("jaccard", jaccards)


@typed
def surviving(old: Int[NDArray, "O L"], new: Int[NDArray, "N L"]) -> dict[str, float]:
    """`surviving@l`: share of the old prefixes of l codes that are new ones too."""
    return _levels(
        "surviving",
        [
            np.isin(np.unique(nodes[: len(old)]), nodes[len(old) :]).mean()
            for nodes in _nodes(np.concatenate([old, new]))
        ],
    )


@typed
def known_prefixes(
    old: Int[NDArray, "O L"], new: Int[NDArray, "N L"]
) -> dict[str, float]:
    """`known_prefix@l`: share of the new items whose first l codes an old item has."""
    return _levels(
        "known_prefix",
        [
            np.isin(nodes[len(old) :], nodes[: len(old)]).mean()
            for nodes in _nodes(np.concatenate([old, new]))
        ],
    )


@typed
def moves(
    old: Int[NDArray, " N"], new: Int[NDArray, " N"], sizes: tuple[int, int]
) -> Int[NDArray, "K J"]:
    """Items by their old code (row) and their new code (column) of one level."""
    cells = np.bincount(old.astype(np.int64) * sizes[1] + new, minlength=np.prod(sizes))
    return cells.reshape(sizes)


def judge(
    values: Mapping[str, float],
    limits: StabilityLimits,
    num_levels: int,
    view: str = "",
) -> list[Check]:
    """The limits held against the unchanged items, level by level.

    Args:
      values: of a Comparison.
      limits: to hold.
      num_levels: levels that can be judged.
      view: empty for the codes as they are, `aligned/` for the renamed ones.

    Returns:
      A check for each limit of a level that there is; of purchases only where known.
    """
    checks = []
    for group, wanted in (
        ("unchanged", limits.prefix_match),
        ("unchanged/purchases", limits.purchased_prefix_match),
    ):
        if group.endswith("purchases") and f"{view}{group}/exact" not in values:
            continue
        for level, limit in enumerate(wanted[:num_levels], start=1):
            name = f"{view}{group}/prefix_match@{level}"
            value = values.get(name, float("nan"))
            checks.append(Check(name=name, value=value, limit=limit))
    return checks


def _nodes(codes: NDArray) -> list[NDArray]:
    """The prefix of each row as a number from 0, level by level."""
    nodes, node = [], np.zeros(len(codes), np.int64)
    for column in codes.T:
        width = int(column.max(initial=0)) + 1
        _, node = np.unique(node * width + column, return_inverse=True)
        nodes.append(node)
    return nodes


def _jaccard(a: NDArray, b: NDArray) -> float:
    """Mean overlap of the items' company in clusterings a and b, by counting."""
    together = a * (int(b.max(initial=0)) + 1) + b
    shared, left, right = (_company(clusters) for clusters in (together, a, b))
    either = left + right - shared
    some = either > 0
    return float(np.mean(shared[some] / either[some])) if some.any() else float("nan")


def _company(clusters: NDArray) -> NDArray:
    """Number of other items in each item's cluster."""
    _, place, counts = np.unique(clusters, return_inverse=True, return_counts=True)
    return counts[place] - 1


def _levels(name: str, values: Iterable[float]) -> dict[str, float]:
    return {f"{name}@{level}": float(v) for level, v in enumerate(values, start=1)}


def _named(prefix: str, values: dict[str, float]) -> dict[str, float]:
    return {prefix + name: value for name, value in values.items()}
