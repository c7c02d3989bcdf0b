"""Lists judged against what was bought: recall, NDCG; sums and counts.

    recall@k = hits among the first k / |targets|
    NDCG@k   = sum of 1 / log2(1 + rank) over the hits of the first k,
               divided by the same sum for min(k, |targets|) hits at the top

(Jarvelin and Kekalainen 2002, with binary gains). An id is any integer >= 0: the row
of an item, or a leaf of the SID table for the same figures at SID level.
"""

from collections.abc import Sequence

import numpy as np

from sid_jax.errors import InputError
from sid_jax.typing import Bool, Int, Metrics, NDArray, typed


@typed
def ranking_metrics(
    recommended: Int[NDArray, "B k"],
    targets: Int[NDArray, "B t"],
    ks: Sequence[int] = (5, 10, 50),
    prefix: str = "",
) -> Metrics:
    """Recall and NDCG of ranked lists, a request each row.

    Args:
      recommended: ids, best first; negative is filler. A list shorter than a cutoff
        counts as filled up. An id's second place in a list holds a rank, wins nothing.
      targets: ids in any order; negative is padding and may stand anywhere, so masking
        judges a part of the targets (repeats, new products). Repeats count once.
      ks: cutoffs.
      prefix: put before each name, such as `new/`.

    Returns:
      `{prefix}recall@{k}` and `{prefix}ndcg@{k}` as (sum, count); requests without a
      target are not counted.
    """
    if not ks or min(ks) < 1:
        raise InputError(f"ks must be cutoffs of at least 1, not {tuple(ks)}")
    targets = np.where(first_places(targets), targets, -1)
    num_targets = (targets >= 0).sum(axis=1)
    hits = contains(targets, recommended) & first_places(recommended)
    count = float(np.count_nonzero(num_targets))
    # ideal[n]: the DCG of n hits at the top.
    ideal = np.cumsum([0.0, *(1.0 / np.log2(np.arange(max(ks)) + 2.0))])
    metrics = {}
    for k in ks:
        top = hits[:, :k]
        recall = top.sum(axis=1) / np.maximum(num_targets, 1)
        gains = top @ np.diff(ideal)[: top.shape[1]]
        best = ideal[np.clip(num_targets, 1, k)]
        metrics[f"{prefix}recall@{k}"] = (float(recall.sum()), count)
        metrics[f"{prefix}ndcg@{k}"] = (float((gains / best).sum()), count)
    return metrics


def merge(a: Metrics, b: Metrics) -> Metrics:
    """The metrics of two disjoint sets of requests as one."""
    merged = dict(a)
    for name, (total, count) in b.items():
        other_total, other_count = merged.get(name, (0.0, 0.0))
        merged[name] = (other_total + total, other_count + count)
    return merged


def mean(metrics: Metrics) -> dict[str, float]:
    """Sum over count; NaN where nothing was counted."""
    return {
        name: float(total / count) if count else float("nan")
        for name, (total, count) in metrics.items()
    }


@typed
def contains(
    sets: Int[NDArray, "B X"], ids: Int[NDArray, "B k"]
) -> Bool[NDArray, "B k"]:
    """Whether each id stands in the set of its own row; negative ids never do."""
    return (ids >= 0) & np.isin(_keys(ids, sets), _keys(sets, ids))


@typed
def first_places(ids: Int[NDArray, "B k"]) -> Bool[NDArray, "B k"]:
    """Marks each row's first occurrence of each id; negative ids are not marked."""
    _, positions = np.unique(_keys(ids, ids), return_index=True)
    first = np.zeros(ids.size, bool)
    first[positions] = True
    return first.reshape(ids.shape) & (ids >= 0)


def _keys(ids: NDArray, others: NDArray) -> NDArray:
    """One integer for each (row, id), equal exactly where both are."""
    span = 2 + max(ids.max(initial=-1), others.max(initial=-1))
    rows = np.arange(len(ids), dtype=np.int64)[:, None]
    return rows * span + np.maximum(ids, -1) + 1
