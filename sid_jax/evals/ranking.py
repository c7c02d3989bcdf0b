"""Lists judged against what was bought: recall, NDCG, MRR; sums and counts.

    recall@k = hits among the first k / |targets|
    NDCG@k   = sum of 1 / log2(1 + rank) over the hits of the first k,
               divided by the same sum for min(k, |targets|) hits at the top
    MRR      = mean of 1 / rank of the first hit; 0 without one in the list

(Jarvelin and Kekalainen 2002, with binary gains). An id is any integer >= 0: the row
of an item, or a leaf of the SID table for the same figures at SID level.
"""

from collections.abc import Sequence

import numpy as np

from sid_jax.errors import InputError
from sid_jax.typing import Bool, Float, Int, Metrics, NDArray, typed


@typed
def ranking_values(
    recommended: Int[NDArray, "B k"],
    targets: Int[NDArray, "B t"],
    ks: Sequence[int] = (5, 10, 50),
) -> dict[str, Float[NDArray, " B"]]:
    """Recall, NDCG and reciprocal rank of ranked lists, a request each row.

    Args:
      recommended: ids, best first; negative is filler. A list shorter than a cutoff
        counts as filled up. An id's second place in a list holds a rank, wins nothing.
      targets: ids in any order; negative is padding and may stand anywhere, so masking
        judges a part of the targets (repeats, new products). Repeats count once.
      ks: cutoffs.

    Returns:
      `recall@{k}`, `ndcg@{k}` and `mrr`, of each request; NaN without a target.
    """
    if not ks or min(ks) < 1:
        raise InputError(f"ks must be cutoffs of at least 1, not {tuple(ks)}")
    targets = np.where(first_places(targets), targets, -1)
    num_targets = (targets >= 0).sum(axis=1)
    hits = contains(targets, recommended) & first_places(recommended)
    # ideal[n]: the DCG of n hits at the top.
    ideal = np.cumsum([0.0, *(1.0 / np.log2(np.arange(max(ks)) + 2.0))])
    values = {}
    for k in ks:
        top = hits[:, :k]
        values[f"recall@{k}"] = top.sum(axis=1) / np.maximum(num_targets, 1)
        gains = top @ np.diff(ideal)[: top.shape[1]]
        values[f"ndcg@{k}"] = gains / ideal[np.clip(num_targets, 1, k)]
    first = 1 + hits.argmax(axis=1) if hits.shape[1] else np.ones(len(hits))
    values["mrr"] = hits.any(axis=1) / first
    return {k: np.where(num_targets > 0, each, np.nan) for k, each in values.items()}


@typed
def ranking_metrics(
    recommended: Int[NDArray, "B k"],
    targets: Int[NDArray, "B t"],
    ks: Sequence[int] = (5, 10, 50),
    prefix: str = "",
) -> Metrics:
    """`ranking_values` summed: `{prefix}recall@{k}` and so on as (sum, count).

    Requests without a target are not counted. `prefix` is put before each name, such as
    `new/`.
    """
    metrics = {}
    for name, values in ranking_values(recommended, targets, ks).items():
        counted = values[~np.isnan(values)]
        metrics[prefix + name] = (float(counted.sum()), float(len(counted)))
    return metrics


@typed
def bootstrap_interval(
    values: Float[NDArray, " B"], *, seed: int = 0, resamples: int = 1000
) -> tuple[float, float]:
    """95% interval of a mean over users: percentiles over users drawn with replacement.

    Args:
      values: one a user, as from `ranking_values`; NaN is not counted.
      seed: of the draws.
      resamples: draws.
    """
    counted = values[~np.isnan(values)]
    if not len(counted):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(counted), (resamples, len(counted)), dtype=np.int32)
    low, high = np.percentile(counted[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


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


@typed
def pack(
    ranked: Int[NDArray, "B C"],
    kept: Bool[NDArray, "B C"],
    exclude: Int[NDArray, "B Z"] | None,
    k: int,
) -> Int[NDArray, "B k"]:
    """The first k kept ids of each row, without repeats; -1 behind the last.

    Args:
      ranked: ids, best first.
      kept: which of them may be listed.
      exclude: ids that a row may not list; none if None.
      k: length of the lists.
    """
    if exclude is not None:
        kept = kept & ~contains(exclude, ranked)
    kept = kept & first_places(np.where(kept, ranked, -1))
    place = np.cumsum(kept, axis=1) - 1
    row, column = np.nonzero(kept & (place < k))
    packed = np.full((len(ranked), k), -1, np.int32)
    packed[row, place[row, column]] = ranked[row, column]
    return packed


def _keys(ids: NDArray, others: NDArray) -> NDArray:
    """One integer for each (row, id), equal exactly where both are."""
    span = 2 + max(ids.max(initial=-1), others.max(initial=-1))
    rows = np.arange(len(ids), dtype=np.int64)[:, None]
    return rows * span + np.maximum(ids, -1) + 1
