"""Recall by kind of request or product; what lists are like, hits or not.

A slice takes the targets of one kind alone, so that slices of one kind share out all
targets, and their recalls, weighed by targets, give the whole's (its micro average).
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from sid_jax.errors import InputError
from sid_jax.evals.ranking import contains, first_places
from sid_jax.typing import Bool, Float, Int, NDArray, typed


@typed
def count_bins(
    counts: Int[NDArray, "*b"], edges: Sequence[int]
) -> tuple[Int[NDArray, "*b"], list[str]]:
    """Bins of whole numbers: the place of each among `edges`, and the bins' names.

    Args:
      counts: at least the first edge.
      edges: where bins begin, rising; the last bin has no end.

    Returns:
      Bins from 0, and names such as `1`, `2-4`, `5+`.
    """
    if list(edges) != sorted(set(edges)):
        raise InputError(f"edges must rise: {tuple(edges)}")
    names = [
        str(low) if high == low + 1 else f"{low}-{high - 1}"
        for low, high in pairwise(edges)
    ]
    bins = np.searchsorted(np.asarray(edges), counts, side="right") - 1
    return bins, [*names, f"{edges[-1]}+"]


@typed
def sliced_recall(
    recommended: Int[NDArray, "B k"],
    targets: Int[NDArray, "B t"],
    bins: Int[NDArray, "B t"],
    num_bins: int,
) -> tuple[Float[NDArray, " n"], Int[NDArray, " n"]]:
    """Share of the targets of each bin that are among the recommended, and how many.

    Args:
      recommended: ids; negative is filler.
      targets: ids; negative is padding. Repeats of a row count once.
      bins: of each target, from 0; a negative one leaves it out.
      num_bins: n.

    Returns:
      Recalls, NaN for a bin without targets; and its targets.
    """
    told = first_places(targets) & (bins >= 0)
    hits = contains(recommended, targets) & told
    number = np.bincount(bins[told], minlength=num_bins)
    found = np.bincount(bins[hits], minlength=num_bins)
    with np.errstate(invalid="ignore"):
        return found / number, number


@typed
def describe_lists(
    recommended: Int[NDArray, "B k"],
    *,
    categories: Int[NDArray, " N"],
    brands: Int[NDArray, " N"],
    firsts: Int[NDArray, " N"],
    tail: Bool[NDArray, " N"],
) -> dict[str, float]:
    """How varied lists are.

    Args:
      recommended: item rows, best first; negative is filler.
      categories: of each item of the catalog; negative is unknown.
      brands: of each item; negative is unknown.
      firsts: first code of each item's SID.
      tail: the items that few buy.

    Returns:
      `entropy`: of a list's categories, in nats (Entropy@K of TIGER); `categories`,
      `brands` and `firsts`: how many different ones a list has; `confined`: share of a
      list under the first code of its first item; `tail`: share of tail items;
      `coverage`: share of the catalog that stands in any list. Means over lists that
      have an item; NaN where the catalog knows no brand, or no category.
    """
    lists = recommended[(recommended >= 0).any(axis=1)]
    if not len(lists):
        names = "entropy categories brands firsts confined tail coverage"
        return dict.fromkeys(names.split(), float("nan"))
    real = lists >= 0

    def labels(of: NDArray) -> NDArray:
        return np.where(real, of[np.maximum(lists, 0)], -1)

    def different(of: NDArray) -> float:
        if (of < 0).all():
            return float("nan")
        return float(first_places(labels(of)).sum(axis=1).mean())

    kinds, codes = labels(categories), labels(firsts)
    same = (codes == codes[:, :1]) & real
    return {
        "entropy": float(np.mean([_entropy(row[row >= 0]) for row in kinds])),
        "categories": different(categories),
        "brands": different(brands),
        "firsts": different(firsts),
        "confined": float((same.sum(axis=1) / real.sum(axis=1)).mean()),
        "tail": float((labels(tail.astype(int)) > 0).sum() / real.sum()),
        "coverage": len(np.unique(lists[real])) / len(categories),
    }


@typed
def tail_items(bought: Int[NDArray, " N"], head: float = 0.2) -> Bool[NDArray, " N"]:
    """All items but the share `head` of them that are bought most."""
    tail = np.ones(len(bought), bool)
    most = np.argsort(-bought, kind="stable")[: round(head * len(bought))]
    tail[most] = False
    return tail


def _entropy(labels: NDArray) -> float:
    shares = np.unique(labels, return_counts=True)[1] / max(len(labels), 1)
    return float(-(shares * np.log(shares)).sum())
